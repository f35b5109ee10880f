// The graph of an episode, with the triple that each head reads at the current step.

/** An edge bent a little, so that those there and back can be told apart. */
function drawEdge(pen, [x, y], [toX, toY], colour, width, arrow) {
  const middle = bend([x, y], [toX, toY], 0.16);
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.quadraticCurveTo(...middle, toX, toY);
  pen.stroke();
  if (!arrow) return;
  const turn = Math.atan2(toY - middle[1], toX - middle[0]), size = 5 + width;
  const tipX = toX - 5 * Math.cos(turn), tipY = toY - 5 * Math.sin(turn);
  pen.beginPath();
  pen.moveTo(tipX, tipY);
  for (const side of [0.4, -0.4]) pen.lineTo(tipX - size * Math.cos(turn + side), tipY - size * Math.sin(turn + side));
  pen.fill();
}

/** A point beside the middle of an edge. */
const bend = ([x, y], [toX, toY], share) => [(x + toX) / 2 - share * (toY - y), (y + toY) / 2 + share * (toX - x)];

/** Text that can be read on top of edges. */
function drawLabel(pen, text, x, y, colour) {
  pen.strokeStyle = style("--card");
  pen.lineWidth = 3;
  pen.lineJoin = "round";
  pen.strokeText(text, x, y);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

/** A name beside each node, where it covers as little as possible of the others and of the nodes. */
function drawNames(pen, names, places) {
  const taken = places.map(([x, y]) => [x - 4, y - 4, x + 4, y + 4]);
  const common = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  pen.textAlign = "left";
  places.forEach(([x, y], i) => {
    const width = pen.measureText(names[i]).width;
    const boxes = [[x - width / 2, y - 16], [x - width / 2, y + 5], [x + 6, y - 6], [x - 6 - width, y - 6]]
      .map(([left, top]) => [Math.min(Math.max(left, 0), INNER - width), top])
      .map(([left, top]) => [left, top, left + width, top + 11]);
    const covered = (box) => taken.reduce((sum, other) => sum + common(box, other), 0);
    const box = boxes.reduce((best, other) => (covered(other) < covered(best) ? other : best));
    taken.push(box);
    drawLabel(pen, names[i], box[0], box[3] - 2, style("--text"));
  });
}

function buildMap() {
  const { nodes, told, wanted, answered, first } = DATA.graph, height = 330, margin = 26;
  const places = nodes.map((_, i) => [
    margin + 14 + ARRAYS.places.at(i, 0) * (INNER - 2 * margin - 28), height - margin - ARRAYS.places.at(i, 1) * (height - 2 * margin),
  ]);
  const ends = ([source, , end]) => [places[source], places[end]];
  const named = ([source, edge, end]) => `${nodes[source]}, ${edge}, ${nodes[end]}`;
  const reading = (step, head) => {
    let best = 0;
    if (step < first) return null;
    for (let row = 1; row <= first; row++) {
      if (ARRAYS.triple_shares.at(step - first, head, row) > ARRAYS.triple_shares.at(step - first, head, best)) best = row;
    }
    const share = ARRAYS.triple_shares.at(step - first, head, best);
    return { triple: best < first ? told[best] : null, share };
  };
  new Card({
    title: (step) => (step < first ? `graph: triple ${step + 1} of ${first} is told` : "graph: the triple that each head reads"),
    height,
    draw(pen, step) {
      for (const triple of wanted) drawEdge(pen, ...ends(triple), style("--band"), 10, false);
      told.forEach((triple, i) => { if (i <= step) drawEdge(pen, ...ends(triple), style("--line"), 1.1, true); });
      for (const triple of answered) {
        pen.setLineDash([4, 3]);
        drawEdge(pen, ...ends(triple), style("--text"), 1, false);
        pen.setLineDash([]);
      }
      if (step < first) drawEdge(pen, ...ends(told[step]), VERMILLION, 3, true);
      for (let head = READ_HEADS - 1; head >= 0; head--) {
        const read = reading(step, head);
        if (!read || !read.triple) continue;
        pen.globalAlpha = 0.25 + 0.75 * read.share;
        drawEdge(pen, ...ends(read.triple), headColour(head), 1.5 + 2 * head + 2 * read.share, true);
        pen.globalAlpha = 1;
      }
      pen.fillStyle = style("--text");
      for (const [x, y] of places) {
        pen.beginPath();
        pen.arc(x, y, 3.2, 0, 7);
        pen.fill();
      }
      drawNames(pen, nodes, places);
    },
    describe(x, y) {
      const near = told.map((triple, i) => {
        const [start, end] = ends(triple), [midX, midY] = bend(start, end, 0.08);
        return { i, triple, far: Math.hypot(x - midX, y - midY) };
      }).sort((a, b) => a.far - b.far)[0];
      return near.far < 18 ? `${named(near.triple)}\ntold at step ${near.i}` : null;
    },
    below(step) {
      const table = element("table");
      for (let head = 0; head < READ_HEADS; head++) {
        const read = reading(step, head), row = table.insertRow(), sample = element("i"), cell = row.insertCell();
        sample.style.background = headColour(head);
        cell.append(sample, `read head ${READ_HEADS > 1 ? head : ""}`);
        row.insertCell().textContent = !read ? "–" : read.triple ? named(read.triple) : "(no triple)";
        row.insertCell().textContent = read ? shown(read.share) : "";
      }
      const note = "arrows: triples told so far; coloured, the one that most of a head's weighting lies on, with that share; band: the right answer; dashed: the model's answer. Positions are computed and mean nothing.";
      return [table, element("p", "note", note)];
    },
  });
}
