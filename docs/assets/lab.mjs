// The temperature lab: one voxel with dials, and a slice. The arithmetic is exported, so that a
// test can hold it against kdcore's.
import { COLORS, bytes, digits, draw, frame, onEach, radios, rgb, whenSeen } from "./compare.mjs";

const CLASSES = ["background", "anterior", "posterior"];
const MOST = Math.log(CLASSES.length); // nats, of a distribution over them
const EXAMPLE = { v: [6, 2, -4], z: [6, 2, -8] };
const HIGHEST = 15; // logit of a dial
// As many stops to each doubling, and round numbers.
export const TEMPERATURES = [[0.5, 0.05, 10], [1, 0.1, 10], [2, 0.2, 15], [5, 0.5, 10], [10, 1, 11]]
  .flatMap(([from, step, count]) => Array.from({ length: count }, (_, i) => +(from + i * step).toFixed(2)));

const sum = (x) => x.reduce((a, b) => a + b, 0);
const centred = (x) => x.map((value) => value - sum(x) / x.length);
export const norm = (x) => Math.hypot(...x);

export function logSoftmax(logits, T = 1) {
  const scaled = logits.map((value) => value / T);
  const highest = Math.max(...scaled);
  const total = highest + Math.log(sum(scaled.map((value) => Math.exp(value - highest))));
  return scaled.map((value) => value - total);
}
export const softmax = (logits, T = 1) => logSoftmax(logits, T).map((value) => Math.exp(value));
export const entropy = (logits, T = 1) => -sum(logSoftmax(logits, T).map((log) => Math.exp(log) * log));

export function kl(v, z, T = 1) {
  const [p, q] = [logSoftmax(v, T), logSoftmax(z, T)];
  return sum(p.map((log, c) => Math.exp(log) * (log - q[c])));
}
/** kdcore.kd_loss of one voxel. */
export const kdLoss = (v, z, T) => T ** 2 * kl(v, z, T);
export const hardLoss = (z, y) => -logSoftmax(z)[y];

export const hardGradient = (z, y) => softmax(z).map((q, c) => q - (c === y));
export function softGradient(v, z, T) {
  const p = softmax(v, T);
  return softmax(z, T).map((q, c) => T * (q - p[c]));
}
export function mixedGradient(v, z, T, y, alpha) {
  const soft = softGradient(v, z, T);
  return hardGradient(z, y).map((hard, c) => (1 - alpha) * hard + alpha * soft[c]);
}
/** What the soft gradient tends to as T grows. */
export function hotLimit(v, z) {
  const teacher = centred(v);
  return centred(z).map((value, c) => (value - teacher[c]) / v.length);
}

const shown = (x, places = 3) => x.toFixed(places).replace(/^-(0\.0+)$/, "$1").replace("-", "−");
const cells = (html) => CLASSES.map((_, c) => html(c)).join("");
const heads = cells((c) => `<th scope="col"><i class="kd-swatch kd-class-${c}"></i>${CLASSES[c]}</th>`);
const setOut = (root, name, text) => { root.querySelector(`[data-out="${name}"]`).textContent = text; };

function temperatureDial(id, T) {
  return `<div class="kd-dial"><label for="${id}">Temperature <i>T</i></label><input type="range"
    id="${id}" data-in="T" min="0" max="${TEMPERATURES.length - 1}" value="${TEMPERATURES.indexOf(T)}">
    <output for="${id}" data-out="T"></output></div>`;
}
function readTemperature(root) {
  const dial = root.querySelector('[data-in="T"]');
  const T = TEMPERATURES[dial.value];
  dial.setAttribute("aria-valuetext", T);
  setOut(root, "T", T);
  return T;
}

// One voxel
function logitRow(who, c) {
  const id = `kd-${who}${c}`;
  const name = who === "v" ? "Teacher" : "Student";
  return `<div class="kd-row"><label for="${id}"><i class="kd-swatch kd-class-${c}"></i>${CLASSES[c]}</label>
    <input type="range" id="${id}" data-in="${who}${c}" aria-label="${name}'s logit, ${CLASSES[c]}"
      min="${-HIGHEST}" max="${HIGHEST}" step="0.1" value="${EXAMPLE[who][c]}">
    <output for="${id}" data-out="${who}${c}"></output>
    <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
      <rect class="kd-class-${c}" data-bar="${who}${c}" height="10"/>
      <path data-mark="${who}${c}" class="kd-mark"/></svg>
    <span data-out="p${who}${c}"></span></div>`;
}

