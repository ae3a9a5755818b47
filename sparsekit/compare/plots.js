"use strict";
// Scales, axes and marks as SVG. A point is {x, y, group, text}; a group is highlighted as one.
const SVG = "http://www.w3.org/2000/svg";
const COLORS = ["#2563a8", "#d97706", "#15803d", "#b91c5c", "#6d4bc3", "#0e8f98", "#8a5a2b",
  "#64748b", "#a3a300", "#db5f9a"];

function svg(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function short(value) {
  if (typeof value !== "number") return String(value ?? "–");
  if (Number.isInteger(value)) return String(value);
  const rounded = Number(value.toPrecision(4));
  return Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
}

// Round steps of 1, 2 or 5 that cover the values in at most `count` ticks, as [value, text].
function ticks(low, high, count = 6) {
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  const step = [1, 2, 5, 10].map(s => s * power).find(s => (high - low) / s <= count);
  // Enough digits to distinguish neighbours.
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push([k * step, digits > 6 ? short(k * step) : (k * step).toFixed(digits)]);
  }
  return found;
}

// A numeric scale, or a categorical one if some value is not a number: {at(value), ticks}. A swept
// scale has ticks at its values if they are few, and is logarithmic if they span over a decade.
// limits: the least and greatest possible values, which the scale does not exceed.
function scale(values, from, to, swept = false, limits = null) {
  const known = [...new Set(values)];
  const room = from > to ? 15 : 42; // The height and the width of a label.
  if (known.every(v => typeof v === "number")) {
    known.sort((a, b) => a - b);
    const bend = swept && known[0] > 0 && known.at(-1) / known[0] > 10 ? Math.log : v => v;
    let low = bend(known[0]), high = bend(known.at(-1));
    const pad = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
    [low, high] = [low - pad, high + pad];
    // No accuracy above 1.
    if (limits) [low, high] = [Math.max(low, limits[0]), Math.min(high, limits[1])];
    const at = v => from + (bend(v) - low) / (high - low) * (to - from);
    const marks = swept && known.length <= 10 ? known.map(v => [v, short(v)]) : ticks(low, high);
    const kept = [];
    for (const [v, text] of marks) {
      if (!kept.length || Math.abs(at(v) - kept.at(-1)[0]) >= room) kept.push([at(v), text]);
    }
    return { at, ticks: kept };
  }
  known.sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
  const at = v => from + (known.indexOf(v) + 0.5) / known.length * (to - from);
  const letters = from > to ? 13 : Math.max(3, Math.floor(Math.abs(to - from) / known.length / 7));
  return { at, ticks: known.map(v => [at(v), cut(short(v), letters)]) };
}

function cut(text, letters) {
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}

// From blue (0) over grey to orange (1).
function shade(share) {
  const stops = [[37, 99, 168], [176, 186, 196], [217, 119, 6]];
  const at = Math.max(0, Math.min(1, share)) * 2, first = Math.min(1, Math.floor(at));
  const mix = stops[first].map((v, i) => Math.round(v + (stops[first + 1][i] - v) * (at - first)));
  return `rgb(${mix})`;
}

// An empty plot as wide as its container, at least `least`: {root, width}.
function frame(parent, height, title, least = 260) {
  const width = Math.max(least, parent.clientWidth);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
    "aria-label": title, style: `min-width: ${least}px` });
  parent.replaceChildren(root);
  return { root, width };
}

function axes(root, x, y, box, xName, yName) {
  for (const [at, text] of y.ticks) {
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: at, y2: at }, root);
    svg("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, root, text);
  }
  for (const [at, text] of x.ticks) {
    svg("line", { class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }, root);
    svg("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, root, text);
  }
  svg("text", { class: "title", x: (box.left + box.right) / 2, y: box.bottom + 36,
    "text-anchor": "middle" }, root, xName);
  svg("text", { class: "title", x: 4, y: 14 }, root, yName);
}

function light(group, on) {
  for (const node of document.querySelectorAll(`[data-group="${group}"]`)) {
    node.classList.toggle("lit", on);
  }
}

function listen(node, group) {
  node.dataset.group = group;
  node.addEventListener("pointerenter", () => light(group, true));
  node.addEventListener("pointerleave", () => light(group, false));
  return node;
}

function dot(root, point, x, y, look) {
  const node = svg("circle", { cx: x.at(point.x), cy: y.at(point.y), r: 4.5, ...look }, root);
  svg("title", {}, node, point.text);
  return listen(node, point.group);
}

// The points that no other beats, as `pareto` of statistics.py has it: one that is as good in both and
// better in one, or one that is better in y and at most as much worse in x as timings vary.
function frontOf(points, x, y) {
  const [cost, value] = [p => x.less ? p.x : -p.x, p => y.less ? p.y : -p.y];
  const beats = (q, p) => value(q) < value(p)
    ? cost(q) <= cost(p) + x.noise * Math.abs(cost(p)) : value(q) === value(p) && cost(q) < cost(p);
  const front = points.filter(p => !points.some(q => beats(q, p)));
  return front.sort((a, b) => cost(a) - cost(b) || value(a) - value(b));
}

