// Panels over time, one below the other on one time axis.

const panels = [];
const timeSection = document.getElementById("time");
const words = DATA.words;
const axisWords = words && DATA.axis_words;

/** A row of the page: label (with the ends of its scale), plot, and what stands to its right. */
class Panel {
  constructor({ title, note = "", label = "", ends = null, height, draw, describe, side = () => [], update = () => {} }) {
    Object.assign(this, { height, draw, side, update });
    const row = element("div", "panel");
    if (title) {
      const heading = element("h2", "", title);
      heading.append(element("span", "", note));
      row.append(heading);
    }
    this.plot = element("div", "plot");
    this.canvas = element("canvas");
    this.cursor = element("div", "cursor");
    this.sideBox = element("div", "side");
    this.plot.append(this.canvas, this.cursor);
    const name = element("div", ends ? "label scale" : "label", ends ? "" : label);
    if (ends) name.append(...[ends[1], label, ends[0]].map((text) => element("span", "", String(text))));
    row.append(name, this.plot, this.sideBox);
    timeSection.append(row);
    const stepAt = (x) => indexAt(x, this.width, STEPS);
    hover(this.plot, (x, y) => `step ${stepAt(x)}${spoken(stepAt(x))}\n${describe(stepAt(x), y / this.height)}`);
    const go = (event) => event.buttons && show(stepAt(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.addEventListener("pointerdown", (event) => { this.plot.setPointerCapture(event.pointerId); go(event); });
    this.plot.addEventListener("pointermove", go);
    panels.push(this);
  }

  paint() {
    this.width = this.plot.clientWidth;
    const pen = sized(this.canvas, this.width, this.height);
    this.draw(pen, this.width, this.height);
    this.sideBox.replaceChildren(...this.side());
  }

  move(step) {
    const column = this.width / STEPS;
    this.cursor.style.left = step * column + "px";
    this.cursor.style.width = column + "px";
    this.update(step);
  }
}

const spoken = (step) => (words && words.heard[step] ? `: ${words.heard[step]}` : "");

/** Dotted lines where the steps on which the answer counts begin and end. */
function drawAnswerEdges(pen, width, height, colour) {
  const edges = [];
  for (let step = 1; step < STEPS; step++) {
    if (ARRAYS.mask.at(step) !== ARRAYS.mask.at(step - 1)) edges.push(step);
  }
  if (edges.length > 24) return;
  pen.save();
  pen.strokeStyle = colour;
  pen.setLineDash([2, 3]);
  for (const edge of edges) {
    pen.beginPath();
    pen.moveTo((edge * width) / STEPS, 0);
    pen.lineTo((edge * width) / STEPS, height);
    pen.stroke();
  }
  pen.restore();
}

const many = (name) => name + (name.endsWith("s") ? "es" : "s");

/** Values (T, rows) as colours; `marks` (T, rows) are crossed. */
function imagePanel({ title, note, label, rowName, unit, what, value, rows, map, range, marks, size = 1, strongest = false }) {
  const rowHeight = Math.max(Math.round(Math.min(Math.max(64 / rows, 1), 12)), 1), height = rowHeight * rows;
  const live = element("div", "strongest");
  const named = (row) => (size === 1 ? `${rowName} ${row}` : `${many(rowName)} ${row * size} – ${Math.min((row + 1) * size, CELLS) - 1}`);
  new Panel({
    title, note, height,
    label: `${label ? label + "\n" : ""}${many(rowName)} 0 – ${size > 1 ? CELLS - 1 : rows - 1}`,
    draw(pen, width) {
      drawImage(pen, { x: 0, y: 0, width, height }, STEPS, rows, value, range, map);
      drawAnswerEdges(pen, width, height, map === "weight" ? "#ffffff" : style("--text"));
      if (!marks) return;
      pen.strokeStyle = VERMILLION;
      pen.lineWidth = 1.8;
      const reach = Math.min(width / STEPS, rowHeight) * 0.32 + 0.5;
      for (let step = 0; step < STEPS; step++) {
        for (let row = 0; row < rows; row++) {
          if (!marks.at(step, row)) continue;
          const x = ((step + 0.5) * width) / STEPS, y = (row + 0.5) * rowHeight;
          for (const way of [1, -1]) {
            pen.beginPath();
            pen.moveTo(x - reach, y - way * reach);
            pen.lineTo(x + reach, y + way * reach);
            pen.stroke();
          }
        }
      }
    },
    describe: (step, place) => {
      const row = indexAt(place, 1, rows);
      return `${what}, ${named(row)}: ${shown(value(step, row))}${marks && marks.at(step, row) ? " (wrong)" : ""}`;
    },
    side: () => (title ? [colourBar(range, map, unit), ...(strongest ? [live] : [])] : strongest ? [live] : []),
    update(step) {
      if (!strongest) return;
      let best = 0;
      for (let row = 1; row < rows; row++) if (value(step, row) > value(step, best)) best = row;
      live.replaceChildren("most: ", element("b", "", `${named(best)}, ${shown(value(step, best))}`));
    },
  });
}

/** Weightings (T, heads, rows), a panel for each head. */
function weightingPanels(name, title, unit) {
  const array = ARRAYS[name], [, heads, rows] = array.shape, range = array.range();
  for (let head = 0; head < heads; head++) {
    imagePanel({
      title: head === 0 ? title : "", note: DATA.pool > 1 ? `each row the largest of ${DATA.pool} cells` : "",
      label: heads > 1 ? `head ${head}` : "", rowName: "cell", unit, rows, range, map: "weight", size: DATA.pool,
      what: heads > 1 ? `${title}, head ${head}` : title, value: (step, row) => array.at(step, head, row), strongest: unit === "weight",
    });
  }
}

/** Values (T, rows), such as inputs. */
function dataPanel(name, title, rowName, unit, more = {}) {
  const array = ARRAYS[name];
  const range = unit === "probability" ? [0, 1] : array.range();
  imagePanel({
    title, rowName, unit, what: title, rows: array.shape[1], range, map: mapOf(range),
    value: (step, row) => array.at(step, row), ...more,
  });
}

function key(colour, name, live) {
  const row = element("div", "key"), sample = element("i");
  sample.style.background = colour;
  row.append(sample, name, live);
  return row;
}

/** Lines over time. lines: [{name, value(step), colour()}]. */
function linePanel(title, unit, lines, [low, high]) {
  const height = 54, live = lines.map(() => element("b"));
  const y = (value) => 4 + (height - 8) * (1 - (Math.min(Math.max(value, low), high) - low) / (high - low));
  new Panel({
    title, height, label: unit, ends: [low, high].map((end) => Number(end.toPrecision(2))),
    draw(pen, width) {
      pen.strokeStyle = style("--line");
      for (const value of [low, (low + high) / 2, high]) pen.strokeRect(0, y(value), width, 0);
      drawAnswerEdges(pen, width, height, style("--text"));
      const radius = Math.min(Math.max((0.16 * width) / STEPS, 1), 2.6);
      for (const { value, colour } of lines) {
        pen.strokeStyle = pen.fillStyle = colour();
        pen.lineWidth = 1.6;
        pen.beginPath();
        for (let step = 0; step < STEPS; step++) pen.lineTo(((step + 0.5) * width) / STEPS, y(value(step)));
        pen.stroke();
        for (let step = 0; step < STEPS; step++) {
          pen.beginPath();
          pen.arc(((step + 0.5) * width) / STEPS, y(value(step)), radius, 0, 7);
          pen.fill();
        }
      }
    },
    describe: (step) => lines.map(({ name, value }) => `${name}: ${shown(value(step))}`).join("\n"),
    side: () => lines.map(({ name, colour }, i) => key(colour(), name, live[i])),
    update: (step) => lines.forEach(({ value }, i) => { live[i].textContent = shown(value(step)); }),
  });
}

/** A line for each head of (T, heads). */
function headLines(name, what, colourOf = headColour) {
  const array = ARRAYS[name], heads = array.shape[1];
  return Array.from({ length: heads }, (_, head) => ({
    name: heads > 1 ? `${what} ${head}` : what, value: (step) => array.at(step, head), colour: () => colourOf(head),
  }));
}

/** Read modes (T, R, 1 + 2 Hw) as stacked shares, those of all write heads' links together. */
function modePanels() {
  const sum = (step, head, first, last) => {
    let total = 0;
    for (let mode = first; mode < last; mode++) total += ARRAYS.read_modes.at(step, head, mode);
    return total;
  };
  const parts = [["backward", 0, WRITE_HEADS], ["content", WRITE_HEADS, WRITE_HEADS + 1], ["forward", WRITE_HEADS + 1, 2 * WRITE_HEADS + 1]];
  for (let head = 0; head < READ_HEADS; head++) {
    const height = 44, live = parts.map(() => element("b"));
    new Panel({
      title: head === 0 ? "read modes" : "", label: READ_HEADS > 1 ? `head ${head}\nshare` : "share", height,
      draw(pen, width) {
        for (let step = 0; step < STEPS; step++) {
          let floor = height;
          parts.forEach(([, first, last], i) => {
            const part = sum(step, head, first, last) * height;
            pen.fillStyle = MODES[theme()][i];
            pen.fillRect((step * width) / STEPS, floor - part, width / STEPS + 0.5, part);
            floor -= part;
          });
        }
        drawAnswerEdges(pen, width, height, style("--text"));
      },
      describe: (step) => parts.map(([name, first, last]) => `${name}: ${shown(sum(step, head, first, last))}`).join("\n"),
      side: () => parts.map(([name], i) => key(MODES[theme()][i], name, live[i])).reverse(),
      update: (step) => parts.forEach(([, first, last], i) => { live[i].textContent = shown(sum(step, head, first, last)); }),
    });
  }
}

/** Numbers of the steps, and their words where these are short. */
function axisPanel(title) {
  const longest = axisWords ? Math.max(...words.heard.map((word) => word.length)) : 0;
  const turned = longest > 1, wordsHeight = axisWords ? (turned ? 5 + 6 * longest : 14) : 0;
  new Panel({
    title, label: "step", height: wordsHeight + 14,
    draw(pen, width, height) {
      const column = width / STEPS;
      const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => n * column >= 26) || 2000;
      pen.fillStyle = style("--faint");
      pen.textAlign = "center";
      for (let step = 0; step < STEPS; step += every) pen.fillText(step, (step + 0.5) * column, height - 3);
      for (let step = 0; step < STEPS; step++) {
        if (ARRAYS.mask.at(step)) pen.fillRect(step * column, height - 1, column, 1);
      }
      if (!axisWords || column < 6) return;
      pen.fillStyle = style("--text");
      pen.font = `${Math.min(column * 1.1, 10)}px "DejaVu Sans", sans-serif`;
      for (let step = 0; step < STEPS; step++) {
        pen.save();
        pen.translate((step + 0.5) * column, wordsHeight - 2);
        if (turned) {
          pen.rotate(-Math.PI / 2);
          pen.textAlign = "left";
          pen.textBaseline = "middle";
        }
        pen.fillText(words.heard[step], 0, 0);
        pen.restore();
      }
    },
    describe: (step) => (ARRAYS.mask.at(step) ? "the answer counts" : "no answer is expected"),
    side: () => (title ? [element("span", "", "underlined: the answer counts")] : []),
  });
}

function buildPanels() {
  axisPanel("time");
  if (ARRAYS.inputs) {
    const row = DATA.classes ? "class" : "bit";
    dataPanel("inputs", "inputs", "feature", "value");
    dataPanel("targets", "targets", row, "value");
    const wrong = ARRAYS.wrong.flat.reduce((sum, one) => sum + one, 0);
    dataPanel("outputs", "outputs", row, "probability", { marks: ARRAYS.wrong, note: `crosses: wrong answers, ${wrong}` });
  }
  weightingPanels("usage", "usage", "usage");
  weightingPanels("allocation_weights", "allocation weighting", "weight");
  weightingPanels("write_weights", "write weighting", "weight");
  weightingPanels("read_weights", "read weighting", "weight");
  const write = () => VERMILLION, allocation = () => style("--faint");
  if (WRITE_HEADS === 1) {
    linePanel("write and allocation gate", "gate", [...headLines("write_gates", "write gate", write), ...headLines("allocation_gates", "allocation gate", allocation)], [0, 1]);
  } else {
    linePanel("write gates", "gate", headLines("write_gates", "write head"), [0, 1]);
    linePanel("allocation gates", "gate", headLines("allocation_gates", "write head"), [0, 1]);
  }
  linePanel(READ_HEADS > 1 ? "free gates" : "free gate", "gate", headLines("free_gates", READ_HEADS > 1 ? "read head" : "free gate"), [0, 1]);
  modePanels();
  const highest = Math.max(ARRAYS.write_strengths.range()[1], ARRAYS.read_strengths.range()[1], 2);
  linePanel("key strengths", "strength", [...headLines("write_strengths", "write head", WRITE_HEADS > 1 ? headColour : write), ...headLines("read_strengths", "read head")], [0, highest]);
  axisPanel("");
}
