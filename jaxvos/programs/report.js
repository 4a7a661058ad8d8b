// Draws the page from the numbers and pictures in #content. Texts are only ever set as text.
"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const { runs, measures, sequences } = content;
const SVG = document.getElementById("drawing").namespaceURI;
const several = runs.length > 1;

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const el = (tag, attributes = {}, ...children) =>
  build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

const missing = (value) => value === null || value === undefined;
const shown = (value, digits = 3) =>
  missing(value) ? "–" : value.toFixed(digits).replace(/^-(0\.0+)$/, "$1").replace("-", "−");
const color = (r) => `var(--run${r % 5})`;
const dash = (r) => ["none", "6 3", "2 3", "9 3 2 3"][r % 4];
const curve = (r, d) => svg("path",
  { class: "curve", style: `stroke:${color(r)};stroke-dasharray:${dash(r)}`, d });
const runName = (r) => el("span", { class: "run", title: runs[r].name }, runs[r].name);
const key = (r) => el("span", { class: "key" },
  svg("svg", { width: 26, height: 6, "aria-hidden": "true" }, curve(r, "M0 3H26")), runName(r));
const runKeys = () => el("div", { class: "bar" }, ...runs.map((_, r) => key(r)));

// ---- differences

const less = (a, b) => (missing(a) || missing(b) ? null : b - a);

function difference(a, b, lower, digits) {
  const change = less(a, b);
  if (missing(change)) return el("td", {}, "–");
  const text = shown(change, digits);
  if (!/[1-9]/.test(text)) return el("td", { class: "faint" }, text);
  const better = change > 0 !== lower;
  return el("td", { class: better ? "better" : "worse" }, change > 0 ? `+${text}` : text,
    el("span", { class: "hidden" }, better ? " better" : " worse"));
}
const cells = (values, lower, digits) => values.flatMap((value, r) => {
  const cell = el("td", { class: r || !several ? null : "first" }, shown(value, digits));
  return r ? [cell, difference(values[0], value, lower, digits)] : [cell];
});
const runHeadings = (heading) => runs.flatMap((run, r) => {
  const columns = [heading(r, false, runName(r))];
  if (r) columns.push(heading(r, true, runs.length > 2 ? "to the first" : "difference"));
  return columns;
});

// ---- headline

function cards() {
  const names = [...new Set(content.headline.map((each) => each.measure))];
  return el("div", { class: "cards" }, ...names.map((measure) => {
    const entries = content.headline.filter((each) => each.measure === measure);
    const [first, ...others] = entries;
    return el("div", { class: "card" }, el("div", {}, el("strong", {}, measure), ` ${first.statistic}`),
      el("div", { class: "big" }, shown(first.values[0], 4)),
      el("dl", {}, ...others.map((each) => el("div", {}, el("dt", {}, each.statistic),
        el("dd", {}, shown(each.values[0], 4))))));
  }));
}

function comparison() {
  const heading = (r, isDifference, text) =>
    el("th", { scope: "col", class: r ? null : "first" }, isDifference ? text : key(r));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Headline numbers" },
    el("table", { id: "headline" },
      el("thead", {}, el("tr", {}, el("th", { class: "text", scope: "col" }, "measure"), ...runHeadings(heading))),
      el("tbody", {}, ...content.headline.map((each) =>
        el("tr", { class: each.statistic === "mean" ? "main" : null },
          el("th", { scope: "row" }, `${each.measure} ${each.statistic}`),
          ...cells(each.values, each.lower, 4))))));
}

// ---- table of sequences

const order = { by: null, down: true };
const statistics = [...new Set(content.columns.map((column) => column.statistic))];
let statistic = statistics.includes("mean") ? "mean" : statistics[0];

function tableColumns() {
  const columns = content.columns.map((column, c) => ({ ...column, c, name: `${column.measure} ${column.statistic}` }));
  return several ? columns.filter((column) => column.statistic === statistic) : columns;
}

function sortable(by, text, attributes = {}) {
  const active = JSON.stringify(order.by) === JSON.stringify(by);
  const sort = active ? (order.down ? "descending" : "ascending") : null;
  const click = () => {
    order.down = active ? !order.down : by !== "sequence";
    order.by = by;
    drawTable();
    document.querySelector("#sequences th[aria-sort] button").focus();
  };
  return el("th", { scope: "col", "aria-sort": sort, ...attributes }, el("button", { type: "button", click }, text));
}

