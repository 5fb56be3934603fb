// What is written and drawn over the slices: titles, directions, crosshair, scale, shapes with their numbers.

import { CONTENT, PLANES } from "./engine.js";
import { differenceStatistics, distanceMm, ellipseStatistics, IN_PLANE } from "./measure.js";

const FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
//: Letters at the left, right, top and bottom of each plane, in radiological orientation.
const DIRECTIONS = [["A", "P", "S", "I"], ["R", "L", "S", "I"], ["R", "L", "A", "P"]];
//: One colour for each plane's line in the others: sagittal, coronal, axial (Okabe-Ito, safe for colour blindness).
const PLANE_COLOURS = ["#e69f00", "#009e73", "#56b4e9"];
const SHAPE_COLOUR = "#ffe14d";

export class Overlay {
  constructor(canvas, engine, state) {
    Object.assign(this, { canvas, engine, state });
    this.context = canvas.getContext("2d");
  }

  draw() {
    const { canvas, context, engine } = this, ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    engine.panels.forEach((panel, number) => {
      context.save();
      context.beginPath(); context.rect(panel.x, panel.y, panel.width, panel.height); context.clip();
      if (this.state.hasLines ?? ["planes", "all"].includes(this.state.layout)) this.drawLines(panel, number);
      this.drawShapes(panel, number);
      if (panel.content === CONTENT.swipe) this.drawDivider(panel);
      this.drawPointer(panel, number);
      this.drawTexts(panel, number);
      context.restore();
      context.strokeStyle = number === this.state.active && engine.panels.length > 1 ? "#4da3ff" : "#2b3038";
      context.lineWidth = 1;
      context.strokeRect(panel.x + 0.5, panel.y + 0.5, panel.width - 1, panel.height - 1);
    });
  }

  text(content, x, y, { align = "left", size = 12, weight = 400, colour = "#e6eaef" } = {}) {
    const { context } = this;
    context.font = `${weight} ${size}px ${FONT}`;
    context.textAlign = align; context.textBaseline = "middle"; context.lineJoin = "round";
    context.strokeStyle = "rgb(0 0 0 / 75%)"; context.lineWidth = 3;
    context.strokeText(content, x, y);
    context.fillStyle = colour;
    context.fillText(content, x, y);
  }

  line(from, to, colour, width = 1) {
    const { context } = this;
    context.beginPath(); context.moveTo(...from); context.lineTo(...to);
    context.strokeStyle = colour; context.lineWidth = width;
    context.stroke();
  }

  drawTexts(panel, number) {
    const { x, y, width, height, plane } = panel, isSmall = width < 280, size = isSmall ? 11 : 12;
    const [left, right, top, bottom] = DIRECTIONS[plane], soft = "#b9c2cd";
    this.text(panel.title, x + 8, y + 13, { size: size + 1, weight: 650 });
    if (!isSmall && panel.detail) this.text(panel.detail, x + 8, y + 30, { size: size - 1, colour: soft });
    const slice = this.state.sliceText(plane);
    if (panel.titleRight) this.text(panel.titleRight, x + width - 8, y + 13, { align: "right", size: size + 1, weight: 650 });
    if (isSmall) this.text(slice, x + 8, y + 29, { size, colour: soft });
    else this.text(`${PLANES[plane]} ${slice}`, x + width - 8, y + (panel.titleRight ? 30 : 13), { align: "right", size, colour: soft });
    this.text(left, x + 10, y + height / 2, { align: "center", weight: 650 });
    this.text(right, x + width - 10, y + height / 2, { align: "center", weight: 650 });
    this.text(top, x + width / 2, y + (isSmall ? 47 : 13), { align: "center", weight: 650 });
    this.text(bottom, x + width / 2, y + height - 12, { align: "center", weight: 650 });
    if (panel.content === CONTENT.difference) this.drawLegend(panel);
    else if (width > 170) this.text(`W ${Math.round(this.state.width)}  L ${Math.round(this.state.level)}`, x + 8, y + height - 12, { size, colour: soft });
    this.drawScale(panel, number);
  }

