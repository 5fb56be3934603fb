// Mouse, wheel, keys and touch. Bindings as in OHIF: left the tool (window at first), middle pan, right zoom, wheel slices.

import { CONTENT } from "./engine.js";
import { IN_PLANE } from "./measure.js";
import { state } from "./state.js";

const CLICK_PX = 4, HANDLE_PX = 9, NOTCH = 50, TRACKPAD = 30, SCROLL_PX = 8;
const SHAPES = ["distance", "circle", "ellipse"];

export class Controls {
  constructor(viewer, surface) {
    Object.assign(this, { viewer, engine: viewer.engine, surface, pointers: new Map(), turned: 0 });
    if (matchMedia("(pointer: coarse)").matches) state.tool = "scroll";
    surface.addEventListener("pointerdown", (event) => this.down(event));
    surface.addEventListener("pointermove", (event) => this.move(event));
    surface.addEventListener("pointerup", (event) => this.up(event));
    surface.addEventListener("pointercancel", (event) => this.up(event));
    surface.addEventListener("pointerleave", () => { state.hover = null; viewer.redraw(); });
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
    surface.addEventListener("auxclick", (event) => event.preventDefault());
    surface.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    surface.addEventListener("dblclick", (event) => { if (!SHAPES.includes(state.tool)) viewer.maximise(this.at(event).number); });
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("keyup", (event) => { if (event.key === " ") this.other(false); });
  }

  at(event) {
    const box = this.surface.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    return { x, y, number: this.engine.panelAt(x, y) };
  }