function sortValue(row) {
  if (order.by === "sequence") return row.sequence;
  if (order.by === "frames") return row.frames === "" ? null : Number(row.frames);
  const [c, r, isDifference] = order.by;
  return isDifference ? less(row.values[0][c], row.values[r][c]) : row.values[r][c];
}

function sorted(rows) {
  if (order.by === null) return rows;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  return [...rows].sort((one, other) => {
    const [a, b] = [sortValue(one), sortValue(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return order.down ? compare(b, a) : compare(a, b);
  });
}

function tableHead(columns, objects) {
  const attributes = several ? { rowspan: 2 } : {};
  const fixed = [sortable("sequence", "sequence", { class: "text", ...attributes }),
    objects ? el("th", { scope: "col", ...attributes }, "object") : null,
    sortable("frames", "frames", attributes)];
  const last = measures.length ? el("th", { scope: "col", class: "first text", ...attributes }, `${measures[0].name} over time`) : null;
  if (!several)
    return [el("tr", {}, ...fixed, ...columns.map((column) => sortable([column.c, 0, false], column.name)), last)];
  const span = 2 * runs.length - 1;
  const groups = columns.map((column) => el("th", { colspan: span, scope: "colgroup", class: "first text" }, column.name));
  const second = columns.flatMap((column) => runHeadings((r, isDifference, text) =>
    sortable([column.c, r, isDifference], text, { class: r ? null : "first" })));
  return [el("tr", {}, ...fixed, ...groups, last), el("tr", {}, ...second)];
}

function sparkline(line, object) {
  const [width, height] = [130, 26];
  const box = svg("svg", { width, height, role: "img", "aria-label": `${measures[0].name} over time` });
  const lines = runs.map((_, r) => (object === "" ? line.values[0][r] : line.objects[0][r][object] ?? []));
  const scale = scales(lines.flat(), line.frames.length, [2, width - 2], [height - 2, 2]);
  box.append(...lines.map((values, r) => curve(r, path(values, scale))));
  return box;
}

function tableRow(row, columns, objects) {
  const s = sequences.findIndex((each) => each.name === row.sequence);
  const open = el("button", { type: "button", class: "link", click: () => { show(s); reveal(); } }, row.sequence);
  return el("tr", { "data-sequence": s }, el("th", { scope: "row" }, s < 0 ? row.sequence : open),
    objects ? el("td", {}, row.object || "–") : null, el("td", {}, row.frames),
    ...columns.flatMap((column) => cells(row.values.map((values) => values[column.c]), column.lower)),
    measures.length ? el("td", { class: "first spark" }, s < 0 ? "" : sparkline(sequences[s], row.object)) : null);
}

function tableFoot(columns, objects) {
  const total = (column) => content.headline.find((each) =>
    each.measure === column.measure && each.statistic === column.statistic);
  if (!columns.some(total)) return null;
  return el("tfoot", {}, el("tr", {}, el("th", { scope: "row", colspan: objects ? 3 : 2 }, "data set"),
    ...columns.flatMap((column) => cells(total(column)?.values ?? runs.map(() => null), column.lower)),
    measures.length ? el("td", { class: "first" }) : null));
}

function drawTable() {
  const columns = tableColumns();
  const objects = content.rows.some((row) => row.object !== "");
  document.getElementById("sequences").replaceChildren(el("thead", {}, ...tableHead(columns, objects)),
    el("tbody", {}, ...sorted(content.rows).map((row) => tableRow(row, columns, objects))),
    ...[tableFoot(columns, objects)].filter((part) => part));
  markRow();
}

function radios(name, title, choices, chosen, choose) {
  return el("fieldset", {}, el("legend", {}, title), ...choices.map((choice) => el("label", {},
    el("input", { type: "radio", name, value: choice, checked: choice === chosen ? "" : null, change: () => choose(choice) }),
    choice)));
}

// ---- lines

function scales(values, count, [left, right], [bottom, top]) {
  const known = values.filter((value) => !missing(value));
  const [low, high] = [Math.min(0, ...known), Math.max(1, ...known)];
  return {
    low, high,
    x: (t) => left + ((right - left) * (t + 0.5)) / count,
    y: (value) => bottom + ((top - bottom) * (value - low)) / (high - low),
    t: (x) => ((x - left) / (right - left)) * count - 0.5,
  };
}

function path(values, scale) {
  let pen = "M";
  return values.map((value, t) => {
    if (missing(value)) { pen = "M"; return ""; }
    const step = `${pen}${scale.x(t).toFixed(1)} ${scale.y(value).toFixed(1)}`;
    const lone = pen === "M" && missing(values[t + 1]); // a dot, drawn as a very short line
    pen = "L";
    return lone ? `${step}h.1` : step;
  }).join("");
}

function plot(line, m, width) {
  const height = 150;
  const scale = scales(line.values[m].flat(), line.frames.length, [34, width - 8], [height - 22, 8]);
  const box = svg("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${measures[m].name} over the frames of ${line.name}` });
  for (const value of [scale.low, (scale.low + scale.high) / 2, scale.high]) {
    box.append(svg("path", { class: "grid", d: `M34 ${scale.y(value)}H${width - 8}` }),
      svg("text", { x: 28, y: scale.y(value) + 4, "text-anchor": "end" }, `${Number(value.toFixed(2))}`));
  }
  const last = line.frames.length - 1;
  box.append(svg("text", { x: 34, y: height - 3 }, line.frames[0]),
    svg("text", { x: width - 8, y: height - 3, "text-anchor": "end" }, line.frames[last]));
  for (const { t } of line.shown)
    box.append(svg("path", { class: "shown", d: `M${scale.x(t).toFixed(1)} ${height - 22}v4` }));
  line.objects[m].forEach((objects, r) => {
    const each = Object.values(objects);
    if (each.length > 1) for (const values of each)
      box.append(svg("path", { class: "curve thin", style: `stroke:${color(r)}`, d: path(values, scale) }));
  });
  box.append(...line.values[m].map((values, r) => curve(r, path(values, scale))));
  return { box, scale, height };
}

// ---- pictures

const images = new Map();
function image(uri) {
  if (!images.has(uri)) {
    const loaded = new Image();
    loaded.src = uri;
    images.set(uri, loaded.decode().then(() => loaded));
  }
  return images.get(uri);
}

const style = getComputedStyle(document.documentElement);
const rgb = (name) => {
  const number = parseInt(style.getPropertyValue(`--${name}`).trim().slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
};
const [CORRECT, FALSE, MISSED, PREDICTION, TRUTH] = ["correct", "false", "missed", "prediction", "truth"].map(rgb);
const VIEWS = ["errors", "prediction", "ground truth", "picture"];

// The colour of a pixel and how much of it is laid over the picture. Codes are 1 false, 2 missed, 3 correct.
function tint(view, code, edge, x, y) {
  if (view === "errors") {
    if (code === 3) return [CORRECT, 0.5];
    if (code === 1) return [FALSE, 0.8];
    return [MISSED, (x + y) % 6 < 3 ? 0.95 : 0.35];
  }
  return [view === "prediction" ? PREDICTION : TRUTH, edge ? 1 : 0.45];
}

function pixels(picture, [width, height] = [picture.naturalWidth, picture.naturalHeight]) {
  const drawing = el("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  drawing.imageSmoothingEnabled = false;
  drawing.drawImage(picture, 0, 0, width, height);
  return drawing.getImageData(0, 0, width, height);
}

function lay(target, grey, view) {
  const { width, height, data } = target;
  const codes = Uint8Array.from({ length: width * height }, (_, i) => Math.round(grey.data[4 * i] / 85));
  const counts = { errors: 3, prediction: 1, "ground truth": 2 }[view];
  const inside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || codes[y * width + x] & counts;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const i = y * width + x;
    if (!(codes[i] & counts)) continue;
    const edge = !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1));
    const [ink, share] = tint(view, codes[i], edge, x, y);
    for (let c = 0; c < 3; c++) data[4 * i + c] += share * (ink[c] - data[4 * i + c]);
  }
}

const latest = new WeakMap(); // what a canvas is to show: when one slides fast, older pictures come late
async function paint(canvas, frame, r, view) {
  const order = {};
  latest.set(canvas, order);
  const [picture, mask] = await Promise.all([image(frame.picture), frame.masks[r] ? image(frame.masks[r]) : null]);
  if (latest.get(canvas) !== order) return;
  const { naturalWidth: width, naturalHeight: height } = picture;
  const target = pixels(picture);
  if (mask && view !== "picture") lay(target, pixels(mask, [width, height]), view);
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(target, 0, 0);
  canvas.dataset.painted = `${view} ${frame.t}`;
}

const errorKeys = () => [["correct", "correct"], ["false", "false: not in the ground truth"], ["missed", "missed: only in the ground truth"]]
  .map(([name, text]) => el("span", { class: "key" },
    el("span", { class: `swatch ${name}`, style: name === "missed" ? null : `background:var(--${name})` }), text));

// ---- one sequence, frame by frame

const now = { s: 0, i: 0, view: "errors" };
let plots = [];
const at = (id) => document.getElementById(id);

function viewer() {
  const pictured = sequences.some((each) => each.shown.length);
  const choice = el("select", { id: "sequence", change: (event) => show(Number(event.target.value)) },
    ...sequences.map((each, s) => el("option", { value: s }, each.name)));
  const slider = el("input", { type: "range", id: "slider", min: 0, value: 0, "aria-label": "Frame",
    input: (event) => { now.i = Number(event.target.value); drawFrame(); } });
  const button = (text, label, by) => el("button", { type: "button", class: "step", "aria-label": label, click: () => step(by) }, text);
  return el("section", { id: "viewer", keydown: arrows }, el("h2", {}, "Frame by frame"),
    el("div", { class: "bar" }, el("label", {}, "sequence ", choice),
      pictured ? radios("view", "show", VIEWS, now.view, (view) => { now.view = view; drawFrame(); }) : null),
    pictured ? el("div", { class: "bar", id: "legend" }, ...errorKeys()) : null,
    el("div", { class: pictured && !several ? "beside" : "" },
      el("div", { hidden: pictured ? null : "" }, el("div", { class: several ? "views" : "views alone", id: "views" }),
        el("div", { class: "slider" }, button("←", "Previous frame", -1), slider, button("→", "Next frame", 1)),
        el("p", { class: "faint", id: "frame", "aria-live": "polite" })),
      el("div", { class: several ? "views" : "views alone", id: "plots" })),
    several ? runKeys() : null);
}

function arrows(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || event.target.matches("select, input[type=radio]")) return; // these have their own use for arrows
  event.preventDefault();
  step(by);
}

function step(by) {
  const count = sequences[now.s].shown.length;
  if (!count) return;
  now.i = Math.max(0, Math.min(count - 1, now.i + by));
  drawFrame();
}

function show(s, t = null) {
  now.s = s;
  const frames = sequences[s].shown.map((frame) => frame.t);
  now.i = t === null ? 0 : Math.max(0, frames.indexOf(t));
  at("sequence").value = s;
  at("slider").max = Math.max(0, frames.length - 1);
  at("views").replaceChildren(...runs.map((run, r) => el("figure", {},
    el("canvas", { role: "img", width: 320, height: 180 }), el("figcaption", {}, several ? key(r) : ""))));
  drawPlots();
  drawFrame();
  markRow();
}

function reveal() {
  at("viewer").scrollIntoView({ behavior: "smooth", block: "start" });
  at("slider").focus({ preventScroll: true });
}

function markRow() {
  for (const row of document.querySelectorAll("#sequences tbody tr"))
    if (Number(row.dataset.sequence) === now.s) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
}

function drawPlots() {
  const line = sequences[now.s];
  at("plots").replaceChildren(...measures.map(({ name, lower }) => el("div", { class: "plot" },
    el("h3", {}, name, el("span", { class: "faint" }, lower ? " (lower is better)" : "")))));
  plots = measures.map((_, m) => {
    const holder = at("plots").children[m];
    const drawn = plot(line, m, Math.max(200, holder.clientWidth));
    drawn.box.addEventListener("click", (event) => nearest(drawn.scale.t(event.clientX - drawn.box.getBoundingClientRect().left)));
    drawn.mark = svg("g");
    drawn.box.append(drawn.mark);
    holder.append(drawn.box);
    return drawn;
  });
}

function nearest(t) {
  const distances = sequences[now.s].shown.map((frame) => Math.abs(frame.t - t));
  if (!distances.length) return;
  now.i = distances.indexOf(Math.min(...distances));
  drawFrame();
}

const scores = (line, t, r) => measures.map(({ name }, m) => `${name} ${shown(line.values[m][r][t])}`).join(", ");

function drawFrame() {
  const line = sequences[now.s];
  const frame = line.shown[now.i];
  if (!frame) {
    at("frame").textContent = `No pictures of ${line.name} on this page.`;
    at("views").replaceChildren();
    return;
  }
  const [t, name] = [frame.t, line.frames[frame.t]];
  at("slider").value = now.i;
  at("slider").setAttribute("aria-valuetext", `${name}: ${runs.map((_, r) => scores(line, t, r)).join("; ")}`);
  at("frame").textContent = `frame ${name}, ${now.i + 1} of the ${line.shown.length} that are on this page`;
  at("legend").style.visibility = now.view === "errors" ? "visible" : "hidden";
  [...at("views").children].forEach((figure, r) => {
    const [canvas, caption] = figure.children;
    const without = frame.masks[r] ? "" : " (no mask)";
    canvas.setAttribute("aria-label", `${now.view} of ${runs[r].name}, ${line.name}, frame ${name}: ${scores(line, t, r)}`);
    caption.replaceChildren(several ? key(r) : "", scores(line, t, r) + without);
    paint(canvas, frame, r, now.view);
  });
  plots.forEach(({ scale, mark, height }, m) => {
    mark.replaceChildren(svg("path", { class: "now", d: `M${scale.x(t)} 8V${height - 18}` }));
    line.values[m].forEach((values, r) => missing(values[t]) || mark.append(
      svg("circle", { cx: scale.x(t), cy: scale.y(values[t]), r: 4, style: `fill:${color(r)}` })));
  });
}

// ---- worst and best frames

const awaited = new Map(); // canvases not yet seen, with what paints them: a long page opens at once
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    awaited.get(target)();
    awaited.delete(target);
  }
}, { rootMargin: "600px" });

