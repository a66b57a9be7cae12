// Runs the engine beside the page, so that the page never waits.
import { Engine, Program, Session, bitsOf, oneClass } from "./engine.mjs";
import { Trouble, decodeChunk, encodeImages, joined, readHead, readRecords, unpackProgram } from "./npxz.mjs";

const FEW = 0.5; // share of the particles that carry the weight, below which they are resampled
const OTHER = 1e9; // images from this number on are none: their noise resamples, see noise.py
let engine;
const programs = new Map();
const cancelled = new Set();

// Lets messages in, to be cancelled by one.
const breathe = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });

class Cancelled extends Error {}

// --- tasks ----------------------------------------------------------------------------------------

// Opens a program; once.
async function open({ wasm, name, body }) {
  engine ??= await Engine.load(wasm);
  if (!programs.has(name)) programs.set(name, new Program(engine, await unpackProgram(body)));
  const program = programs.get(name);
  const { channels, height, width, levels, classes, groups, distribution, components } = program;
  const { parameters, maxLogScale, vector, map, about } = program;
  return {
    ...{ channels, height, width, levels, classes, groups, distribution, components },
    ...{ parameters, maxLogScale, vector, map, about, pixels: program.pixels, dims: program.dims },
  };
}

// Takes images through the program pixel by pixel. The parameters of the first image are kept.
async function runThrough(program, session, report, afterRow = () => {}) {
  const { channels, width, pixels, groups } = program;
  const perPixel = groups > 1 ? channels : 1;
  const copies = session.states > session.images ? 2 : 1; // with guidance, of the null context too
  const size = program.parameters;
  const parameters = new Float32Array(pixels * perPixel * copies * size);
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let group = 0; group < perPixel; group++) {
      const site = pixel * channels + group;
      session.run(site, groups > 1 ? site + 1 : site + channels);
      const at = (pixel * perPixel + group) * copies * size;
      for (let copy = 0; copy < copies; copy++)
        parameters.set(session.parameters(copy * session.images, site), at + copy * size);
    }
    if ((pixel + 1) % width) continue;
    afterRow((pixel + 1) / width);
    await report({ done: (pixel + 1) / pixels });
  }
  return parameters;
}

// The CRC-32C of levels, as 8 hexadecimal digits; of levels up to 255 in one byte each.
function checksumOf(arrays, levels) {
  const bytes = arrays.map((array) => new Uint8Array((levels > 256 ? Uint16Array : Uint8Array).from(array).buffer));
  return engine.crc32c(joined(bytes)).toString(16).padStart(8, "0");
}

function widthsOf(session) {
  const { intervals } = session;
  return Uint32Array.from({ length: session.size }, (_, i) => intervals[2 * i + 1]);
}

async function draw(options, report) {
  const program = programs.get(options.model);
  const { seed, numbers, weights, levels, known, temperature, guidance } = options;
  const images = numbers.length;
  const repeated = (array) => array && numbers.flatMap(() => Array.from(array));
  const noise = new Float64Array(images * program.dims);
  numbers.forEach((number, i) => noise.set(engine.noise(seed, number, program.dims), i * program.dims));
  const session = new Session(program, {
    ...{ images, noise, temperature, guidance },
    classes: weights ? numbers.map(() => weights) : null,
    levels: repeated(levels),
    known: repeated(known),
  });
  try {
    const parameters = await runThrough(program, session, report);
    const drawn = Uint16Array.from(session.levels, Number);
    return { levels: drawn, widths: widthsOf(session), parameters, checksum: checksumOf([drawn], program.levels) };
  } finally {
    session.free();
  }
}

// Completes an image to fit the known pixels, also the later ones, by particles: unfinished
// completions, weighted by the probability that they give to the known pixels of each row.
async function complete({ model, seed, number, weights, levels, known, particles }, report) {
  const program = programs.get(model);
  const { channels, pixels, width } = program;
  const all = Array.from({ length: particles }, (_, i) => i);
  const noise = new Float64Array(particles * program.dims);
  all.forEach((i) => noise.set(engine.noise(seed, number * particles + i, program.dims), i * program.dims));
  const uniform = engine.noise(seed, OTHER + number, program.height + 1);
  const session = new Session(program, {
    ...{ images: particles, noise },
    classes: weights ? all.map(() => weights) : null,
    levels: all.flatMap(() => Array.from(levels)),
    known: all.flatMap(() => Array.from(known)),
  });
  let nats = new Float64Array(particles);
  const chances = () => {
    const most = Math.max(...nats);
    const some = nats.map((x) => Math.exp(x - most));
    const sum = some.reduce((a, b) => a + b, 0);
    return some.map((x) => x / sum);
  };
  const weigh = (row) => {
    const { intervals } = session;
    for (let c = 0; c < channels; c++)
      for (let at = c * pixels + (row - 1) * width; at < c * pixels + row * width; at++)
        if (known[at])
          for (const i of all) nats[i] -= bitsOf(intervals[2 * (i * program.dims + at) + 1]) * Math.LN2;
    const shares = chances();
    const effective = 1 / shares.reduce((sum, x) => sum + x * x, 0);
    if (row === program.height || effective >= FEW * particles) return;
    const chosen = systematic(shares, uniform[row]);
    session.select(chosen);
    nats = new Float64Array(particles);
  };
  try {
    await runThrough(program, session, report, weigh);
    let [best, left] = [0, uniform[0]];
    for (const share of chances()) {
      if (left < share || best === particles - 1) break;
      left -= share;
      best++;
    }
    const part = (array) => array.slice(best * program.dims, (best + 1) * program.dims);
    const completed = Uint16Array.from(part(session.levels), Number);
    return { levels: completed, widths: part(widthsOf(session)), checksum: checksumOf([completed], program.levels) };
  } finally {
    session.free();
  }
}

