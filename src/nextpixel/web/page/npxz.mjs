// Reads and writes compressed files: docs/format.md says what is in them.
import { Session, bytesOfTile, oneClass } from "./engine.mjs";

const SIGNATURE = [0x89, 0x4e, 0x50, 0x58, 0x5a, 0x0d, 0x0a, 0x1a, 1, 0, 0, 0, 0, 0, 0, 0];
const BY_BLOCKS = 2n ** 64n - 1n;
const [NO_CLASS, CODED] = [-1, -2]; // in place of an image's class: it had none, or the coded one
const TOGETHER = 64; // tiles side by side, at most
const TILE_BYTES = 2 ** 28; // that tiles side by side take
const CONTEXT = 8; // pixels around a tile, at most
// What a reader may refuse, see docs/format.md.
const MOST = { json: 2 ** 24, program: 2 ** 28, levels: 2 ** 29, images: 2 ** 16, tiles: 2 ** 18, side: 2 ** 20 };

// What somebody can mend: the message is a key of the page's words.
export class Trouble extends Error {
  constructor(key, ...values) {
    super(key);
    this.values = values;
  }
}

// --- bytes ----------------------------------------------------------------------------------------

export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function through(bytes, stream, most) {
  const parts = [];
  let size = 0;
  for await (const part of readAll(new Blob([bytes]).stream().pipeThrough(stream))) {
    if ((size += part.length) > most) throw new Trouble("damaged");
    parts.push(part);
  }
  return joined(parts);
}

async function* readAll(stream) {
  const reader = stream.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}