// Scatter plot of two measures {name, less, limits, noise} with its Pareto front.
function paretoPlot(parent, points, xMeasure, yMeasure) {
  const [xName, yName] = [xMeasure.name, yMeasure.name];
  const { root, width } = frame(parent, 375, `${yName} against ${xName}`);
  const box = { left: 58, right: width - 16, top: 26, bottom: 330 };
  const x = scale(points.map(p => p.x), box.left, box.right, false, xMeasure.limits);
  const y = scale(points.map(p => p.y), box.bottom, box.top, false, yMeasure.limits);
  axes(root, x, y, box, xName, yName);
  const front = frontOf(points, xMeasure, yMeasure);
  const steps = front.map((p, i) => i
    ? `H${x.at(p.x)}V${y.at(p.y)}` : `M${x.at(p.x)},${y.at(p.y)}`).join("");
  svg("path", { class: "frontline", d: steps }, root);
  const best = new Set(front);
  const drawn = [...points].sort((a, b) => best.has(a) - best.has(b)); // Draw the front last.
  for (const p of drawn) dot(root, p, x, y, { class: best.has(p) ? "best" : "dull" });
}

// One line for each combination of the other axes; error bars are two standard errors.
function linePlot(parent, series, xName, yMeasure) {
  const all = series.flatMap(s => s.points);
  const { name: yName, limits } = yMeasure, [least, most] = limits ?? [-Infinity, Infinity];
  const low = p => Math.max(p.y - p.error, least), high = p => Math.min(p.y + p.error, most);
  const { root, width } = frame(parent, 285, `${yName} along ${xName}`);
  const box = { left: 58, right: width - 16, top: 26, bottom: 240 };
  const x = scale(all.map(p => p.x), box.left, box.right, true);
  const y = scale(all.flatMap(p => [low(p), high(p)]), box.bottom, box.top, false, limits);
  axes(root, x, y, box, xName, yName);
  series.forEach((line, index) => {
    const dull = series.length > COLORS.length, color = COLORS[index % COLORS.length];
    const look = dull ? { class: "path dull" } : { class: "path", stroke: color };
    line.points.sort((a, b) => x.at(a.x) - x.at(b.x));
    const d = line.points.map((p, i) => `${i ? "L" : "M"}${x.at(p.x)},${y.at(p.y)}`).join("");
    svg("path", { ...look, d }, root);
    for (const p of line.points) {
      if (p.error) svg("path", { ...look,
        d: `M${x.at(p.x)},${y.at(low(p))}V${y.at(high(p))}` }, root);
      dot(root, p, x, y, dull ? { class: "dull" } : { fill: color });
    }
  });
  if (series.length > 1 && series.length <= COLORS.length) {
    const keys = document.createElement("div");
    keys.className = "keys";
    series.forEach((line, index) => {
      const key = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.background = COLORS[index];
      key.append(swatch, line.name);
      keys.append(key);
    });
    parent.append(keys);
  }
}

// A name in lines of about `letters` characters, broken at spaces and underscores.
function folded(name, letters) {
  const lines = [];
  for (const part of name.split(/(?<=[ _])/)) {
    if (lines.length && (lines.at(-1) + part).trim().length <= letters) lines.push(lines.pop() + part);
    else lines.push(part);
  }
  return lines.map(line => line.trim());
}

// One vertical axis for each column, the first `swept` being the sweep's axes; one path for each
// group, coloured by the last column.
function parallelPlot(parent, columns, rows, limits, swept) {
  const { root, width } = frame(parent, 380, "parallel coordinates", 30 + 88 * columns.length);
  const [top, bottom, gap] = [66, 365, (width - 100) / Math.max(1, columns.length - 1)];
  const place = index => 44 + index * gap;
  const scales = columns.map((_, c) => scale(rows.map(r => r.values[c]), bottom, top, c < swept, limits[c]));
  columns.forEach((name, c) => {
    svg("line", { class: "axis", x1: place(c), x2: place(c), y1: top, y2: bottom }, root);
    const lines = folded(name, Math.min(16, gap / 7.5));
    lines.forEach((line, i) => svg("text", { class: "title", x: place(c), "text-anchor": "middle",
      y: top - 18 - 13 * (lines.length - 1 - i) }, root, line));
  });
  const last = scales.at(-1);
  for (const row of rows) {
    const d = row.values.map((v, c) => `${c ? "L" : "M"}${place(c)},${scales[c].at(v)}`).join("");
    const share = (bottom - last.at(row.values.at(-1))) / (bottom - top);
    const node = svg("path", { class: "path", d, stroke: shade(share) }, root);
    svg("title", {}, node, row.text);
    listen(node, row.group);
  }
  // Drawn above the paths, which would cross them out.
  scales.forEach((each, c) => each.ticks.forEach(([at, text]) =>
    svg("text", { class: "halo", x: place(c) + 6, y: at + 4 }, root, text)));
}
