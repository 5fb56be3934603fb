// The page: loads the series, keeps what the reader chose, lays out panels and draws them.

import { CONTENT, Engine } from "./engine.js";
import { Grid, LOADED, Series, transform } from "./volumes.js";
import { Overlay } from "./overlay.js";
import { Toolbar } from "./toolbar.js";
import { Controls } from "./controls.js";
import { state } from "./state.js";

const FLICKER_MS = 600, PROGRESS_MS = 500, NARROW = 1.15;  // panels stand below each other where width / height is less
const find = (id) => document.getElementById(id);

class Viewer {
  constructor() {
    this.state = state;
    this.engine = new Engine(find("slices"));
    this.isAsked = false;
    state.sliceText = (plane) => this.sliceText(plane);
  }

  async start() {
    const manifest = await (await fetch("series.json")).json();
    this.manifest = manifest;
    this.series = manifest.series.map((info, number) => new Series(info, number));
    const image = await this.engine.start(this.series);
    this.grid = new Grid(this.series, image);
    this.engine.setGrid(this.grid);
    state.layout = this.series.length > 1 ? "side" : "planes";
    this.reset();
    this.overlay = new Overlay(find("overlay"), this.engine, state);
    find("slices").addEventListener("webglcontextlost", () => fail(new Error("the graphics driver was reset; reload the page")));
    this.toolbar = new Toolbar(this);
    this.controls = new Controls(this, find("overlay"));
    new ResizeObserver(() => this.redraw()).observe(find("overlay"));
    setInterval(() => { if (state.content === "flicker" && !this.isFlickerHeld) { state.isSecond = !state.isSecond; this.redraw(); } }, FLICKER_MS);
    this.redraw();
    await Promise.all(this.series.map((one) => one.load((first, stop) => this.arrived(one, first, stop))));
    this.engine.isComplete = this.series.every(({ state: all }) => all.every((one) => one === LOADED));
    document.body.dataset.loadedMs = String(Math.round(performance.now()));
  }

  arrived(series, first, stop) {  // draw at once what the reader waits for, the rest now and then
    this.engine.upload(series.number, first, stop);
    const isWanted = first <= series.wanted && series.wanted < stop, isLast = series.nextMissing() < 0;
    if (!isWanted && !isLast && performance.now() - this.drawnMs < PROGRESS_MS) return;
    this.redraw();
  }

  reset() {
    const { presets } = this.manifest;
    Object.assign(state, { level: presets[0].level, width: presets[0].width, range: 50, divider: 0.5, isInverted: false, isSmooth: true });
    this.engine.views.forEach((view) => Object.assign(view, { zoom: 1, pan: [0, 0, 0] }));
    this.setCross(this.grid.shape.map((side) => Math.floor(side / 2)));
  }

  setCross(index) {
    state.cross = index.map((value, axis) => Math.max(0, Math.min(this.grid.shape[axis] - 1, Math.round(value))));
    this.engine.setCross(state.cross);
    this.series.forEach((one, n) => {
      const slice = this.grid.voxel(n, state.cross)[2];
      one.wanted = Math.max(0, Math.min(one.shape[2] - 1, slice));
    });
    this.redraw();
  }

  // Slices are counted from the top, the front and the patient's right, as they are read.
  scroll(plane, steps) {
    const index = [...state.cross];
    index[plane] -= steps;
    this.setCross(index);
  }

  sliceNumber(plane) { return this.grid.shape[plane] - state.cross[plane]; }

  sliceText(plane) {
    const mm = this.grid.toLps(state.cross)[plane], letters = [["R", "L"], ["A", "P"], ["I", "S"]][plane];
    return `${this.sliceNumber(plane)}/${this.grid.shape[plane]} · ${letters[Number(mm >= 0)]} ${Math.abs(mm).toFixed(1)} mm`;
  }

  get hasPair() { return this.series.length > 1; }

  panelOf(content, plane) {
    const [one, other] = state.pair, names = this.series.map(({ name }) => name), base = { plane, first: 0, second: 0, divider: state.divider };
    if (content === "difference") {
      return { ...base, content: CONTENT.difference, first: one, second: other, title: `${names[other]} − ${names[one]}`,
        detail: this.grid.same(one, other) ? "" : "different grids: interpolated" };
    }
    if (content === "swipe") {
      return { ...base, content: CONTENT.swipe, first: one, second: other, title: names[one], titleRight: names[other] };
    }
    if (content === "flicker") {
      const shown = state.isSecond ? other : one;
      return { ...base, content: CONTENT.series, first: shown, second: shown === one ? other : one, isFlicker: true, title: names[shown] };
    }
    const { kernel, thickness_mm } = this.series[content].info;
    const detail = [kernel, `${Number(thickness_mm.toFixed(2))} mm`].filter(Boolean).join(", ");
    return { ...base, content: CONTENT.series, first: content, title: names[content], detail };
  }

