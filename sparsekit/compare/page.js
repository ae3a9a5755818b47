"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const tail = name => name.split(".").at(-1);

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function link(run, text) {
  const node = element("a", text);
  node.href = run.href;
  node.title = run.name;
  return node;
}

function number(value) {
  const size = Math.abs(value);
  return value.toFixed(size < 10 ? 4 : size < 1000 ? 2 : 0);
}

function described(group) {
  const values = data.axes.map((axis, i) => `${axis}=${short(group.values[i])}`);
  return [...values, ...Object.entries(group.stats).map(([name, s]) => `${name}: ${short(s[0])}`)].join("\n");
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

// The ranking's measures come first, so that a narrow window shows them.
const leading = [data.metric, ...data.costs, ...data.measures.filter(m => m.shown).map(m => m.name)];
const measures = [...data.measures].sort((a, b) => order(a) - order(b));
function order({ name }) {
  return leading.includes(name) ? leading.indexOf(name) : leading.length;
}
const measureOf = name => data.measures.find(m => m.name === name);

// The table's columns: heading, sort key (best first), and a function that fills a cell.
const allColumns = [
  { head: "rank", text: true, key: g => g.mark || undefined,
    fill: (td, g) => { td.textContent = g.mark; } },
  ...data.axes.map((axis, i) => ({ head: axis, key: g => g.values[i],
    fill: (td, g) => { td.className = "value"; td.title = td.textContent = short(g.values[i]); } })),
  ...measures.map(({ name, less, shown }) => ({ head: name, hidden: !shown, first: less ? 1 : -1, key: g => g.stats[name]?.[0],
    fill: (td, g) => {
      const s = g.stats[name];
      td.textContent = s ? number(s[0]) + (s[1] === null ? "" : ` ± ${s[1] && number(s[1])}`) : "";
    } })),
  { head: "seeds", key: g => g.runs.length, fill: (td, g) => { td.textContent = g.runs.length; } },
  { head: "runs", key: g => data.runs[g.runs[0]].name, fill: (td, g) => {
    for (const i of g.runs) td.append(link(data.runs[i], data.runs[i].name.split("/").at(-1)), " ");
  } },
];

// A heading that may break after each part of a dotted name.
function heading(text) {
  const button = element("button");
  const parts = text.split(/(?<=[._])/);
  parts.forEach((part, i) => button.append(part, ...(i < parts.length - 1 ? [element("wbr")] : [])));
  return button;
}

// Numbers by value, text alphabetically, missing values last in both directions.
function ordered(a, b, sign) {
  if (a === undefined || a === null) return b === undefined || b === null ? 0 : 1;
  if (b === undefined || b === null) return -1;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

let sorted = { column: null, sign: 1 };
function drawTable() {
  const order = data.groups.map((_, i) => i);
  if (sorted.column) {
    const key = i => sorted.column.key(data.groups[i]);
    order.sort((a, b) => ordered(key(a), key(b), sorted.sign));
  }
  const head = element("tr"), columns = allColumns.filter(c => !c.hidden || byId("all").checked);
  for (const column of columns) {
    const th = element("th", undefined, column.text && "text"), button = heading(column.head);
    if (column === sorted.column) {
      th.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
    }
    button.addEventListener("click", () => {
      sorted = { column, sign: column === sorted.column ? -sorted.sign : column.first ?? 1 };
      drawTable();
    });
    th.append(button);
    head.append(th);
  }
  const rows = order.map(i => {
    const tr = listen(element("tr", undefined, data.groups[i].front ? "front" : ""), i);
    for (const column of columns) {
      const td = element("td", undefined, column.text && "text");
      column.fill(td, data.groups[i]);
      tr.append(td);
    }
    return tr;
  });
  const thead = element("thead"), tbody = element("tbody");
  thead.append(head);
  tbody.append(...rows);
  byId("groups").replaceChildren(thead, tbody);
  hint();
}

// Some systems draw no scroll bar before one scrolls.
function hint() {
  const box = byId("groups").parentElement;
  byId("wide").hidden = box.scrollWidth <= box.clientWidth;
}

// Groups along one axis; those with equal values on all other axes form one line.
function along(axis, measure) {
  const lines = new Map();
  data.groups.forEach((group, i) => {
    const s = group.stats[measure];
    if (!s) return;
    const others = group.values.flatMap((v, a) => a === axis ? [] : [`${tail(data.axes[a])} ${short(v)}`]);
    const name = others.join(", ");
    if (!lines.has(name)) lines.set(name, { name, points: [] });
    const error = s[1] === null ? 0 : 2 * s[1] / Math.sqrt(s[2]);
    lines.get(name).points.push({ x: group.values[axis], y: s[0], error, group: i, text: described(group) });
  });
  return [...lines.values()];
}

function drawPlots() {
  const measure = byId("measure").value, cost = byId("cost").value;
  const both = data.groups.map((g, i) => [g, i]).filter(([g]) => g.stats[measure] && g.stats[cost]);
  byId("pareto").replaceChildren(element("p", `No config has both ${measure} and ${cost}.`));
  if (both.length) {
    const points = both.map(([g, i]) =>
      ({ x: g.stats[cost][0], y: g.stats[measure][0], group: i, text: described(g) }));
    paretoPlot(byId("pareto"), points, measureOf(cost), measureOf(measure));
  }
  const names = [...new Set([...data.costs, cost])].filter(name => name !== measure).concat(measure);
  const whole = data.groups.map((g, i) => [g, i]).filter(([g]) => names.every(n => g.stats[n]));
  byId("parallel").replaceChildren(element("p", "No config has all of these measures."));
  if (whole.length) {
    const rows = whole.map(([g, i]) => ({ group: i, text: described(g),
      values: [...g.values, ...names.map(n => g.stats[n][0])] }));
    const limits = [...data.axes.map(() => null), ...names.map(n => measureOf(n).limits)];
    parallelPlot(byId("parallel"), [...data.axes.map(tail), ...names], rows, limits, data.axes.length);
  }
  byId("lines").replaceChildren(...data.axes.map(() => element("div")));
  data.axes.forEach((axis, a) => {
    const series = along(a, measure);
    if (series.length) linePlot(byId("lines").children[a], series, axis, measureOf(measure));
  });
  if (!data.axes.length) byId("lines").append(element("p", "All runs have one config."));
}

function drawDiff() {
  const [first, second] = ["first", "second"].map(id => data.runs[byId(id).value]);
  const body = data.keys.flatMap((key, k) => {
    const [a, b] = [first.config[k], second.config[k]];
    if (a === b) return [];
    const tr = element("tr");
    tr.append(element("td", key, "text"), element("td", short(a)), element("td", short(b)));
    return [tr];
  });
  const head = element("tr");
  head.append(element("th", "key", "text"), element("th", first.name), element("th", second.name));
  byId("diff").replaceChildren(...body.length ? [head, ...body]
    : [element("caption", "The configs are equal.")]);
}

function options(id, names, chosen, draw) {
  byId(id).replaceChildren(...names.map((name, i) => new Option(name, id.match(/first|second/) ? i : name)));
  byId(id).value = chosen;
  byId(id).addEventListener("change", draw);
}

const seeds = data.groups.reduce((sum, g) => sum + g.runs.length, 0);
document.title = `${data.folder} · sparsekit compare`;
byId("overview").textContent = `${data.folder}: ${counted(data.groups.length, "config")}, ` +
  `${counted(seeds, "run")}, ` +
  (data.metric ? `ranked by ${data.metric}` : "not ranked, because none was evaluated") +
  (data.others.length ? `; ${data.others.length} without a result` : "");
byId("all").addEventListener("change", drawTable);
byId("more").hidden = !data.measures.some(m => !m.shown);
drawTable();
if (data.groups.length && data.measures.length) {
  const names = data.measures.map(m => m.name);
  options("measure", names, data.metric ?? names[0], drawPlots);
  options("cost", names, data.costs[0] ?? names[0], drawPlots);
  drawPlots();
  // Plots are redrawn at their containers' width, so that text keeps its size.
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) drawPlots();
    hint();
    width = innerWidth;
  });
}
if (data.runs.length) {
  const names = data.runs.map(run => run.seed === null ? run.name : `${run.name} (seed ${run.seed})`);
  options("first", names, 0, drawDiff);
  // Runs are in the order of their groups: the best config, and the next.
  options("second", names, (data.groups[1] ?? data.groups[0]).runs[0], drawDiff);
  drawDiff();
}
byId("broken").hidden = !data.others.length;
byId("others").append(...data.others.map(run => {
  const tr = element("tr"), name = element("td", undefined, "text");
  name.append(link(run, run.name));
  tr.append(name, element("td", run.status, "text"), element("td", run.error.split("\n")[0], "error"));
  return tr;
}));