function strip([name, frameName], r) {
  const s = sequences.findIndex((each) => each.name === name);
  const line = sequences[s];
  const t = line.frames.indexOf(frameName);
  const frame = line.shown.find((each) => each.t === t);
  if (!frame || !frame.masks[r]) return null;
  const canvases = ["prediction", "ground truth", "errors"].map((view) => {
    const canvas = el("canvas", { role: "img", width: 320, height: 180, "aria-label": `${view} of ${name}, frame ${frameName}` });
    awaited.set(canvas, () => paint(canvas, frame, r, view));
    watcher.observe(canvas);
    return canvas;
  });
  const open = el("button", { type: "button", class: "link", click: () => { show(s, t); reveal(); } }, `${name} ${frameName}`);
  return el("figure", {}, el("div", { class: "strip" }, ...canvases),
    el("figcaption", {}, open, scores(line, t, r)));
}

function extremes() {
  const found = runs.flatMap((run, r) => ["worst", "best"].flatMap((end) => {
    const strips = content.extremes[r][end].map((each) => strip(each, r)).filter((each) => each);
    const title = `${end} frames${several ? ` of ${run.name}` : ""}`;
    return strips.length ? [el("h3", {}, title[0].toUpperCase() + title.slice(1)), el("div", { class: "strips" }, ...strips)] : [];
  }));
  if (!found.length) return null;
  return el("section", { id: "extremes" }, el("h2", {}, "Worst and best frames"),
    el("p", { class: "faint" }, `By ${measures[0].name}, at most one frame of a sequence. Prediction, ground truth, errors.`),
    el("div", { class: "bar" }, ...errorKeys()), ...found);
}