  drawLegend({ x, y, width, height }) {
    const { context } = this, long = Math.min(110, width * 0.3), range = Math.round(this.state.range);
    const gradient = context.createLinearGradient(x + 8, 0, x + 8 + long, 0);
    for (const [at, colour] of [[0, "#94bbff"], [0.2, "#2978ff"], [0.5, "#000"], [0.8, "#ff6b14"], [1, "#ffb58a"]]) gradient.addColorStop(at, colour);
    context.fillStyle = gradient;
    context.fillRect(x + 8, y + height - 15, long, 7);
    context.strokeStyle = "#555d68"; context.lineWidth = 1;
    context.strokeRect(x + 7.5, y + height - 15.5, long + 1, 8);
    this.text(`±${range} HU`, x + 8, y + height - 25, { size: 11 });
  }

  drawScale(panel, number) {  // a bar of a round length, about a quarter of the panel
    const { x, y, width, height } = panel, axis = IN_PLANE[panel.plane][0];
    const mmPerPixel = Math.abs(this.engine.mapOf(number).step[0]) * this.engine.grid.spacing_mm[axis];
    const mm = [500, 200, 100, 50, 20, 10, 5, 2, 1].find((length) => length / mmPerPixel <= width / 4);
    if (!mm) return;
    const [to, from, at] = [x + width - 8, x + width - 8 - mm / mmPerPixel, y + height - 9];
    for (const [colour, wide] of [["rgb(0 0 0 / 75%)", 4], ["#e6eaef", 1.5]]) {
      this.line([from, at], [to, at], colour, wide);
      this.line([from, at - 4], [from, at], colour, wide); this.line([to, at - 4], [to, at], colour, wide);
    }
    this.text(mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, to, at - 12, { align: "right", size: 11 });
  }

  drawLines(panel, number) {  // where the other planes cut this one
    const [a, b] = IN_PLANE[panel.plane], [x, y] = this.engine.toPoint(number, this.state.cross), gap = 14;
    const [right, bottom] = [panel.x + panel.width, panel.y + panel.height];
    for (const [from, to, axis] of [[[x, panel.y], [x, y - gap], a], [[x, y + gap], [x, bottom], a],
      [[panel.x, y], [x - gap, y], b], [[x + gap, y], [right, y], b]]) this.line(from, to, PLANE_COLOURS[axis] + "b0");
  }

