// Series in memory: exact HU, slice by slice as they arrive, and where every voxel lies in the patient.
// Matrices are arrays of four rows; mm are NIfTI's RAS unless a name says LPS.

const HEADER_BYTES = 352;
//: Slices asked for at once, after the first: large enough for throughput, small enough to follow the reader.
const SLICES_PER_REQUEST = 8;
export const MISSING = 0, LOADED = 1, UNREADABLE = 2;

export function multiply(a, b) {
  return a.map((row) => b[0].map((_, column) => row.reduce((sum, value, k) => sum + value * b[k][column], 0)));
}

export function transform(matrix, [x, y, z]) {
  return matrix.slice(0, 3).map(([a, b, c, d]) => a * x + b * y + c * z + d);
}

export function invert(matrix) {  // Gauss-Jordan; the matrix is regular
  const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let i = 0; i < rows.length; i++) {
    const pivot = rows.slice(i).reduce((best, row, k) => (Math.abs(row[i]) > Math.abs(rows[best][i]) ? i + k : best), i);
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    rows[i] = rows[i].map((value) => value / rows[i][i]);
    rows.forEach((row, k) => { if (k !== i) rows[k] = row.map((value, j) => value - row[i] * rows[i][j]); });
  }
  return rows.map((row) => row.slice(matrix.length));
}

export class Series {
  constructor(info, number) {
    Object.assign(this, { number, name: info.name, info, shape: info.shape, affine: info.affine, wanted: 0 });
    const [columns, rows, slices] = info.shape;
    this.data = new (info.type === "int16" ? Int16Array : Float32Array)(columns * rows * slices);
    this.state = new Uint8Array(slices);
    this.error = "";
  }

  get sliceVoxels() { return this.shape[0] * this.shape[1]; }

  get count() { return this.state.reduce((sum, state) => sum + (state !== MISSING), 0); }

  contains([i, j, k]) { return i >= 0 && j >= 0 && k >= 0 && i < this.shape[0] && j < this.shape[1] && k < this.shape[2]; }

  hu([i, j, k]) {  // of whole voxel indices (column, row, slice); NaN outside and where nothing has arrived
    if (!this.contains([i, j, k]) || this.state[k] !== LOADED) return NaN;
    return this.data[(k * this.shape[1] + j) * this.shape[0] + i];
  }

  nextMissing() {  // the slice that the reader looks at, then onwards from it, then from the first
    const slices = this.shape[2];
    for (let step = 0; step < slices; step++) {
      const k = (this.wanted + step) % slices;
      if (this.state[k] === MISSING) return k;
    }
    return -1;
  }

  header() { return read(this.info.file, 0, HEADER_BYTES); }

  // Load every slice; `arrived(first, stop)` is called for each block. Slices that cannot be read are marked.
  async load(arrived) {
    let most = 1;
    for (let first = this.nextMissing(); first >= 0; first = this.nextMissing()) {
      let stop = first + 1;
      while (stop < this.shape[2] && stop - first < most && this.state[stop] === MISSING) stop++;
      const bytes = this.sliceVoxels * this.data.BYTES_PER_ELEMENT, start = HEADER_BYTES + first * bytes;
      try {
        const block = await read(this.info.file, start, start + (stop - first) * bytes);
        this.data.set(new this.data.constructor(block), first * this.sliceVoxels);
        this.state.fill(LOADED, first, stop);
        most = SLICES_PER_REQUEST;
      } catch (error) {
        if (error.isTypeChange || error instanceof TypeError) throw error;  // another pixel type; no server any more
        if (stop - first > 1) { most = 1; continue; }  // find out which one it is
        this.state[first] = UNREADABLE;
        this.error = `slice ${first + 1} cannot be read: ${error.message}`;
      }
      arrived(first, stop);
    }
  }
}

async function read(name, start, stop) {
  const answer = await fetch(name, { headers: { Range: `bytes=${start}-${stop - 1}` } });
  if (answer.status === 409) throw Object.assign(new Error(await answer.text()), { isTypeChange: true });
  if (!answer.ok) throw new Error(await answer.text());
  const block = await answer.arrayBuffer();
  if (block.byteLength !== stop - start) throw new Error("the answer is too short");
  return block;
}

// Series that share one space. A grid index counts voxels of the first series along right, anterior and superior, the
// axes that NiiVue uses. `toVoxel[n]` takes a grid index to the voxel (column, row, slice) of series n.
export class Grid {
  constructor(series, image) {
    const [first] = series, values = Array.from(image.matRAS);
    this.series = series;
    this.shape = image.dimsRAS.slice(1, 4);
    const matRas = [0, 1, 2, 3].map((row) => values.slice(4 * row, 4 * row + 4));
    // Exactly a permutation with reflections; NiiVue's matrices are float32.
    const own = multiply(invert(first.affine), matRas).map((row) => row.map(Math.round));
    this.toMm = multiply(first.affine, own);
    this.toVoxel = series.map((one) => (sameGrid(one, first) ? own : multiply(invert(one.affine), this.toMm)));
    this.spacing_mm = [0, 1, 2].map((axis) => Math.hypot(this.toMm[0][axis], this.toMm[1][axis], this.toMm[2][axis]));
  }

  toLps(index) {
    const [right, anterior, superior] = transform(this.toMm, index);
    return [-right, -anterior, superior];
  }

  same(first, second) { return sameGrid(this.series[first], this.series[second]); }

  voxel(number, index) { return transform(this.toVoxel[number], index).map(Math.round); }

  // For series n: the voxel axis that runs along each grid axis, or null where its grid is turned against the first.
  axes(number) {
    const found = [0, 1, 2].map((axis) => {
      const column = this.toVoxel[number].slice(0, 3).map((row) => row[axis]);
      const along = column.reduce((best, value, k) => (Math.abs(value) > Math.abs(column[best]) ? k : best), 0);
      const aside = Math.hypot(...column.filter((_, k) => k !== along));
      return aside < 1e-3 * Math.abs(column[along]) ? along : -1;
    });
    return found.includes(-1) ? null : found;
  }
}

function sameGrid(one, other) {
  const close = one.affine.every((row, i) => row.every((value, j) => Math.abs(value - other.affine[i][j]) < 1e-3));
  return close && one.shape.every((side, axis) => side === other.shape[axis]);
}