// ---- the page

function about() {
  const used = new Set([...measures.map((each) => each.name), ...content.headline.map((each) => each.statistic)]);
  const meanings = Object.entries(content.meanings).filter(([name]) => used.has(name));
  return el("section", {}, el("h2", {}, "About the numbers"),
    el("dl", { class: "facts" }, ...meanings.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
    ...runs.flatMap((run) => [el("h3", {}, run.name),
      el("dl", { class: "facts" }, ...run.facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]))]));
}

function protocols() {
  const said = new Map(runs.map((run) => [`${run.protocol}: ${run.averaging}`, run]));
  return [...said.values()].map(({ protocol: name, averaging: text }) => el("p", { class: "protocol" }, el("strong", {}, `Protocol ${name}: `), text));
}

at("page").append(...[
  el("header", {}, el("h1", {}, content.title), ...protocols(), ...content.notes.map((note) => el("p", { class: "note" }, note))),
  el("section", {}, el("h2", {}, "Scores"), several ? comparison() : cards()),
  el("section", {}, el("h2", {}, "Sequences"),
    el("div", { class: "bar" }, el("span", { class: "faint" }, "Click a heading to sort, a name to look at its frames."),
      several ? radios("statistic", "show", statistics, statistic,
        (choice) => { statistic = choice; order.by = null; drawTable(); }) : null),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores of the sequences" }, el("table", { id: "sequences" }))),
  sequences.length ? viewer() : null,
].filter((part) => part));
drawTable();
if (sequences.length) {
  show(0);
  let width = at("plots").clientWidth;
  new ResizeObserver(() => {
    if (at("plots").clientWidth === width) return;
    width = at("plots").clientWidth;
    drawPlots();
    drawFrame();
  }).observe(at("plots"));
}
at("page").append(...[extremes(), about()].filter((part) => part));