  drawPointer(panel, number) {  // the pointer's place in the other panels of the same plane
    const { hover } = this.state;
    if (!hover || hover.number === number || this.engine.panels[hover.number]?.plane !== panel.plane) return;
    const [x, y] = this.engine.toPoint(number, this.engine.toIndex(hover.number, hover.x, hover.y));
    for (const [colour, width] of [["rgb(0 0 0 / 75%)", 3], ["#7fdcff", 1]]) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) this.line([x + 3 * dx, y + 3 * dy], [x + 9 * dx, y + 9 * dy], colour, width);
    }
  }

  drawDivider(panel) {
    const x = panel.x + panel.divider * panel.width, y = panel.y + panel.height / 2, { context } = this;
    this.line([x, panel.y], [x, panel.y + panel.height], "#e6eaef", 1.5);
    context.beginPath(); context.arc(x, y, 11, 0, 7);
    context.fillStyle = "#e6eaef"; context.fill();
    context.fillStyle = "#111"; context.font = `700 13px ${FONT}`; context.textAlign = "center"; context.textBaseline = "middle";
    context.fillText("⇔", x, y);
  }

  drawShapes(panel, number) {
    const labels = [];
    for (const shape of this.state.shapes) {
      if (shape.plane !== panel.plane || shape.slice !== this.state.cross[shape.plane]) continue;
      const colour = shape === this.state.touched ? "#fff" : SHAPE_COLOUR;
      const handles = this.handles(shape, number);
      if (shape.kind === "distance") {
        this.line(...handles, "rgb(0 0 0 / 60%)", 3.5); this.line(...handles, colour, 1.5);
      } else this.drawEllipse(shape, number, colour);
      for (const [x, y] of handles) { this.context.fillStyle = colour; this.context.fillRect(x - 2, y - 2, 4, 4); }
      labels.push([handles, this.numbers(shape, panel)]);
    }
    const boxes = [];
    for (const [points, lines] of labels) this.label(panel, points, lines, boxes);
  }

  drawEllipse(shape, number, colour) {
    const { context } = this, [a, b] = IN_PLANE[shape.plane], { step } = this.engine.mapOf(number);
    const [x, y] = this.engine.toPoint(number, this.place(shape, shape.centre));
    for (const [stroke, width] of [["rgb(0 0 0 / 60%)", 3.5], [colour, 1.5]]) {
      context.beginPath();
      context.ellipse(x, y, Math.abs(shape.radii[0] / step[0]), Math.abs(shape.radii[1] / step[1]), 0, 0, 7);
      context.strokeStyle = stroke; context.lineWidth = width; context.stroke();
    }
  }

  place(shape, [u, v]) {
    const index = [0, 0, 0], [a, b] = IN_PLANE[shape.plane];
    index[shape.plane] = shape.slice; index[a] = u; index[b] = v;
    return index;
  }

  // Points on the screen: first the ones that change the shape, last, of an ellipse, the one that moves it.
  handles(shape, number) {
    const points = shape.kind === "distance" ? shape.points
      : [[shape.centre[0] + shape.radii[0], shape.centre[1]], [shape.centre[0], shape.centre[1] + shape.radii[1]], shape.centre];
    return points.map((point) => this.engine.toPoint(number, this.place(shape, point)));
  }

  numbers(shape, panel) {  // lines of text
    const { grid, series } = this.engine;
    if (shape.kind === "distance") return [`${distanceMm(shape, grid).toFixed(1)} mm`];
    const shown = panel.content === CONTENT.swipe || panel.isFlicker ? [panel.first, panel.second] : [panel.first];
    const found = panel.content === CONTENT.difference ? [["", differenceStatistics(shape, grid, series, [panel.first, panel.second])]]
      : [...new Set(shown)].map((n) => [shown.length > 1 ? `${series[n].name} ` : "", ellipseStatistics(shape, grid, series[n])]);
    const lines = found.map(([name, numbers]) => (numbers ? `${name}${numbers.mean.toFixed(1)} ± ${numbers.sd.toFixed(1)} HU` : `${name}–`));
    const [, known] = found.find(([, numbers]) => numbers) ?? [];
    return known ? [...lines, `${known.area_mm2.toFixed(1)} mm², ${known.pixels} px`] : lines;
  }

  // Numbers beside a shape, moved down until they cover no others.
  label(panel, handles, lines, boxes) {
    const { context } = this, [x, y] = handles.reduce((best, point) => (point[0] > best[0] ? point : best)), step = 15;
    context.font = `600 12px ${FONT}`;
    const wide = Math.max(...lines.map((text) => context.measureText(text).width)), isRight = x + 12 + wide < panel.x + panel.width;
    const left = isRight ? x + 10 : Math.max(panel.x + 4, Math.min(x, panel.x + panel.width - 4) - wide - 4);
    let top = y + (isRight ? 0 : 20);
    const covers = (box) => left < box.left + box.wide && box.left < left + wide && top < box.top + box.high && box.top < top + step * lines.length;
    for (let tries = 0; tries < 20 && boxes.some(covers); tries++) top += step;
    boxes.push({ left, top, wide, high: step * lines.length });
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fillRect(left - 3, top - 8, wide + 6, step * lines.length + 1);
    lines.forEach((text, n) => this.text(text.replaceAll("-", "−"), left, top + step * n, { size: 12, weight: 600, colour: SHAPE_COLOUR }));
  }
}
