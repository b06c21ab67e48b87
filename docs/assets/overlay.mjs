// Pictures of slices with their labels over them, and how well two label maps agree.

const COLORS = { 1: [230, 159, 0], 2: [86, 180, 233] }; // kdcore.figures.COLORS
const DOUBT = [204, 121, 167];
const PICTURE_SIDE = 480;

/** The most likely label of every pixel. */
export function mostLikely(logits, pixels) {
  const classes = logits.length / pixels;
  return Uint8Array.from({ length: pixels }, (_, i) => {
    const scores = logits.subarray(i * classes, (i + 1) * classes);
    return scores.indexOf(Math.max(...scores));
  });
}

/** 2 |A ∩ B| / (|A| + |B|); NaN if the label is in neither. */
export function dice(reference, prediction, label) {
  let both = 0;
  let total = 0;
  for (let i = 0; i < reference.length; i++) {
    const [a, b] = [reference[i] === label, prediction[i] === label];
    both += a && b;
    total += a + b;
  }
  return (2 * both) / total;
}

/** Softmax of one pixel's logits, `(C,)`. */
function softmax(logits, pixel, classes) {
  const own = logits.subarray(pixel * classes, (pixel + 1) * classes);
  const highest = Math.max(...own);
  const weights = Array.from(own, (value) => Math.exp(value - highest));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

/**
 * The colour of a pixel and how much of it is seen: its label's; the labels' mixed, as far as they
 * are probable; or that of doubt, as far as the entropy reaches towards that of two equal classes.
 */
const VIEWS = {
  labels: ({ labels }, at) => [COLORS[labels?.[at]], 1],
  probability(panel, at) {
    const { logits, image } = panel;
    if (!logits) return VIEWS.labels(panel, at);
    const [, ...p] = softmax(logits, at, logits.length / image.length);
    const sum = p.reduce((a, b) => a + b);
    return [[0, 1, 2].map((i) => p.reduce((all, q, k) => all + (q / sum) * COLORS[k + 1][i], 0)), sum];
  },
  doubt({ logits, image }, at) {
    if (!logits) return [undefined, 0];
    const p = softmax(logits, at, logits.length / image.length);
    const entropy = -p.reduce((sum, q) => sum + (q > 0 ? q * Math.log(q) : 0), 0);
    return [DOUBT, Math.min(1, entropy / Math.LN2)]; // full where two classes are alike
  },
};

/** A plane, turned so that superior is up (see slices.mjs), with what is asked for over it. */
export function draw(canvas, panel, view, opacity) {
  const { height, width, image, labels } = panel;
  const [rows, columns] = [width, height];
  const scale = Math.max(2, Math.round(PICTURE_SIDE / Math.max(rows, columns)));
  Object.assign(canvas, { width: columns * scale, height: rows * scale });
  const context = canvas.getContext("2d");
  const at = (r, c) => c * width + width - 1 - r;
  const labelAt = (r, c) => (r < 0 || c < 0 || r >= rows || c >= columns ? 0 : labels[at(r, c)]);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const grey = 255 * image[at(r, c)];
      const [color, share] = VIEWS[view](panel, at(r, c));
      const strength = view === "labels" ? opacity : Math.min(1, 1.8 * opacity); // they have no outline
      context.fillStyle = `rgb(${mix([grey, grey, grey], color, strength * share)})`;
      context.fillRect(c * scale, r * scale, scale, scale);
      if (view === "labels" && color && opacity > 0) outline(context, labelAt, r, c, scale);
    }
  }
}

function mix(below, above, opacity) {
  return above ? below.map((value, i) => value + (above[i] - value) * opacity) : below;
}

/** Lines inside a pixel where a neighbour has another label. */
function outline(context, labelAt, r, c, scale) {
  const own = labelAt(r, c);
  const differs = (down, right) => labelAt(r + down, c + right) !== own;
  const line = Math.max(1, Math.round(scale / 5));
  const [x, y, far] = [c * scale, r * scale, scale - line];
  context.fillStyle = `rgb(${COLORS[own]})`;
  if (differs(-1, 0)) context.fillRect(x, y, scale, line);
  if (differs(1, 0)) context.fillRect(x, y + far, scale, line);
  if (differs(0, -1)) context.fillRect(x, y, line, scale);
  if (differs(0, 1)) context.fillRect(x + far, y, line, scale);
}
