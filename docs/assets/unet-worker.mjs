// A U-Net in plain JavaScript: it reads a slice, runs it through a network, answers with logits.
//
// `docs/_tools/publish_demo.py` writes the networks: a list of steps in demo.json, and their weights
// with the batch normalization folded in. Images lie row by row, the channels of a pixel
// together, with a border of zeros one pixel wide: convolutions then need no special case
// at the edge.

import { mostLikely } from "./overlay.mjs";
import { cutOut, maskFile, readMask, readScan } from "./slices.mjs";

const FOLDER = new URL("./demo/", import.meta.url);

const index = once(async () => (await fetchFrom("demo.json")).json());
const samples = once(async () => (await fetchFrom("slices.bin")).arrayBuffer());
const networks = Object.fromEntries(["baseline", "student", "teacher"].map((name) => [name, once(() => loadNetwork(name))]));
let scan = null;

const actions = {
  async openSample({ number }) {
    scan = await openSample(number);
    return summary(scan);
  },
  async openFile({ file }) {
    scan = await readScan(file);
    return summary(scan);
  },
  async openMask({ file }) {
    const current = scan;
    current.mask = undefined;
    current.mask = await readMask(file, current);
  },
  async save({ name }) {
    const current = scan;
    const network = await networks[name]();
    return maskFile(current, (plane) => {
      const { image, logits } = segment(network, current, plane);
      return mostLikely(logits, image.length);
    });
  },
  async segment({ name, plane }) {
    const current = scan;
    const network = await networks[name]();
    return segment(network, current, plane);
  },
};

self.onmessage = async ({ data: { id, action, ...request } }) => {
  try {
    const answer = await actions[action](request);
    self.postMessage({ id, answer });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};

/** The function's result, computed when first asked for; asked again after a failure. */
function once(compute) {
  let result = null;
  return () => {
    result ??= compute().catch((error) => {
      result = null;
      throw error;
    });
    return result;
  };
}

async function fetchFrom(name) {
  const response = await fetch(new URL(name, FOLDER)).catch(() => null);
  if (!response?.ok) {
    throw new Error(`${name} could not be fetched. Check the connection and choose again.`);
  }
  return response;
}

async function openSample(number) {
  const [{ slices }, buffer] = [await index(), await samples()];
  const { name, shape, image, mask } = slices[number];
  const size = shape[0] * shape[1];
  const layout = { shape: [1, ...shape], strides: [0, shape[1], 1] };
  return {
    name,
    ...layout,
    voxels: new Float32Array(buffer, image, size),
    mask: { ...layout, voxels: new Uint8Array(buffer, mask, size) },
    scale: { low: 0, factor: 1 }, // normalized with its volume when it was written
    notes: [],
  };
}

function summary({ name, shape, header, notes }) {
  return { name, shape, notes, isVolume: Boolean(header) };
}

/** Logits of one plane of the scan, cut to the size of the plane again. */
function segment(network, current, plane) {
  const slice = cutOut(current, plane);
  const padded = padToFit(slice, network.window, 2 ** network.depth);
  const start = performance.now();
  const output = network.run(padded);
  const milliseconds = performance.now() - start;
  const logits = crop(output, padded, slice);
  return { ...slice, logits, milliseconds, parameters: network.parameters, testDice: network.test_dice };
}

// Padding as `kdcore.predict_mask` does it: around the middle, by repeating the border.

function padToFit({ height, width, image }, [leastHeight, leastWidth], multiple) {
  const upTo = (have, least) => Math.max(least, Math.ceil(have / multiple) * multiple);
  const padded = { height: upTo(height, leastHeight), width: upTo(width, leastWidth) };
  padded.top = (padded.height - height) >> 1;
  padded.left = (padded.width - width) >> 1;
  padded.image = new Float32Array(padded.height * padded.width);
  const clip = (position, size) => Math.min(Math.max(position, 0), size - 1);
  for (let y = 0, at = 0; y < padded.height; y++) {
    const row = clip(y - padded.top, height) * width;
    for (let x = 0; x < padded.width; x++) {
      padded.image[at++] = image[row + clip(x - padded.left, width)];
    }
  }
  return padded;
}

function crop(tensor, { top, left }, { height, width }) {
  const classes = tensor.channels - 1; // the last channel is filler, see publish_demo.py
  const logits = new Float32Array(height * width * classes);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += classes) {
      const from = place(tensor, top + y, left + x);
      logits.set(tensor.data.subarray(from, from + classes), at);
    }
  }
  return logits;
}

// The network.

async function loadNetwork(name) {
  const description = (await index()).networks[name];
  const buffer = await (await fetchFrom(`${name}.bin`)).arrayBuffer();
  const steps = description.steps.map((step) => withWeights(step, buffer));
  const network = { ...description, run: runner(steps) };
  warmUp(network);
  return network;
}

function withWeights(step, buffer) {
  if (!step.weights) return step;
  const numbers = ([offset, count]) => new Float32Array(buffer, offset, count);
  return { ...step, weights: numbers(step.weights), bias: numbers(step.bias) };
}

/** Let the browser compile the loops before the first slice is timed. */
function warmUp({ run, window: [height, width] }) {
  const image = new Float32Array(height * width);
  const end = performance.now() + 50;
  do run({ height, width, image });
  while (performance.now() < end);
}

/** A function that runs an image through the steps; its buffers are made once a size. */
function runner(steps) {
  let plan = null;
  return ({ height, width, image }) => {
    if (plan?.input.height !== height || plan?.input.width !== width) {
      plan = makePlan(steps, newTensor(height, width, 1));
    }
    fill(plan.input, image);
    for (const execute of plan.calls) execute();
    return plan.output;
  };
}