  down(event) {
    const point = this.at(event);
    if (point.number < 0) return;
    event.preventDefault();
    this.surface.focus({ preventScroll: true });
    this.surface.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, point);
    state.active = point.number;
    if (this.pointers.size > 1) { this.drop(); return; }
    const panel = this.engine.panels[point.number];
    this.drag = { ...point, start: point, moved: 0, carried: 0, action: this.action(event, panel, point) };
    if (SHAPES.includes(this.drag.action)) this.beginShape(this.drag);
    if (this.drag.action === "cross") this.viewer.setCross(this.engine.toIndex(point.number, point.x, point.y));
    this.viewer.redraw();
  }

  action(event, panel, point) {
    if (event.button === 1) return "pan";
    if (event.button === 2) return "zoom";
    if (event.ctrlKey) return "zoom";
    if (event.shiftKey) return "pan";
    if (panel.content === CONTENT.swipe && Math.abs(point.x - panel.x - panel.divider * panel.width) < 2 * HANDLE_PX) return "divider";
    this.grip = this.gripAt(point);
    if (this.grip) return "grip";
    return state.tool;
  }

  move(event) {
    const point = this.at(event), last = this.pointers.get(event.pointerId);
    if (last && this.pointers.size === 2) { this.pinch(event.pointerId, point); return; }
    const number = this.drag ? this.drag.number : point.number;
    state.hover = number < 0 || event.pointerType === "touch" ? null : { number, x: point.x, y: point.y };
    if (!this.drag) state.touched = number < 0 ? null : this.gripAt(point)?.shape ?? null;
    else this.dragTo(point);
    this.viewer.redraw();
  }

  dragTo(point) {
    const { drag, engine, viewer } = this, dx = point.x - drag.x, dy = point.y - drag.y, panel = engine.panels[drag.number];
    drag.moved = Math.max(drag.moved, Math.hypot(point.x - drag.start.x, point.y - drag.start.y));
    Object.assign(drag, { x: point.x, y: point.y });
    if (!panel) return;
    if (drag.action === "window" && drag.moved > CLICK_PX) this.window(panel, dx, dy);
    if (drag.action === "pan") engine.panBy(drag.number, dx, dy);
    if (drag.action === "zoom") engine.zoomBy(drag.number, Math.exp(-dy / 150), drag.start.x, drag.start.y);
    if (drag.action === "cross") viewer.setCross(engine.toIndex(drag.number, point.x, point.y));
    if (drag.action === "divider") state.divider = Math.max(0.02, Math.min(0.98, (point.x - panel.x) / panel.width));
    if (drag.action === "scroll") {
      drag.carried += dy;
      const steps = Math.trunc(drag.carried / SCROLL_PX);
      drag.carried -= steps * SCROLL_PX;
      if (steps) viewer.scroll(panel.plane, steps);
    }
    if (drag.action === "grip") this.reshape(this.grip, engine.toIndex(drag.number, point.x, point.y));
    if (SHAPES.includes(drag.action)) this.growShape(drag, engine.toIndex(drag.number, point.x, point.y));
  }

  window(panel, dx, dy) {  // sideways width, up and down level; faster where the window is wide
    if (panel.content === CONTENT.difference) { state.range = Math.max(1, state.range * Math.exp(dx / 200)); return; }
    const speed = Math.max(0.5, state.width / 400);
    state.width = Math.round(Math.max(1, state.width + dx * speed));
    state.level = Math.round(state.level + dy * speed);
  }

  up(event) {
    const { drag, engine, viewer } = this, isLast = this.pointers.delete(event.pointerId) && this.pointers.size === 0;
    if (!isLast || !drag) { if (isLast) this.drop(); return; }
    if (SHAPES.includes(drag.action) && drag.moved < CLICK_PX) state.shapes.pop();
    if (["window", "scroll"].includes(drag.action) && drag.moved < CLICK_PX && event.type === "pointerup") {
      viewer.setCross(engine.toIndex(drag.number, drag.start.x, drag.start.y));
    }
    this.drop();
    viewer.redraw();
  }

  drop() {
    if (this.drag && SHAPES.includes(this.drag.action) && this.pointers.size > 1) state.shapes.pop();
    this.drag = null; this.grip = null;
  }

  pinch(id, point) {  // two fingers: zoom by their distance, pan by their middle
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, value]) => value), last = this.pointers.get(id);
    const middle = (p) => [(p.x + other.x) / 2, (p.y + other.y) / 2], reach = (p) => Math.max(10, Math.hypot(p.x - other.x, p.y - other.y));
    const [x, y] = middle(point), [fromX, fromY] = middle(last), { number } = other;
    this.pointers.set(id, { ...point, number });
    this.engine.panBy(number, x - fromX, y - fromY);
    this.viewer.draw();  // the zoom is about a point of what is on the screen now
    this.engine.zoomBy(number, reach(point) / reach(last), x, y);
    this.viewer.redraw();
  }

  wheel(event) {
    event.preventDefault();
    const { x, y, number } = this.at(event);
    if (number < 0) return;
    state.active = number;
    if (event.ctrlKey) { this.engine.zoomBy(number, Math.exp(-event.deltaY / 400), x, y); this.viewer.redraw(); return; }
    const delta = event.deltaMode === 0 ? event.deltaY : event.deltaY * 40;  // lines or pages
    let steps = Math.sign(delta);
    if (Math.abs(delta) < NOTCH) {  // a trackpad sends many small steps
      this.turned = Math.sign(this.turned) === Math.sign(delta) ? this.turned + delta : delta;
      steps = Math.trunc(this.turned / TRACKPAD);
      this.turned -= steps * TRACKPAD;
    }
    if (steps) this.viewer.scroll(this.engine.panels[number].plane, steps);
    state.hover = { number, x, y };
  }

  beginShape(drag) {
    const { plane } = this.engine.panels[drag.number], index = this.engine.toIndex(drag.number, drag.x, drag.y), [a, b] = IN_PLANE[plane];
    const at = [index[a], index[b]], base = { kind: drag.action, plane, slice: state.cross[plane] };
    drag.from = at;
    state.shapes.push(drag.action === "distance" ? { ...base, points: [at, at] } : { ...base, centre: at, radii: [1e-6, 1e-6] });
  }

  growShape(drag, index) {
    const shape = state.shapes.at(-1), [a, b] = IN_PLANE[shape.plane], [u, v] = drag.from, mm = this.engine.grid.spacing_mm;
    if (shape.kind === "distance") shape.points = [[u, v], [index[a], index[b]]];
    else if (shape.kind === "circle") {
      const radius = Math.hypot((index[a] - u) * mm[a], (index[b] - v) * mm[b]);
      shape.radii = [Math.max(1e-6, radius / mm[a]), Math.max(1e-6, radius / mm[b])];
    } else {
      shape.centre = [(u + index[a]) / 2, (v + index[b]) / 2];
      shape.radii = [Math.max(1e-6, Math.abs(index[a] - u) / 2), Math.max(1e-6, Math.abs(index[b] - v) / 2)];
    }
  }

  gripAt({ x, y, number }) {
    if (number < 0) return null;
    const { plane } = this.engine.panels[number];
    for (const shape of [...state.shapes].reverse()) {
      if (shape.plane !== plane || shape.slice !== state.cross[plane]) continue;
      const part = this.viewer.overlay.handles(shape, number).findIndex(([u, v]) => Math.hypot(x - u, y - v) < HANDLE_PX);
      if (part >= 0) return { shape, part };
    }
    return null;
  }

  reshape({ shape, part }, index) {
    const [a, b] = IN_PLANE[shape.plane], at = [index[a], index[b]], mm = this.engine.grid.spacing_mm;
    if (shape.kind === "distance") { shape.points[part] = at; return; }
    if (part === 2) { shape.centre = at; return; }
    const radius = Math.max(1e-6, Math.abs(at[part] - shape.centre[part]));
    if (shape.kind === "circle") shape.radii = [radius * mm[[a, b][part]] / mm[a], radius * mm[[a, b][part]] / mm[b]];
    else shape.radii[part] = radius;
  }

  other(isSecond) {  // Space held down: the other image of the pair, in one panel or three planes
    this.viewer.isFlickerHeld = isSecond;
    if (state.content === "flicker") { state.isSecond = isSecond; this.viewer.redraw(); return; }
    if (isSecond === Boolean(this.held) || !["one", "planes"].includes(state.layout) || !this.viewer.hasPair) return;
    if (isSecond) { this.held = { content: state.content }; this.viewer.choose({ content: state.content === state.pair[1] ? state.pair[0] : state.pair[1] }); return; }
    this.viewer.choose(this.held);
    this.held = null;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "DIALOG"].includes(event.target.tagName) || document.querySelector("dialog[open]")) return;
    const { viewer } = this, { plane } = viewer.toolbar, count = viewer.grid.shape[plane], key = event.key.toLowerCase();
    const letters = { a: () => viewer.choose({ plane: 2 }), c: () => viewer.choose({ plane: 1 }), s: () => viewer.choose({ plane: 0 }),
      w: "window", g: "scroll", x: "cross", d: "distance", o: "circle", e: "ellipse",
      i: () => viewer.choose({ isInverted: !state.isInverted }), n: () => viewer.choose({ isSmooth: !state.isSmooth }),
      h: () => viewer.choose({ hasLines: !(state.hasLines ?? ["planes", "all"].includes(state.layout)) }), r: () => viewer.reset(), m: () => viewer.maximise(state.active),
      v: () => this.nextContent(), delete: () => this.remove(), backspace: () => this.remove(), "?": () => viewer.toolbar.help(),
      " ": () => this.other(true), escape: "window", arrowdown: () => viewer.scroll(plane, 1), arrowright: () => viewer.scroll(plane, 1),
      arrowup: () => viewer.scroll(plane, -1), arrowleft: () => viewer.scroll(plane, -1), pagedown: () => viewer.scroll(plane, 10),
      pageup: () => viewer.scroll(plane, -10), home: () => viewer.scroll(plane, -count), end: () => viewer.scroll(plane, count) };
    const act = /^[1-5]$/.test(key) ? () => viewer.toolbar.preset(Number(key) - 1) : letters[key];
    if (!act) return;
    event.preventDefault();
    if (typeof act === "string") viewer.choose({ tool: act }); else act();
  }

  nextContent() {
    if (!this.viewer.hasPair) return;
    const list = [...this.viewer.series.keys()];
    this.viewer.toolbar.chooseContent(list[(list.indexOf(state.content) + 1) % list.length]);
  }

  remove() {
    const index = state.touched ? state.shapes.indexOf(state.touched) : state.shapes.length - 1;
    if (index >= 0) state.shapes.splice(index, 1);
    state.touched = null;
    this.viewer.redraw();
  }
}
