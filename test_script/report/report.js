"use strict";
const COLORS = getComputedStyle(document.documentElement);
const TRUTH = COLORS.getPropertyValue("--truth"), PREDICTION = COLORS.getPropertyValue("--prediction");
const slider = document.getElementById("threshold"), STEPS = +slider.max;
const GRID_SIDE = 512;  // canvas px of a frame's longer side, at least

// Heights 0..1 to colours of the inferno map.
const STOPS = [[12, 8, 38], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
function shade(height) {
  const place = Math.min(0.9999, Math.max(0, height)) * (STOPS.length - 1), low = Math.floor(place), part = place - low;
  return STOPS[low].map((c, i) => Math.round(c + (STOPS[low + 1][i] - c) * part));
}

// The channels of an embedded png: grey image, score levels (level n: above n of the thresholds), true mask.
function channels(image) {
  const width = image.naturalWidth, height = image.naturalHeight, canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, width, height).data;
  const channel = k => Uint8Array.from({length: width * height}, (_, i) => data[4 * i + k]);
  return {width, height, grey: channel(0), levels: channel(1), truth: channel(2).map(v => v > 127)};
}

// A canvas with a pixel of colour(i) for each pixel i of a map.
function paint(map, colour) {
  const canvas = document.createElement("canvas"), image = new ImageData(map.width, map.height);
  canvas.width = map.width; canvas.height = map.height;
  for (let i = 0; i < map.width * map.height; i++) image.data.set([...colour(i), 255], 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Draws a painting enlarged by an integer factor; returns the context and the factor.
function enlarge(canvas, painting) {
  const zoom = Math.max(1, Math.ceil(GRID_SIDE / Math.max(painting.width, painting.height)));
  canvas.width = painting.width * zoom; canvas.height = painting.height * zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(painting, 0, 0, canvas.width, canvas.height);
  return {context, zoom};
}

// A line just outside each region of pixels for which inside(i) holds.
function outline({context, zoom}, {width, height}, inside, colour) {
  const gap = 1.5;
  const has = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(y * width + x);
  context.strokeStyle = colour; context.lineWidth = 3;
  context.beginPath();
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    if (!has(x, y)) continue;
    const left = x * zoom - gap, right = (x + 1) * zoom + gap, top = y * zoom - gap, bottom = (y + 1) * zoom + gap;
    const line = (a, b, c, d) => { context.moveTo(a, b); context.lineTo(c, d); };
    if (!has(x, y - 1)) line(left, top, right, top);
    if (!has(x, y + 1)) line(left, bottom, right, bottom);
    if (!has(x - 1, y)) line(left, top, left, bottom);
    if (!has(x + 1, y)) line(right, top, right, bottom);
  }
  context.stroke();
}

function readView(section) {
  const frame = channels(section.querySelector("img.frame")), crop = channels(section.querySelector("img.crop"));
  const low = Math.min(...crop.grey), span = Math.max(1, Math.max(...crop.grey) - low);
  const grey = value => [value, value, value];
  return {
    ...JSON.parse(section.dataset.case), section, frame, crop, turn: 0.6,
    paintings: {
      frame: paint(frame, i => grey(frame.grey[i])),
      image: paint(crop, i => grey(255 * (crop.grey[i] - low) / span)),  // full contrast
      score: paint(crop, i => shade(heightOf(crop.levels[i]))),
      truth: paint(crop, i => crop.truth[i] ? [235, 240, 245] : [16, 23, 30]),
    },
  };
}

function drawView(view, threshold) {
  const drawn = {};
  for (const name in view.paintings)
    drawn[name] = enlarge(view.section.querySelector("canvas." + name), view.paintings[name]);
  for (const [name, map] of [["frame", view.frame], ["score", view.crop], ["truth", view.crop]]) {
    if (name !== "truth") outline(drawn[name], map, i => map.truth[i], TRUTH);
    outline(drawn[name], map, i => map.levels[i] > threshold, PREDICTION);
  }
  const [top, left, height, width] = view.window, {context, zoom} = drawn.frame;
  const scale = zoom * view.frame.height / view.size[0];
  context.strokeStyle = "#fff"; context.lineWidth = 2;
  context.strokeRect(left * scale, top * scale, width * scale, height * scale);
  drawSurface(view, threshold);
}

function drawSurface(view, threshold) {
  const canvas = view.section.querySelector("canvas.surface"), {width: columns, height: rows, levels} = view.crop;
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const cos = Math.cos(view.turn), sin = Math.sin(view.turn), size = width * 0.54, lift = height * 0.5;
  const point = (x, y, z) => {
    const u = x / Math.max(1, columns - 1) - 0.5, v = y / Math.max(1, rows - 1) - 0.5, depth = u * sin + v * cos;
    return [width / 2 + (u * cos - v * sin) * size, height * 0.68 + depth * size * 0.42 - z * lift, depth];
  };
  const path = corners => {
    context.beginPath();
    corners.forEach((p, i) => i ? context.lineTo(p[0], p[1]) : context.moveTo(p[0], p[1]));
  };
  const floor = [[0, 0], [columns - 1, 0], [columns - 1, rows - 1], [0, rows - 1]];
  const level = (z, colour) => {
    context.strokeStyle = colour;
    path(floor.map(p => point(...p, z))); context.closePath(); context.stroke();
  };
  const pole = floor.reduce((a, b) => point(...a, 0)[0] < point(...b, 0)[0] ? a : b);
  context.strokeStyle = "rgba(255,255,255,.4)"; context.fillStyle = "rgba(255,255,255,.8)"; context.font = "11px system-ui";
  path([point(...pole, 0), point(...pole, 1)]); context.stroke();
  for (const z of [0, 0.5, 1]) {
    const [x, y] = point(...pole, z);
    context.fillText(z, x - 20, y + 4);
  }
  const cells = [];
  for (let y = 0; y + 1 < rows; y++) for (let x = 0; x + 1 < columns; x++) {
    const z = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]].map(([a, b]) => heightOf(levels[b * columns + a]));
    cells.push({x, y, z, depth: point(x + .5, y + .5, 0)[2]});
  }
  cells.sort((a, b) => a.depth - b.depth);
  for (const {x, y, z} of cells) {
    path([point(x, y, z[0]), point(x + 1, y, z[1]), point(x + 1, y + 1, z[2]), point(x, y + 1, z[3])]);
    context.closePath();
    context.fillStyle = context.strokeStyle = "rgb(" + shade(Math.max(...z)).join(",") + ")";
    context.fill(); context.stroke();
  }
  level(0, "rgba(255,255,255,.4)");
  level(heightOf(threshold), PREDICTION);
}

