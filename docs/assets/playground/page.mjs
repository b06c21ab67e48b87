// The playground's page: dials, planes, slices, curves. What learns is in worker.mjs.
import { COLORS, bytes, digits, radios, rgb } from "../compare.mjs";
import { TEMPERATURES, hardGradient, mixedGradient, softGradient, softmax } from "../lab.mjs";
import {
  CLASSES, DEFAULTS, LIMITS, NUM_CLASSES, OUTSIDE, POOL, SEEDS, STEPS, hardened, summary,
} from "./networks.mjs";

const PLAYGROUND = new URL("../../playground/", import.meta.url).href;
const GRID = 48; // as in worker.mjs
const NETWORKS = ["teacher", "student", "baseline"];
const SPEED = { teacher: 10, student: 2 }; // steps a frame
const READABLE = 100; // ms: numbers and curves change no faster
const FRAME = 16.7; // ms; where one takes longer it holds more steps
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const DIALS = [
  ["labels", "The student's labels", 1], ["teacherLabels", "The teacher's labels", 1],
  ["T", "Temperature <i>T</i>", null], ["alpha", "Alpha, the teacher's weight", 0.05],
  ["width", "Width of student and baseline", 1], ["teacherWidth", "Width of the teacher", 1],
  ["noise", "Share of wrong labels", 0.05], ["seed", "Seed", 1],
];