const panel = (who, title, symbol) => `<fieldset class="kd-panel"><legend>${title}</legend>
  <div class="kd-row kd-heads" aria-hidden="true"><span></span><span>logit <i>${who}</i></span><span></span>
    <span><i>${symbol}</i> at <i>T</i></span><span></span></div>
  ${cells((c) => logitRow(who, c))}
  <p>Entropy <b data-out="h${who}"></b> of at most ${shown(MOST)} nats</p></fieldset>`;

const gradientRow = (name, title) => `<tr><th scope="row">${title}</th>${cells((c) => `<td>
  <span data-out="${name}${c}"></span><svg viewBox="-1 0 2 1" preserveAspectRatio="none" aria-hidden="true">
  <rect data-bar="${name}${c}" class="kd-class-${c}" height="1"/><path class="kd-zero" d="M0 0V1"/></svg></td>`)}</tr>`;

const voxelForm = () => `
  <div class="kd-dials">${temperatureDial("kd-T", 4)}
    <div class="kd-dial"><label for="kd-alpha">Alpha, the teacher's weight</label><input type="range"
      id="kd-alpha" data-in="alpha" min="0" max="1" step="0.05" value="0.9">
      <output for="kd-alpha" data-out="alpha"></output></div></div>
  ${panel("v", "Teacher", "p")}${panel("z", "Student", "q")}
  ${radios("kd-y", "Label <i>y</i>", CLASSES.map((name, c) => [String(c), name]), "0")}
  <output class="kd-sentence" data-out="losses"></output>
  <div class="kd-wide"><table class="kd-table kd-gradients"><caption>Gradient with respect to <i>z</i></caption>
    <thead><tr><td></td>${heads}</tr></thead><tbody>
    ${gradientRow("hard", `hard, ${link("soft-labels", "2.4")}`)}
    ${gradientRow("soft", `soft, ${link("temperature", "3.4")}`)}
    ${gradientRow("mixed", `mixed, ${link("why", "1.1")}`)}
    ${gradientRow("limit", `soft, <i>T</i> → ∞, ${link("temperature", "3.5")}`)}</tbody></table></div>
  <figure class="kd-plot">${plotFrame()}<figcaption>Length of the soft gradient over <i>T</i>:
    <span class="kd-key kd-squared">with <i>T</i>²</span> <b data-out="squared"></b>,
    <span class="kd-key kd-plain">without</span> <b data-out="plain"></b>,
    <span class="kd-key kd-limit">limit</span> <b data-out="limit"></b>.</figcaption></figure>`;

function readVoxel(root) {
  const number = (name) => Number(root.querySelector(`[data-in="${name}"]`).value);
  const [v, z] = ["v", "z"].map((who) => CLASSES.map((_, c) => number(who + c)));
  const y = Number(root.querySelector('[name="kd-y"]:checked').value);
  return { v, z, y, T: readTemperature(root), alpha: number("alpha") };
}

function showVoxel(root) {
  const { v, z, y, T, alpha } = readVoxel(root);
  setOut(root, "alpha", shown(alpha, 2));
  showNetwork(root, "v", v, T);
  showNetwork(root, "z", z, T);
  const [hard, soft] = [hardLoss(z, y), kdLoss(v, z, T)];
  setOut(root, "losses", `KL ${shown(kl(v, z, T), 4)} nats. Soft loss T² KL ${shown(soft, 4)}, `
    + `hard loss ${shown(hard, 4)}, mixed ${shown((1 - alpha) * hard + alpha * soft, 4)}.`);
  const mixed = mixedGradient(v, z, T, y, alpha);
  showGradients(root, { hard: hardGradient(z, y), soft: softGradient(v, z, T), mixed, limit: hotLimit(v, z) });
  plot(root, v, z, T);
}

function showNetwork(root, who, logits, T) {
  const [soft, plain] = [softmax(logits, T), softmax(logits)];
  logits.forEach((logit, c) => {
    setOut(root, who + c, shown(logit, 1));
    setOut(root, `p${who}${c}`, shown(soft[c]));
    root.querySelector(`[data-bar="${who}${c}"]`).setAttribute("width", 100 * soft[c]);
    root.querySelector(`[data-mark="${who}${c}"]`).setAttribute("d", `M${100 * plain[c]} 0V10`);
  });
  setOut(root, `h${who}`, shown(entropy(logits, T)));
}

