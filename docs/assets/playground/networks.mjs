// The playground's arithmetic: what is drawn, three small networks, and how they learn. It is held
// against kdcore's by a test; docs/_tools/publish_playground.py draws and trains the same.

export const CLASSES = ["tissue", "oedema", "core"];
export const NUM_CLASSES = CLASSES.length;
export const OUTSIDE = 3; // the label of what is not brain
export const STEPS = 400; // of the teacher, and then of student and baseline
export const POOL = 180; // voxels the student may learn from, and as many others for the teacher
const BATCH = { labelled: 24, unlabelled: 48 };
const ADAM = { rate: 0.01, first: 0.9, second: 0.999, least: 1e-7 };
const STREAMS = { voxels: 0, noise: 1, narrow: 2, wide: 3, batches: 4, teacher: 5 };

export const LIMITS = {
  labels: [0, POOL], teacherLabels: [0, POOL], T: [0.5, 20], alpha: [0, 1],
  width: [1, 16], teacherWidth: [1, 32], noise: [0, 0.5], seed: [0, 999],
};
export const DEFAULTS = {
  labels: 3, unlabelled: true, T: 2, alpha: 0, width: 4, teacherWidth: 24, sees: "both",
  pseudo: false, noise: 0, teacherLabels: POOL, seed: 0,
};

