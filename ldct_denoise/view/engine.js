// Draws slices with NiiVue, which parses the NIfTI header and knows planes, fields of view and coordinates.
//
// NiiVue itself windows a whole volume into an RGBA copy, again at each change of the window: on two cores without a GPU
// 300 slices of 512 × 512 then take more than a minute. Here that copy is never made. The HU stay in 3-D textures, one for
// each series, filled slice by slice as they arrive; the window, the difference, the swipe and the interpolation are
// computed for the pixels on the screen, in place of NiiVue's slice shader.

import { LOADED } from "./volumes.js";
import { IN_PLANE } from "./measure.js";

const { Niivue, NVImage } = window.niivue;
const FIRST_UNIT = 11;  // texture units that NiiVue leaves free
//: NiiVue's number of the plane that is perpendicular to grid axis 0, 1, 2: sagittal, coronal, axial.
const SLICE_TYPE = [2, 1, 0];
NVImage.prototype.calMinMax = () => [0, 0, 0, 0];  // a search through all voxels, for a window that is ours to choose
export const PLANES = ["sagittal", "coronal", "axial"];
export const CONTENT = { series: 0, difference: 1, swipe: 2 };

// A square at fraction `slice` of the volume; the same inputs as NiiVue's own slice shader.
const VERTEX = `#version 300 es
layout(location=0) in vec3 pos;
uniform int axCorSag; uniform mat4 mvpMtx; uniform mat4 frac2mm; uniform float slice;
uniform mat4 toFirst; uniform mat4 toSecond;
out highp vec3 atFirst; out highp vec3 atSecond;
void main() {
  vec4 place = vec4(axCorSag > 1 ? vec3(slice, pos.xy) : axCorSag > 0 ? vec3(pos.x, slice, pos.y) : vec3(pos.xy, slice), 1.0);
  atFirst = (toFirst * place).xyz; atSecond = (toSecond * place).xyz;
  gl_Position = mvpMtx * (frac2mm * place);
}`;

// HU of one series: between the pixels of its nearest slice, or of the nearest voxel.
function sampler(name, isWhole, isSmooth) {
  const fetch = (at) => `float(texelFetch(${name}Volume, clamp(${at}, ivec3(0), last), 0).r)`;
  return `
uniform highp ${isWhole ? "i" : ""}sampler3D ${name}Volume;
uniform int ${name}Row; uniform ivec3 ${name}U; uniform ivec3 ${name}V;
bool ${name}(vec3 at, out float hu) {
  ivec3 last = textureSize(${name}Volume, 0) - 1, nearest = ivec3(floor(at + 0.5));
  hu = 0.0;
  if (any(lessThan(at, vec3(-0.51))) || any(greaterThan(at, vec3(last) + 0.51))) return false;
  nearest = clamp(nearest, ivec3(0), last);
  if (!isComplete && texelFetch(states, ivec2(nearest.z, ${name}Row), 0).r != ${LOADED}u) return false;
  ${isSmooth ? `
  ivec3 plane = ${name}U + ${name}V, low = plane * ivec3(floor(at)) + (1 - plane) * nearest;
  vec3 part = at - vec3(low);
  float u = dot(part, vec3(${name}U)), v = dot(part, vec3(${name}V));
  hu = mix(mix(${fetch("low")}, ${fetch(`low + ${name}U`)}, u), mix(${fetch(`low + ${name}V`)}, ${fetch("low + plane")}, u), v);`
    : `hu = ${fetch("nearest")};`}
  return true;
}`;
}

