// A dropped file -> a scan: PNG, JPEG or NIfTI, none of which is trusted.
//
// A scan has `shape` [planes, height, width] in the network's orientation, the hippocampus
// volumes' own: height runs from posterior to anterior, width from inferior to superior. A
// picture shows such a plane turned, superior up and anterior to the right. `strides` says
// how far apart neighbours along the three axes lie in `voxels`.

const HEADER = 352; // bytes before the voxels
const MEGABYTE = 2 ** 20;
const MAX_FILE = 64 * MEGABYTE;
const MAX_INFLATED = 128 * MEGABYTE;
const MAX_VOXELS = 2 ** 24;
const MAX_PICTURE_SIDE = 4096;
const MAX_SIDE = 256; // of what a network is given
const LARGEST = 80; // mm; the training volumes are 31 to 43 × 40 to 59 × 24 to 47
const EXPECTED = "Expected a PNG, a JPEG or a NIfTI file (.nii, .nii.gz).";
const VOXEL_TYPES = {
  2: ["getUint8", 1],
  4: ["getInt16", 2],
  8: ["getInt32", 4],
  16: ["getFloat32", 4],
  64: ["getFloat64", 8],
  256: ["getInt8", 1],
  512: ["getUint16", 2],
  768: ["getUint32", 4],
};

/** What is made of a file of the visitor's. An error's message names the file and says what to do. */
async function named(file, make) {
  const name = shown(file.name);
  try {
    return make(name, await read(file));
  } catch (error) {
    throw new Error(`“${name}” ${error.message}`, { cause: error });
  }
}

export const readScan = (file) => named(file, (name, scan) => ({ name, ...scan, scale: fitScale(scan.voxels) }));

/** Read a mask for a scan: labels 0, 1, 2 on the same grid. */
export const readMask = (file, scan) => named(file, (_, mask) => {
  if (!mask.header) fail("is no NIfTI file. Save the mask as NIfTI.");
  if (`${mask.shape}` !== `${scan.shape}`) {
    fail(`has ${mask.shape.join(" × ")} voxels (right, front, top), the scan ${scan.shape.join(" × ")}. Choose the scan's own mask.`);
  }
  const other = mask.voxels.find((value) => ![0, 1, 2].includes(value));
  if (other !== undefined) fail(`holds ${other}. Expected 0 background, 1 anterior, 2 posterior; save it with these.`);
  return mask;
});

/** One plane as the network takes it: at most 256 × 256, normalized; with its mask, if there is one. */
export function cutOut(scan, plane) {
  const { low, factor } = scan.scale;
  const image = cut(scan, plane, Float32Array, (voxel) => Math.min(1, Math.max(0, (voxel - low) * factor)));
  const mask = scan.mask && cut(scan.mask, plane, Uint8Array, (label) => label);
  const [rows, columns] = sidesOf(scan.shape);
  return { height: rows.size, width: columns.size, image, mask };
}

const sidesOf = (shape) => [middle(shape[1]), middle(shape[2])];

/** Where each voxel of a plane lies in the file, row by row. */
function places({ shape, strides, start = 0 }, plane) {
  const [rows, columns] = sidesOf(shape);
  const found = new Uint32Array(rows.size * columns.size);
  let i = 0;
  for (let h = rows.start; h < rows.start + rows.size; h++) {
    for (let w = columns.start; w < columns.start + columns.size; w++) {
      found[i++] = start + plane * strides[0] + h * strides[1] + w * strides[2];
    }
  }
  return found;
}

const cut = (scan, plane, Kind, value) => Kind.from(places(scan, plane), (at) => value(scan.voxels[at]));

