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
      for (const triple of wanted) drawEdge(pen, ...ends(triple), style("--now"), 10, false);
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
        drawEdge(pen, ...ends(read.triple), headColour(head), 2 + 2 * (READ_HEADS - head > 1) * head + 2.5 * read.share, true);
        pen.globalAlpha = 1;
      }
      pen.textAlign = "center";
      places.forEach(([x, y], i) => {
        pen.fillStyle = style("--text");
        pen.beginPath();
        pen.arc(x, y, 3.2, 0, 7);
        pen.fill();
        drawLabel(pen, nodes[i], x, y - 7, style("--text"));
      });
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
        row.insertCell().textContent = !read ? "–" : read.triple ? named(read.triple) : "(a cell without a triple)";
        row.insertCell().textContent = read ? shown(read.share) : "";
      }
      const note = "arrows: triples told so far; coloured, the one that most of a head's weighting lies on, with that share; band: the right answer; dashed: the model's answer. Positions are computed and mean nothing.";
      return [table, element("p", "note", note)];
    },
  });
}