// The points of a line through (xs, ys) where both are known; `steps`: y stays until the next x.
function linePoints(xs, ys, steps) {
  const points = [];
  xs.forEach((x, i) => {
    if (x === null || ys[i] === null) return;
    if (steps && points.length) points.push([x, points[points.length - 1][1]]);
    points.push([x, ys[i]]);
  });
  return points;
}

// A curve of all frames with its point at the threshold; `place` maps x to 0..1, `ticks` are [x, label].
function drawPlot(id, points, [pointX, pointY], place, ticks) {
  const canvas = document.getElementById(id), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight, left = 40, bottom = 26, top = 10, right = 14;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "11px system-ui"; context.fillStyle = "#5d6b7a"; context.strokeStyle = "#dde3e9";
  const X = x => left + Math.max(0, place(x)) * (width - left - right);
  const Y = y => height - bottom - y * (height - bottom - top);
  const line = (a, b, c, d) => { context.beginPath(); context.moveTo(a, b); context.lineTo(c, d); context.stroke(); };
  for (const y of [0, 0.2, 0.4, 0.6, 0.8, 1]) { line(left, Y(y), width - right, Y(y)); context.fillText(y, 12, Y(y) + 4); }
  for (const [x, label] of ticks) { line(X(x), top, X(x), height - bottom); context.fillText(label, X(x) - 12, height - 8); }
  if (CURVES.ranks) {  // maps of two values have a point alone
    context.save();
    context.beginPath(); context.rect(left, 0, width - left - right, height); context.clip();
    context.strokeStyle = "#1668b8"; context.lineWidth = 2;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(X(x), Y(y));
    context.stroke();
    context.restore();
  }
  if (pointX === null || pointY === null) return;
  context.fillStyle = PREDICTION;
  context.beginPath(); context.arc(Math.min(X(pointX), width - right), Y(pointY), 5.5, 0, 2 * Math.PI); context.fill();
}

function drawPlots(threshold) {
  const at = name => CURVES[name][threshold], tens = [0, 0.2, 0.4, 0.6, 0.8, 1];
  const last = Math.max(-3, Math.ceil(Math.log10(CURVES.fa[MIDDLE])));  // decade of Fa, as in the picture
  const decades = Array.from({length: last + 8}, (_, i) => i - 7);
  drawPlot("plot_fa", linePoints(CURVES.best_fa, CURVES.best_pd, true), [at("fa"), at("pd")],
           fa => fa > 0 ? (Math.log10(fa) + 7) / (last + 7) : 0, decades.map(d => [10 ** d, "1e" + d]));
  drawPlot("plot_pr", linePoints(CURVES.recall, CURVES.precision, false), [at("recall"), at("precision")],
           x => x, tens.map(x => [x, String(x)]));
}

