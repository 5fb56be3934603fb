// Buttons, fields and the status line.

import { PLANES } from "./engine.js";
import { state } from "./state.js";

const find = (id) => document.getElementById(id);
const TOOLS = [["window", "Window", "W"], ["scroll", "Scroll", "G"], ["cross", "Crosshair", "X"], ["pan", "Pan", ""], ["zoom", "Zoom", ""],
  ["distance", "Distance", "D"], ["circle", "Circle", "O"], ["ellipse", "Ellipse", "E"]];

export class Toolbar {
  constructor(viewer) {
    this.viewer = viewer;
    const { series, manifest } = viewer, names = series.map(({ name }) => name), hasPair = series.length > 1;
    this.choices = [];
    const layouts = [["one", "Single"], ["planes", "3 planes"], ...(hasPair ? [["side", "Side by side"]] : []), ...(hasPair ? [["all", "All planes"]] : [])];
    this.radios("layout", layouts, () => state.layout, (layout) => viewer.choose({ layout }));
    const contents = [...names.map((name, n) => [n, name]), ...(hasPair ? [["swipe", "Swipe"], ["flicker", "Flicker"], ["difference", "Difference"]] : [])];
    if (hasPair) this.radios("content", contents, () => state.content, (content) => this.chooseContent(content));
    this.radios("plane", [2, 1, 0].map((axis) => [axis, PLANES[axis][0].toUpperCase() + PLANES[axis].slice(1)]), () => state.plane, (plane) => viewer.choose({ plane }));
    this.radios("tools", TOOLS, () => state.tool, (tool) => viewer.choose({ tool }));
    this.radios("presets", manifest.presets.map((preset, n) => [n, preset.name, n + 1]), () => manifest.presets.findIndex(
      ({ level, width }) => level === state.level && width === state.width), (n) => this.preset(n));
    this.buttons("actions", [["Reset", "R", () => viewer.reset()], ["Clear", "", () => viewer.choose({ shapes: [] })],
      ["?", "", () => this.help()]]);
    find("preset-help").textContent = `windows: ${manifest.presets.map(({ name, level, width }) => `${name} ${String(level).replace("-", "−")}/${width}`).join(", ")}`;
    find("version").textContent = `ldct-denoise ${manifest.version}; slices are drawn with NiiVue (BSD-2-Clause).`;
    for (const id of ["level", "width", "range"]) find(id).addEventListener("change", () => {
      const value = Number(find(id).value);
      if (Number.isFinite(value)) viewer.choose({ [id]: id === "level" ? value : Math.max(1, value) });
    });
    find("slice").addEventListener("input", () => viewer.scroll(this.plane, Number(find("slice").value) - viewer.sliceNumber(this.plane)));
    if (hasPair) this.pairs(names);
    find("range-label").hidden = !hasPair;
    const known = series.flatMap(({ info }) => (info.patient === undefined ? [] : [`${info.name}: ${info.patient}, ${info.label}`]));
    find("patient").textContent = known.join(" · ");
    find("patient").hidden = !known.length;
  }

  pairs(names) {
    const pairs = names.flatMap((_, one) => names.slice(one + 1).map((__, k) => [one, one + 1 + k]));
    for (const [one, other] of pairs) find("pair").add(new Option(`${names[one]}, ${names[other]}`, `${one},${other}`));
    find("pair").hidden = pairs.length < 2;
    find("pair").addEventListener("change", () => this.viewer.choose({ pair: find("pair").value.split(",").map(Number) }));
  }

  help() {
    find("help").showModal();
    find("help").scrollTop = 0;
  }

  get plane() { return this.viewer.engine.panels[state.active]?.plane ?? state.plane; }

  chooseContent(content) {  // of one panel or of three planes; from side by side it means one panel
    this.viewer.choose({ content, ...(["side", "all"].includes(state.layout) ? { layout: "one" } : {}) });
  }

  preset(number) {
    const { level, width } = this.viewer.manifest.presets[number];
    this.viewer.choose({ level, width });
  }

  radios(id, choices, current, chosen) {
    const buttons = choices.map(([value, label, key]) => {
      const button = this.button(label, key, () => chosen(value));
      button.setAttribute("role", "radio");
      button.dataset.value = value;
      return button;
    });
    find(id).append(...buttons);
    this.choices.push(() => choices.forEach(([value], n) => buttons[n].setAttribute("aria-checked", String(value === current()))));
  }

  buttons(id, list) { find(id).append(...list.map(([label, key, act]) => this.button(label, key, act))); }

  button(label, key, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(label);
    if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    button.addEventListener("click", () => { act(); find("overlay").focus({ preventScroll: true }); });
    return button;
  }

  update() {
    const { viewer } = this;
    this.choices.forEach((refresh) => refresh());
    if (["side", "all"].includes(state.layout)) find("content").querySelectorAll("button").forEach((button) => button.setAttribute("aria-checked", "false"));
    if (state.layout === "all" || state.layout === "planes") find("plane").querySelectorAll("button").forEach((button) => button.setAttribute("aria-checked", "false"));
    for (const id of ["level", "width", "range"]) if (document.activeElement !== find(id)) find(id).value = Math.round(state[id]);
    find("pair").value = state.pair.join(",");
    find("actions").children[1].hidden = !state.shapes.length;
    const { plane } = this, count = viewer.grid.shape[plane];
    Object.assign(find("slice"), { min: 1, max: count, value: viewer.sliceNumber(plane) });
    find("slice-text").textContent = `${PLANES[plane]} ${viewer.sliceNumber(plane)}/${count}`;
    this.updateReadout();
    this.updateLoading();
  }

  updateReadout() {
    const { viewer } = this, index = viewer.pointed(), { series } = viewer, values = viewer.huAt(index);
    const text = (value) => (Number.isNaN(value) ? "–" : String(Math.round(value * 10) / 10).replace("-", "−"));
    const parts = series.map(({ name }, n) => [name, text(values[n])]);
    if (series.length > 1) parts.push(["Difference", text(values[state.pair[1]] - values[state.pair[0]])]);
    const readout = find("readout");
    readout.replaceChildren(...parts.flatMap(([name, value]) => {
      const bold = Object.assign(document.createElement("b"), { textContent: `${value} HU` });
      return [`${name} `, bold, "   "];
    }), Object.assign(document.createElement("i"), { textContent: viewer.positionText(index) + " mm" }));
    readout.dataset.hu = values.join(",");
  }

  updateLoading() {
    const { series } = this.viewer, total = series.reduce((sum, { shape }) => sum + shape[2], 0), done = series.reduce((sum, { count }) => sum + count, 0);
    const notes = series.flatMap(({ name, error, info }) => [...(error ? [error] : []), ...info.notes].map((note) => `${name}: ${note}`));
    find("loading").textContent = done < total ? `loading ${done}/${total} slices` : notes.join("; ");
    find("loading").title = notes.join("\n");
  }
}
