"use strict";
// Scales, axes and marks as SVG. A point is {x, y, group, text}; groups light up together.
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
  return String(Number(value.toPrecision(4)));
}

// Round steps of 1, 2 or 5 that cover the values in about `count` ticks.
function ticks(low, high, count = 5) {
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  const step = [1, 2, 5, 10].map(s => s * power).find(s => (high - low) / s <= count);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

// A scale of numbers, or of categories where a value is none: {at(value), ticks}.
function scale(values, from, to) {
  const known = [...new Set(values)];
  if (known.every(v => typeof v === "number")) {
    let low = Math.min(...known), high = Math.max(...known);
    const pad = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
    [low, high] = [low - pad, high + pad];
    const at = v => from + (v - low) / (high - low) * (to - from);
    return { at, ticks: ticks(low, high).map(v => [at(v), short(v)]) };
  }
  known.sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
  const at = v => from + (known.indexOf(v) + 0.5) / known.length * (to - from);
  return { at, ticks: known.map(v => [at(v), short(v).slice(0, 22)]) };
}

// From blue (0) over grey to orange (1).
function shade(share) {
  const stops = [[37, 99, 168], [176, 186, 196], [217, 119, 6]];
  const place = Math.max(0, Math.min(1, share)) * 2, first = Math.min(1, Math.floor(place));
  const mix = stops[first].map((v, i) => Math.round(v + (stops[first + 1][i] - v) * (place - first)));
  return `rgb(${mix})`;
}

function frame(parent, width, height, title) {
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  parent.replaceChildren(root);
  return root;
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

function dot(root, point, x, y, color) {
  const node = svg("circle", { cx: x.at(point.x), cy: y.at(point.y), r: 4, fill: color }, root);
  svg("title", {}, node, point.text);
  return listen(node, point.group);
}

// Scatter with the front of `less`/more better on both axes.
function paretoPlot(parent, points, xName, yName, xLess, yLess) {
  const box = { left: 64, right: 600, top: 26, bottom: 330 };
  const root = frame(parent, 620, 375, `${yName} against ${xName}`);
  const x = scale(points.map(p => p.x), box.left, box.right);
  const y = scale(points.map(p => p.y), box.bottom, box.top);
  axes(root, x, y, box, xName, yName);
  const sign = (value, less) => less ? value : -value;
  const sorted = [...points].sort((a, b) =>
    sign(a.x, xLess) - sign(b.x, xLess) || sign(a.y, yLess) - sign(b.y, yLess));
  const front = [];
  for (const p of sorted) {
    if (!front.length || sign(p.y, yLess) < sign(front.at(-1).y, yLess)) front.push(p);
  }
  const steps = front.map((p, i) => i
    ? `H${x.at(p.x)}V${y.at(p.y)}` : `M${x.at(p.x)},${y.at(p.y)}`).join("");
  svg("path", { class: "frontline", d: steps }, root);
  const best = new Set(front);
  for (const p of points) dot(root, p, x, y, best.has(p) ? "#c2410c" : "#93a1b0");
}

// One line a combination of the other axes, error bars of two standard errors.
function linePlot(parent, series, xName, yName) {
  const all = series.flatMap(s => s.points);
  const box = { left: 64, right: 420, top: 26, bottom: 240 };
  const root = frame(parent, 440, 285, `${yName} along ${xName}`);
  const x = scale(all.map(p => p.x), box.left, box.right);
  const y = scale(all.flatMap(p => [p.y - p.error, p.y + p.error]), box.bottom, box.top);
  axes(root, x, y, box, xName, yName);
  series.forEach((line, index) => {
    const color = series.length > COLORS.length ? "#93a1b0" : COLORS[index];
    line.points.sort((a, b) => x.at(a.x) - x.at(b.x));
    const d = line.points.map((p, i) => `${i ? "L" : "M"}${x.at(p.x)},${y.at(p.y)}`).join("");
    svg("path", { class: "path", d, stroke: color }, root);
    for (const p of line.points) {
      if (p.error) svg("path", { class: "path", stroke: color,
        d: `M${x.at(p.x)},${y.at(p.y - p.error)}V${y.at(p.y + p.error)}` }, root);
      dot(root, p, x, y, color);
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

// One vertical axis a column, one path a group, coloured by the last column.
function parallelPlot(parent, columns, rows) {
  const root = frame(parent, 620, 375, "parallel coordinates");
  const place = index => 50 + index * 510 / Math.max(1, columns.length - 1);
  const scales = columns.map((_, c) => scale(rows.map(r => r.values[c]), 335, 50));
  columns.forEach((name, c) => {
    svg("line", { class: "axis", x1: place(c), x2: place(c), y1: 50, y2: 335 }, root);
    // Names of neighbours would overlap on one line; the last one would leave the picture.
    const anchor = c === columns.length - 1 ? "end" : "middle", x = place(c) + (anchor === "end" ? 55 : 0);
    svg("text", { class: "title", x, y: 12 + 13 * (c % 3), "text-anchor": anchor }, root, name);
    for (const [at, text] of scales[c].ticks) {
      svg("text", { x: place(c) + 5, y: at + 4 }, root, text);
    }
  });
  const last = scales.at(-1);
  for (const row of rows) {
    const d = row.values.map((v, c) => `${c ? "L" : "M"}${place(c)},${scales[c].at(v)}`).join("");
    const share = (335 - last.at(row.values.at(-1))) / 285;
    const node = svg("path", { class: "path", d, stroke: shade(share) }, root);
    svg("title", {}, node, row.text);
    listen(node, row.group);
  }
}
