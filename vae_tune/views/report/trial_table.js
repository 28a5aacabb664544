// Sorts and filters the table of trials. Its columns, rows and initial sorting come from trial_table.py.
const sorting = data.sort;
const hidden = new Set();
const operators = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// Parses one word of the filter: "val_loss<110" compares a column; any other word must occur in a cell.
function condition(word) {
  const [, name, operator, text] = word.match(/^(\w+)(<=|>=|!=|<|>|=)(.+)$/) ?? [];
  if (!Object.hasOwn(columnIndex, name ?? "")) return (row) => row.some((cell) => String(cell ?? "").toLowerCase().includes(word.toLowerCase()));
  const wanted = Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
  return (row) => {
    const cell = row[columnIndex[name]];
    const value = typeof cell === "string" ? cell.toLowerCase() : cell;
    return value !== null && typeof value === typeof wanted && operators[operator](value, wanted);
  };
}

function compare(a, b) {
  const [x, y] = [a[sorting.column], b[sorting.column]];
  if (x === y) return a[columnIndex.trial] - b[columnIndex.trial];
  if (x === null || y === null) return x === null ? 1 : -1; // missing values come last in both directions
  return (x < y ? -1 : 1) * (sorting.descending ? -1 : 1);
}

function fillBody() {
  const conditions = $("#filter").value.split(/\s+/).filter(Boolean).map(condition);
  const rows = data.rows.filter((row) => !hidden.has(row[columnIndex.state]) && conditions.every((holds) => holds(row)));
  rows.sort(compare);
  $("#table tbody").replaceChildren(...rows.map(makeRow));
  $("#count").textContent = `${rows.length} of ${data.rows.length} trials`;
}

function makeRow(row) {
  const node = document.createElement("tr");
  node.trial = row[columnIndex.trial];
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
  node.style.setProperty("--color", `var(--${data.states[state]})`);
  return node;
}

function makeHeader() {
  const row = document.createElement("tr");
  const markSorted = () => [...row.cells].forEach((cell, index) => {
    cell.removeAttribute("aria-sort");
    if (index === sorting.column) cell.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
  });
  data.columns.forEach((spec, index) => {
    const cell = make("th", "", { className: spec.kind });
    const button = make("button", spec.name, { type: "button", title: spec.title });
    button.onclick = () => {
      sorting.descending = sorting.column === index && !sorting.descending;
      sorting.column = index;
      markSorted();
      fillBody();
    };
    cell.append(button);
    row.append(cell);
  });
  markSorted();
  return row;
}

$("#table").createTHead().append(makeHeader());
const body = $("#table").createTBody();
body.onclick = (event) => choose(event.target.closest("tr")?.trial);
for (const state of new Set(data.rows.map((row) => row[columnIndex.state]))) {
  const box = make("input", "", { type: "checkbox", checked: true });
  box.onchange = () => {
    hidden[box.checked ? "delete" : "add"](state);
    fillBody();
  };
  const label = make("label");
  label.append(box, " ", state, " ");
  $("#states").append(label);
}
$("#filter").oninput = fillBody;
firstView.then(() => afterFrame(fillBody)); // a table of a thousand trials takes longer than a figure
addEventListener("beforeprint", fillBody);