const share = value => value === null ? "-" : (100 * value).toFixed(1) + " %";
const millionths = value => value === null ? "-" : (1e6 * value).toFixed(2) + " × 1e-6";
// Heights of levels: the threshold 0.5 in the middle, whatever the number of thresholds on either side of it.
const MIDDLE = CURVES.logit.indexOf(0);
const heightOf = level => level <= MIDDLE ? level / (2 * MIDDLE) : 0.5 + (level - MIDDLE) / (2 * (STEPS - MIDDLE));

const percent = (part, total) => total ? (100 * part / total).toFixed(1) + " %" : "-";

function drawAll() {
  const threshold = +slider.value, total = {targets: 0, matched: 0, false_pixels: 0, pixels: 0, hits: 0, union: 0};
  for (const view of views) {
    const counts = {
      targets: view.targets, matched: view.matched[threshold], false_pixels: view.false_pixels[threshold],
      pixels: view.size[0] * view.size[1], hits: view.hits[threshold],
      union: view.predicted[threshold] + view.positives - view.hits[threshold],
    };
    for (const name in total) total[name] += counts[name];
    view.section.querySelector("small").textContent = `IoU ${percent(counts.hits, counts.union)} · ` +
      `${counts.matched} of ${counts.targets} targets found · ${counts.false_pixels} false-alarm px`;
    drawView(view, threshold);
  }
  const show = (id, text) => { document.getElementById(id).textContent = text; };
  const logit = CURVES.logit[threshold], score = CURVES.threshold[threshold];
  show("value", `${score > 0.001 && score < 0.999 ? score.toFixed(3) : score > 0.5 ? "near 1" : "near 0"} (logit ${logit.toFixed(1)})`);
  show("set_pd", share(CURVES.pd[threshold])); show("set_fa", millionths(CURVES.fa[threshold]));
  show("set_precision", share(CURVES.precision[threshold])); show("set_recall", share(CURVES.recall[threshold]));
  drawPlots(threshold);
  show("pd", `${percent(total.matched, total.targets)} (${total.matched} of ${total.targets})`);
  show("fa", total.pixels ? `${(1e6 * total.false_pixels / total.pixels).toFixed(2)} × 1e-6` : "-");
  show("iou", percent(total.hits, total.union));
}

let views = [];
window.addEventListener("load", () => {  // by then the embedded pictures are decoded
  views = Array.from(document.querySelectorAll(".case"), readView);
  for (const view of views) {
    const canvas = view.section.querySelector("canvas.surface");
    let from;
    canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); from = event.clientX; };
    canvas.onpointermove = event => {
      if (from === undefined) return;
      view.turn -= (event.clientX - from) / 90; from = event.clientX;
      drawSurface(view, +slider.value);
    };
    canvas.onpointerup = canvas.onpointercancel = () => { from = undefined; };
  }
  let waiting = false;  // one drawing per animation frame, however fast the slider moves
  slider.addEventListener("input", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; drawAll(); });
    waiting = true;
  });
  window.addEventListener("resize", drawAll);
  drawAll();
});

function sortTable(table, column, button) {
  const heading = button.closest("th"), body = table.tBodies[0];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = row => row.cells[column].dataset.v;
  const rows = Array.from(body.rows).sort((a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // no value: always last
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
    return descending ? -order : order;
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("th button").forEach((button, i) => button.onclick = () => sortTable(table, i, button));

// A row opens its pictures, which are files beside the page; without them the first frame shown of its name or sequence.
const viewer = document.getElementById("viewer");
function openPictures(name) {
  viewer.querySelector("h3").textContent = name;
  viewer.querySelector("span").textContent = "";
  viewer.querySelector("div").replaceChildren(...PICTURES[name].map(([frame, file, counts]) => {
    const figure = document.createElement("figure"), picture = new Image(), caption = document.createElement("figcaption");
    picture.loading = "lazy"; picture.alt = frame; picture.src = file;
    picture.onerror = () => {
      viewer.querySelector("span").textContent = "Pictures are missing: keep the folder report_frames beside this page.";
    };
    caption.textContent = `${frame}: ${counts}`;
    figure.append(picture, caption);
    return figure;
  }));
  viewer.showModal();
}
viewer.onclick = event => { if (event.target === viewer) viewer.close(); };
const shownNames = Array.from(document.querySelectorAll(".case"), section => [section.querySelector("h4").firstChild.textContent, section]);
for (const row of document.querySelectorAll("table.sortable tbody tr")) {
  const name = row.cells[0].textContent, shown = shownNames.find(([text]) => text === name || text.startsWith(name + "/"));
  const pictured = Object.hasOwn(PICTURES, name);
  if (!pictured && !shown) continue;
  row.classList.add("opens");
  row.onclick = () => pictured ? openPictures(name) : shown[1].scrollIntoView({behavior: "smooth"});
}
