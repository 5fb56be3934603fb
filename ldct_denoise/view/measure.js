// Numbers of drawn distances and ellipses, from the stored HU. A shape lies in one plane: `plane` is the grid axis that is
// perpendicular to it, `slice` the grid index on that axis, points are grid indices in the plane (see Grid in volumes.js).

export const IN_PLANE = [[1, 2], [0, 2], [0, 1]];  // grid axes of the plane that is perpendicular to axis 0, 1, 2

export function distanceMm(shape, grid) {
  const [a, b] = IN_PLANE[shape.plane], [from, to] = shape.points;
  return Math.hypot((to[0] - from[0]) * grid.spacing_mm[a], (to[1] - from[1]) * grid.spacing_mm[b]);
}

// Mean, standard deviation (of the pixels, divided by n), minimum, maximum, number of pixels and area of an ellipse in one
// series. A pixel counts if its centre lies inside. The pixels are the series' own: of the slice nearest to the plane.
export function ellipseStatistics(shape, grid, series) {
  const axes = grid.axes(series.number), [a, b] = IN_PLANE[shape.plane];
  if (!axes) return null;
  const [first, last] = [axes[a], axes[b]], across = axes[shape.plane], toVoxel = grid.toVoxel[series.number];
  const centre = [0, 0, 0];
  centre[shape.plane] = shape.slice; centre[a] = shape.centre[0]; centre[b] = shape.centre[1];
  const middle = toVoxel.slice(0, 3).map((row) => row[0] * centre[0] + row[1] * centre[1] + row[2] * centre[2] + row[3]);
  const radius = [shape.radii[0] * Math.abs(toVoxel[first][a]), shape.radii[1] * Math.abs(toVoxel[last][b])];
  const voxel = [0, 0, 0];
  voxel[across] = Math.round(middle[across]);
  let pixels = 0, sum = 0, squares = 0, least = Infinity, most = -Infinity, missing = false;
  const low = series.hu(middle.map(Math.round));
  const origin = Number.isNaN(low) ? 0 : low;  // near the mean, so that the sum of squares loses no digits
  for (let u = Math.ceil(middle[first] - radius[0]); u <= middle[first] + radius[0]; u++) {
    for (let v = Math.ceil(middle[last] - radius[1]); v <= middle[last] + radius[1]; v++) {
      if (((u - middle[first]) / radius[0]) ** 2 + ((v - middle[last]) / radius[1]) ** 2 > 1) continue;
      voxel[first] = u; voxel[last] = v;
      if (!series.contains(voxel)) continue;
      const hu = series.hu(voxel);
      if (Number.isNaN(hu)) { missing = true; continue; }
      pixels++; sum += hu - origin; squares += (hu - origin) ** 2;
      least = Math.min(least, hu); most = Math.max(most, hu);
    }
  }
  if (!pixels || missing) return null;
  const mean = sum / pixels, step = (axis) => Math.hypot(...series.affine.slice(0, 3).map((row) => row[axis]));
  const area_mm2 = pixels * step(first) * step(last);
  return { mean: origin + mean, sd: Math.sqrt(Math.max(0, squares / pixels - mean ** 2)), least, most, pixels, area_mm2 };
}

// The same of the difference of two series on one grid.
export function differenceStatistics(shape, grid, series, [first, second]) {
  if (!grid.same(first, second)) return null;
  const [one, other] = [series[first], series[second]];
  const difference = Object.create(one, { hu: { value: (voxel) => other.hu(voxel) - one.hu(voxel) } });
  return ellipseStatistics(shape, grid, difference);
}
