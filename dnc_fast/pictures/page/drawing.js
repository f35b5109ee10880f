// Colours, numbers and canvases.

const VERMILLION = "#d55e00";
const HEADS = {
  light: ["#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676"],
  dark: ["#56b4e9", "#35c79a", "#e39ac1", "#f0b72f", "#4f8fd0", "#a8a8a8"],
};
const MODES = { light: ["#0072b2", "#cfcfcf", "#e69f00"], dark: ["#4f9fdc", "#5a5d61", "#e69f00"] };
const VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725";
const MAPS = {
  light: { weight: VIRIDIS, value: "f7fbff c6dbef 6baed6 2171b5 08306b", signed: "7f3b08 e08214 fee0b6 f7f7f7 d8daeb 8073ac 2d004b" },
  dark: { weight: VIRIDIS, value: "17191b 123a5e 2171b5 6baed6 deebf7", signed: "ffc078 d98019 5f3a12 1f2123 3c3566 8f7fd0 d9ccff" },
};

const theme = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const headColour = (head) => HEADS[theme()][head % HEADS.light.length];

/** Red, green and blue of 256 levels of a colour map. */
function colourTable(name) {
  const stops = MAPS[theme()][name].split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((part, i) => Math.round(part + (place - low) * (stops[low + 1][i] - part)));
  });
}

/** A number as people read it: up to three digits behind the point. */
function shown(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size > 0 && size < 0.001 ? value.toExponential(0) : value.toFixed(size < 1 ? 3 : 2);
}

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Give a canvas its size in CSS pixels, whatever the screen's, and return what draws on it. */
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = '10px "DejaVu Sans", sans-serif';
  return pen;
}

/** Draw `value(column, row)` as colours; what is no number is vermillion. */
function drawImage(pen, box, columns, rows, value, [low, high], map) {
  const image = new ImageData(columns, rows), table = colourTable(map);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const level = Math.round((255 * (value(column, row) - low)) / (high - low));
      const colour = Number.isNaN(level) ? [213, 94, 0] : table[Math.min(Math.max(level, 0), 255)];
      const place = 4 * (row * columns + column);
      [image.data[place], image.data[place + 1], image.data[place + 2]] = colour;
      image.data[place + 3] = 255;
    }
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, box.x, box.y, box.width, box.height);
}

/** A colour bar with its ends and its unit. */
function colourBar([low, high], map, unit) {
  const bar = element("div", "bar"), canvas = element("canvas");
  drawImage(sized(canvas, 44, 8), { x: 0, y: 0, width: 44, height: 8 }, 44, 1, (column) => column / 43, [0, 1], map);
  const end = (value) => element("span", "", String(Number(value.toPrecision(2))));
  bar.append(end(low), canvas, end(high), element("span", "", unit));
  return bar;
}

const mapOf = (range) => (range[0] < 0 ? "signed" : "value");

const tip = document.getElementById("tip");

/** Show `describe(x, y)` beside the pointer while it is over `target`; null for nothing. */
function hover(target, describe) {
  target.addEventListener("pointermove", (event) => {
    const box = target.getBoundingClientRect();
    const text = describe(event.clientX - box.left, event.clientY - box.top);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8) + "px";
  });
  target.addEventListener("pointerleave", () => { tip.hidden = true; });
}

/** The index of the column or row at a place; always a valid one. */
const indexAt = (place, length, count) => Math.min(Math.max(Math.floor((place / length) * count), 0), count - 1);
