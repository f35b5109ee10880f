// What the memory holds after the current step: cells, links, and the graph with what is read of it.

const cards = [];
const momentSection = document.getElementById("moment");
const INNER = 386;

/** A card whose canvas is drawn anew at each step. */
class Card {
  constructor({ title, height, draw, describe, below = () => [] }) {
    Object.assign(this, { title, height, draw, below });
    const card = element("section", "card");
    this.heading = element("h2");
    this.canvas = element("canvas");
    this.belowBox = element("div");
    card.append(this.heading, this.canvas, this.belowBox);
    momentSection.append(card);
    hover(this.canvas, describe);
    cards.push(this);
  }

  move(step) {
    this.heading.textContent = this.title(step);
    this.draw(sized(this.canvas, INNER, this.height), step);
    this.belowBox.replaceChildren(...this.below(step));
  }
}

const STRIP = 9;
const LEFT = 30 + STRIP * (WRITE_HEADS + READ_HEADS) + 4;
const TOP = 12;
const SIDE = Math.min(Math.max(CELLS * 6, 192), INNER - LEFT, 256);
const heads = [
  ...Array.from({ length: WRITE_HEADS }, (_, head) => ({ short: "w", name: WRITE_HEADS > 1 ? `write head ${head}` : "write head", colour: () => VERMILLION, weight: (step, cell) => ARRAYS.write_weights.at(step, head, cell) })),
  ...Array.from({ length: READ_HEADS }, (_, head) => ({ short: String(head), name: READ_HEADS > 1 ? `read head ${head}` : "read head", colour: () => headColour(head), weight: (step, cell) => ARRAYS.read_weights.at(step, head, cell) })),
];

/** Beside the rows of a matrix: the number of each cell, and how much each head writes or reads it. */
function drawCells(pen, step, height) {
  const row = height / CELLS, every = [1, 2, 4, 8, 16, 32, 64].find((n) => n * row >= 12) || 128;
  pen.fillStyle = style("--faint");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let cell = 0; cell < CELLS; cell += every) pen.fillText(cell, 24, TOP + (cell + 0.5) * row);
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  heads.forEach(({ short, colour, weight }, i) => {
    pen.fillStyle = colour();
    pen.fillText(short, 30 + (i + 0.5) * STRIP, TOP - 3);
    for (let cell = 0; cell < CELLS; cell++) {
      pen.globalAlpha = Math.min(Math.max(weight(step, cell), 0), 1);
      pen.fillRect(30 + i * STRIP + 1, TOP + cell * row, STRIP - 2, row + 0.3);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = style("--line");
    pen.strokeRect(30 + i * STRIP + 0.5, TOP, STRIP - 1, height);
  });
}

/** The head and cell at a place of `drawCells`, in words; null beside it. */
function describeCells(x, cell) {
  const strip = Math.floor((x - 30) / STRIP);
  return strip >= 0 && strip < heads.length ? `${heads[strip].name}, cell ${cell}: ${shown(heads[strip].weight(now, cell))}` : null;
}

/** The largest size of what M and L hold after any step, so that colours mean the same all the time. */
function largestEver() {
  let memory = 0, links = 0;
  for (let step = 0; step < STEPS; step++) {
    const held = contentsAt(step);
    for (const value of held.memory) memory = Math.max(memory, Math.abs(value) || 0);
    for (const value of held.links) links = Math.max(links, value || 0);
  }
  return { memory: memory || 1, links: links || 1 };
}

function memoryCard(limit) {
  const height = SIDE, width = INNER - LEFT;
  new Card({
    title: (step) => `memory M after step ${step}`, height: TOP + height + 13,
    draw(pen, step) {
      const { memory } = contentsAt(step);
      drawImage(pen, { x: LEFT, y: TOP, width, height }, WIDTH, CELLS, (column, row) => memory[row * WIDTH + column], [-limit, limit], "signed");
      drawCells(pen, step, height);
      pen.fillStyle = style("--faint");
      pen.fillText(`elements 0 – ${WIDTH - 1} of each cell`, LEFT + width / 2, TOP + height + 11);
    },
    describe(x, y) {
      const cell = indexAt(y - TOP, height, CELLS);
      if (x < LEFT) return describeCells(x, cell);
      const part = indexAt(x - LEFT, width, WIDTH);
      return `M, cell ${cell}, element ${part}: ${shown(contentsAt(now).memory[cell * WIDTH + part])}`;
    },
    below: () => [
      colourBar([-limit, limit], "signed", "value"),
      element("p", "note", "strips: the weightings of this step; w: write heads, 0, 1, …: read heads"),
    ],
  });
}

function linkCard(head, limit) {
  const side = SIDE;
  const at = (row, column) => contentsAt(now).links[(head * CELLS + row) * CELLS + column];
  new Card({
    title: (step) => `link matrix L after step ${step}${WRITE_HEADS > 1 ? `, write head ${head}` : ""}`, height: TOP + side + 13,
    draw(pen, step) {
      drawImage(pen, { x: LEFT, y: TOP, width: side, height: side }, CELLS, CELLS, (column, row) => at(row, column), [0, limit], "weight");
      drawCells(pen, step, side);
      pen.fillStyle = style("--faint");
      pen.fillText("cell written just before", LEFT + side / 2, TOP + side + 11);
    },
    describe(x, y) {
      const cell = indexAt(y - TOP, side, CELLS);
      if (x < LEFT) return describeCells(x, cell);
      const before = indexAt(x - LEFT, side, CELLS);
      return x - LEFT > side ? null : `L, row ${cell}, column ${before}: ${shown(at(cell, before))}\ncell ${cell} written right after cell ${before}`;
    },
    below: () => [
      colourBar([0, limit], "weight", "link"),
      element("p", "note", "bright: the cell of the row was written right after the cell of the column"),
    ],
  });
}

function buildMoment() {
  if (DATA.graph) buildMap();
  momentSection.hidden = !DATA.graph && !DATA.contents;
  if (!DATA.contents) return;
  const largest = largestEver();
  memoryCard(largest.memory);
  for (let head = 0; DATA.links && head < WRITE_HEADS; head++) linkCard(head, largest.links);
}