/** A NIfTI file, gzipped, with a scan's header and `labelsOf(plane)` as its voxels. */
export async function maskFile(scan, labelsOf) {
  const file = new Uint8Array(HEADER + scan.voxels.length);
  file.set(new Uint8Array(scan.header.bytes));
  const view = new DataView(file.buffer);
  const { little } = scan.header;
  const short = { 68: 1002, 70: 2, 72: 8 }; // intent: labels; uint8, 8 bits
  const float = { 108: HEADER, 112: 1, 116: 0, 124: 0, 128: 0 }; // offset, slope, intercept, display
  for (const [at, value] of Object.entries(short)) view.setInt16(Number(at), value, little);
  for (const [at, value] of Object.entries(float)) view.setFloat32(Number(at), value, little);
  view.setInt32(348, 0); // no extension follows
  for (let plane = 0; plane < scan.shape[0]; plane++) {
    const labels = labelsOf(plane);
    places(scan, plane).forEach((at, i) => { file[HEADER + at] = labels[i]; });
  }
  const packed = new Blob([file]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Response(packed).arrayBuffer();
}

async function read(file) {
  if (file.size > MAX_FILE) {
    fail(`has ${megabytes(file.size)}. At most ${megabytes(MAX_FILE)} are read; crop it first.`);
  }
  const buffer = await file.arrayBuffer().catch(() => {
    fail(`cannot be read; perhaps it is a folder. ${EXPECTED}`);
  });
  const bytes = new Uint8Array(buffer);
  if (bytes.length === 0) fail(`is empty. ${EXPECTED}`);
  const begins = (...magic) => magic.every((byte, i) => bytes[i] === byte);
  if (begins(0x89, 0x50, 0x4e, 0x47)) return readPicture(file, pngSize(bytes));
  if (begins(0xff, 0xd8)) return readPicture(file, jpegSize(bytes));
  if (begins(0x1f, 0x8b)) return readNifti(await inflate(buffer));
  return readNifti(buffer);
}

// PNG and JPEG. The size is read from the header: decoding may take it at its word.

function pngSize(bytes) {
  if (bytes.length < 24) return null;
  const view = new DataView(bytes.buffer);
  return [view.getUint32(16), view.getUint32(20)];
}

function jpegSize(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 2; at + 9 <= bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    const bare = marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8); // without a length
    if (marker === 0xff) at += 1; // may be repeated as filler
    else at += bare ? 2 : 2 + view.getUint16(at + 2);
  }
  return null;
}

async function readPicture(file, size) {
  if (!size || !size.every((side) => side > 0)) fail(damaged("picture"));
  if (size.some((side) => side > MAX_PICTURE_SIDE)) {
    fail(`is ${size.join(" × ")} pixels. At most ${MAX_PICTURE_SIDE} a side; crop it first.`);
  }
  const bitmap = await createImageBitmap(file).catch(() => fail(damaged("picture")));
  // Turned on its side by its orientation it may be, another picture it may not.
  if (Math.max(bitmap.width, bitmap.height) > Math.max(...size)) fail(damaged("picture"));
  const [columns, rows] = [middle(bitmap.width), middle(bitmap.height)];
  const context = new OffscreenCanvas(columns.size, rows.size).getContext("2d");
  context.drawImage(bitmap, -columns.start, -rows.start);
  const { data } = context.getImageData(0, 0, columns.size, rows.size);
  const voxels = Float32Array.from({ length: rows.size * columns.size }, (_, i) => {
    return 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  });
  return {
    shape: [1, columns.size, rows.size],
    strides: [0, 1, -columns.size],
    start: (rows.size - 1) * columns.size,
    voxels,
    notes: [
      ...cropNote(bitmap.width, bitmap.height),
      "A picture is normalized by itself. In training each whole volume was, so expect other " +
        "grey values, and a worse result.",
    ],
  };
}

// NIfTI, https://nifti.nimh.nih.gov/nifti-1

async function inflate(buffer) {
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.getReader();
  const chunks = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(() => fail(damaged("gzip file")));
    if (done) break;
    size += value.length;
    if (size > MAX_INFLATED) {
      reader.cancel().catch(() => {});
      fail(`unpacks to more than ${megabytes(MAX_INFLATED)}. Crop the scan first.`);
    }
    chunks.push(value);
  }
  return new Blob(chunks).arrayBuffer();
}