/** A generator of numbers in [0, 1), mulberry32: few lines, and the same in Python. */
export function draws(seed, stream) {
  let state = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(stream + 1, 0x85ebca6b);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** An intensity of 0 … 255 as the networks see it: −2 … 2, exact in float32. */
export const scaled = (intensity) => (intensity - 128) / 64;

/** T1 and FLAIR of some voxels, side by side; with `sees` "T1" the FLAIR is 0. */
export function inputs(data, voxels, sees = "both") {
  const x = new Float32Array(2 * voxels.length);
  voxels.forEach((voxel, i) => {
    x[2 * i] = scaled(data.t1[voxel]);
    x[2 * i + 1] = sees === "T1" ? 0 : scaled(data.flair[voxel]);
  });
  return x;
}

/** Which voxels the student, the teacher and the test have, the classes by turns; with labels. */
export function voxels(data, { seed, noise }) {
  const [draw, chance] = [draws(seed, STREAMS.voxels), draws(seed, STREAMS.noise)];
  const ofClass = CLASSES.map((_, c) => shuffled(indicesOf(data.labels, c), draw));
  const part = (from) => Array.from({ length: POOL }, (_, i) =>
    ofClass[i % NUM_CLASSES][from + Math.floor(i / NUM_CLASSES)]);
  const each = POOL / NUM_CLASSES;
  const labelled = (chosen) => ({ voxels: chosen, labels: chosen.map((voxel) => {
    const [wrong, other] = [chance() < noise, 1 + Math.floor(2 * chance())];
    return wrong ? (data.labels[voxel] + other) % NUM_CLASSES : data.labels[voxel];
  }) });
  return { student: labelled(part(0)), teacher: labelled(part(each)),
    test: ofClass.map((all) => all.slice(2 * each)).flat() };
}

function indicesOf(labels, label) {
  const found = [];
  labels.forEach((value, i) => { if (value === label) found.push(i); });
  return found;
}

function shuffled(list, draw) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

/** Two hidden layers of tanh; Glorot's uniform start. Kernels lie inputs × outputs, as in Keras. */
export function network(width, draw) {
  const sizes = [2, width, width, NUM_CLASSES];
  return sizes.slice(1).map((outputs, i) => {
    const limit = Math.sqrt(6 / (sizes[i] + outputs));
    const kernel = Float32Array.from({ length: sizes[i] * outputs }, () => limit * (2 * draw() - 1));
    return { inputs: sizes[i], outputs, kernel, bias: new Float32Array(outputs) };
  });
}

/** What each layer puts out; the last are logits. */
export function forward(layers, x, count) {
  const outputs = [x];
  layers.forEach((layer, depth) => {
    const y = new Float32Array(count * layer.outputs);
    const before = outputs[depth];
    const last = depth === layers.length - 1;
    for (let n = 0; n < count; n++) {
      for (let j = 0; j < layer.outputs; j++) {
        let sum = layer.bias[j];
        for (let i = 0; i < layer.inputs; i++) {
          sum += before[n * layer.inputs + i] * layer.kernel[i * layer.outputs + j];
        }
        y[n * layer.outputs + j] = last ? sum : Math.tanh(sum);
      }
    }
    outputs.push(y);
  });
  return outputs;
}
export const logitsOf = (layers, x) => forward(layers, x, x.length / 2).at(-1);

/** Gradients of all kernels and biases, from that of the logits. */
function backward(layers, outputs, gradient, count) {
  const found = [];
  for (let depth = layers.length - 1; depth >= 0; depth--) {
    const { inputs: I, outputs: J, kernel } = layers[depth];
    const x = outputs[depth];
    const [ofKernel, ofBias] = [new Float64Array(I * J), new Float64Array(J)];
    const below = new Float32Array(count * I);
    for (let n = 0; n < count; n++) {
      for (let j = 0; j < J; j++) ofBias[j] += gradient[n * J + j];
      for (let i = 0; i < I; i++) {
        const value = x[n * I + i];
        let sum = 0;
        for (let j = 0; j < J; j++) {
          ofKernel[i * J + j] += value * gradient[n * J + j];
          sum += kernel[i * J + j] * gradient[n * J + j];
        }
        below[n * I + i] = sum * (1 - value * value); // the slope of tanh
      }
    }
    found.unshift(ofKernel, ofBias);
    gradient = below;
  }
  return found;
}

/** Adam as Keras has it; returned is what makes a step with gradients. */
export function adam(layers) {
  const weights = layers.flatMap(({ kernel, bias }) => [kernel, bias]);
  const moments = weights.map((w) => [new Float32Array(w.length), new Float32Array(w.length)]);
  let time = 0;
  return (gradients) => {
    time += 1;
    const rate = (ADAM.rate * Math.sqrt(1 - ADAM.second ** time)) / (1 - ADAM.first ** time);
    weights.forEach((w, k) => {
      const [m, v] = moments[k];
      const gradient = gradients[k];
      for (let i = 0; i < w.length; i++) {
        const g = gradient[i];
        m[i] += (g - m[i]) * (1 - ADAM.first);
        v[i] += (g * g - v[i]) * (1 - ADAM.second);
        w[i] -= (rate * m[i]) / (Math.sqrt(v[i]) + ADAM.least);
      }
    });
  };
}

/** Softmax at temperature T of the classes that begin at `at`, into `p`. */
function soften(all, at, T, p) {
  let [highest, total] = [-Infinity, 0];
  for (let c = 0; c < NUM_CLASSES; c++) if (all[at + c] > highest) highest = all[at + c];
  for (let c = 0; c < NUM_CLASSES; c++) {
    p[c] = Math.exp((all[at + c] - highest) / T);
    total += p[c];
  }
  for (let c = 0; c < NUM_CLASSES; c++) p[c] /= total;
}

export function mostLikely(logits, at = 0) {
  let best = 0;
  for (let c = 1; c < NUM_CLASSES; c++) if (logits[at + c] > logits[at + best]) best = c;
  return best;
}

/** One-hot, as logits: what a hard pseudo-label leaves of a teacher. */
export const hardened = (logits) => Float32Array.from(logits, (_, i) =>
  mostLikely(logits, i - (i % NUM_CLASSES)) === i % NUM_CLASSES ? 0 : -1000);

/**
 * (1 − alpha) · cross-entropy, a mean over labelled voxels, + alpha · T² · KL, one over all; the
 * first of `z` are the labelled. Returned are the losses, and the gradient of their sum by z.
 */
export function losses(z, labels, teacher, { T, alpha }) {
  const count = z.length / NUM_CLASSES;
  const gradient = new Float32Array(z.length);
  const [p, q] = [new Float64Array(NUM_CLASSES), new Float64Array(NUM_CLASSES)];
  let [hard, soft] = [0, 0];
  for (let n = 0, at = 0; n < count; n++, at += NUM_CLASSES) {
    if (n < labels.length) {
      soften(z, at, 1, q);
      hard -= Math.log(Math.max(q[labels[n]], 1e-30)) / labels.length;
      for (let c = 0; c < NUM_CLASSES; c++) {
        gradient[at + c] += ((1 - alpha) * (q[c] - (c === labels[n]))) / labels.length;
      }
    }
    if (!alpha) continue;
    soften(teacher, at, T, p);
    soften(z, at, T, q);
    for (let c = 0; c < NUM_CLASSES; c++) {
      if (p[c] > 0) soft += (T * T * p[c] * Math.log(p[c] / Math.max(q[c], 1e-30))) / count;
      gradient[at + c] += (alpha * T * (q[c] - p[c])) / count;
    }
  }
  return { hard, soft, loss: (1 - alpha) * hard + alpha * soft, gradient };
}

/** How sure a network is of each voxel: 1 less its entropy, as a share of the highest. */
export function certainty(logits) {
  const p = new Float64Array(NUM_CLASSES);
  const sure = new Float32Array(logits.length / NUM_CLASSES).fill(1);
  for (let n = 0; n < sure.length; n++) {
    soften(logits, NUM_CLASSES * n, 1, p);
    for (const value of p) if (value > 0) sure[n] += (value * Math.log(value)) / Math.log(NUM_CLASSES);
  }
  return sure;
}

/** A step of a network; `batch` has `x`, `labels` and, unless alpha is 0, the `teacher`'s logits. */
export function step(layers, advance, batch, settings) {
  const count = batch.x.length / 2;
  const outputs = forward(layers, batch.x, count);
  const { gradient, ...parts } = losses(outputs.at(-1), batch.labels, batch.teacher, settings);
  advance(backward(layers, outputs, gradient, count));
  return parts;
}

/** Places in the pool, drawn anew at every step: first of labelled voxels, then of others. */
export function batchOf(draw, { labels, unlabelled }) {
  const some = (count, from, to) => (to > from
    ? Array.from({ length: count }, () => from + Math.floor(draw() * (to - from))) : []);
  return [some(BATCH.labelled, 0, labels), some(BATCH.unlabelled, labels, unlabelled ? POOL : labels)];
}

/** A whole experiment, a step at a time. */
export class Experiment {
  constructor(data, settings) {
    const { seed, width, teacherWidth, sees, pseudo } = settings;
    this.settings = settings;
    this.voxels = voxels(data, settings);
    this.xOfTeacher = inputs(data, this.voxels.teacher.voxels);
    this.xForTeacher = inputs(data, this.voxels.student.voxels); // of the student's voxels
    this.x = inputs(data, this.voxels.student.voxels, sees);
    this.networks = { teacher: network(teacherWidth, draws(seed, STREAMS.wide)) };
    for (const who of ["student", "baseline"]) {
      this.networks[who] = network(width, draws(seed, STREAMS.narrow));
    }
    this.optimizers = Object.fromEntries(Object.entries(this.networks).map(([who, n]) => [who, adam(n)]));
    this.draw = draws(seed, STREAMS.batches);
    this.drawForTeacher = draws(seed, STREAMS.teacher);
    // A pseudo-label has no temperature.
    this.soft = pseudo ? { ...settings, T: 1 } : settings;
    this.learned = { teacher: 0, student: 0 };
    this.parts = { teacher: null, student: null, baseline: null };
  }

  get done() {
    return this.learned.student === STEPS;
  }

  step() {
    if (this.learned.teacher < STEPS) this.#stepOfTeacher();
    else if (!this.done) this.#stepOfBoth();
  }

  #stepOfTeacher() {
    const [places] = batchOf(this.drawForTeacher, { labels: this.settings.teacherLabels });
    const batch = { x: pick(this.xOfTeacher, places, 2), labels: places.map((i) => this.voxels.teacher.labels[i]) };
    this.parts.teacher = this.#learn("teacher", batch, { T: 1, alpha: 0 });
    this.learned.teacher += 1;
  }

  #stepOfBoth() {
    this.says ??= logitsOf(this.networks.teacher, this.xForTeacher); // it is frozen now
    this.target ??= this.settings.pseudo ? hardened(this.says) : this.says;
    const [labelled, others] = batchOf(this.draw, this.settings);
    const places = [...labelled, ...others];
    const batch = { x: pick(this.x, places, 2), teacher: pick(this.target, places, NUM_CLASSES),
      labels: labelled.map((i) => this.voxels.student.labels[i]) };
    this.parts.student = this.#learn("student", batch, this.soft);
    this.parts.baseline = this.#learn("baseline", batch, { T: 1, alpha: 0 });
    this.learned.student += 1;
  }

  #learn(who, batch, settings) {
    if (!batch.x.length) return null; // nothing to learn from
    return step(this.networks[who], this.optimizers[who], batch, settings);
  }
}

