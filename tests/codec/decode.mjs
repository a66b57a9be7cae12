// Decodes a .npxz by WebAssembly, as docs/format.md says: node decode.mjs WASM FILE. Prints the
// checksum of each chunk's levels, and how many images it has; ends with an error if one is wrong.
import { readFileSync } from "node:fs";
import { inflateRawSync, inflateSync } from "node:zlib";

const [library, path] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(library), {});
const { memory, __heap_base, ...np } = instance.exports;

// --- memory of the engine ---

let end = __heap_base.value;
function allocate(bytes) {
  const begin = Math.ceil(end / 64) * 64;
  end = begin + Number(bytes);
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  new Uint8Array(memory.buffer, begin, Number(bytes)).fill(0);
  return begin;
}

function copied(bytes) {
  const at = allocate(bytes.length);
  new Uint8Array(memory.buffer).set(bytes, at);
  return at;
}

function crc32c(bytes) {
  const before = end;
  const sum = np.np_crc32c(copied(bytes), BigInt(bytes.length)) >>> 0;
  end = before;
  return sum;
}

// --- the file ---

const file = readFileSync(path);
const view = new DataView(file.buffer, file.byteOffset, file.length);
const json = (body) => JSON.parse(inflateSync(body).toString("utf8"));

function* records() {
  for (let at = 16; at < file.length - 12; ) {
    const head = file.subarray(at, at + 20);
    const kind = head.toString("latin1", 4, 8);
    const size = Number(view.getBigUint64(at + 8, true));
    const body = file.subarray(at + 24, at + 24 + size);
    if (head.toString("latin1", 0, 4) !== "npx>" || crc32c(head) !== view.getUint32(at + 20, true))
      throw new Error("a record is damaged");
    if (crc32c(body) !== view.getUint32(at + 16, true)) throw new Error("a body is damaged");
    yield { kind, body };
    at += 24 + size;
  }
}

const numbersOf = (planes, width) =>
  Uint32Array.from({ length: planes.length / width }, (_, i) => {
    let sum = 0;
    for (let byte = 0; byte < width; byte++) sum += planes[(byte * planes.length) / width + i] * 256 ** byte;
    return sum;
  });

function unpackBlock(data, columns, width, exponent) {
  if (columns) {
    const table = new Uint32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
    const rows = table.length / columns;
    return table.map((_, i) => table[(i % columns) * rows + Math.floor(i / columns)]);
  }
  const numbers = numbersOf(data, width);
  if (width === 4) return numbers;
  const weights = Float32Array.from(numbers, (k) => (k % 2 ? -(k + 1) : k) / 2 * 2 ** exponent);
  return new Uint32Array(weights.buffer);
}

function unpackProgram(body) {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const size = Number(view.getBigUint64(0, true));
  const parts = [];
  if (view.getBigUint64(8, true) === 2n ** 64n - 1n) {
    let at = 24 + Number(view.getBigUint64(16, true));
    const listed = inflateSync(body.subarray(24, at));
    for (let i = 0; i < listed.length; i += 12) {
      const packed = listed.readUint32LE(i + 4);
      const data = inflateRawSync(body.subarray(at, at + packed));
      parts.push(unpackBlock(data, listed.readUint16LE(i + 8), listed[i + 10], listed.readInt8(i + 11)));
      at += packed;
    }
  } else {
    const count = Number(view.getBigUint64(8, true));
    const planes = inflateSync(body.subarray(16));
    const table = numbersOf(planes.subarray(0, 4 * count), 4);
    const rest = numbersOf(planes.subarray(4 * count), 4);
    parts.push(count ? rest.map((place) => table[place]) : rest);
  }
  return Buffer.concat(parts.map((x) => new Uint8Array(x.buffer))).subarray(0, size);
}

const found = [...records()];
const body = (kind) => found.find((record) => record.kind === kind).body;
const head = json(body("HEAD"));
const [channels, height, width] = head.shape;
const bytes = unpackProgram(body("PROG"));
const data = copied(bytes);
const needed = np.np_memory(data, BigInt(bytes.length));
if (needed < 0) throw new Error("the program is damaged");
const program = np.np_open(data, BigInt(bytes.length), allocate(needed));
const classCount = Number(np.np_number_of(program, 7n)); // NP_CLASSES

// --- tiles ---

function cuts(length, canvas, before, after) {
  const parts = [];
  for (let at = 0; at < length; ) {
    let begin = Math.max(0, at - before);
    let stop = begin + canvas - after;
    if (begin + canvas >= length) [begin, stop] = [Math.max(0, length - canvas), length];
    parts.push([at, stop - at, begin]);
    at = stop;
  }
  return parts;
}

function wavesOf(sizes) {
  const waves = [];
  sizes.forEach(([rows, cols], n) =>
    cuts(rows, height, head.context[0], 0).forEach(([y, h, top], i) =>
      cuts(cols, width, head.context[1], head.context[1]).forEach(([x, w, left], j) =>
        (waves[2 * i + j] ??= []).push({ n, y, x, h, w, top, left }),
      ),
    ),
  );
  return Array.from(waves, (wave) => wave ?? []);
}

