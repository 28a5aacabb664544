// Draws a figure when it comes near the window, and highlights the chosen trial in it. A color "@name" is a CSS variable.
const touch = matchMedia("(pointer: coarse)").matches;
const scale = () => [0, 1, 2, 3, 4].map((step) => [step / 4, css("scale-" + step)]);
const tooltips = new Map();
const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

function tooltip(trial) {
  if (!tooltips.has(trial)) {
    const [first, ...values] = describeTrial(trial).map(escape);
    tooltips.set(trial, [`<b>${first}</b>`, ...values].join("<br>"));
  }
  return tooltips.get(trial);
}

function resolveColors(value, isColor = false) {
  if (typeof value === "string") {
    return !isColor || value[0] !== "@" ? value : value === "@scale" ? scale() : css(value.slice(1));
  }
  if (Array.isArray(value)) {
    const plain = value.every((inner) => inner === null || typeof inner === "number");
    return plain ? value : value.map((inner) => resolveColors(inner, isColor));
  }
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolveColors(inner, /color/.test(key))]));
}

function traces(figure) {
  return figure.data.map((trace) => resolveColors(trace)).map((trace) => {
    if (!trace.hovertemplate?.includes("trial %{customdata}")) return trace;
    const text = trace.customdata.map((trial) => (trial === null ? "" : tooltip(trial)));
    return { ...trace, text, hovertemplate: trace.hovertemplate.replace("trial %{customdata}", "%{text}") };
  });
}

function layout(figure) {
  const own = resolveColors(figure.layout);
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
    ...Object.fromEntries(axes.map((key) => [key, styleAxis({ ...axis, ...own[key] }, small)])),
  };
}

function styleAxis(axis, small) {
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
  displayModeBar: touch ? false : "hover", // without a mouse it would always cover the legend
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
  highlight(place);
}

// One figure per frame, those in the window first: each is seen, and the page scrolls, while others are still drawn.
const near = new Set();
let drawing = false;
let endFirstView;
const firstView = new Promise((resolve) => (endFirstView = resolve)); // until the figures in the window are drawn
const distance = (node) => {
  const { top, bottom } = node.getBoundingClientRect();
  return Math.max(top - innerHeight, -bottom, 0);
};
const afterFrame = (work) => requestAnimationFrame(() => setTimeout(work));

function drawNearest() {
  const [node] = [...near].sort((a, b) => distance(a) - distance(b));
  drawing = node !== undefined;
  if (!drawing || distance(node)) endFirstView();
  if (!drawing) return;
  near.delete(node);
  afterFrame(drawNearest); // first, so that a figure that fails stops no other
  if (!cards.get(node).drawn) draw(node);
}

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      near.add(target);
    }
    if (!drawing) drawNearest();
  },
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
if ([...cards.values()].every((card) => !card.views.length)) endFirstView();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors.clear();
  cards.forEach((card, node) => card.drawn && draw(node));
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((more) => (more.open = true));
  cards.forEach((card, node) => card.views.length && !card.drawn && draw(node));
});

// ------------------------------------------------------------------ the chosen trial

function highlight(place) {
  const old = place.data.findIndex((trace) => trace.name === "chosen");
  if (old >= 0) Plotly.deleteTraces(place, old);
  const trace = chosen === null ? undefined : traceOfChosen(place.data);
  keepInView(place, trace);
  if (trace) Plotly.addTraces(place, { ...trace, name: "chosen", showlegend: false, hoverinfo: "skip" });
}

// Returns a trace of the chosen trial alone, from the first trace that has it; y2 holds ticks of trials without a loss.
function traceOfChosen(traces) {
  const has = (trace) => trace.yaxis !== "y2" && Array.isArray(trace.customdata) && trace.customdata.includes(chosen);
  const trace = traces.find(has);
  if (!trace) return undefined;
  const of = (key) => trace[key].filter((_, index) => trace.customdata[index] === chosen);
  if (trace.type === "bar") {
    const marker = { color: "rgba(0,0,0,0)", line: { color: css("ink"), width: 2.5 } };
    return { type: "bar", orientation: "h", base: of("base"), x: of("x"), y: of("y"), width: trace.width, marker };
  }
  const marker = { symbol: "circle-open", size: 12, color: css("ink"), line: { width: 2.5 } };
  const line = { color: css("ink"), width: 2 };
  return { type: "scatter", mode: "lines+markers", x: of("x"), y: of("y"), marker, line };
}

// Widens the axes until the last point of the trace is in view; first undoes what an earlier trace needed.
function keepInView(place, trace) {
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