function readNifti(buffer) {
  const header = readHeader(buffer);
  const voxels = readVoxels(buffer, header);
  const [x, y, z] = header.sizes;
  const flat = header.rank === 2;
  const turned = flat ? null : orientation(header.directions);
  const steps = [1, x, x * y];
  const axes = turned ?? [0, 1, 2].map((axis) => ({ axis, sign: 1 }));
  const shape = flat ? [1, x, y] : axes.map(({ axis }) => header.sizes[axis]);
  const strides = flat ? [0, 1, x] : axes.map(({ axis, sign }) => sign * steps[axis]);
  const start = axes.reduce((at, { axis, sign }) => at + (sign < 0 ? (header.sizes[axis] - 1) * steps[axis] : 0), 0);
  const notes = cropNote(shape[1], shape[2]);
  if (!flat && !turned) notes.push("Its header does not say how it lies: its axes are taken to run right, front, top.");
  else if (turned?.some(({ axis, sign }, i) => axis !== i || sign < 0)) {
    notes.push(`Its axes run ${letters(turned)}; it was turned so that they run right, front, top (RAS).`);
  }
  if (header.spacing.some((size) => Math.abs(size - 1) > 0.1)) {
    const sizes = header.spacing.map((size) => Number(size.toPrecision(3))).join(" × ");
    notes.push(`Its voxels are ${sizes} mm. The networks know voxels of 1 mm: resample it.`);
  }
  const extent = header.spacing.map((size, axis) => size * header.sizes[axis]);
  if (!flat && extent.every((length) => length > LARGEST)) {
    notes.push(
      `It is ${extent.map(Math.round).join(" × ")} mm, perhaps a whole head. The networks know boxes of about `
        + "36 × 50 × 35 mm around one hippocampus; what they mark elsewhere means nothing. Cut such a box.",
    );
  }
  return { shape, strides, start: flat ? 0 : start, voxels, header, notes };
}

/**
 * For right, front and top the axis of the file that runs there, and whether with or against it;
 * nothing if the header does not say. `directions[world][axis]` are the affine's columns.
 */
function orientation(directions) {
  const sizes = [0, 1, 2].map((axis) => Math.hypot(...directions.map((row) => row[axis])));
  if (!sizes.every((size) => size > 0 && Number.isFinite(size))) return null;
  const pairs = directions.flatMap((row, world) => row.map((x, axis) => ({ world, axis, share: x / sizes[axis] })));
  pairs.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
  const found = [];
  for (const { world, axis, share } of pairs) {
    if (found[world] || found.some((one) => one?.axis === axis)) continue;
    found[world] = { axis, sign: share < 0 ? -1 : 1 };
  }
  return found;
}

/** Where the file's axes run, as nibabel has it: LPS, RAS, ... */
function letters(turned) {
  const names = ["RL", "AP", "SI"];
  return [0, 1, 2].map((axis) => {
    const world = turned.findIndex((one) => one.axis === axis);
    return names[world][turned[world].sign < 0 ? 1 : 0];
  }).join("");
}

/** The affine's columns, from the header's matrix or its quaternion; zeros if it has neither. */
function directionsOf(view, little) {
  const float = (at) => view.getFloat32(at, little);
  if (view.getInt16(254, little) > 0) {
    return [280, 296, 312].map((row) => [0, 1, 2].map((axis) => float(row + 4 * axis)));
  }
  if (view.getInt16(252, little) <= 0) return [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  const [b, c, d] = [256, 260, 264].map(float);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const flip = float(76) < 0 ? -1 : 1; // pixdim[0]
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), flip * 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, flip * 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), flip * (a * a + d * d - b * b - c * c)],
  ];
}