// --- chunks ---

// Visits the pixels of a tile's canvas that lie in its picture: whether a pixel is the tile's own,
// where it lies on the canvases, and where in the picture.
function visit(tile, k, size, see) {
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < height && tile.top + y < size[0]; y++)
      for (let z = 0; z < width && tile.left + z < size[1]; z++) {
        const [row, col] = [tile.top + y, tile.left + z];
        const own =
          row >= tile.y && row < tile.y + tile.h && col >= tile.x && col < tile.x + tile.w;
        see(own, ((k * channels + c) * height + y) * width + z, c, row, col);
      }
}

function decodeTiles(tiles, images, classes, coder) {
  const before = end;
  const n = tiles.length;
  const count = n * channels * height * width;
  const [levels, known] = [allocate(8 * count), allocate(count)];
  const state = allocate(np.np_state_bytes(program, BigInt(n)));
  const job = allocate(48);
  const x = new BigInt64Array(memory.buffer, levels, count);
  const isKnown = new Uint8Array(memory.buffer, known, count).fill(1);
  tiles.forEach((tile, k) => {
    const { size, levels: image, done } = images[tile.n];
    const value = (c, row, col) => image[(c * size[0] + row) * size[1] + col];
    visit(tile, k, size, (own, at, c, row, col) => {
      if (own) isKnown[at] = 0;
      else if (done[row * size[1] + col]) x[at] = BigInt(value(c, row, col));
      else if (row >= tile.y && tile.y > tile.top && done[(tile.y - 1) * size[1] + col])
        x[at] = BigInt(value(c, tile.y - 1, col));
    });
  });
  np.np_begin(program, state, BigInt(n));
  tiles.forEach((tile, k) => {
    if (!classCount) return;
    const input = (which) => np.np_input_at(program, state, BigInt(k), which);
    new Float32Array(memory.buffer, input(0n), classCount)[classes[tile.n]] = 1;
    new Float32Array(memory.buffer, input(2n), 1)[0] = 1;
  });
  np.np_prepare(program, state, BigInt(n));
  new Uint32Array(memory.buffer, job, 4).set([levels, 0, known, 0]);
  new Float64Array(memory.buffer, job + 16, 2).fill(1);
  new BigInt64Array(memory.buffer, job + 32, 1)[0] = BigInt(n);
  new Uint32Array(memory.buffer, job + 40, 2).set([0, coder]);
  const rows = Math.max(...tiles.map((tile) => tile.y + tile.h - tile.top));
  const error = np.np_run(program, state, job, 0n, BigInt(rows * width * channels));
  if (error) throw new Error(`the engine's error ${-error}`);
  tiles.forEach((tile, k) => {
    const { size, levels: image } = images[tile.n];
    visit(tile, k, size, (own, at, c, row, col) => {
      if (own) image[(c * size[0] + row) * size[1] + col] = Number(x[at]);
    });
  });
  end = before;
}

function decodeClasses(coder, count) {
  const numbers = allocate(8 * count);
  if (classCount) np.np_code_numbers(coder, numbers, BigInt(count), BigInt(classCount));
  return Array.from(new BigInt64Array(memory.buffer, numbers, count), Number);
}

function decodeChunk(chunk) {
  const before = end;
  const length = new DataView(chunk.buffer, chunk.byteOffset).getUint32(0, true);
  const about = json(chunk.subarray(4, 4 + length));
  let at = 4 + length;
  const coders = about.codes.map((size) => {
    const code = chunk.subarray(at, (at += size));
    const coder = allocate(64);
    np.np_decode(coder, copied(code), BigInt(size));
    return coder;
  });
  const column = (name, value) => {
    const values = about.entries[name] ?? [value];
    return Array.from({ length: about.images }, (_, i) => values[values.length === 1 ? 0 : i]);
  };
  const kinds = column("kind", "model");
  const sizes = column("size").filter((_, i) => kinds[i] === "model");
  const kind = head.levels > 256 ? Uint16Array : Uint8Array;
  const images = sizes.map((size) => ({
    size,
    levels: new kind(channels * size[0] * size[1]),
    done: new Uint8Array(size[0] * size[1]),
  }));
  const classes = coders.length ? decodeClasses(coders[0], sizes.length) : [];
  for (const wave of coders.length ? wavesOf(sizes) : []) {
    coders.forEach((coder, lane) => {
      const tiles = wave.filter((_, i) => i % coders.length === lane);
      for (let i = 0; i < tiles.length; i += head.together)
        decodeTiles(tiles.slice(i, i + head.together), images, classes, coder);
    });
    for (const { n, y, x, h, w } of wave)
      for (let row = y; row < y + h; row++)
        images[n].done.fill(1, row * sizes[n][1] + x, row * sizes[n][1] + x + w);
  }
  end = before;
  const sum = crc32c(Buffer.concat(images.map(({ levels }) => Buffer.from(levels.buffer))));
  if (sum !== about.crc) throw new Error("the pixels are not those that were compressed");
  console.log(`${sum.toString(16).padStart(8, "0")} ${about.images}`);
}

for (const { kind, body } of found) if (kind === "CHNK") decodeChunk(body);