function fragment(content, areWhole, isSmooth) {
  const color = {
    [CONTENT.series]: "float hu; bool known = first(atFirst, hu); color = vec4(known ? grey(hu) : NOTHING, 1.0);",
    [CONTENT.swipe]: `float hu; bool known;
      if (gl_FragCoord.x > divider) known = second(atSecond, hu); else known = first(atFirst, hu);
      color = vec4(known ? grey(hu) : NOTHING, 1.0);`,
    [CONTENT.difference]: `float hu, other; bool known = first(atFirst, hu) && second(atSecond, other);
      color = vec4(known ? diverging((other - hu) / range.y) : NOTHING, 1.0);`,
  }[content];
  return `#version 300 es
precision highp float; precision highp int;
uniform highp usampler2D states; uniform bool isComplete;
uniform bool isInverted; uniform vec2 range; uniform float divider;
in highp vec3 atFirst; in highp vec3 atSecond; out vec4 color;
const vec3 NOTHING = vec3(0.055, 0.063, 0.075);
${sampler("first", areWhole[0], isSmooth)}
${content === CONTENT.series ? "" : sampler("second", areWhole[1], isSmooth)}
vec3 grey(float hu) {
  float value = clamp((hu - range.x) / range.y, 0.0, 1.0);
  return vec3(isInverted ? 1.0 - value : value);
}
vec3 diverging(float value) {  // black in the middle: blue below, orange above, both to white
  float size = min(abs(value), 1.0);
  vec3 hue = value < 0.0 ? vec3(0.16, 0.47, 1.0) : vec3(1.0, 0.42, 0.08);
  return size < 0.6 ? hue * (size / 0.6) : mix(hue, vec3(1.0), (size - 0.6) / 0.8);
}
void main() { ${color} }`;
}

const UNIFORMS = ["axCorSag", "mvpMtx", "frac2mm", "slice", "toFirst", "toSecond", "states", "isComplete", "isInverted", "range", "divider",
  "firstVolume", "firstRow", "firstU", "firstV", "secondVolume", "secondRow", "secondU", "secondV"];

class Program {  // in the shape of NiiVue's shaders
  constructor(gl, text) {
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, text]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(`graphics driver: ${gl.getProgramInfoLog(this.program)}`);
    this.uniforms = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(this.program, name)]));
  }

  use(gl) { gl.useProgram(this.program); }
}

async function geometryOnly(series) {  // NiiVue wants some voxels behind the header; it is given a few that are never shown
  const header = await series.header(), bytes = new Uint8Array(header.byteLength + 16);
  bytes.set(new Uint8Array(header));
  return bytes.buffer;
}

export class Engine extends Niivue {
  constructor(canvas) {
    super({ interactive: false, isResizeCanvas: false, isRadiologicalConvention: true, sagittalNoseLeft: true, isSliceMM: false,
      crosshairWidth: 0, isOrientationTextVisible: false, backColor: [0, 0, 0, 1], loadingText: "", show3Dcrosshair: false, logLevel: "warn" });
    this.surface = canvas;
    this.panels = [];
    this.programs = {};
    this.isComplete = false;  // whether every slice of every series is there
    this.views = [0, 1, 2].map(() => ({ zoom: 1, pan: [0, 0, 0] }));  // of each plane, as NiiVue's pan2Dxyzmm has it
    this.display = { low: -160, width: 400, range: 50, isSmooth: true, isInverted: false };
  }

  async start(series) {
    this.series = series;
    await this.attachToCanvas(this.surface, false);
    const image = await NVImage.new(await geometryOnly(series[0]), "series.nii");
    this.addVolume(image);
    this.makeTextures();
    return image;
  }

