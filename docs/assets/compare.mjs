// Overlays on one slice: the reference, and what each network made of it.

// Background, anterior, posterior: Okabe and Ito's colours, as in kdcore/figures.py.
export const COLORS = ["#CC79A7", "#E69F00", "#56B4E9"];
const CELL = 14; // pixels of the canvas for a voxel
const NETWORKS = ["teacher", "student", "baseline"];
const OVERLAYS = ["image", "reference", ...NETWORKS];

/** Starts every element that fits, on this page and on those that are opened from it. */
export function onEach(selector, start) {
  window.document$.subscribe(() => {
    for (const root of document.querySelectorAll(`${selector}:not([data-started])`)) {
      root.dataset.started = "";
      start(root);
    }
  });
}

/** Fetches a file of the folder `pictures` once the element is nearly in view, then shows it. */
export function whenSeen(root, name, show) {
  const watch = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    watch.disconnect();
    try {
      const answer = await fetch(new URL(`pictures/${name}`, import.meta.url));
      if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
      show(root, await answer.json());
    } catch (error) {
      root.classList.add("kd-static"); // the picture stays
      console.error(error);
    }
  }, { rootMargin: "300px" });
  watch.observe(root);
}

export const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
export const digits = (text) => Uint8Array.from(text, Number);
export const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** A group of radio buttons that look like one bar. `options`: [value, HTML] pairs. */
export function radios(name, legend, options, chosen) {
  const button = ([value, label]) => `<label><input type="radio" name="${name}" value="${value}"
    ${value === chosen ? "checked" : ""}><span>${label}</span></label>`;
  return `<fieldset class="kd-radios"><legend>${legend}</legend>
    <div>${options.map(button).join("")}</div></fieldset>`;
}

/** The slice in grey; `tint(voxel)` is [colour, opacity] or nothing; `edges` are labels to outline. */
export function draw(canvas, shape, grey, tint, edges) {
  canvas.height = shape[0] * CELL;
  canvas.width = shape[1] * CELL;
  const context = canvas.getContext("2d");
  paint(context, shape, true, (voxel) => [grey[voxel], grey[voxel], grey[voxel], 255]);
  paint(context, shape, false, (voxel) => {
    const [color, opacity] = tint(voxel) ?? [[0, 0, 0], 0];
    return [...color, 255 * opacity];
  });
  if (edges) stroke(context, outline(shape, edges));
}

/** A frame around one voxel. */
export function frame(canvas, row, column) {
  const path = new Path2D();
  path.rect(column * CELL - 2, row * CELL - 2, CELL + 4, CELL + 4);
  stroke(canvas.getContext("2d"), path, "#F0E442", 5);
}

function paint(context, [height, width], smooth, rgba) {
  const layer = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  for (let voxel = 0; voxel < width * height; voxel++) image.data.set(rgba(voxel), 4 * voxel);
  layer.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

function outline([height, width], labels) {
  const path = new Path2D();
  const line = (x, y, dx, dy) => {
    path.moveTo(x * CELL, y * CELL);
    path.lineTo((x + dx) * CELL, (y + dy) * CELL);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      if (x + 1 < width && labels[at] !== labels[at + 1]) line(x + 1, y, 0, 1);
      if (y + 1 < height && labels[at] !== labels[at + width]) line(x, y + 1, 1, 0);
    }
  }
  return path;
}

/** A line with a dark rim, to be seen on any grey. */
function stroke(context, path, color = "#fff", width = 2.5) {
  context.lineCap = "square";
  for (const [ink, thickness] of [["#000", width + 2.5], [color, width]]) {
    context.strokeStyle = ink;
    context.lineWidth = thickness;
    context.stroke(path);
  }
}

function compare(root, data) {
  const names = data.cases.map((one) => one.name);
  const middle = names[Math.floor(names.length / 2)];
  const view = document.createElement("div");
  view.className = "kd-compare-view";
  view.innerHTML = `<canvas role="img"></canvas><div>
    ${radios("kd-case", "Test volume", names.map((name) => [name, name]), middle)}
    ${radios("kd-overlay", "Shown", OVERLAYS.map((one) => [one, overlayLabel(one)]), "student")}
    <output></output></div>`;
  root.prepend(view);
  view.addEventListener("input", () => show(view, data));
  show(view, data);
}

const overlayLabel = (one) => (NETWORKS.includes(one) ? `${one} <small data-dice="${one}"></small>` : one);

function show(view, data) {
  const chosen = (name) => view.querySelector(`[name="${name}"]:checked`).value;
  const one = data.cases.find((candidate) => candidate.name === chosen("kd-case"));
  const overlay = chosen("kd-overlay");
  for (const label of view.querySelectorAll("[data-dice]")) {
    label.textContent = one.dice[label.dataset.dice].mean.toFixed(3);
  }
  const mask = one.masks[overlay] && digits(one.masks[overlay]);
  const tint = (voxel) => mask?.[voxel] ? [rgb(COLORS[mask[voxel]]), 0.55] : undefined;
  const canvas = view.querySelector("canvas");
  draw(canvas, one.shape, bytes(one.image), tint, mask && digits(one.masks.reference));
  canvas.setAttribute("aria-label", `Slice of ${one.id}: ${described(overlay)}`);
  view.querySelector("output").innerHTML = sentence(one, overlay, data.labels);
}

const described = (overlay) => (overlay === "image" ? "the image alone"
  : overlay === "reference" ? "the reference over the image"
    : `the ${overlay}'s mask over the image, the reference outlined`);

function sentence(one, overlay, labels) {
  const dice = one.dice[overlay];
  const legend = Object.entries(labels).map(([label, name]) => `<i class="kd-swatch kd-class-${label}"></i>${name}`
    + (dice ? ` ${dice[label].toFixed(3)}` : ""));
  return `${one.id}, slice ${one.slice}.${dice ? ` Dice of the ${overlay} in the whole volume:` : ""}
    ${legend.join(", ")}.`;
}

onEach("[data-kd-compare]", (root) => whenSeen(root, "compare.json", compare));