function readHeader(buffer) {
  const view = new DataView(buffer);
  const length = buffer.byteLength >= 352 ? view.getInt32(0, true) : 0;
  const swapped = buffer.byteLength >= 352 ? view.getInt32(0, false) : 0;
  if (length === 540 || swapped === 540) fail("is NIfTI-2. Save it as NIfTI-1.");
  if (length !== 348 && swapped !== 348) {
    fail(`is none of the files that can be read here. ${EXPECTED} DICOM: use dcm2niix first.`);
  }
  const magic = String.fromCharCode(...new Uint8Array(buffer, 344, 3));
  if (magic === "ni1") fail("is one half of a .hdr/.img pair. Save it as one .nii file.");
  if (magic !== "n+1") fail(`has a header like NIfTI's, but not its mark. ${EXPECTED}`);
  const little = length === 348;
  const dims = Array.from({ length: 8 }, (_, i) => view.getInt16(40 + 2 * i, little));
  const rank = dims[0];
  if (rank < 2 || rank > 7) fail(damaged("NIfTI file", `it claims ${rank} axes`));
  const sizes = [dims[1], dims[2], rank > 2 ? dims[3] : 1];
  const further = dims.slice(4, rank + 1).find((size) => size !== 1);
  if (sizes.some((size) => size < 1)) fail(damaged("NIfTI file", `its size is ${sizes}`));
  if (further !== undefined) fail("holds several images. Expected one 3-D scan; save one of them.");
  const type = view.getInt16(70, little);
  if (!(type in VOXEL_TYPES)) {
    fail(`holds voxels of NIfTI type ${type}. Save it as integers or floats of up to 64 bits.`);
  }
  const spacing = sizes.slice(0, Math.min(rank, 3));
  return {
    bytes: buffer.slice(0, HEADER),
    little,
    rank,
    sizes,
    type: VOXEL_TYPES[type],
    directions: directionsOf(view, little),
    spacing: spacing.map((_, i) => Math.abs(view.getFloat32(80 + 4 * i, little))),
    offset: view.getFloat32(108, little) || 352,
    slope: view.getFloat32(112, little),
    intercept: view.getFloat32(116, little),
  };
}

function readVoxels(buffer, { little, sizes, type: [getter, bytes], offset, slope, intercept }) {
  const count = sizes[0] * sizes[1] * sizes[2];
  if (count > MAX_VOXELS) {
    fail(`has ${sizes.join(" × ")} voxels. At most ${MAX_VOXELS} in all are read; crop it first.`);
  }
  if (!(offset >= 352 && offset + count * bytes <= buffer.byteLength)) {
    fail(damaged("NIfTI file", "it is shorter than its header says"));
  }
  const scaled = Number.isFinite(slope) && slope !== 0;
  const [factor, term] = scaled ? [slope, Number.isFinite(intercept) ? intercept : 0] : [1, 0];
  const view = new DataView(buffer, offset);
  const voxels = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    voxels[i] = view[getter](i * bytes, little) * factor + term;
    if (!Number.isFinite(voxels[i])) {
      fail("holds voxels that are NaN or infinite. Repair the scan, or leave it.");
    }
  }
  return voxels;
}

// Normalization as `kdcore.normalize` does it, by percentiles.

export function fitScale(voxels) {
  const sorted = voxels.slice().sort();
  const [least, most] = [sorted[0], sorted.at(-1)];
  if (least === most) fail("is empty: every voxel has the same value. Choose another one.");
  let [low, high] = [percentile(sorted, 0.005), percentile(sorted, 0.995)];
  if (high <= low) [low, high] = [least, most];
  return { low, factor: 1 / (high - low) };
}

function percentile(sorted, share) {
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

// Words.

function middle(length) {
  const size = Math.min(length, MAX_SIDE);
  return { start: (length - size) >> 1, size };
}

function cropNote(width, height) {
  if (width <= MAX_SIDE && height <= MAX_SIDE) return [];
  return [`Slices are ${width} × ${height}; only the middle, up to ${MAX_SIDE} a side, is used.`];
}

function damaged(kind, reason) {
  return `is a damaged ${kind}${reason ? `: ${reason}` : ""}. Fetch or save it again.`;
}

function megabytes(size) {
  return `${Math.ceil(size / MEGABYTE)} MB`;
}

/** A file's name, shortened and without characters that would turn the text around it. */
function shown(name) {
  const clean = name.replace(/[\p{Cc}\p{Cf}]/gu, "");
  return clean.length > 60 ? `${clean.slice(0, 40)}…${clean.slice(-15)}` : clean;
}

function fail(message) {
  throw new Error(message);
}