function showGradients(root, gradients) {
  const largest = Math.max(1, ...Object.values(gradients).flat().map(Math.abs));
  for (const [name, values] of Object.entries(gradients)) {
    values.forEach((value, c) => {
      setOut(root, name + c, shown(value));
      const bar = root.querySelector(`[data-bar="${name}${c}"]`);
      bar.setAttribute("x", Math.min(0, value / largest));
      bar.setAttribute("width", Math.abs(value / largest));
    });
  }
}

const X = (T) => 44 + 150 * Math.log10(T / 0.5); // 0.5 … 100
const Y = (length) => 12 + 40 * (1 - Math.log10(Math.max(length, 1e-9))); // 10 … 0.0001, below it is cut off

function plotFrame() {
  const across = [0.5, 1, 2, 5, 10, 20, 50, 100].map((T) => `<path class="kd-grid" d="M${X(T)} 12V212"/>
    <text x="${X(T)}" y="228" text-anchor="middle">${T}</text>`);
  const up = [10, 1, 0.1, 0.01, 0.001].map((size) => `<path class="kd-grid" d="M44 ${Y(size)}H${X(100)}"/>
    <text x="38" y="${Y(size) + 4}" text-anchor="end">${size}</text>`);
  const curves = ["limit", "plain", "squared", "now"].map((name) => `<path class="kd-${name}" data-curve="${name}"/>`);
  return `<svg viewBox="0 0 400 246" role="img" aria-label="Length of the soft gradient over T, on
    logarithmic axes: with T squared it levels off, without it falls like one over T squared.">
    <clipPath id="kd-clip"><path d="M44 4H400V212H44z"/></clipPath>${[...across, ...up].join("")}
    <g clip-path="url(#kd-clip)">${curves.join("")}</g><text x="${X(7)}" y="243" text-anchor="middle">T</text></svg>`;
}

function plot(root, v, z, T) {
  const length = (t) => norm(softGradient(v, z, t));
  const curve = (f) => "M" + Array.from({ length: 93 }, (_, i) => 0.5 * 10 ** (i / 40))
    .map((t) => `${X(t).toFixed(1)} ${Y(f(t)).toFixed(1)}`).join("L");
  const limit = norm(hotLimit(v, z));
  const paths = {
    squared: curve(length), plain: curve((t) => length(t) / t ** 2), limit: curve(() => limit), now: `M${X(T)} 12V212`,
  };
  for (const [name, d] of Object.entries(paths)) root.querySelector(`[data-curve="${name}"]`).setAttribute("d", d);
  setOut(root, "squared", length(T).toPrecision(3));
  setOut(root, "plain", (length(T) / T ** 2).toPrecision(3));
  setOut(root, "limit", limit.toPrecision(3));
}

function link(page, number) {
  const to = new URL(`../learn/${page}/#eq-${number.replace(".", "-")}`, import.meta.url);
  return `<a href="${to}">(${number})</a>`;
}

function voxel(root) {
  root.innerHTML = voxelForm();
  root.addEventListener("input", () => showVoxel(root));
  root.addEventListener("kd-take", ({ detail }) => take(root, detail));
  showVoxel(root);
}

/** Turns the dials to the logits of a voxel of the slice. */
function take(root, { v, z, y, T }) {
  for (const [who, logits] of [["v", v], ["z", z]]) {
    centred(logits).forEach((logit, c) => { root.querySelector(`[data-in="${who}${c}"]`).value = logit; });
  }
  root.querySelector('[data-in="T"]').value = TEMPERATURES.indexOf(T);
  root.querySelector(`[name="kd-y"][value="${y}"]`).checked = true;
  showVoxel(root);
  root.querySelector('[data-in="T"]').focus();
}

// A slice
const DOUBT = "#D55E00";
const OPAQUE = 0.85; // the image stays visible below a probability of 1
const LOOKS = [["1", CLASSES[1]], ["2", CLASSES[2]], ["0", CLASSES[0]], ["doubt", "doubt (entropy)"]];
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

const probabilityCell = (who, c) => `<td><span data-out="${who}${c}"></span>
  <svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
  <rect data-bar="${who}${c}" class="kd-class-${c}" height="1"/></svg></td>`;