// Reads base64. A loop, because models are long, and a function for each letter takes ten times as long.
export function bytesOf(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

const inflate = (bytes, most, form = "deflate") => through(bytes, new DecompressionStream(form), most);
export const deflate = (bytes) => through(bytes, new CompressionStream("deflate"), Infinity);
const parsed = async (bytes) => JSON.parse(new TextDecoder().decode(await inflate(bytes, MOST.json)));
const packed = (value) => deflate(new TextEncoder().encode(JSON.stringify(value)));
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function little(size, value) {
  const bytes = new Uint8Array(size);
  if (size === 8) viewOf(bytes).setBigUint64(0, BigInt(value), true);
  else viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

// --- records --------------------------------------------------------------------------------------

export function readRecords(engine, file) {
  const view = viewOf(file);
  const text = (at) => String.fromCharCode(...file.subarray(at, at + 4));
  if (SIGNATURE.some((byte, i) => file[i] !== byte)) throw new Trouble("notNpxz");
  const end = file.length - 12;
  if (end < SIGNATURE.length || text(end + 8) !== "<npx") throw new Trouble("damaged");
  const records = [];
  for (let at = SIGNATURE.length; at < end; ) {
    const head = file.subarray(at, at + 20);
    if (text(at) !== "npx>" || engine.crc32c(head) !== view.getUint32(at + 20, true)) throw new Trouble("damaged");
    const size = Number(view.getBigUint64(at + 8, true));
    const body = file.subarray(at + 24, at + 24 + size);
    if (body.length !== size || engine.crc32c(body) !== view.getUint32(at + 16, true)) throw new Trouble("damaged");
    records.push({ kind: text(at + 4), body });
    at += 24 + size;
  }
  if (records[0]?.kind !== "HEAD" || records.at(-1).kind !== "INDX") throw new Trouble("damaged");
  return records;
}

// Writes a file of records, given as [kind, body, counts]; the index is added.
export function writeRecords(engine, records) {
  const ascii = (word) => new TextEncoder().encode(word);
  const parts = [Uint8Array.from(SIGNATURE)];
  const lines = [];
  let at = SIGNATURE.length;
  const add = (kind, body, counts) => {
    const head = joined([ascii("npx>"), ascii(kind), little(8, body.length), little(4, engine.crc32c(body))]);
    lines.push(joined([ascii(kind), ...[at, ...counts].map((value) => little(8, value))]));
    parts.push(head, little(4, engine.crc32c(head)), body);
    at += 24 + body.length;
  };
  for (const [kind, body, counts = [0, 0, 0, 0, 0, 0]] of records) add(kind, body, counts);
  const index = at;
  add("INDX", joined(lines), [0, 0, 0, 0, 0, 0]);
  parts.push(little(8, index), ascii("<npx"));
  return joined(parts);
}

// --- the program in a file ------------------------------------------------------------------------

function numbersOf(planes, width) {
  const numbers = new Uint32Array(planes.length / width);
  for (let byte = 0, at = 0; byte < width; byte++)
    for (let i = 0; i < numbers.length; i++) numbers[i] |= planes[at++] << (8 * byte);
  return numbers;
}

async function unpackBlock(body, length, columns, width, exponent) {
  if (![1, 2, 4].includes(width) || (columns && (width !== 4 || length % columns))) throw new Trouble("damaged");
  const data = await inflate(body, length * width, "deflate-raw");
  if (data.length !== length * width) throw new Trouble("damaged");
  if (columns) {
    const table = new Uint32Array(data.slice().buffer);
    const rows = table.length / columns;
    return table.map((_, i) => table[(i % columns) * rows + Math.floor(i / columns)]);
  }
  const numbers = numbersOf(data, width);
  if (width === 4) return numbers;
  const [weights, scale] = [new Float32Array(numbers.length), 2 ** exponent / 2];
  numbers.forEach((k, i) => (weights[i] = (k % 2 ? -(k + 1) : k) * scale));
  return new Uint32Array(weights.buffer);
}

export async function unpackProgram(body) {
  const view = viewOf(body);
  const size = Number(view.getBigUint64(0, true));
  const form = view.getBigUint64(8, true);
  const wanted = Math.ceil(size / 4);
  if (size < 1 || size > MOST.program) throw new Trouble("damaged");
  const parts = [];
  if (form === BY_BLOCKS) {
    let at = 24 + Number(view.getBigUint64(16, true));
    const list = await inflate(body.subarray(24, at), MOST.json);
    const blocks = viewOf(list);
    let left = wanted;
    for (let i = 0; i + 12 <= list.length; i += 12) {
      const [length, packed] = [blocks.getUint32(i, true), blocks.getUint32(i + 4, true)];
      if ((left -= length) < 0) throw new Trouble("damaged");
      const about = [blocks.getUint16(i + 8, true), list[i + 10], blocks.getInt8(i + 11)];
      parts.push(await unpackBlock(body.subarray(at, at + packed), length, ...about));
      at += packed;
    }
    if (left || at !== body.length) throw new Trouble("damaged");
  } else {
    const planes = await inflate(body.subarray(16), 4 * (wanted + Math.min(Number(form), 2 ** 16)));
    const table = numbersOf(planes.subarray(0, 4 * Number(form)), 4);
    const rest = numbersOf(planes.subarray(4 * Number(form)), 4);
    parts.push(table.length ? rest.map((place) => table[place]) : rest);
  }
  return joined(parts.map((part) => new Uint8Array(part.buffer))).subarray(0, size);
}

// --- tiles ----------------------------------------------------------------------------------------

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

function wavesOf(sizes, { height, width }, [above, beside]) {
  const waves = [];
  sizes.forEach(([rows, cols], n) =>
    cuts(rows, height, above, 0).forEach(([y, h, top], i) =>
      cuts(cols, width, beside, beside).forEach(([x, w, left], j) =>
        (waves[2 * i + j] ??= []).push({ n, y, x, h, w, top, left }),
      ),
    ),
  );
  return Array.from(waves, (wave) => wave ?? []);
}

// Undoes the turn of an image whose pixels were coded in another order than raster order.
function turnedBack({ size: [height, width], levels }, order, channels) {
  const [mirror, flip, transpose] = [1, 2, 4].map((bit) => order & bit);
  const size = transpose ? [width, height] : [height, width];
  const image = new levels.constructor(levels.length);
  for (let at = 0, c = 0; c < channels; c++)
    for (let row = 0; row < size[0]; row++)
      for (let col = 0; col < size[1]; col++) {
        const [y, x] = transpose ? [col, row] : [row, col];
        const line = c * height + (flip ? height - 1 - y : y);
        image[at++] = levels[line * width + (mirror ? width - 1 - x : x)];
      }
  return { size, levels: image };
}

// Visits the pixels of a tile's canvas that lie in its picture: whether a pixel is the tile's own,
// where it lies on the canvases, and where in the picture.
function visit({ channels, height, width }, tile, k, size, see) {
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < height && tile.top + y < size[0]; y++)
      for (let z = 0; z < width && tile.left + z < size[1]; z++) {
        const [row, col] = [tile.top + y, tile.left + z];
        const own = row >= tile.y && row < tile.y + tile.h && col >= tile.x && col < tile.x + tile.w;
        see(own, ((k * channels + c) * height + y) * width + z, c, row, col);
      }
}

// Codes tiles side by side; `decodes` fills their pixels in. Calls `tick` after each row.
function codeTiles(program, tiles, images, { classes, order }, coder, decodes, tick) {
  const count = tiles.length * program.dims;
  const [levels, known] = [new Float64Array(count), new Uint8Array(count).fill(1)];
  tiles.forEach((tile, k) => {
    const { size, levels: image, done } = images[tile.n];
    const value = (c, row, col) => image[(c * size[0] + row) * size[1] + col];
    visit(program, tile, k, size, (own, at, c, row, col) => {
      if (own) known[at] = 0;
      if (own || done[row * size[1] + col]) levels[at] = value(c, row, col);
      else if (row >= tile.y && tile.y > tile.top && done[(tile.y - 1) * size[1] + col])
        levels[at] = value(c, tile.y - 1, col);
    });
  });
  const weights = program.classes ? tiles.map((tile) => oneClass(program, classes[tile.n])) : null;
  const turns = tiles.map((tile) => order[tile.n]);
  const session = new Session(program, { images: tiles.length, classes: weights, order: turns, levels, known, coder });
  const rows = Math.max(...tiles.map((tile) => tile.y + tile.h - tile.top));
  const perRow = program.width * program.channels;
  for (let row = 0; row < rows; row++) {
    session.run(row * perRow, (row + 1) * perRow);
    tick((row + 1) / rows);
  }
  const coded = session.levels;
  if (decodes)
    tiles.forEach((tile, k) => {
      const { size, levels: image } = images[tile.n];
      visit(program, tile, k, size, (own, at, c, row, col) => {
        if (own) image[(c * size[0] + row) * size[1] + col] = Number(coded[at]);
      });
    });
  session.free();
}

// Codes images that are turned to their orders. `choices` has the class and the order of each.
function codeImages(program, { context, together }, coders, images, choices, decodes, tick = () => {}) {
  const sizes = images.map(({ size }) => size);
  for (const wave of wavesOf(sizes, program, context)) {
    coders.forEach((coder, lane) => {
      const tiles = wave.filter((_, i) => i % coders.length === lane);
      for (let i = 0; i < tiles.length; i += together)
        codeTiles(program, tiles.slice(i, i + together), images, choices, coder, decodes, tick);
    });
    for (const { n, y, x, h, w } of wave)
      for (let row = y; row < y + h; row++)
        images[n].done.fill(1, row * sizes[n][1] + x, row * sizes[n][1] + x + w);
  }
}

// --- decoding -------------------------------------------------------------------------------------

const isCount = (x) => Number.isInteger(x) && x >= 0;

export async function readHead(records) {
  const head = await parsed(records[0].body);
  const { shape, levels, context, together, images, orders = 1 } = head;
  const right =
    [shape, context].every((list) => Array.isArray(list) && list.every(isCount)) &&
    shape.length === 3 &&
    context.length === 2 &&
    context.every((pixels, i) => 4 * pixels <= shape[1 + i]) &&
    [levels, together, images].every(isCount) &&
    together >= 1 &&
    together <= TOGETHER &&
    [1, 4, 8].includes(orders);
  if (!right) throw new Trouble("damaged");
  return head;
}

// Checks that a chunk's description says nothing impossible, and nothing that takes all memory.
function checkChunk(about, program, head) {
  const { images, entries, codes } = about;
  const right = isCount(images) && images <= MOST.images && Array.isArray(codes) && codes.length <= 64 && codes.every(isCount);
  if (!right || typeof entries !== "object") throw new Trouble("damaged");
  for (const values of Object.values(entries))
    if (!Array.isArray(values) || (values.length !== 1 && values.length !== images)) throw new Trouble("damaged");
  const [kinds, sizes] = [columnOf(about, "kind", "model"), columnOf(about, "size")];
  let [tiles, levels] = [0, 0];
  sizes.forEach((size, i) => {
    if (!Array.isArray(size) || !size.every((n) => isCount(n) && (kinds[i] !== "model" || (n > 0 && n <= MOST.side))))
      throw new Trouble("damaged");
    if (kinds[i] !== "model") return;
    const [above, beside] = head.context;
    const parts = (length, canvas, around) =>
      length <= canvas ? 1 : 2 + Math.floor((length - canvas - 1) / (canvas - around));
    tiles += parts(size[0], program.height, above) * parts(size[1], program.width, 2 * beside);
    levels += program.channels * size[0] * size[1];
    if (size.length !== 2 || tiles > MOST.tiles || levels > MOST.levels) throw new Trouble("damaged");
  });
}

function columnOf(about, name, value) {
  const values = about.entries[name] ?? [value];
  return Array.from({ length: about.images }, (_, i) => values[values.length === 1 ? 0 : i]);
}

// Decodes a chunk; the images that are kept as files have only those. `programOf` finds the program,
// which a chunk without codes does not need.
export async function decodeChunk(engine, programOf, head, chunk) {
  const length = viewOf(chunk).getUint32(0, true);
  const about = await parsed(chunk.subarray(4, 4 + length));
  if (!Array.isArray(about.codes)) throw new Trouble("damaged");
  const program = about.codes.length ? await programOf() : { channels: 0, classes: 0, height: 1, width: 1 };
  const { orders = 1 } = head;
  if (about.codes.length && ![1, program.orders].includes(orders)) throw new Trouble("damaged");
  checkChunk(about, program, head);
  const { channels } = program;
  let at = 4 + length;
  const codes = about.codes.map((size) => chunk.subarray(at, (at += size)));
  const column = (name, value) => columnOf(about, name, value);
  const kinds = column("kind", "model");
  const coded = column("size").filter((_, i) => kinds[i] === "model");
  const kind = head.levels > 256 ? Uint16Array : Uint8Array;
  const turned = ([height, width], order) => ({
    size: order & 4 ? [width, height] : [height, width],
    levels: new kind(channels * height * width),
    done: new Uint8Array(height * width),
  });
  const { images, classes } = engine.freeing(() => {
    const coders = codes.map((code) => engine.decoder(code));
    const none = new Array(coded.length).fill(0);
    const numbers = (count) => (count && codes.length ? engine.codeNumbers(coders[0], none, count) : none);
    const classes = numbers(program.classes);
    const order = numbers(orders > 1 ? orders : 0);
    const images = coded.map((size, k) => turned(size, order[k]));
    if (codes.length) codeImages(program, head, coders, images, { classes, order }, true);
    return { classes, images: images.map((image, k) => turnedBack(image, order[k], channels)) };
  });
  const levels = joined(images.map((image) => new Uint8Array(image.levels.buffer)));
  if (engine.crc32c(levels) !== about.crc) throw new Trouble("damaged");
  const names = column("name", "");
  const ids = column("class_id", NO_CLASS);
  let next = 0;
  return kinds.map((kept, i) => {
    if (kept !== "model") {
      const [size] = column("size")[i];
      return { name: names[i], kept, file: chunk.subarray(at, (at += size)) };
    }
    const k = next++;
    const classId = ids[i] === CODED ? classes[k] : ids[i];
    return { name: names[i], kept, size: images[k].size, levels: images[k].levels, classId };
  });
}

// --- encoding -------------------------------------------------------------------------------------

// Compresses images of the program's own size: flat levels and, if the program takes any, classes,
// which an image may not have had (`given`). `about` has the model's name, the SHA-256 of its
// program, the version that writes, and the packed program if not everybody has it.
export async function encodeImages(program, about, images, classes, given, tick) {
  const { engine, channels, height, width } = program;
  const head = {
    nextpixel: about.version,
    model: about.name,
    program: about.sha256,
    shape: [channels, height, width],
    levels: program.levels,
    context: [height, width].map((side) => Math.min(CONTEXT, Math.floor(side / 4))),
    together: Math.max(1, Math.min(TOGETHER, Math.floor(TILE_BYTES / bytesOfTile(program)))),
    images: images.length,
    array: [channels, height, width],
    class_names: about.classNames ?? null,
    bytes: images.length * program.dims,
    source: "",
    verified: false,
  };
  const kind = program.levels > 256 ? Uint16Array : Uint8Array;
  const some = images.map((levels) => ({
    size: [height, width],
    levels: kind.from(levels),
    done: new Uint8Array(program.pixels),
  }));
  const code = engine.freeing(() => {
    const coder = engine.encoder(4 * images.length * (program.dims + 1) + 8);
    if (program.classes) engine.codeNumbers(coder, classes, program.classes);
    codeImages(program, head, [coder], some, { classes, order: [] }, false, (done) => tick?.(done, engine.written(coder)));
    return engine.finish(coder);
  });
  const levels = joined(some.map((image) => new Uint8Array(image.levels.buffer)));
  const description = await packed({
    first: 0,
    images: images.length,
    entries: { size: [[height, width]], class_id: given.map((own) => (own ? CODED : NO_CLASS)) },
    profiles: [],
    codes: [code.length],
    crc: engine.crc32c(levels),
  });
  const chunk = joined([little(4, description.length), description, code]);
  const counts = [0, images.length, 0, images.length * program.dims, code.length, 0];
  const packedHead = await packed(head);
  const embedded = about.body ? [["PROG", about.body]] : [];
  return writeRecords(engine, [["HEAD", packedHead], ...embedded, ["CHNK", chunk, counts], ["HEAD", packedHead]]);
}
