// Shared by figures.js and trial_table.js: the page's data, number formats, and the trial that the reader has chosen.
// page.py joins the three files, in this order, into one module script.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const make = (tag, text = "", attributes = {}) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.textContent = text;
  return node;
};
const colors = new Map(); // of the theme, since reading one makes the browser style all of the page that has changed
const css = (name) => {
  if (!colors.has(name)) {
    colors.set(name, getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim());
  }
  return colors.get(name);
};
const number = (value) => {
  if (typeof value !== "number") return value ?? "";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(value >= 100 ? 5 : 4)));
};

// ------------------------------------------------------------------ trials

const columnIndex = Object.fromEntries(data.columns.map((spec, index) => [spec.name, index]));
const rowOf = new Map(data.rows.map((row) => [row[columnIndex.trial], row]));

function describeTrial(trial) {
  const row = rowOf.get(trial) ?? [];
  const values = data.hyperparameters.map((name) => `${name} ${number(row[columnIndex[name]])}`);
  return [`trial ${trial} ${row[columnIndex.state] ?? ""}`, ...values];
}

let chosen = null;

function choose(trial) {
  if (typeof trial !== "number" || !rowOf.has(trial)) return;
  show(trial === chosen ? null : trial);
}

function show(trial) {
  chosen = trial;
  const bar = $("#chosen");
  bar.hidden = trial === null;
  if (trial !== null) $("span", bar).textContent = describeTrial(trial).join(" · ");
  cards.forEach((card, node) => card.drawn && highlight($(".plot", node)));
  document.querySelectorAll("#table tbody tr").forEach((row) => row.classList.toggle("chosen", row.trial === trial));
}
$("#chosen button").onclick = () => show(null);

// ------------------------------------------------------------------ copy buttons

document.querySelectorAll("[data-copy]").forEach((button) => {
  button.onclick = () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    document.execCommand("copy"); // a page from disk has no navigator.clipboard
    button.textContent = "Copied";
  };
});
