// What the reader chose. Planes are named by the grid axis that is perpendicular to them: 0 sagittal, 1 coronal, 2 axial.

export const state = {
  layout: "side", content: 0, plane: 2, pair: [0, 1], level: 40, width: 400, range: 50, tool: "window", cross: [0, 0, 0],
  divider: 0.5, isSecond: false, isSmooth: true, isInverted: false, hasLines: null, shapes: [], touched: null, hover: null, active: 0,
};
