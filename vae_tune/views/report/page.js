// Draws the plots as they come into view, and the table of trials. A colour "@name" in a figure is a CSS variable.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, within = document) => within.querySelector(selector);
  const make = (tag, text = "", attributes = {}) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.textContent = text;
    return node;
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const touch = matchMedia("(pointer: coarse)").matches;
  const scale = () => [0, 1, 2, 3, 4].map((step) => [step / 4, css("scale-" + step)]);
  const number = (value) => {
    if (typeof value !== "number") return value ?? "";
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(value >= 100 ? 5 : 4)));
  };

  // ------------------------------------------------------------------ plots

  const column = Object.fromEntries(data.columns.map((spec, index) => [spec.name, index]));
  const rowOf = new Map(data.rows.map((row) => [row[column.trial], row]));
  const tips = new Map();
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function words(trial) {
    const row = rowOf.get(trial) ?? [];
    const values = data.hyperparameters.map((name) => `${name} ${number(row[column[name]])}`);
    return [`trial ${trial} ${row[column.state] ?? ""}`, ...values];
  }

  function tip(trial) {
    if (!tips.has(trial)) {
      const [first, ...values] = words(trial).map(escape);
      tips.set(trial, [`<b>${first}</b>`, ...values].join("<br>"));
    }
    return tips.get(trial);
  }

  function paint(value, isColour = false) {
    if (typeof value === "string") {
      return !isColour || value[0] !== "@" ? value : value === "@scale" ? scale() : css(value.slice(1));
    }
    if (Array.isArray(value)) {
      const plain = value.every((inner) => inner === null || typeof inner === "number");
      return plain ? value : value.map((inner) => paint(inner, isColour));
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, paint(inner, /color/.test(key))]));
  }

  function traces(figure) {
    return figure.data.map((trace) => paint(trace)).map((trace) => {
      if (!trace.hovertemplate?.includes("trial %{customdata}")) return trace;
      const text = trace.customdata.map((trial) => (trial === null ? "" : tip(trial)));
      return { ...trace, text, hovertemplate: trace.hovertemplate.replace("trial %{customdata}", "%{text}") };
    });
  }

  function layout(figure) {
    const own = paint(figure.layout);
    const axis = { gridcolor: css("grid"), zerolinecolor: css("grid"), linecolor: css("line"), automargin: true };
    axis.tickfont = { color: css("soft") };
    const axes = Object.keys(own).filter((key) => /^[xy]axis/.test(key));
    const soft = { color: css("soft"), size: 12 };
    const small = innerWidth < 600;
    return {
      font: { family: "system-ui, sans-serif", size: 12, color: css("ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 50, r: 12, t: 8, b: 40 },
      hovermode: "closest",
      hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink") }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: soft },
      dragmode: touch ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("line"), activecolor: css("accent") },
      ...own,
      ...Object.fromEntries(axes.map((key) => [key, restyle({ ...axis, ...own[key] }, small)])),
    };
  }

  function restyle(axis, small) {
    const title = axis.title && { ...axis.title, font: { size: 12, color: css("soft") }, standoff: 8 };
    return { ...axis, ...(title && { title }), ...(small && { nticks: 6 }) };
  }

  const cards = new Map(
    [...document.querySelectorAll("[data-card]")].map((node) => {
      return [node, { views: data.cards[node.dataset.card], view: 0, drawn: false }];
    }),
  );
  const config = {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    displayModeBar: touch ? false : "hover", // where nothing hovers it would always cover the legend
  };

  function draw(node) {
    const card = cards.get(node);
    const place = $(".plot", node);
    const figure = card.views[card.view].figure;
    if (figure.layout.height) place.style.height = figure.layout.height + "px";
    Plotly.react(place, traces(figure), layout(figure), config);
    if (!card.drawn) place.on("plotly_click", (event) => choose(event.points[0].customdata));
    card.drawn = true;
    place.grown = {};
    mark(place);
  }

  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      watcher.unobserve(target);
      draw(target);
    }),
    { rootMargin: "400px" },
  );

  for (const [node, card] of cards) {
    if (!card.views.length) continue;
    const place = $(".views", node);
    card.views.forEach((view, index) => {
      if (!place) return;
      const button = make("button", view.label, { type: "button", ariaPressed: String(!index) });
      button.onclick = () => {
        place.querySelectorAll("button").forEach((other) => (other.ariaPressed = String(other === button)));
        card.view = index;
        draw(node);
      };
      place.append(button);
    });
    watcher.observe(node);
  }

  const redraw = () => cards.forEach((card, node) => card.drawn && draw(node));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((more) => (more.open = true));
    cards.forEach((card, node) => card.views.length && !card.drawn && draw(node));
  });

  // ------------------------------------------------------------------ one trial in all plots

  let chosen = null;

  function mark(place) {
    const old = place.data.findIndex((trace) => trace.name === "chosen");
    if (old >= 0) Plotly.deleteTraces(place, old);
    const trace = chosen === null ? undefined : find(place.data);
    grow(place, trace);
    if (trace) Plotly.addTraces(place, { ...trace, name: "chosen", showlegend: false, hoverinfo: "skip" });
  }

  // Where the chosen trial is in a plot: a trace of it alone, drawn or not, but for a tick that tells no loss.
  function find(traces) {
    const has = (trace) => trace.yaxis !== "y2" && Array.isArray(trace.customdata) && trace.customdata.includes(chosen);
    const trace = traces.find(has);
    if (!trace) return undefined;
    const of = (key) => trace[key].filter((_, index) => trace.customdata[index] === chosen);
    if (trace.type === "bar") {
      const marker = { color: "rgba(0,0,0,0)", line: { color: css("ink"), width: 2.5 } };
      return { type: "bar", orientation: "h", base: of("base"), x: of("x"), y: of("y"), marker };
    }
    const marker = { symbol: "circle-open", size: 12, color: css("ink"), line: { width: 2.5 } };
    const line = { color: css("ink"), width: 2 };
    return { type: "scatter", mode: "lines+markers", x: of("x"), y: of("y"), marker, line };
  }

  // Let a view that does not hold the last point of a trace grow until it does; undo what an earlier one needed.
  function grow(place, trace) {
    const change = {};
    for (const [key, { before, after }] of Object.entries(place.grown)) {
      if (String(place.layout[key].range) === String(after)) change[`${key}.range`] = before;
    }
    place.grown = {};
    for (const letter of trace?.type === "scatter" ? "xy" : "") {
      const key = letter + "axis";
      const { autorange, fixedrange, type, range } = place.layout[key];
      const last = trace[letter].at(-1);
      if (autorange || fixedrange || !range || typeof last !== "number") continue;
      const [low, high] = change[`${key}.range`] ?? range;
      const value = type === "log" ? Math.log10(last) : last;
      const room = 0.05 * (Math.max(high, value) - Math.min(low, value));
      if (value >= low && value <= high) continue;
      const after = value > high ? [low, value + room] : [value - room, high];
      place.grown[key] = { before: [low, high], after };
      change[`${key}.range`] = after;
    }
    if (Object.keys(change).length) Plotly.relayout(place, change);
  }

  function choose(trial) {
    if (typeof trial !== "number" || !rowOf.has(trial)) return;
    show(trial === chosen ? null : trial);
  }

  function show(trial) {
    chosen = trial;
    const bar = $("#chosen");
    bar.hidden = trial === null;
    if (trial !== null) $("span", bar).textContent = words(trial).join(" · ");
    cards.forEach((card, node) => card.drawn && mark($(".plot", node)));
    document.querySelectorAll("#table tbody tr").forEach((row) => row.classList.toggle("chosen", row.trial === trial));
  }
  $("#chosen button").onclick = () => show(null);

  // ------------------------------------------------------------------ table

  const sorting = { column: null, falling: false };
  const hidden = new Set();
  const operators = {
    "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
    "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  };

  // "val_loss<110" compares a column, any other word must occur in some cell.
  function condition(word) {
    const [, name, operator, text] = word.match(/^(\w+)(<=|>=|!=|<|>|=)(.+)$/) ?? [];
    if (!Object.hasOwn(column, name ?? "")) return (row) => row.some((cell) => String(cell ?? "").toLowerCase().includes(word.toLowerCase()));
    const wanted = Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
    return (row) => {
      const cell = row[column[name]];
      const value = typeof cell === "string" ? cell.toLowerCase() : cell;
      return value !== null && typeof value === typeof wanted && operators[operator](value, wanted);
    };
  }

  function compare(a, b) {
    const [x, y] = [a[sorting.column], b[sorting.column]];
    if (x === y) return a[column.trial] - b[column.trial];
    if (x === null || y === null) return x === null ? 1 : -1; // what is missing comes last, either way
    return (x < y ? -1 : 1) * (sorting.falling ? -1 : 1);
  }

  function fill() {
    const conditions = $("#filter").value.split(/\s+/).filter(Boolean).map(condition);
    const rows = data.rows.filter((row) => !hidden.has(row[column.state]) && conditions.every((holds) => holds(row)));
    if (sorting.column !== null) rows.sort(compare);
    $("#table tbody").replaceChildren(...rows.map(line));
    $("#count").textContent = `${rows.length} of ${data.rows.length} trials`;
  }

  function line(row) {
    const node = document.createElement("tr");
    node.trial = row[column.trial];
    node.classList.toggle("chosen", node.trial === chosen);
    data.columns.forEach((spec, index) => {
      const cell = node.insertCell();
      cell.className = spec.kind;
      if (spec.name === "state") cell.append(dot(row[index]));
      cell.append(spec.digits !== undefined && row[index] !== null ? row[index].toFixed(spec.digits) : number(row[index]));
    });
    return node;
  }

  function dot(state) {
    const node = make("span", "", { className: "dot" });
    node.style.setProperty("--colour", `var(--${data.states[state]})`);
    return node;
  }

  function head() {
    const row = document.createElement("tr");
    data.columns.forEach((spec, index) => {
      const cell = make("th", "", { className: spec.kind });
      const button = make("button", spec.name, { type: "button", title: spec.title });
      button.onclick = () => {
        sorting.falling = sorting.column === index && !sorting.falling;
        sorting.column = index;
        row.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", sorting.falling ? "descending" : "ascending");
        fill();
      };
      cell.append(button);
      row.append(cell);
    });
    return row;
  }

  $("#table").createTHead().append(head());
  const body = $("#table").createTBody();
  body.onclick = (event) => choose(event.target.closest("tr")?.trial);
  for (const state of new Set(data.rows.map((row) => row[column.state]))) {
    const box = make("input", "", { type: "checkbox", checked: true });
    box.onchange = () => {
      hidden[box.checked ? "delete" : "add"](state);
      fill();
    };
    const label = make("label");
    label.append(box, " ", state, " ");
    $("#states").append(label);
  }
  $("#filter").oninput = fill;
  fill();

  // ------------------------------------------------------------------ copy

  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.onclick = () => {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      document.execCommand("copy"); // navigator.clipboard is not there for a file from disk
      button.textContent = "Copied";
    };
  });
})();