  get everything() { return [...this.series.keys(), ...(this.hasPair ? ["difference"] : [])]; }

  panels() {
    const { clientWidth: width, clientHeight: height } = find("overlay"), isWide = width / height > NARROW;
    const place = (panel, x, y, w, h) => Object.assign(panel, { x: x * width, y: y * height, width: w * width, height: h * height });
    if (state.layout === "one") return [place(this.panelOf(state.content, state.plane), 0, 0, 1, 1)];
    if (state.layout === "planes") {
      const [axial, coronal, sagittal] = [2, 1, 0].map((plane) => this.panelOf(state.content, plane));
      return isWide ? [place(axial, 0, 0, 0.6, 1), place(coronal, 0.6, 0, 0.4, 0.5), place(sagittal, 0.6, 0.5, 0.4, 0.5)]
        : [place(axial, 0, 0, 1, 0.6), place(coronal, 0, 0.6, 0.5, 0.4), place(sagittal, 0.5, 0.6, 0.5, 0.4)];
    }
    const planes = state.layout === "all" ? [2, 1, 0] : [state.plane], contents = this.everything;
    let columns = contents.length, cells = planes.flatMap((plane) => contents.map((content) => this.panelOf(content, plane)));
    if (state.layout === "side") {
      const side = (count) => Math.min(width / count, height / Math.ceil(cells.length / count));
      columns = cells.map((_, k) => k + 1).reduce((best, count) => (side(count) > side(best) ? count : best), 1);
    } else if (!isWide) {
      columns = planes.length;
      cells = contents.flatMap((content) => planes.map((plane) => this.panelOf(content, plane)));
    }
    const rows = Math.ceil(cells.length / columns);
    return cells.map((panel, k) => place(panel, (k % columns) / columns, Math.floor(k / columns) / rows, 1 / columns, 1 / rows));
  }

  maximise(number) {
    if (this.before) [state.layout, state.content, state.plane] = this.before;
    else {
      const panel = this.engine.panels[number];
      this.before = [state.layout, state.content, state.plane];
      const content = panel.content === CONTENT.difference ? "difference" : panel.content === CONTENT.swipe ? "swipe" : panel.isFlicker ? "flicker" : panel.first;
      Object.assign(state, { layout: "one", content, plane: panel.plane });
      this.redraw();
      return;
    }
    this.before = null;
    this.redraw();
  }

  choose(changes) {
    if ("layout" in changes) this.before = null;
    Object.assign(state, changes);
    this.redraw();
  }

  redraw() {
    if (this.isAsked || !this.overlay) return;
    this.isAsked = true;
    requestAnimationFrame(() => { this.isAsked = false; this.draw(); });
  }

  draw() {
    const { engine } = this;
    Object.assign(engine.display, { low: state.level - state.width / 2, width: state.width, range: state.range, isSmooth: state.isSmooth,
      isInverted: state.isInverted });
    this.drawnMs = performance.now();
    engine.resize();
    engine.panels = this.panels();
    state.active = Math.min(state.active, engine.panels.length - 1);
    engine.drawScene();
    this.overlay.draw();
    this.toolbar.update();
    if (!document.body.dataset.firstSliceMs && this.series[0].state[this.grid.voxel(0, state.cross)[2]] === LOADED) {
      document.body.dataset.firstSliceMs = String(Math.round(performance.now()));
    }
  }

  pointed() {  // grid index under the pointer, on the slice that is shown; without a pointer, the crosshair's
    const { hover } = state;
    return hover && this.engine.panels[hover.number] ? this.engine.toIndex(hover.number, hover.x, hover.y) : state.cross;
  }

  // HU of every series at a grid index, each at its own nearest voxel; NaN where there is none.
  huAt(index) { return this.series.map((one, n) => one.hu(this.grid.voxel(n, index.map(Math.round)))); }

  positionText(index) {
    const lps = transform(this.grid.toMm, index);
    return [["R", "L", -lps[0]], ["A", "P", -lps[1]], ["I", "S", lps[2]]]
      .map(([below, above, mm]) => `${mm < 0 ? below : above} ${Math.abs(mm).toFixed(1)}`).join("  ");
  }
}

function fail(error) {
  if (error.isTypeChange) { location.reload(); return; }
  const isGraphics = !document.createElement("canvas").getContext("webgl2");
  find("message").textContent = isGraphics
    ? "This browser has no WebGL2, which the viewer draws with.\nTurn on hardware acceleration in its settings, or use another browser."
    : error instanceof TypeError ? "The server does not answer. Is ldct-denoise view still running?" : `The viewer stopped: ${error.message}`;
  find("message").hidden = false;
}

const viewer = new Viewer();
window.viewer = viewer;
viewer.start().catch(fail);