function pick(all, places, size) {
  const some = new Float32Array(places.length * size);
  places.forEach((place, i) => some.set(all.subarray(size * place, size * (place + 1)), size * i));
  return some;
}

/** Mean over the classes of the share of test voxels for which two lists of labels agree. */
export function agreement(truth, a, b) {
  const [right, all] = [new Float64Array(NUM_CLASSES), new Float64Array(NUM_CLASSES)];
  truth.forEach((label, i) => {
    all[label] += 1;
    right[label] += a[i] === b[i];
  });
  return right.reduce((sum, value, c) => sum + value / all[c] / NUM_CLASSES, 0);
}

export function decisions(logits) {
  const labels = new Uint8Array(logits.length / NUM_CLASSES);
  for (let n = 0; n < labels.length; n++) labels[n] = mostLikely(logits, NUM_CLASSES * n);
  return labels;
}

/** Held-out accuracy of the three and fidelity of the two, from their decisions on test voxels. */
export function scores(truth, { teacher, student, baseline }) {
  return {
    accuracy: { teacher: agreement(truth, truth, teacher), student: agreement(truth, truth, student),
      baseline: agreement(truth, truth, baseline) },
    fidelity: { student: agreement(truth, teacher, student), baseline: agreement(truth, teacher, baseline) },
  };
}

/** Held-out accuracy of the three at the end of the experiment. */
export function atTheEnd(data, settings) {
  const experiment = new Experiment(data, settings);
  while (!experiment.done) experiment.step();
  return testScores(data, experiment).accuracy;
}

export function testScores(data, { networks, settings, voxels: { test } }) {
  const truth = test.map((voxel) => data.labels[voxel]);
  const decided = Object.fromEntries(Object.entries(networks).map(([who, layers]) =>
    [who, decisions(logitsOf(layers, inputs(data, test, who === "teacher" ? "both" : settings.sees)))]));
  return scores(truth, decided);
}

/** Mean, and half the width of its 95 % t interval, of the differences of ten seeds. */
export const SEEDS = 10;
const T_OF_NINE = 2.2622; // 0.975 quantile, nine degrees of freedom
export function summary(values) {
  const mean = values.reduce((a, b) => a + b) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
  return { mean, half: T_OF_NINE * Math.sqrt(variance / values.length) };
}