function makePlan(steps, input) {
  const calls = [];
  const skips = [];
  let now = input;
  for (const step of steps) {
    const before = now;
    if (step.op === "conv") {
      const after = newTensor(now.height, now.width, step.filters);
      calls.push(() => convolve(before, after, step));
      now = after;
    } else if (step.op === "pool") {
      const after = newTensor(now.height / 2, now.width / 2, now.channels);
      calls.push(() => maxPool(before, after));
      skips.push(now);
      now = after;
    } else if (step.op === "upsample") {
      const after = newTensor(now.height * 2, now.width * 2, step.filters);
      calls.push(() => upsample(before, after, step));
      now = after;
    } else {
      const skip = skips.pop();
      const after = newTensor(now.height, now.width, now.channels + skip.channels);
      calls.push(() => concatenate(before, skip, after));
      now = after;
    }
  }
  return { input, calls, output: now };
}

function newTensor(height, width, channels) {
  const data = new Float32Array((height + 2) * (width + 2) * channels);
  return { height, width, channels, data };
}

/** Where the channels of pixel (y, x) begin; −1 and `width` are in the border. */
function place({ width, channels }, y, x) {
  return ((y + 1) * (width + 2) + x + 1) * channels;
}

function fill(tensor, image) {
  const { height, width, data } = tensor;
  for (let y = 0; y < height; y++) {
    data.set(image.subarray(y * width, (y + 1) * width), place(tensor, y, 0));
  }
}

/** A 3 × 3 or 1 × 1 convolution with bias and, perhaps, ReLU. */
function convolve(input, output, { kernel, weights, bias, relu }) {
  const floor = relu ? 0 : -Infinity;
  for (let y = 0; y < output.height; y++) {
    for (let x = 0; x < output.width; x += 2) {
      const left = Math.min(x, output.width - 2); // an odd width ends with one pixel twice
      const from = place(input, y, left);
      const to = place(output, y, left);
      multiply(input, from, kernel, weights, 0, bias, output, to, output.channels, floor);
    }
  }
}

/** A 2 × 2 transposed convolution with stride 2: a 1 × 1 one for each place in the square. */
function upsample(input, output, { weights, bias }) {
  const size = weights.length / 4;
  const pair = 2 * output.channels;
  for (let y = 0; y < input.height; y++) {
    for (let x = 0; x < input.width; x += 2) {
      const left = Math.min(x, input.width - 2);
      const from = place(input, y, left);
      for (let corner = 0; corner < 4; corner++) {
        const to = place(output, 2 * y + (corner >> 1), 2 * left + (corner & 1));
        multiply(input, from, 1, weights, corner * size, bias, output, to, pair, -Infinity);
      }
    }
  }
}

/**
 * The inner loop: all outputs of two neighbouring pixels, four output channels at a time.
 *
 * In each row of the kernel the inputs of a pixel lie one after the other in memory, and the
 * weights are stored in the order in which they are used here. Eight sums at a time are what
 * a processor's registers hold.
 */
function multiply(input, from, kernel, weights, w, bias, output, to, step, floor) {
  const channels = input.channels;
  const row = (input.width + 2) * channels;
  const run = kernel * channels;
  const start = from - (kernel >> 1) * (row + channels);
  const x = input.data;
  const y = output.data;
  for (let c = 0; c < bias.length; c += 4) {
    let a0 = bias[c], a1 = bias[c + 1], a2 = bias[c + 2], a3 = bias[c + 3];
    let b0 = a0, b1 = a1, b2 = a2, b3 = a3;
    for (let k = 0; k < kernel; k++) {
      const first = start + k * row;
      for (let i = first; i < first + run; i++, w += 4) {
        const a = x[i], b = x[i + channels];
        const w0 = weights[w], w1 = weights[w + 1], w2 = weights[w + 2], w3 = weights[w + 3];
        a0 += a * w0; a1 += a * w1; a2 += a * w2; a3 += a * w3;
        b0 += b * w0; b1 += b * w1; b2 += b * w2; b3 += b * w3;
      }
    }
    const p = to + c, q = p + step;
    y[p] = a0 > floor ? a0 : floor; y[p + 1] = a1 > floor ? a1 : floor;
    y[p + 2] = a2 > floor ? a2 : floor; y[p + 3] = a3 > floor ? a3 : floor;
    y[q] = b0 > floor ? b0 : floor; y[q + 1] = b1 > floor ? b1 : floor;
    y[q + 2] = b2 > floor ? b2 : floor; y[q + 3] = b3 > floor ? b3 : floor;
  }
}

function maxPool(input, output) {
  const { channels } = input;
  const row = (input.width + 2) * channels;
  const x = input.data;
  for (let h = 0; h < output.height; h++) {
    for (let w = 0; w < output.width; w++) {
      let from = place(input, 2 * h, 2 * w);
      let to = place(output, h, w);
      for (let c = 0; c < channels; c++, from++, to++) {
        output.data[to] = Math.max(
          x[from], x[from + channels], x[from + row], x[from + row + channels],
        );
      }
    }
  }
}

function concatenate(first, second, output) {
  const pixels = (output.height + 2) * (output.width + 2);
  for (let i = 0, to = 0; i < pixels; i++) {
    for (const { channels, data } of [first, second]) {
      for (let c = 0; c < channels; c++) output.data[to++] = data[i * channels + c];
    }
  }
}
