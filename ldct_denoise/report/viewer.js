"use strict";
// Slices in real HU: decode, window, draw side by side with one zoom; and tables that sort. No library, no network.
// `view` is what the reader asked for; `shown` is the slice on the screen, from which every number is read. They differ
// while a slice is being decoded.

const slides = JSON.parse(document.getElementById("slides").textContent);
const view = { slide: 0, level: 40, width: 400, zoom: 1, x: 0, y: 0, circle: null };  // x, y: shift in image pixels
let shown = null, draws = 0;
const find = (id) => document.getElementById(id);

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decodeHu(text, rows, columns) {  // the inverse of encode_hu in pictures.py
  const bytes = await inflate(text), half = rows * columns, hu = new Int16Array(half);
  for (let i = 0; i < half; i++) {
    const step = bytes[i] | (bytes[half + i] << 8);
    hu[i] = i % columns ? hu[i - 1] + step : step;  // Int16Array wraps
  }
  return hu;
}

async function decodeMask(text, count) {
  const bytes = await inflate(text), mask = new Uint8Array(count);
  for (let i = 0; i < count; i++) mask[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}

function load(slide) {  // once for each slice, however often it is asked for
  slide.loading ??= decode(slide);
  return slide.loading;
}

async function decode(slide) {
  slide.hu = {}; slide.regions = {};
  for (const [name, text] of Object.entries(slide.panels)) slide.hu[name] = await decodeHu(text, slide.rows, slide.columns);
  for (const [name, text] of Object.entries(slide.masks)) slide.regions[name] = await decodeMask(text, slide.rows * slide.columns);
  return slide;
}

function differences(names) {  // every panel against the one it should be like
  const pairs = [], last = names[names.length - 1];
  for (const name of names) if (name !== last) pairs.push([name, last]);
  if (names.length > 2) pairs.push([names[0], names[1]]);
  return pairs;
}

function panelsOf(slide) {
  const panels = Object.keys(slide.panels).map((name) => ({ name, hu: slide.hu[name], level: view.level, width: view.width }));
  const [first, second] = (find("difference")?.value ?? "").split("|");
  if (slide.hu[first] && slide.hu[second]) {
    const half = Number(find("difference-width").value) || 100;
    panels.push({ name: `${first} − ${second}`, hu: slide.hu[first].map((v, i) => v - slide.hu[second][i]), level: 0, width: 2 * half });
  }
  return panels;
}

function paint(canvas, slide, panel) {
  const small = document.createElement("canvas");
  small.width = slide.columns; small.height = slide.rows;
  const context = small.getContext("2d"), image = context.createImageData(slide.columns, slide.rows);
  const low = panel.level - panel.width / 2, scale = 255 / panel.width;
  for (let i = 0; i < panel.hu.length; i++) {
    const grey = (panel.hu[i] - low) * scale;
    image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = grey;  // clamped array
    image.data[4 * i + 3] = 255;
  }
  if (find("show-rois")?.checked) outline(image.data, slide);
  context.putImageData(image, 0, 0);
  const aspect = slide.spacing_mm[0] / slide.spacing_mm[1];
  canvas.width = slide.columns; canvas.height = Math.round(slide.rows * aspect);
  const target = canvas.getContext("2d");
  target.imageSmoothingEnabled = view.zoom < 3;
  target.setTransform(view.zoom, 0, 0, view.zoom * aspect, -view.x * view.zoom, -view.y * view.zoom * aspect);
  target.drawImage(small, 0, 0);
  if (view.circle) {
    target.beginPath();
    target.ellipse(view.circle.x, view.circle.y, view.circle.mm / slide.spacing_mm[1], view.circle.mm / slide.spacing_mm[0], 0, 0, 7);
    target.strokeStyle = "#00e5ff"; target.lineWidth = 1.5 / view.zoom;
    target.stroke();
  }
}

function insideCircle(slide) {  // indices of the pixels whose centre lies in the drawn circle
  const { x, y, mm } = view.circle, found = [];
  for (let row = 0; row < slide.rows; row++) for (let column = 0; column < slide.columns; column++) {
    if (Math.hypot((column + 0.5 - x) * slide.spacing_mm[1], (row + 0.5 - y) * slide.spacing_mm[0]) <= mm) found.push(row * slide.columns + column);
  }
  return found;
}

function readCircle(slide) {
  if (!find("circle-text")) return;
  if (!view.circle) { find("circle-text").textContent = ""; return; }
  const inside = insideCircle(slide);
  const texts = Object.entries(slide.hu).map(([name, hu]) => {
    const mean = inside.reduce((sum, i) => sum + hu[i], 0) / inside.length;
    const variance = inside.reduce((sum, i) => sum + (hu[i] - mean) ** 2, 0) / inside.length;
    return `${name} ${mean.toFixed(1)} ± ${Math.sqrt(variance).toFixed(1)} HU`;
  });
  find("circle-text").textContent = inside.length ? `Circle, radius ${view.circle.mm.toFixed(1)} mm, ${inside.length} pixels: ${texts.join(" | ")}` : "";
}

const HUES = [[255, 196, 0], [0, 200, 255], [255, 110, 110], [120, 230, 120], [220, 140, 255]];
function outline(data, slide) {
  Object.values(slide.regions).forEach((mask, number) => {
    const [r, g, b] = HUES[number % HUES.length], columns = slide.columns;
    for (let i = columns; i < mask.length - columns; i++) {
      if (mask[i] && !(mask[i - 1] && mask[i + 1] && mask[i - columns] && mask[i + columns])) {
        data[4 * i] = r; data[4 * i + 1] = g; data[4 * i + 2] = b;
      }
    }
  });
}

async function draw() {
  const turn = ++draws, holder = find("panels");
  if (shown !== slides[view.slide]) setShown(shown, true);
  const slide = await load(slides[view.slide]);
  if (turn !== draws) return;  // a later draw shows the slice and the window that are wanted now
  const panels = panelsOf(slide);
  while (holder.children.length > panels.length) holder.lastChild.remove();
  while (holder.children.length < panels.length) {
    const figure = document.createElement("figure");
    figure.append(document.createElement("figcaption"), document.createElement("canvas"));
    Object.assign(figure.lastChild, { tabIndex: 0, role: "img" });
    listen(figure.lastChild);
    holder.append(figure);
  }
  panels.forEach((panel, number) => {
    holder.children[number].firstChild.textContent = panel.name;
    holder.children[number].lastChild.setAttribute("aria-label", `${panel.name}, ${slide.label}, level ${Math.round(panel.level)}, width ${Math.round(panel.width)} HU`);
    paint(holder.children[number].lastChild, slide, panel);
  });
  readCircle(slide);
  showLegend();
  find("slice-label").textContent = slide.label;
  find("level").value = Math.round(view.level); find("width").value = Math.round(view.width);
  setShown(slide, false);
}

function setShown(slide, waiting) {  // nothing can be rated while another slice is on the screen than the one asked for
  if (slide !== shown) find("cursor").textContent = "";
  shown = slide;
  find("panels").setAttribute("aria-busy", String(waiting));
  if (find("rating")) find("rating").disabled = waiting;
  document.body.dataset.drawn = waiting ? "" : String(slides.indexOf(slide));
}

function pixel(canvas, event) {
  const box = canvas.getBoundingClientRect(), slide = shown;
  return [view.x + ((event.clientX - box.left) / box.width) * slide.columns / view.zoom,
    view.y + ((event.clientY - box.top) / box.height) * slide.rows / view.zoom];
}

function zoomAt(x, y, factor) {  // the image point (x, y) stays where it is
  const zoom = Math.max(1, Math.min(20, view.zoom * factor));
  view.x = x - (x - view.x) * view.zoom / zoom; view.y = y - (y - view.y) * view.zoom / zoom; view.zoom = zoom;
  if (zoom === 1) view.x = view.y = 0;
  draw();
}

function resetZoom() {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  draw();
}

function press(event) {  // keys of a focused image
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const middle = [view.x + shown.columns / view.zoom / 2, view.y + shown.rows / view.zoom / 2];
  const keys = {
    ArrowUp: () => goto(view.slide - 1), ArrowDown: () => goto(view.slide + 1),
    Home: () => goto(0), End: () => goto(slides.length - 1),
    "+": () => zoomAt(...middle, 1.2), "-": () => zoomAt(...middle, 1 / 1.2), 0: resetZoom,
  };
  const option = find("preset").options[Number(event.key) - 1];
  const act = keys[event.key] ?? (option?.value ? () => { find("preset").value = option.value; usePreset(); } : null);
  if (!act) return;
  event.preventDefault();
  act();
}

function goto(number) {
  view.slide = Math.max(0, Math.min(slides.length - 1, number));
  find("slice").value = view.slide;
  draw();
}

function listen(canvas) {
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (!event.ctrlKey) return goto(view.slide + Math.sign(event.deltaY));
    zoomAt(...pixel(canvas, event), event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  canvas.addEventListener("keydown", press);
  canvas.addEventListener("pointerdown", (event) => {
    if (!find("draw-circle")?.checked) return;
    const [x, y] = pixel(canvas, event);
    view.circle = { x, y, mm: 0 };
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    const slide = shown, [x, y] = pixel(canvas, event).map(Math.floor);
    if (x >= 0 && y >= 0 && x < slide.columns && y < slide.rows) {
      const values = Object.entries(slide.hu).map(([name, hu]) => `${name} ${hu[y * slide.columns + x]}`);
      find("cursor").textContent = `row ${y + slide.origin[0]}, column ${x + slide.origin[1]}: ${values.join(" | ")} HU`;
    }
    if (!(event.buttons & 1)) return;
    if (find("draw-circle")?.checked) {
      const [column, row] = pixel(canvas, event), { x, y } = view.circle;
      view.circle.mm = Math.hypot((column - x) * slide.spacing_mm[1], (row - y) * slide.spacing_mm[0]);
    } else if (event.shiftKey) {
      view.level -= event.movementY * view.width / 400; view.width = Math.max(1, view.width + event.movementX * view.width / 400);
      find("preset").value = "";
    } else {
      const scale = slide.columns / canvas.getBoundingClientRect().width / view.zoom;
      view.x -= event.movementX * scale; view.y -= event.movementY * scale;
    }
    draw();
  });
}

function usePreset() {
  if (!find("preset").value) return;
  [view.level, view.width] = find("preset").value.split(",").map(Number);
  draw();
}

function showLegend() {  // which colour is which region of the slice
  if (!find("legend")) return;
  const names = Object.keys((shown ?? slides[view.slide]).masks);
  find("legend").hidden = !find("show-rois").checked || !names.length;
  find("legend").replaceChildren(...names.map((name, number) => {
    const entry = document.createElement("span"), box = document.createElement("i");
    box.style.background = `rgb(${HUES[number % HUES.length]})`;
    entry.append(box, name);
    return entry;
  }));
}

function startViewer() {
  view.slide = Number(find("slice").value);
  find("panels").style.setProperty("--native", `${Math.max(300, ...slides.map((slide) => slide.columns))}px`);
  if (find("difference")) startExtras(Object.keys(slides[0].panels));
  find("slice").addEventListener("input", () => goto(Number(find("slice").value)));
  find("preset").addEventListener("change", usePreset);
  for (const id of ["level", "width"]) find(id).addEventListener("change", () => {
    view[id] = Math.max(id === "width" ? 1 : -4096, Number(find(id).value)); find("preset").value = ""; draw();
  });
  find("reset").addEventListener("click", resetZoom);
  usePreset();
}

function startExtras(names) {  // differences and regions; a blinded reading has neither
  find("rois").hidden = !slides.some((slide) => Object.keys(slide.masks).length);
  for (const [first, second] of differences(names)) find("difference").add(new Option(`${first} − ${second}`, `${first}|${second}`));
  if (names.length > 2) find("difference").selectedIndex = names.length - 2;
  for (const id of ["difference", "difference-width", "show-rois"]) find(id).addEventListener("change", draw);
}

function sortBy(table, column, heading) {
  const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th").forEach((other) => { other.ariaSort = null; });
  heading.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  const text = (row) => row.cells[column].textContent, value = (row) => row.cells[column].dataset.value;
  const empty = (row) => text(row) === "–";  // always last
  const numbers = rows.every((row) => empty(row) || value(row) !== undefined);
  const number = (row) => Number(value(row).replace("inf", "Infinity"));  // PSNR of equal images
  const compare = (a, b) => numbers ? (number(a) > number(b)) - (number(a) < number(b)) : text(a).localeCompare(text(b), undefined, { numeric: true });
  rows.sort((a, b) => (empty(a) || empty(b) ? empty(a) - empty(b) : sign * compare(a, b)));
  table.tBodies[0].append(...rows);
}

document.querySelectorAll("table.sortable").forEach((table) =>
  table.querySelectorAll("th").forEach((heading, column) => heading.addEventListener("click", () => sortBy(table, column, heading))));
if (slides.length) startViewer();
