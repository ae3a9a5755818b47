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
  return value.toFixed(Math.abs(value) < 10 ? 4 : 2);
}

function described(group) {
  const values = data.axes.map((axis, i) => `${axis}=${short(group.values[i])}`);
  return [...values, ...Object.entries(group.stats).map(([name, s]) => `${name}: ${short(s[0])}`)].join("\n");
}

// The columns of the table: heading, what it sorts by, what fills a cell.
const columns = [
  ...data.axes.map((axis, i) => ({ head: axis, key: g => g.values[i],
    fill: (td, g) => { td.textContent = short(g.values[i]); } })),
  { head: "rank", key: g => g.mark || undefined,
    fill: (td, g) => { td.textContent = g.mark; td.className = "mark"; } },
  { head: "runs", key: g => data.runs[g.runs[0]].name, fill: (td, g) => {
    for (const i of g.runs) td.append(link(data.runs[i], tail(data.runs[i].name.split("/").at(-1))), " ");
  } },
  { head: "seeds", key: g => g.runs.length, fill: (td, g) => { td.textContent = g.runs.length; } },
  ...data.measures.map(({ name }) => ({ head: name, key: g => g.stats[name]?.[0],
    fill: (td, g) => {
      const s = g.stats[name];
      td.textContent = s ? number(s[0]) + (s[1] === null ? "" : ` ± ${number(s[1])}`) : "";
    } })),
];

// Numbers by value, texts by letter, what is missing last in both directions.
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
  const head = element("tr");
  for (const column of columns) {
    const th = element("th"), button = element("button", column.head);
    if (column === sorted.column) {
      th.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
    }
    button.addEventListener("click", () => {
      sorted = { column, sign: column === sorted.column ? -sorted.sign : 1 };
      drawTable();
    });
    th.append(button);
    head.append(th);
  }
  const rows = order.map(i => {
    const tr = listen(element("tr", undefined, data.groups[i].front ? "front" : ""), i);
    for (const column of columns) {
      const td = element("td");
      column.fill(td, data.groups[i]);
      tr.append(td);
    }
    return tr;
  });
  const thead = element("thead"), tbody = element("tbody");
  thead.append(head);
  tbody.append(...rows);
  byId("groups").replaceChildren(thead, tbody);
}

// Groups along one axis, those that share all other values on one line.
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
  const less = name => data.measures.find(m => m.name === name).less;
  const both = data.groups.map((g, i) => [g, i]).filter(([g]) => g.stats[measure] && g.stats[cost]);
  byId("pareto").replaceChildren(element("p", `No config has both ${measure} and ${cost}.`));
  if (both.length) {
    const points = both.map(([g, i]) =>
      ({ x: g.stats[cost][0], y: g.stats[measure][0], group: i, text: described(g) }));
    paretoPlot(byId("pareto"), points, cost, measure, less(cost), less(measure));
  }
  const names = [...new Set([...data.costs, cost, measure])];
  names.push(...names.splice(names.indexOf(measure), 1));
  const whole = data.groups.map((g, i) => [g, i]).filter(([g]) => names.every(n => g.stats[n]));
  byId("parallel").replaceChildren(element("p", "No config has all of these measures."));
  if (whole.length) {
    const rows = whole.map(([g, i]) => ({ group: i, text: described(g),
      values: [...g.values, ...names.map(n => g.stats[n][0])] }));
    parallelPlot(byId("parallel"), [...data.axes.map(tail), ...names], rows);
  }
  byId("lines").replaceChildren(...data.axes.map((axis, a) => {
    const place = element("div"), series = along(a, measure);
    if (series.length) linePlot(place, series, axis, measure);
    return place;
  }));
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
  head.append(element("th", "key"), element("th", first.name), element("th", second.name));
  byId("diff").replaceChildren(head, ...body);
  if (!body.length) byId("diff").append(element("caption", "The configs are equal."));
}

function options(id, names, chosen, draw) {
  byId(id).replaceChildren(...names.map((name, i) => new Option(name, id.match(/first|second/) ? i : name)));
  byId(id).value = chosen;
  byId(id).addEventListener("change", draw);
}

const seeds = data.groups.reduce((sum, g) => sum + g.runs.length, 0);
byId("overview").textContent = `${data.groups.length} configs, ${seeds} runs, ` +
  `ranked by ${data.metric ?? "nothing"}; ${data.others.length} without a result`;
drawTable();
if (data.groups.length && data.measures.length) {
  const names = data.measures.map(m => m.name);
  options("measure", names, data.metric, drawPlots);
  options("cost", names, data.costs[0] ?? names[0], drawPlots);
  drawPlots();
}
if (data.runs.length) {
  const names = data.runs.map(run => run.seed === null ? run.name : `${run.name} (seed ${run.seed})`);
  options("first", names, 0, drawDiff);
  options("second", names, Math.min(1, names.length - 1), drawDiff);
  drawDiff();
}
byId("broken").hidden = !data.others.length;
byId("others").append(...data.others.map(run => {
  const tr = element("tr"), name = element("td", undefined, "text");
  name.append(link(run, run.name));
  tr.append(name, element("td", run.status, "text"), element("td", run.error.split("\n")[0], "error"));
  return tr;
}));
