// Trains away from the page, and tells it what the networks say of the slice and of the plane.
import {
  Experiment, OUTSIDE, STEPS, atTheEnd, certainty, decisions, forward, inputs, scaled, scores,
} from "./networks.mjs";

export const GRID = 48; // points of the plane along each side
let data = null;
let experiment = null;
let seen = null; // what each network is asked about

const actions = {
  begin({ slice, settings }) {
    data = slice ?? data;
    experiment = new Experiment(data, settings);
    const brain = [];
    data.labels.forEach((label, voxel) => { if (label !== OUTSIDE) brain.push(voxel); });
    const [full, own] = ["both", settings.sees].map((sees) => points(brain, sees));
    const order = new Map(brain.map((voxel, i) => [voxel, i]));
    const { test } = experiment.voxels;
    seen = { brain: brain.length, teacher: full, student: own, baseline: own,
      test: test.map((voxel) => order.get(voxel)), truth: test.map((voxel) => data.labels[voxel]) };
    seen.decided = {};
    return { voxels: experiment.voxels, ...snapshot(["teacher", "student", "baseline"]) };
  },
  advance({ steps }) {
    const teacherDone = experiment.learned.teacher === STEPS;
    for (let i = 0; i < steps && !experiment.done; i++) experiment.step();
    const changed = teacherDone ? [] : ["teacher"];
    return snapshot(experiment.learned.student ? [...changed, "student", "baseline"] : changed);
  },
  repeat: ({ slice, settings }) => ({ accuracy: atTheEnd(slice, settings) }),
};

/** The brain's voxels, then the plane from its lower left corner, row by row. */
function points(brain, sees) {
  const x = new Float32Array(2 * (brain.length + GRID * GRID));
  x.set(inputs(data, brain, sees));
  for (let i = 0; i < GRID * GRID; i++) {
    const [row, column] = [Math.floor(i / GRID), i % GRID];
    const at = 2 * (brain.length + i);
    x[at] = scaled((255 * (column + 0.5)) / GRID);
    x[at + 1] = sees === "T1" ? 0 : scaled((255 * (row + 0.5)) / GRID);
  }
  return x;
}

function snapshot(changed) {
  const [logits, labels, sure] = [{}, {}, {}];
  for (const who of changed) {
    const x = seen[who];
    logits[who] = forward(experiment.networks[who], x, x.length / 2).at(-1);
    labels[who] = decisions(logits[who]);
    sure[who] = certainty(logits[who]);
    seen.decided[who] = seen.test.map((i) => labels[who][i]);
  }
  const { learned, parts, done } = experiment;
  return { logits, labels, sure, learned, parts, done, ...scores(seen.truth, seen.decided) };
}

self.onmessage = ({ data: { action, ...request } }) => {
  const answer = actions[action](request);
  const arrays = [answer.logits, answer.labels, answer.sure].flatMap((each) => Object.values(each ?? {}));
  self.postMessage(answer, arrays.map((array) => array.buffer));
};