  // In place of NiiVue's set-up of some thirty shaders for surfaces, 3-D rendering and text: what a slice needs.
  async init() {
    const gl = this.gl;
    this.genericVAO = gl.createVertexArray();
    gl.bindVertexArray(this.genericVAO);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]), gl.STATIC_DRAW);  // a square as a strip
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    gl.bindVertexArray(this.unusedVAO);
    this.initialized = true;
    return this;
  }

  updateGLVolume() {}  // NiiVue's windowed copy of the volume

  makeTextures() {
    const gl = this.gl, most = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    for (const { shape, name } of this.series) {
      if (Math.max(...shape) > most) throw new Error(`${name}: ${shape.join(" × ")} voxels; this graphics driver takes ${most} a side`);
    }
    this.textures = this.series.map(({ shape, data }, n) => {
      const texture = gl.createTexture();
      gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + n);
      gl.bindTexture(gl.TEXTURE_3D, texture);
      for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, name, gl.NEAREST);
      gl.texStorage3D(gl.TEXTURE_3D, 1, data instanceof Int16Array ? gl.R16I : gl.R32F, ...shape);
      return texture;
    });
    if (gl.getError() === gl.OUT_OF_MEMORY) throw new Error("not enough graphics memory for these series");
    this.states = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + this.series.length);
    gl.bindTexture(gl.TEXTURE_2D, this.states);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R8UI, Math.max(...this.series.map(({ shape }) => shape[2])), this.series.length);
  }

  upload(number, first, stop) {  // slices that have arrived
    const gl = this.gl, { shape, data, sliceVoxels, state } = this.series[number], isWhole = data instanceof Int16Array;
    gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + number);
    gl.bindTexture(gl.TEXTURE_3D, this.textures[number]);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, first, shape[0], shape[1], stop - first, isWhole ? gl.RED_INTEGER : gl.RED,
      isWhole ? gl.SHORT : gl.FLOAT, data.subarray(first * sliceVoxels, stop * sliceVoxels));
    gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + this.series.length);
    gl.bindTexture(gl.TEXTURE_2D, this.states);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, first, number, stop - first, 1, gl.RED_INTEGER, gl.UNSIGNED_BYTE, state.subarray(first, stop));
  }

  // For each series: the matrix from texture fraction to voxel, column by column, and which voxel axis runs along each grid axis.
  setGrid(grid) {
    this.grid = grid;
    const { shape } = grid;
    this.matrices = grid.toVoxel.map((rows) => new Float32Array([0, 1, 2, 3].flatMap((column) => rows.map((row) =>
      column < 3 ? row[column] * shape[column] : row[3] - 0.5 * (row[0] + row[1] + row[2])))));
    this.axes = this.series.map((_, n) => grid.axes(n));
  }

  setCross(index) { this.scene.crosshairPos = index.map((value, axis) => (value + 0.5) / this.grid.shape[axis]); }

  resize() {
    const ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = this.surface;
    this.uiData.dpr = ratio;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (this.surface.width !== width || this.surface.height !== height) Object.assign(this.surface, { width, height });
  }

  drawScene() { this.drawSceneCore(); }  // without NiiVue's wait for the GPU

  drawSceneCore() {  // in place of NiiVue's layouts: one tile for each of our panels
    if (!this.initialized || !this.grid) return;
    const gl = this.gl;
    gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
    this.clearBounds(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.series.forEach((_, n) => { gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + n); gl.bindTexture(gl.TEXTURE_3D, this.textures[n]); });
    gl.activeTexture(gl.TEXTURE0 + FIRST_UNIT + this.series.length);
    gl.bindTexture(gl.TEXTURE_2D, this.states);
    this.screenSlices = [];
    for (const panel of this.panels) this.drawPanel(panel);
  }

  program(content, areWhole, isSmooth) {  // compiled when it is first needed
    const key = [content, ...areWhole, isSmooth].join();
    this.programs[key] ??= new Program(this.gl, fragment(content, areWhole, isSmooth));
    return this.programs[key];
  }

  drawPanel(panel) {
    const gl = this.gl, { low, width, range, isSmooth, isInverted } = this.display, ratio = this.uiData.dpr;
    const isDifference = panel.content === CONTENT.difference;
    const areWhole = [panel.first, panel.second].map((n) => this.series[n].data instanceof Int16Array);
    const isTurned = [panel.first, panel.second].some((n) => !this.axes[n]);  // no plane of pixels to interpolate in
    this.customSliceShader = this.program(panel.content, areWhole, isSmooth && !isTurned);
    const { uniforms } = this.customSliceShader, units = this.series.length;
    this.customSliceShader.use(gl);
    for (const [name, n] of [["first", panel.first], ["second", panel.second]]) {
      gl.uniformMatrix4fv(uniforms[name === "first" ? "toFirst" : "toSecond"], false, this.matrices[n]);
      gl.uniform1i(uniforms[`${name}Volume`], FIRST_UNIT + n);
      gl.uniform1i(uniforms[`${name}Row`], n);
      const [a, b] = IN_PLANE[panel.plane].map((axis) => [0, 1, 2].map((k) => Number(this.axes[n]?.[axis] === k)));
      gl.uniform3iv(uniforms[`${name}U`], a); gl.uniform3iv(uniforms[`${name}V`], b);
    }
    gl.uniform1i(uniforms.states, FIRST_UNIT + units);
    gl.uniform1i(uniforms.isComplete, Number(this.isComplete));
    gl.uniform1i(uniforms.isInverted, Number(isInverted));
    gl.uniform2f(uniforms.range, ...(isDifference ? [0, range] : [low, width]));
    gl.uniform1f(uniforms.divider, (panel.x + panel.divider * panel.width) * ratio);
    const { zoom, pan } = this.views[panel.plane];
    this.scene.pan2Dxyzmm = [...pan, zoom];
    this.drawn = panel;
    this.draw2DMain([panel.x, panel.y, panel.width, panel.height].map((value) => Math.round(value * ratio)), SLICE_TYPE[panel.plane]);
  }

  screenFieldOfViewExtendedVox(plane) {  // NiiVue's field of view, widened to the shape of the panel
    const screen = super.screenFieldOfViewExtendedVox(plane), { width, height } = this.drawn;
    const perPixel = Math.max(screen.fovMM[0] / width, screen.fovMM[1] / height);
    [width, height].forEach((side, axis) => {
      const middle = (screen.mnMM[axis] + screen.mxMM[axis]) / 2;
      screen.fovMM[axis] = perPixel * side;
      screen.mnMM[axis] = middle - perPixel * side / 2; screen.mxMM[axis] = middle + perPixel * side / 2;
    });
    return screen;
  }

  screenFieldOfViewExtendedMM(plane) { return this.screenFieldOfViewExtendedVox(plane); }  // NiiVue asks for both

  panelAt(x, y) {
    return this.panels.findIndex((panel) => x >= panel.x && y >= panel.y && x < panel.x + panel.width && y < panel.y + panel.height);
  }

  // Grid index (not rounded) of a point of a panel, in CSS pixels of the canvas; points outside of the panel are allowed.
  toIndex(number, x, y) {
    const { plane } = this.panels[number], [a, b] = IN_PLANE[plane], map = this.mapOf(number), index = [0, 0, 0];
    index[plane] = this.cross(plane);
    index[a] = map.start[0] + (x - map.x) * map.step[0];
    index[b] = map.start[1] + (y - map.y) * map.step[1];
    return index;
  }

  toPoint(number, index) {
    const [a, b] = IN_PLANE[this.panels[number].plane], map = this.mapOf(number);
    return [map.x + (index[a] - map.start[0]) / map.step[0], map.y + (index[b] - map.start[1]) / map.step[1]];
  }

  cross(axis) { return Math.round(this.scene.crosshairPos[axis] * this.grid.shape[axis] - 0.5); }

  mapOf(number) {  // grid index at the panel's middle, and its change with each CSS pixel, from NiiVue's own mapping
    const panel = this.panels[number], ratio = this.uiData.dpr, axes = IN_PLANE[panel.plane];
    const [x, y] = [panel.x + panel.width / 2, panel.y + panel.height / 2], [dx, dy] = [panel.width / 4, panel.height / 4];
    const at = (u, v) => {
      const frac = this.screenXY2TextureFrac(u * ratio, v * ratio, number, false);
      return axes.map((axis) => frac[axis] * this.grid.shape[axis] - 0.5);
    };
    const middle = at(x, y);
    return { x, y, start: middle, step: [(at(x + dx, y)[0] - middle[0]) / dx, (at(x, y + dy)[1] - middle[1]) / dy] };
  }

  // Zoom of a plane by a factor; the point under the cursor stays where it is.
  zoomBy(number, factor, x, y) {
    const { plane } = this.panels[number], view = this.views[plane], zoom = Math.min(40, Math.max(0.5, view.zoom * factor));
    const frac = this.toIndex(number, x, y).map((value, axis) => (value + 0.5) / this.grid.shape[axis]);
    const mm = this.frac2mm(frac);
    IN_PLANE[plane].forEach((axis) => { view.pan[axis] += mm[axis] * (view.zoom - zoom); });
    view.zoom = zoom;
  }

  panBy(number, dx, dy) {  // in CSS pixels
    const { plane } = this.panels[number], { step } = this.mapOf(number), view = this.views[plane];
    IN_PLANE[plane].forEach((axis, k) => {
      view.pan[axis] += [dx, dy][k] * step[k] * this.grid.spacing_mm[axis] * view.zoom;
    });
  }
}