const sliceForm = () => `<div class="kd-dials">${temperatureDial("kd-slice-T", 1)}</div>
  ${radios("kd-look", "Shown", LOOKS, "1")}
  <div class="kd-stage" tabindex="0" role="application" aria-label="The slice; arrow keys move the voxel">
    ${["teacher", "student"].map((who) => `<div><canvas data-map="${who}"></canvas><span>${who}</span></div>`).join("")}
  </div>
  <div class="kd-ramp"><span>0</span><svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
    <defs><linearGradient id="kd-ramp"><stop stop-color="currentColor" stop-opacity="0"/>
    <stop offset="1" stop-color="currentColor" stop-opacity="${OPAQUE}"/></linearGradient></defs>
    <rect class="kd-dark" width="100" height="6"/><rect fill="url(#kd-ramp)" width="100" height="6"/></svg>
    <span data-out="highest"></span></div>
  <output class="kd-sentence" data-out="place"></output>
  <div class="kd-wide"><table class="kd-table"><thead><tr><td></td>${heads}<th scope="col">entropy</th></tr></thead><tbody>
    ${["teacher", "student"].map((who) => `<tr><th scope="row">${who}</th>
      ${cells((c) => probabilityCell(who, c))}<td data-out="h${who}"></td></tr>`).join("")}</tbody></table></div>
  <button type="button" class="kd-button">Turn the dials above to this voxel</button>`;

/** The background's logit is 0 and not in the file. */
function reader(text, scale) {
  const values = new Int16Array(bytes(text).buffer);
  return (voxel) => [0, scale * values[2 * voxel], scale * values[2 * voxel + 1]];
}

function slice(root, data) {
  const model = {
    shape: data.shape, grey: bytes(data.image), labels: digits(data.labels), place: data.start, held: false,
    teacher: reader(data.teacher, data.scale), student: reader(data.student, data.scale),
  };
  const view = document.createElement("div");
  view.innerHTML = sliceForm();
  root.prepend(view);
  const update = () => showSlice(view, model);
  const move = (place) => {
    model.place = place.map((at, axis) => Math.max(0, Math.min(model.shape[axis] - 1, Math.floor(at))));
    update();
  };
  view.addEventListener("input", update);
  listen(view, model, move);
  const dials = document.querySelector("[data-kd-voxel]"); // on the lab's own page
  view.querySelector("button").hidden = !dials;
  view.querySelector("button").addEventListener("click", () => {
    const at = voxelOf(model);
    const detail = { v: model.teacher(at), z: model.student(at), y: model.labels[at], T: readTemperature(view) };
    dials.dispatchEvent(new CustomEvent("kd-take", { detail }));
  });
  update();
}

/** A pointer shows the voxel below it; once pressed, it must be pressed to move on. */
function listen(view, model, move) {
  const follow = (event) => {
    model.held ||= event.type === "pointerdown";
    if (model.held && !event.buttons) return;
    const box = event.target.getBoundingClientRect();
    const [height, width] = model.shape;
    move([(height * (event.clientY - box.top)) / box.height, (width * (event.clientX - box.left)) / box.width]);
  };
  for (const canvas of view.querySelectorAll("canvas")) {
    for (const type of ["pointerdown", "pointermove"]) canvas.addEventListener(type, follow);
  }
  view.querySelector(".kd-stage").addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    move(ARROWS[event.key].map((step, axis) => model.place[axis] + step));
  });
}

const voxelOf = ({ place, shape }) => place[0] * shape[1] + place[1];

function showSlice(view, model) {
  const T = readTemperature(view);
  const look = view.querySelector('[name="kd-look"]:checked').value;
  const [color, value, highest] = look === "doubt"
    ? [DOUBT, (logits) => entropy(logits, T) / MOST, `${shown(MOST, 2)} nats`]
    : [COLORS[look], (logits) => softmax(logits, T)[look], "1"];
  view.querySelector(".kd-ramp svg").setAttribute("color", color);
  setOut(view, "highest", highest);
  const at = voxelOf(model);
  for (const who of ["teacher", "student"]) {
    const canvas = view.querySelector(`[data-map="${who}"]`);
    draw(canvas, model.shape, model.grey, (voxel) => [rgb(color), OPAQUE * value(model[who](voxel))], model.labels);
    frame(canvas, ...model.place);
    softmax(model[who](at), T).forEach((p, c) => {
      setOut(view, who + c, shown(p));
      view.querySelector(`[data-bar="${who}${c}"]`).setAttribute("width", p);
    });
    setOut(view, `h${who}`, shown(entropy(model[who](at), T)));
  }
  const loss = shown(kdLoss(model.teacher(at), model.student(at), T), 4);
  setOut(view, "place", `Row ${model.place[0] + 1}, column ${model.place[1] + 1}: `
    + `the label is ${CLASSES[model.labels[at]]}, the soft loss T² KL ${loss}.`);
}

onEach("[data-kd-voxel]", voxel);
onEach("[data-kd-slice]", (root) => whenSeen(root, "lab.json", slice));