const clamped = (x, [low, high]) => Math.min(high, Math.max(low, x));
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const signed = (x, places = 1) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(places)}`;
const number = (x, places = 3) => (x === undefined || x === null ? "–" : x.toFixed(places).replace("-", "−"));

// Settings and the address

/** Settings from an address; whatever is not one is left out or moved into bounds, and told. */
export function read(search) {
  const settings = { ...DEFAULTS };
  const notes = [];
  for (const [key, text] of new URLSearchParams(search)) {
    if (!Object.hasOwn(DEFAULTS, key)) continue;
    const value = readOne(key, text);
    if (value === null) notes.push(`${key}=${text.slice(0, 20)} is not understood; ${DEFAULTS[key]} is used.`);
    else if (LIMITS[key] && value !== Number(text)) notes.push(`${key}=${text.slice(0, 20)} is not on the dial; ${value} is used.`);
    settings[key] = value ?? DEFAULTS[key];
  }
  return { settings, notes };
}

function readOne(key, text) {
  if (key === "sees") return ["both", "T1"].includes(text) ? text : null;
  if (typeof DEFAULTS[key] === "boolean") return { 1: true, 0: false }[text] ?? null;
  const value = text.trim() === "" ? NaN : Number(text);
  if (Number.isNaN(value)) return null;
  if (key === "T") return nearest(clamped(value, LIMITS.T));
  const step = DIALS.find(([name]) => name === key)[2];
  return +(Math.round(clamped(value, LIMITS[key]) / step) * step).toFixed(2);
}

const nearest = (T) => TEMPERATURES.reduce((a, b) => (Math.abs(b - T) < Math.abs(a - T) ? b : a));

/** The other way round; what is as by default is left out. */
export function written(settings) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(settings)) {
    if (value !== DEFAULTS[key]) query.set(key, typeof value === "boolean" ? Number(value) : value);
  }
  return String(query) && `?${query}`;
}

/** What the settings leave a network without. */
export function warnings({ labels, teacherLabels, unlabelled, alpha }) {
  const found = [];
  const missing = (count) => CLASSES.slice(count).join(" and ");
  if (labels === 0) found.push("No voxel has a label, so the baseline learns nothing and stays at its start.");
  else if (labels < NUM_CLASSES) found.push(`Nobody tells the baseline of ${missing(labels)}: no such voxel has a label.`);
  if (teacherLabels === 0) found.push("The teacher has no labels, so it learns nothing: what it says is chance.");
  else if (teacherLabels < NUM_CLASSES) found.push(`The teacher knows nothing of ${missing(teacherLabels)}.`);
  if (labels === 0 && (alpha === 0 || !unlabelled)) found.push("The student has nothing to learn from, either.");
  return found;
}

// What is built once

const swatch = (c) => `<i class="kd-swatch kd-class-${c}"></i>${CLASSES[c]}`;

function dial([key, name, step]) {
  const [low, high] = key === "T" ? [0, TEMPERATURES.length - 1] : LIMITS[key];
  return `<div class="kd-dial"><label for="kd-play-${key}">${name}</label><input type="range"
    id="kd-play-${key}" data-set="${key}" min="${low}" max="${high}" step="${step ?? 1}">
    <output for="kd-play-${key}" data-out="${key}"></output></div>`;
}

const check = (key, name) => `<label class="kd-check"><input type="checkbox" data-set="${key}"> ${name}</label>`;

const column = (who, [rows, columns]) => `<div class="kd-network"><p><b>${who}</b> <span data-out="accuracy-${who}"></span></p>
  <div class="kd-plane" data-plane="${who}"><canvas width="${GRID}" height="${GRID}"></canvas>
    <svg viewBox="0 0 256 256" aria-hidden="true"><g></g><circle class="kd-here" r="9"/></svg></div>
  <div class="kd-brain" data-brain="${who}"><canvas width="${columns}" height="${rows}"></canvas>
    <svg viewBox="0 0 ${columns} ${rows}" aria-hidden="true"><path class="kd-outline"/>
    <rect class="kd-here" width="3" height="3"/></svg></div></div>`;

const bars = (name, heading, x) => `<tr><th scope="row">${heading}</th>${CLASSES.map((_, c) => `<td>
  <span data-out="${name}${c}"></span><svg viewBox="${x} 0 ${1 - x} 1" preserveAspectRatio="none" aria-hidden="true">
  <rect data-bar="${name}${c}" class="kd-class-${c}" height="1"/></svg></td>`).join("")}</tr>`;

const [LEFT, WIDE, TOP, HIGH] = [36, 254, 8, 120]; // of a plot
const X = (step) => LEFT + (WIDE * step) / STEPS;
const Y = (share) => TOP + HIGH * (1 - share);

function plot(name, title, lines) {
  const up = [0, 0.25, 0.5, 0.75, 1].map((y) => `<path class="kd-grid" d="M${LEFT} ${Y(y)}h${WIDE}"/>
    <text x="${LEFT - 5}" y="${Y(y) + 4}" text-anchor="end">${100 * y}</text>`).join("");
  const across = [0, 100, 200, 300, 400].map((x) => `<text x="${X(x)}" y="${TOP + HIGH + 15}" text-anchor="middle">${x}</text>`).join("");
  return `<figure class="kd-plot"><svg viewBox="0 0 300 146" role="img" aria-label="${title}; the numbers are in the table below">
    ${up}${across}${lines.map((who) => `<path class="kd-line-${who}" data-curve="${name}-${who}"/>`).join("")}</svg>
    <figcaption>${title}, % over steps: ${lines.map((who) => `<span class="kd-key kd-line-${who}">${who}</span>`).join(", ")}</figcaption></figure>`;
}

const form = (story, shape) => `
  ${radios("kd-story", "Story", story.map(({ title }, i) => [String(i), `${i + 1} ${title}`]), "0")}
  <p class="kd-watch" data-out="watch"></p>
  <div class="kd-buttons"><button type="button" class="kd-button" data-do="play">Play</button>
    <button type="button" class="kd-button" data-do="step">Step</button>
    <button type="button" class="kd-button" data-do="reset">Reset</button>
    <span data-out="progress"></span></div>
  <p class="kd-notes" role="status" data-out="notes"></p>
  <div class="kd-networks" tabindex="0" role="application"
    aria-label="Three networks; arrow keys move the voxel that the table below tells of">${NETWORKS.map((who) => column(who, shape)).join("")}</div>
  <p class="kd-legend">Above: T1 to the right, FLAIR upwards; below: the slice. Colours are what a network says, paler where it doubts:
    ${CLASSES.map((_, c) => swatch(c)).join(", ")}. Ringed dots have a label. The line around the lesion is the reference.</p>
  <div class="kd-dials">${DIALS.map(dial).join("")}</div>
  <div class="kd-choices">${radios("kd-sees", "Student and baseline see", [["both", "T1 and FLAIR"], ["T1", "T1 alone"]], "both")}
    <div>${check("unlabelled", "The teacher speaks of unlabelled voxels, too")}${check("pseudo", "It says its choice only (hard pseudo-labels)")}</div></div>
  <div class="kd-plots">${plot("accuracy", "Held-out accuracy", NETWORKS)}${plot("fidelity", "Fidelity, agreement with the teacher", NETWORKS.slice(1))}</div>
  <div class="kd-wide"><table class="kd-table"><caption>The numbers now</caption><thead><tr><td></td><th scope="col">accuracy</th><th scope="col">fidelity</th>
    <th scope="col">hard loss</th><th scope="col">soft loss</th><th scope="col">loss</th></tr></thead><tbody>
    ${NETWORKS.map((who) => `<tr><th scope="row">${who}</th>${["accuracy", "fidelity", "hard", "soft", "loss"]
      .map((what) => `<td data-out="now-${what}-${who}"></td>`).join("")}</tr>`).join("")}</tbody></table></div>
  <p data-out="gap"></p>
  <div class="kd-wide"><table class="kd-table kd-gradients"><caption data-out="place"></caption>
    <thead><tr><td></td>${CLASSES.map((_, c) => `<th scope="col">${swatch(c)}</th>`).join("")}</tr></thead><tbody>
    ${NETWORKS.map((who) => bars(who, `${who} at <i>T</i>`, 0)).join("")}
    ${bars("hard", "gradient, hard", -1)}${bars("soft", "gradient, soft", -1)}${bars("mixed", "gradient, mixed", -1)}</tbody></table></div>
  <div class="kd-seeds"><button type="button" class="kd-button" data-do="seeds">Repeat with ten seeds</button>
    <svg viewBox="0 0 400 66" role="img"
    aria-label="Student − baseline of each seed; the numbers are in the text below"></svg><p role="status" data-out="strip"></p></div>`;

/** Of a page's parts what a scene within another page needs: no story, one dial, no tables. */
function asScene(view) {
  const dial = view.querySelector('[data-set="labels"]').closest(".kd-dial");
  const story = view.querySelector(".kd-radios");
  const apart = view.querySelectorAll(".kd-watch, .kd-dial, .kd-plots, .kd-wide, .kd-seeds");
  for (const part of [story, ...apart]) part.hidden = part !== dial;
  const networks = view.querySelector(".kd-networks");
  networks.removeAttribute("tabindex"); // the arrow keys' table is not there
  networks.setAttribute("role", "group");
  networks.setAttribute("aria-label", "Three networks");
  view.insertAdjacentHTML("beforeend", '<p><a class="kd-further">All dials, curves and numbers: the playground with this setting</a></p>');
}

function outlineOf({ labels, shape: [rows, columns] }) {
  const lesion = (row, column) => labels[row * columns + column] % OUTSIDE > 0;
  let path = "";
  for (let r = 1; r < rows; r++) {
    for (let c = 1; c < columns; c++) {
      if (lesion(r, c) !== lesion(r, c - 1)) path += `M${c} ${r}v1`;
      if (lesion(r, c) !== lesion(r - 1, c)) path += `M${c} ${r}h1`;
    }
  }
  return path;
}

// The page

function connect() {
  const worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
  return {
    ask: (request) => new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = () => reject(new Error("The playground's worker failed. Reload the page."));
      worker.postMessage(request);
    }),
    end: () => worker.terminate(),
  };
}

export async function start(root) {
  const [slice, story] = await Promise.all(["slice.json", "story.json"].map(async (name) => {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer.json();
  }));
  const data = { shape: slice.shape, t1: bytes(slice.t1), flair: bytes(slice.flair), labels: digits(slice.labels) };
  new Page(root, data, story);
}

class Page {
  #stale = true;
  #playing = false;
  #running = false;
  #alone = 0; // single steps asked for
  #repeating = null; // the worker that repeats

  constructor(root, data, story) {
    Object.assign(this, { root, data, story, logits: {}, labels: {}, sure: {}, worker: connect() });
    this.brain = [];
    data.labels.forEach((label, voxel) => { if (label !== OUTSIDE) this.brain.push(voxel); });
    this.order = new Map(this.brain.map((voxel, i) => [voxel, i]));
    this.voxel = this.brain.find((voxel) => data.labels[voxel] === 1);
    this.scene = root.dataset.kdPlayground; // the step that another page shows, or nothing
    const query = this.scene ? written({ ...DEFAULTS, ...story[this.scene - 1].settings }) : location.search;
    const { settings, notes } = read(query);
    Object.assign(this, { settings, notes });
    this.view = document.createElement("div");
    this.view.className = "kd-play-view";
    this.view.innerHTML = form(story, data.shape);
    for (const path of this.#all(".kd-outline")) path.setAttribute("d", outlineOf(data));
    if (this.scene) asScene(this.view);
    root.prepend(this.view);
    root.classList.add("kd-ready");
    this.#listen();
    const pages = window.document$.subscribe(() => {
      if (root.isConnected) return; // else another page is opened
      pages.unsubscribe();
      this.worker.end();
      this.#repeating?.end();
    });
    this.#dials();
    this.#run();
  }

  #find(selector) { return this.view.querySelector(selector); }
  #all(selector) { return this.view.querySelectorAll(selector); }
  #out(name, text) { this.#find(`[data-out="${name}"]`).textContent = text; }

  #listen() {
    this.view.addEventListener("input", ({ target }) => {
      if (target.name === "kd-story") this.settings = { ...DEFAULTS, ...this.story[target.value].settings, seed: this.settings.seed };
      else if (target.name === "kd-sees") this.settings.sees = target.value;
      else if (target.type === "checkbox") this.settings[target.dataset.set] = target.checked;
      else if (target.dataset.set === "T") this.settings.T = TEMPERATURES[target.value];
      else if (target.dataset.set) this.settings[target.dataset.set] = Number(target.value);
      else return;
      this.notes = [];
      if (!this.scene) history.replaceState(history.state, "", location.pathname + written(this.settings) + location.hash);
      this.#restart(true);
    });
    this.view.addEventListener("click", ({ target }) => this.#press(target.closest("[data-do]")?.dataset.do));
    for (const box of this.#all(".kd-plane, .kd-brain")) {
      for (const type of ["pointerdown", "pointermove"]) box.addEventListener(type, (event) => this.#point(box, event));
    }
    this.#find(".kd-networks").addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      event.preventDefault();
      const [down, right] = ARROWS[event.key];
      this.#move(this.voxel + down * this.data.shape[1] + right);
    });
  }

  #press(what) {
    if (what === "play" && this.snapshot?.done) this.#restart(true);
    else if (what === "play") this.#play(!this.#playing);
    else if (what === "step") {
      this.#play(false);
      this.#alone += 1;
      this.#run();
    } else if (what === "reset") this.#restart(false);
    else if (what === "seeds") this.#repeat();
  }

  #play(on) {
    this.#playing = on;
    this.#find('[data-do="play"]').textContent = on ? "Pause" : "Play";
    if (on) this.#run();
  }

  #restart(play) {
    this.#stale = true;
    this.#alone = 0;
    this.#repeating?.end();
    this.#repeating = null;
    this.#out("strip", "");
    this.#find(".kd-seeds svg").innerHTML = "";
    this.#dials();
    this.#play(play);
    this.#run();
  }

  /** One request at a time, until nothing more is wanted; the next is made while an answer is drawn. */
  async #run() {
    if (this.#running) return;
    this.#running = true;
    let coming = null;
    while ((this.#stale || this.#playing || this.#alone || coming) && this.root.isConnected) {
      const begins = this.#stale;
      if (begins) {
        await coming; // of other settings
        this.#stale = false;
        coming = this.#ask(true);
      }
      const answer = await (coming ?? this.#ask(false));
      coming = null;
      if (this.#stale) continue;
      this.snapshot = answer;
      if (this.#playing && !answer.done) coming = this.#ask(false);
      this.#take(answer, begins);
      if (answer.done) {
        this.#play(false);
        this.#alone = 0;
      }
      if (!still()) await new Promise(requestAnimationFrame);
    }
    this.#running = false;
  }

  #ask(begins) {
    const slice = begins && !this.snapshot ? this.data : undefined;
    const request = begins ? { action: "begin", slice, settings: { ...this.settings } } : { action: "advance", steps: this.#pace() };
    this.before = performance.now();
    return this.worker.ask(request);
  }

  #pace() {
    const left = STEPS - this.snapshot.learned.teacher;
    if (this.#alone) {
      this.#alone -= 1;
      return left + 1; // the teacher first
    }
    const frames = clamped(Math.round((performance.now() - this.before) / FRAME), [1, 6]);
    return left ? Math.min(left, frames * SPEED.teacher) : frames * SPEED.student;
  }

  #take(answer, begins) {
    for (const what of ["logits", "labels", "sure"]) Object.assign(this[what], answer[what]);
    if (begins) {
      this.voxels = answer.voxels;
      if (!this.pointed) [this.voxel] = answer.voxels.student.voxels; // one of which the student hears
      this.curves = { "accuracy-teacher": "", "accuracy-student": "", "accuracy-baseline": "", "fidelity-student": "", "fidelity-baseline": "" };
      for (const who of NETWORKS) this.#points(who);
    }
    this.#curve();
    if (still() && this.#playing && !begins && !answer.done) return; // only the end is shown
    for (const who of still() ? NETWORKS : Object.keys(answer.logits)) this.#paint(who);
    this.#progress();
    if (this.#playing && !begins && !answer.done && performance.now() - this.told < READABLE) return;
    this.told = performance.now();
    this.#draw();
    this.#numbers();
    this.#readout();
  }

  // Dials

  #dials() {
    const same = ({ settings }) => written({ ...DEFAULTS, ...settings, seed: this.settings.seed }) === written(this.settings);
    const now = this.story.findIndex(same);
    for (const radio of this.#all('[name="kd-story"]')) radio.checked = Number(radio.value) === now;
    this.#out("watch", now < 0 ? "Your own setting. The address of this page holds it: share it, and others see the same." : this.story[now].watch);
    for (const [key] of DIALS) {
      const input = this.#find(`[data-set="${key}"]`);
      input.value = key === "T" ? TEMPERATURES.indexOf(this.settings.T) : this.settings[key];
      input.setAttribute("aria-valuetext", this.settings[key]);
      this.#out(key, this.settings[key]);
    }
    this.#find('[data-set="T"]').disabled = this.settings.pseudo; // a choice has no temperature
    for (const key of ["unlabelled", "pseudo"]) this.#find(`[data-set="${key}"]`).checked = this.settings[key];
    for (const radio of this.#all('[name="kd-sees"]')) radio.checked = radio.value === this.settings.sees;
    if (this.scene) this.#find(".kd-further").href = PLAYGROUND + written(this.settings);
    this.#out("notes", [...this.notes, ...warnings(this.settings)].join(" "));
  }

  // Pictures

  #points(who) {
    const { voxels, labels } = this.voxels[who === "teacher" ? "teacher" : "student"];
    const labelled = this.settings[who === "teacher" ? "teacherLabels" : "labels"];
    const rest = who === "student" && this.settings.unlabelled ? POOL : labelled;
    const dots = voxels.slice(0, rest).map((voxel, i) => {
      const place = `cx="${this.data.t1[voxel]}" cy="${255 - this.data.flair[voxel]}"`;
      return i < labelled ? `<circle class="kd-told kd-class-${labels[i]}" ${place} r="${labelled > 60 ? 3 : 6}"/>`
        : `<circle class="kd-untold" ${place} r="2"/>`;
    });
    this.#find(`[data-plane="${who}"] g`).innerHTML = dots.reverse().join("");
  }

  #paint(who) {
    const [labels, sure] = [this.labels[who], this.sure[who]];
    const plane = new ImageData(GRID, GRID);
    const first = this.brain.length;
    for (let i = 0; i < GRID * GRID; i++) {
      const at = 4 * (GRID * (GRID - 1 - Math.floor(i / GRID)) + (i % GRID)); // rows from the top
      const ink = INKS[labels[first + i]];
      for (let k = 0; k < 3; k++) plane.data[at + k] = ink[k];
      plane.data[at + 3] = 20 + 190 * sure[first + i];
    }
    this.#find(`[data-plane="${who}"] canvas`).getContext("2d").putImageData(plane, 0, 0);
    const [rows, columns] = this.data.shape;
    const slice = new ImageData(columns, rows);
    for (let voxel = 0; voxel < rows * columns; voxel++) slice.data[4 * voxel + 3] = 255;
    this.brain.forEach((voxel, i) => {
      const share = labels[i] ? 0.75 * sure[i] : 0;
      const ink = INKS[labels[i]];
      for (let k = 0; k < 3; k++) slice.data[4 * voxel + k] = (1 - share) * this.data.flair[voxel] + share * ink[k];
    });
    this.#find(`[data-brain="${who}"] canvas`).getContext("2d").putImageData(slice, 0, 0);
  }

  #curve() {
    const { learned, accuracy, fidelity } = this.snapshot;
    const add = (name, step, value) => {
      this.curves[name] += `${this.curves[name] ? "L" : "M"}${X(step).toFixed(1)} ${Y(value).toFixed(1)}`;
    };
    if (!learned.student || this.drawn < STEPS) add("accuracy-teacher", learned.teacher, accuracy.teacher);
    this.drawn = learned.teacher;
    if (!learned.teacher || learned.student) {
      for (const who of ["student", "baseline"]) {
        add(`accuracy-${who}`, learned.student, accuracy[who]);
        if (learned.teacher) add(`fidelity-${who}`, learned.student, fidelity[who]);
      }
    }
  }

  #draw() {
    for (const [name, path] of Object.entries(this.curves)) this.#find(`[data-curve="${name}"]`).setAttribute("d", path);
  }

  #progress() {
    const { learned, accuracy } = this.snapshot;
    for (const who of NETWORKS) this.#out(`accuracy-${who}`, percent(accuracy[who]));
    const phase = learned.teacher < STEPS ? `The teacher's step ${learned.teacher}` : `Step ${learned.student}`;
    this.#out("progress", `${phase} of ${STEPS}`);
  }

  // Numbers

  #numbers() {
    const { learned, accuracy, fidelity, parts } = this.snapshot;
    for (const who of NETWORKS) {
      this.#out(`now-accuracy-${who}`, percent(accuracy[who]));
      this.#out(`now-fidelity-${who}`, who in fidelity && learned.student ? percent(fidelity[who]) : "–");
      const listens = who === "student" && this.settings.alpha > 0;
      const told = this.settings[who === "teacher" ? "teacherLabels" : "labels"] > 0;
      this.#out(`now-hard-${who}`, told ? number(parts[who]?.hard) : "–");
      this.#out(`now-soft-${who}`, listens ? number(parts[who]?.soft) : "–");
      this.#out(`now-loss-${who}`, told || listens ? number(parts[who]?.loss) : "–");
    }
    const lead = 100 * (accuracy.student - accuracy.baseline);
    const room = 100 * (accuracy.teacher - accuracy.baseline);
    const closed = room <= 1 || lead < 0 ? "" : lead > room ? " That is more than the gap between baseline and teacher."
      : ` That is ${Math.round((100 * lead) / room)} % of the gap between baseline and teacher.`;
    this.#out("gap", `Student − baseline: ${signed(lead)} points of held-out accuracy.${closed}`);
  }

  #readout() {
    const at = NUM_CLASSES * this.order.get(this.voxel);
    const label = this.data.labels[this.voxel];
    const [v, z] = ["teacher", "student"].map((who) => [...this.logits[who].slice(at, at + NUM_CLASSES)]);
    const { alpha, pseudo } = this.settings;
    const T = pseudo ? 1 : this.settings.T;
    const told = this.voxels.student.voxels.indexOf(this.voxel);
    const says = pseudo ? [...hardened(Float32Array.from(v))] : v;
    const known = told >= 0 && told < this.settings.labels;
    const heard = alpha > 0 && (known || (told >= 0 && this.settings.unlabelled));
    const y = known ? this.voxels.student.labels[told] : null;
    for (const who of NETWORKS) {
      const own = who === "teacher" ? says : [...this.logits[who].slice(at, at + NUM_CLASSES)];
      this.#bars(who, softmax(own, T), false);
    }
    const none = [null, null, null];
    this.#bars("hard", known ? hardGradient(z, y) : none);
    this.#bars("soft", heard ? softGradient(says, z, T) : none);
    const hears = heard && known ? mixedGradient(says, z, T, y, alpha)
      : heard ? softGradient(says, z, T).map((g) => alpha * g) : known ? hardGradient(z, y).map((g) => (1 - alpha) * g) : none;
    this.#bars("mixed", hears);
    const role = known ? `the student is told ${CLASSES[y]}`
      : told >= 0 ? "one of the student's voxels, without a label" : "not among the student's voxels";
    this.#out("place", `The voxel pointed at: T1 ${this.data.t1[this.voxel]}, FLAIR ${this.data.flair[this.voxel]}, in truth ${CLASSES[label]}; ${role}.`);
    this.#mark();
  }

  #bars(name, values, signs = true) {
    values.forEach((value, c) => {
      this.#out(name + c, value === null ? "–" : number(value));
      const bar = this.#find(`[data-bar="${name}${c}"]`);
      const length = clamped(value ?? 0, [-1, 1]);
      bar.setAttribute("x", signs ? Math.min(0, length) : 0);
      bar.setAttribute("width", Math.abs(length));
    });
  }

  #mark() {
    const columns = this.data.shape[1];
    for (const ring of this.#all("circle.kd-here")) {
      ring.setAttribute("cx", this.data.t1[this.voxel]);
      ring.setAttribute("cy", 255 - this.data.flair[this.voxel]);
    }
    for (const frame of this.#all("rect.kd-here")) {
      frame.setAttribute("x", (this.voxel % columns) - 1);
      frame.setAttribute("y", Math.floor(this.voxel / columns) - 1);
    }
  }

  /** The voxel below the pointer; in the plane the nearest of those drawn. */
  #point(box, event) {
    const { left, top, width, height } = box.getBoundingClientRect();
    const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
    const [rows, columns] = this.data.shape;
    if (box.dataset.brain) {
      this.#move(Math.floor(clamped(y, [0, 0.999]) * rows) * columns + Math.floor(clamped(x, [0, 0.999]) * columns));
    } else if (this.voxels) {
      const { voxels } = this.voxels[box.dataset.plane === "teacher" ? "teacher" : "student"];
      const far = (voxel) => Math.hypot(this.data.t1[voxel] - 256 * x, 255 - this.data.flair[voxel] - 256 * y);
      this.#move(voxels.reduce((a, b) => (far(b) < far(a) ? b : a)));
    }
  }

  #move(voxel) {
    if (!this.order.has(voxel) || !this.snapshot) return; // outside the brain
    this.voxel = voxel;
    this.pointed = true;
    this.#readout();
  }

  // Luck

  async #repeat() {
    this.#repeating?.end();
    const worker = connect();
    this.#repeating = worker;
    const found = [];
    const mean = { teacher: 0, student: 0, baseline: 0 };
    this.#strip(found);
    for (let seed = 0; seed < SEEDS; seed++) {
      this.#out("strip", `Seed ${seed + 1} of ${SEEDS} …`);
      const { accuracy } = await worker.ask({ action: "repeat", slice: this.data, settings: { ...this.settings, seed } });
      if (this.#repeating !== worker || !this.root.isConnected) break;
      found.push(100 * (accuracy.student - accuracy.baseline));
      for (const who of NETWORKS) mean[who] += accuracy[who] / SEEDS;
      this.#strip(found);
    }
    worker.end();
    if (this.#repeating !== worker) return;
    this.#repeating = null;
    const { mean: lead, half } = summary(found);
    const verdict = found.every((d) => d === 0) ? "Here both are the same network: it hears nothing of the teacher."
      : Math.abs(lead) <= half ? "The interval holds zero: this may be luck." : lead > 0
      ? "The interval lies above zero: the teacher helps." : "The interval lies below zero: the teacher harms.";
    this.#out("strip", `Student − baseline with seeds 0 to ${SEEDS - 1}: ${signed(lead)} ± ${half.toFixed(1)} points `
      + `(mean, 95 % interval; ${found.map((d) => signed(d)).join(", ")}). ${verdict} `
      + `Mean accuracy: ${NETWORKS.map((who) => `${who} ${percent(mean[who])}`).join(", ")}.`);
  }

  #strip(found) {
    const most = Math.max(10, ...found.map((d) => 5 * Math.ceil(Math.abs(d) / 5)));
    const x = (d) => 200 + (185 * d) / most;
    const ticks = [-most, 0, most].map((d) => `<path class="kd-tick" d="M${x(d)} 8V46"/><text x="${x(d)}" y="60" text-anchor="middle">${d ? signed(d, 0) : 0}</text>`);
    const dots = found.map((d) => `<circle cx="${x(d)}" cy="20" r="4"/>`);
    const { mean, half } = found.length > 1 ? summary(found) : {};
    const bar = found.length > 1 ? `<path class="kd-interval" d="M${x(clamped(mean - half, [-most, most]))} 38H${x(clamped(mean + half, [-most, most]))}M${x(mean)} 32V44"/>` : "";
    this.#find(".kd-seeds svg").innerHTML = ticks.join("") + dots.join("") + bar;
  }
}

const INKS = COLORS.map(rgb);
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
