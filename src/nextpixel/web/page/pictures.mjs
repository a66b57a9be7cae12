// Pictures as flat levels, channel by channel and row by row: on canvases, from files, as PNG.
import { Trouble, deflate, joined } from "./npxz.mjs";

// The value from 0 to 255 that shows a level; halves go to the even number.
export function shown(level, levels) {
  const value = (255 * level) / (levels - 1);
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

// Paints pixels: `colour(pixel)` returns red, green, blue and opacity, each up to 255.
export function paint(canvas, { width, height }, colour) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) image.data.set(colour(pixel), 4 * pixel);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function colourOf(model, levels, pixel) {
  const value = (c) => shown(levels[c * model.pixels + pixel], model.levels);
  const red = value(0);
  return model.channels === 3 ? [red, value(1), value(2), 255] : [red, red, red, 255];
}

export const paintLevels = (canvas, model, levels) =>
  paint(canvas, model, (pixel) => colourOf(model, levels, pixel));

// The colour of a hidden pixel.
export const chequered = (model, pixel) =>
  (Math.floor(pixel / model.width) + pixel) % 2 ? [120, 120, 150, 110] : [120, 120, 150, 60];

const HEAT = [
  [0, 0, 4],
  [40, 11, 84],
  [101, 21, 110],
  [159, 42, 99],
  [212, 72, 66],
  [245, 125, 21],
  [250, 193, 39],
  [252, 255, 164],
];

// A colour from black over red to yellow, for a share from 0 to 1.
export function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  const mixed = HEAT[low].map((x, i) => Math.round(x + (at - low) * (HEAT[low + 1][i] - x)));
  return [...mixed, 255];
}

// Fits a picture file into the model's shape: its middle square, in as few levels.
export async function readPicture(file, model) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Trouble("noPicture", file.name ?? "");
  });
  const { width, height } = model;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = context.getImageData(0, 0, width, height);
  const levels = new Uint16Array(model.dims);
  const level = (value) => Math.round((value * (model.levels - 1)) / 255); // the one that is shown nearest
  for (let pixel = 0; pixel < model.pixels; pixel++) {
    const [red, green, blue, opacity] = data.subarray(4 * pixel, 4 * pixel + 4);
    const over = (x) => (x * opacity) / 255;
    if (model.channels === 3)
      [red, green, blue].forEach((x, c) => (levels[c * model.pixels + pixel] = level(over(x))));
    else levels[pixel] = level(Math.round(over(0.299 * red + 0.587 * green + 0.114 * blue)));
  }
  return levels;
}

// --- PNG ------------------------------------------------------------------------------------------

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const big = (value) => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);

function pngChunk(kind, body) {
  const named = joined([new TextEncoder().encode(kind), body]);
  return joined([big(body.length), named, big(crc32(named))]);
}

// The five filters of PNG: what of a byte's neighbours is taken off it.
const FILTERS = [
  () => 0,
  (left) => left,
  (_, up) => up,
  (left, up) => (left + up) >> 1,
  (left, up, corner) => {
    const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
    return a <= b && a <= c ? left : b <= c ? up : corner;
  },
];

// Filters the rows of a picture, which are bytes.
function filtered(rows, step, number) {
  const near = (row, at) => (row < 0 || at < 0 ? 0 : rows[row][at]);
  const lines = rows.map((line, row) => {
    const out = new Uint8Array(1 + line.length);
    out[0] = number;
    for (let at = 0; at < line.length; at++) {
      const around = [near(row, at - step), near(row - 1, at), near(row - 1, at - step)];
      out[1 + at] = line[at] - FILTERS[number](...around);
    }
    return out;
  });
  return joined(lines);
}

// The bytes of each row, and the bits of a value: 1, 2 or 4 for grey pictures of so few levels.
function rowsOf(model, levels, value = (at) => shown(levels[at], model.levels)) {
  const { width, height, channels, pixels } = model;
  const depth = channels === 1 && levels ? ({ 2: 1, 4: 2, 16: 4 }[model.levels] ?? 8) : 8;
  const rows = Array.from({ length: height }, (_, row) => {
    const line = new Uint8Array(Math.ceil((width * channels * depth) / 8));
    for (let col = 0; col < width; col++)
      for (let c = 0; c < channels; c++) {
        const at = c * pixels + row * width + col;
        if (depth === 8) line[col * channels + c] = value(at);
        else line[(col * depth) >> 3] |= levels[at] << (8 - depth - ((col * depth) & 7));
      }
    return line;
  });
  return { rows, depth };
}

function pngFile({ width, height, channels }, depth, chunks) {
  const head = joined([big(width), big(height), Uint8Array.of(depth, channels === 3 ? 2 : 0, 0, 0, 0)]);
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return joined([signature, pngChunk("IHDR", head), ...chunks, pngChunk("IEND", new Uint8Array())]);
}

// Writes the smallest PNG that one filter for all rows gives.
export async function pngOf(model, levels) {
  const { rows, depth } = rowsOf(model, levels);
  const step = depth === 8 ? model.channels : 1;
  const files = FILTERS.map((_, number) => deflate(filtered(rows, step, number)));
  const data = (await Promise.all(files)).reduce((a, b) => (a.length <= b.length ? a : b));
  return pngFile(model, depth, [pngChunk("IDAT", data)]);
}

const ROW_TIME = 80; // milliseconds that a row of a film lasts
const LAST_TIME = 2000;

// Writes an animated PNG, in which the rows come one after the other.
export async function filmOf(model, levels) {
  const { width, height } = model;
  const chunks = [pngChunk("acTL", joined([big(height), big(0)]))];
  for (let rows = 1, order = 0; rows <= height; rows++) {
    const time = rows < height ? ROW_TIME : LAST_TIME;
    const delay = Uint8Array.of(time >> 8, time & 255, 1000 >> 8, 1000 & 255, 0, 0);
    chunks.push(pngChunk("fcTL", joined([big(order++), big(width), big(height), big(0), big(0), delay])));
    const drawn = (at) => Math.floor((at % model.pixels) / width) < rows;
    const frame = rowsOf(model, null, (at) => (drawn(at) ? shown(levels[at], model.levels) : 128));
    const data = await deflate(filtered(frame.rows, model.channels, 0));
    chunks.push(rows === 1 ? pngChunk("IDAT", data) : pngChunk("fdAT", joined([big(order++), data])));
  }
  return pngFile(model, 8, chunks);
}

export function save(bytes, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