// Chooses as many items as there are, each in proportion to its share.
function systematic(shares, uniform) {
  let [sum, at] = [shares[0], 0];
  return Array.from(shares, (_, i) => {
    while (sum < (i + uniform) / shares.length && at < shares.length - 1) sum += shares[++at];
    return at;
  });
}

async function score({ model, levels, weights }, report) {
  const program = programs.get(model);
  const session = new Session(program, { images: 1, classes: weights ? [weights] : null, levels });
  try {
    const parameters = await runThrough(program, session, report);
    return { widths: widthsOf(session), parameters };
  } finally {
    session.free();
  }
}

// Returns the bits that an image, or what is known of it, costs under each class.
async function classify({ model, levels, known }, report) {
  const program = programs.get(model);
  const ids = Array.from({ length: program.classes }, (_, i) => i);
  const session = new Session(program, {
    images: ids.length,
    classes: ids.map((id) => oneClass(program, id)),
    levels: ids.flatMap(() => Array.from(levels)),
  });
  try {
    const perRow = program.width * program.channels;
    for (let row = 0; row < program.height; row++) {
      session.run(row * perRow, (row + 1) * perRow);
      await report({ done: (row + 1) / program.height });
    }
    const { intervals } = session;
    return ids.map((id) => {
      let bits = 0;
      for (let i = 0; i < program.dims; i++)
        if (!known || known[i]) bits += bitsOf(intervals[2 * (id * program.dims + i) + 1]);
      return bits;
    });
  } finally {
    session.free();
  }
}

async function compress({ model, about, images, classes, given }, report) {
  const tick = (done, bytes) => report.now({ done, bytes });
  return encodeImages(programs.get(model), about, images, classes, given, tick);
}

// Decodes a file by its own program, or by an opened one; `hashes` has those of all the page's.
async function decompress(options, report) {
  try {
    return await decoded(options, report);
  } catch (error) {
    if (error instanceof Trouble || error instanceof Cancelled) throw error;
    throw new Trouble("damaged"); // streams and parsers say it in words of their own
  }
}

async function decoded({ file, hashes }, report) {
  const records = readRecords(engine, file);
  const head = await readHead(records);
  const own = records.find((record) => record.kind === "PROG");
  let program = null;
  const programOf = async () => (program ??= check(await find()));
  const find = async () => {
    const name = Object.keys(hashes).find((name) => hashes[name] === head.program);
    if (programs.has(name)) return programs.get(name);
    if (own) return new Program(engine, await checked(await unpackProgram(own.body), head.program));
    throw name ? new Trouble("notLoaded", name) : new Trouble("notHere", String(head.model));
  };
  const check = (found) => {
    const { channels, height, width, levels } = found;
    const right = `${[channels, height, width]}` === `${head.shape}` && levels === head.levels;
    if (!right || found.vector || found.map) throw new Trouble("damaged");
    return found;
  };
  const images = [];
  for (const { kind, body } of records) {
    if (kind !== "CHNK") continue;
    images.push(...(await decodeChunk(engine, programOf, head, body)));
    await report({ done: images.length / head.images });
  }
  if (images.length !== head.images) throw new Trouble("damaged");
  const coded = images.filter(({ levels }) => levels);
  return { head, images, checksum: checksumOf(coded.map(({ levels }) => levels), head.levels) };
}

// Checks the hash of a program, where the browser can compute it.
async function checked(file, sha256) {
  if (!self.crypto?.subtle) return file;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", file));
  if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== sha256) throw new Trouble("damaged");
  return file;
}

// --- messages -------------------------------------------------------------------------------------

const tasks = { open, draw, complete, score, classify, compress, decompress };
let last = Promise.resolve(); // one task after the other, as they share the memory

self.onmessage = ({ data }) => {
  if (data.cancel !== undefined) cancelled.add(data.cancel);
  else last = last.then(() => answer(data));
};

async function answer({ id, task, ...options }) {
  const report = async (progress) => {
    report.now(progress);
    await breathe();
    if (cancelled.has(id)) throw new Cancelled();
  };
  report.now = (progress) => self.postMessage({ id, progress });
  const before = engine?.end;
  try {
    if (cancelled.has(id)) throw new Cancelled();
    self.postMessage({ id, result: await tasks[task](options, report) });
  } catch (error) {
    if (task === "open") programs.delete(options.name);
    if (before) engine.end = before;
    self.postMessage({ id, error: error instanceof Cancelled ? null : { message: error.message, values: error.values } });
  }
  if (before && task !== "open") engine.end = before; // whatever a task has left
  cancelled.delete(id);
}
