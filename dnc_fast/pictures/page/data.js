// The trace: arrays decoded, and the contents of the memory, recalculated from what was written.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** The number that 16 bits stand for (IEEE 754 half precision). */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
}

/** An array with its shape; `at` takes an index for each axis. */
class Values {
  constructor({ type, shape, data }) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    this.shape = shape;
    this.flat = Float32Array.from(bytes);
    if (type === "float16") {
      const view = new DataView(bytes.buffer);
      this.flat = Float32Array.from({ length: bytes.length / 2 }, (_, i) => half(view.getUint16(2 * i, true)));
    }
  }

  at(...indices) {
    return this.flat[indices.reduce((place, index, axis) => place * this.shape[axis] + index, 0)];
  }

  /** Lowest and highest colour: 0 to 1, or to the maximum where that is below 0.5 or above 1. */
  range() {
    let largest = 0, negative = false;
    for (const value of this.flat) {
      if (!Number.isFinite(value)) continue;
      largest = Math.max(largest, Math.abs(value));
      negative ||= value < 0;
    }
    if (largest === 0 || (largest >= 0.5 && largest <= 1)) largest = 1;
    return [negative ? -largest : 0, largest];
  }
}

const ARRAYS = Object.fromEntries(Object.entries(DATA.arrays).map(([name, one]) => [name, new Values(one)]));
const STEPS = DATA.steps;
const CELLS = DATA.cells;
const WRITE_HEADS = ARRAYS.write_weights.shape[1];
const READ_HEADS = ARRAYS.read_weights.shape[1];
const WIDTH = DATA.contents ? ARRAYS.write_vectors.shape[2] : 0;

/** Memory M (N, W) and link matrices L (Hw, N, N) after a step, and the precedence p (Hw, N). */
const contents = { step: -1, memory: null, links: null, precedence: null };

function contentsAt(step) {
  if (contents.memory === null || step < contents.step) {
    contents.step = -1;
    contents.memory = new Float32Array(CELLS * WIDTH);
    contents.links = new Float32Array(DATA.links ? WRITE_HEADS * CELLS * CELLS : 0);
    contents.precedence = new Float32Array(WRITE_HEADS * CELLS);
  }
  while (contents.step < step) {
    contents.step += 1;
    write(contents.step);
    if (DATA.links) link(contents.step);
  }
  return contents;
}

/** M_t = M_{t-1} prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T */
function write(step) {
  eachWritten(step, ARRAYS.erase_vectors, (place, part) => { contents.memory[place] *= 1 - part; });
  eachWritten(step, ARRAYS.write_vectors, (place, part) => { contents.memory[place] += part; });
}

/** Call `act` with each place of the memory and its part of the outer product of ww_h and vector h. */
function eachWritten(step, vectors, act) {
  for (let head = 0; head < WRITE_HEADS; head++) {
    const first = (step * WRITE_HEADS + head) * WIDTH;
    for (let cell = 0; cell < CELLS; cell++) {
      const weight = ARRAYS.write_weights.at(step, head, cell);
      for (let i = 0; i < WIDTH; i++) act(cell * WIDTH + i, weight * vectors.flat[first + i]);
    }
  }
}

/** L_t[i, j] = (1 - ww_i - ww_j) L_{t-1}[i, j] + ww_i p_{t-1}[j];  p_t = (1 - sum ww) p_{t-1} + ww */
function link(step) {
  for (let head = 0; head < WRITE_HEADS; head++) {
    const place = (step * WRITE_HEADS + head) * CELLS;
    const weights = ARRAYS.write_weights.flat.subarray(place, place + CELLS);
    const precedence = contents.precedence.subarray(head * CELLS, (head + 1) * CELLS);
    for (let row = 0; row < CELLS; row++) {
      const links = contents.links.subarray((head * CELLS + row) * CELLS, (head * CELLS + row + 1) * CELLS);
      for (let column = 0; column < CELLS; column++) {
        if (column === row) continue;
        links[column] = (1 - weights[row] - weights[column]) * links[column] + weights[row] * precedence[column];
      }
    }
    const kept = 1 - weights.reduce((sum, weight) => sum + weight, 0);
    for (let cell = 0; cell < CELLS; cell++) precedence[cell] = kept * precedence[cell] + weights[cell];
  }
}
