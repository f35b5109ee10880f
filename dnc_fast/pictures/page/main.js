// The current step, and all that changes it.

let now = 0;
let timer = null;
let noted = null;
const byId = (id) => document.getElementById(id);
const slider = byId("slider");

/** Show a step everywhere. */
function show(step) {
  now = Math.min(Math.max(Math.round(step) || 0, 0), STEPS - 1);
  slider.value = now;
  byId("step").textContent = `step ${now} of ${STEPS - 1}`;
  document.body.dataset.step = now;
  for (const panel of panels) panel.move(now);
  for (const card of cards) card.move(now);
  if (words) showWords();
  if (location.protocol === "about:") return; // in a frame of a notebook, which has no address
  clearTimeout(noted); // browsers refuse an address that changes too often
  noted = setTimeout(() => history.replaceState(null, "", `#t=${now}`), 250);
}

const stepOfAddress = () => Number(new URLSearchParams(location.hash.slice(1)).get("t"));

function play(on) {
  clearInterval(timer);
  timer = null;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  if (now === STEPS - 1) show(0);
  timer = setInterval(() => (now < STEPS - 1 ? show(now + 1) : play(false)), 1000 / byId("speed").value);
}

/** The words of all steps, each a place to go to; answers in the colour of right or wrong. */
function buildWords() {
  byId("text").hidden = false;
  const box = byId("transcript"), counted = ARRAYS.mask.flat.reduce((sum, one) => sum + one, 0);
  const word = (text, step) => {
    const made = element("span", "word", text);
    made.dataset.step = step;
    made.addEventListener("click", () => show(step));
    return made;
  };
  const judged = (step) => (words.wanted[step] === words.answered[step] ? "right" : "wrong");
  if (counted > STEPS / 2) { // every step is answered: texts, one below the other
    byId("instead").hidden = true;
    for (const [name, key] of [["read", "heard"], ["wanted", "wanted"], ["answered", "answered"]]) {
      const line = element("div", "line");
      line.append(element("span", "name", name));
      words[key].forEach((text, step) => {
        const made = word(text, step);
        if (key === "answered" && ARRAYS.mask.at(step)) made.classList.add(judged(step));
        line.append(made);
      });
      box.append(line);
    }
    return;
  }
  box.classList.toggle("long", DATA.graph !== null);
  for (let step = 0; step < STEPS; step++) {
    const answers = ARRAYS.mask.at(step) && words.wanted[step];
    const text = answers ? (judged(step) === "right" ? words.answered[step] : `${words.answered[step]} (${words.wanted[step]})`) : words.heard[step];
    if (!text) continue;
    const made = word(text, step);
    if (answers) made.classList.add(judged(step));
    box.append(made, " ");
  }
}

function showWords() {
  for (const old of document.querySelectorAll(".word.now")) old.classList.remove("now");
  const box = byId("transcript");
  for (const word of box.querySelectorAll(`[data-step="${now}"]`)) {
    word.classList.add("now");
    box.scrollTop = word.offsetTop - box.clientHeight / 2;
    box.scrollLeft = word.offsetLeft - box.clientWidth / 2;
  }
  const line = byId("now"), part = (name, text) => line.append(element("span", "", `${name} `), text, "   ");
  line.replaceChildren();
  part("read", words.heard[now] || "–");
  if (ARRAYS.mask.at(now) && words.wanted[now]) {
    part("wanted", words.wanted[now]);
    part("answered", words.answered[now]);
  }
}

function paint() {
  byId("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  for (const panel of panels) panel.paint();
  show(now);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  paint();
}

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
slider.max = STEPS - 1;
slider.addEventListener("input", () => show(Number(slider.value)));
for (const [id, target] of [["first", () => 0], ["back", () => now - 1], ["ahead", () => now + 1], ["last", () => STEPS - 1]]) {
  byId(id).addEventListener("click", () => show(target()));
}
byId("play").addEventListener("click", () => play(timer === null));
byId("speed").addEventListener("change", () => timer !== null && play(true));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  const far = event.shiftKey ? 10 : 1;
  const act = {
    ArrowLeft: () => show(now - far), ArrowRight: () => show(now + far),
    Home: () => show(0), End: () => show(STEPS - 1), " ": () => play(timer === null),
  }[event.key];
  if (!act || (event.key === " " && event.target.matches("button"))) return;
  event.preventDefault();
  act();
});
addEventListener("hashchange", () => show(stepOfAddress()));
addEventListener("resize", paint);

const plural = (count, what) => `${count} ${count === 1 ? what : many(what)}`;
byId("sizes").textContent = [
  plural(STEPS, "step"), plural(CELLS, "cell") + (WIDTH ? ` of ${plural(WIDTH, "element")}` : ""),
  plural(WRITE_HEADS, "write head"), plural(READ_HEADS, "read head"),
].join(", ") + (DATA.contents ? "" : "; the contents of so many cells are not shown");
if (words) buildWords();
buildPanels();
buildMoment();
now = stepOfAddress();
setTheme(prefersDark.matches ? "dark" : "light");
