// The engine in WebAssembly: programs draw, score and code images, with the same bits as everywhere.
// engine.h says what the functions do.

const HEADER = {
  channels: 4,
  height: 5,
  width: 6,
  levels: 7,
  groups: 8,
  distribution: 10,
  components: 11,
  parameters: 12,
  maxLogScale: 13,
  choices: 21, // numbers of each input: of classes and orders, ...
  vector: 22,
  present: 23,
  map: 24,
  description: 34,
  descriptionSize: 35,
};
const JOB = 48; // bytes of np_job in wasm32
const CODER = 64; // at least the bytes of np_coder
export const TOTAL_BITS = 30; // of the integer CDF

// The memory of one engine is a stack: what is allocated last is freed first.
export class Engine {
  static async load(wasm) {
    const { instance } = await WebAssembly.instantiate(wasm, {});
    return new Engine(instance.exports);
  }

  constructor({ memory, __heap_base, ...np }) {
    this.memory = memory;
    this.np = np;
    this.end = __heap_base.value;
  }

  // Returns where so many zeros begin. All views of the memory end when it grows.
  allocate(bytes) {
    const begin = Math.ceil(this.end / 64) * 64;
    const end = begin + Number(bytes);
    const missing = end - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    this.end = end;
    this.view(Uint8Array, begin, Number(bytes)).fill(0);
    return begin;
  }

  view(type, begin, length) {
    return new type(this.memory.buffer, begin, length);
  }

  copied(array) {
    const at = this.allocate(array.byteLength);
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    this.view(Uint8Array, at, bytes.length).set(bytes);
    return at;
  }

  // Calls a function and frees what it allocated.
  freeing(call) {
    const before = this.end;
    try {
      return call();
    } finally {
      this.end = before;
    }
  }

  crc32c(bytes) {
    return this.freeing(() => this.np.np_crc32c(this.copied(bytes), BigInt(bytes.length)) >>> 0);
  }

  checksum(address, bytes) {
    return BigInt.asUintN(64, this.np.np_checksum(address, BigInt(bytes)));
  }

  // The uniform numbers of an image, as `nextpixel.noise.site_noise` draws them.
  noise(seed, number, count) {
    return this.freeing(() => {
      const at = this.allocate(8 * count);
      this.np.np_noise(BigInt(seed), BigInt(number), at, BigInt(count));
      return this.view(Float64Array, at, count).slice();
    });
  }

  check(error) {
    if (error >= 0n) return error;
    const begin = this.np.np_error(-error);
    const bytes = new Uint8Array(this.memory.buffer, begin);
    throw new Error(new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0))));
  }

  encoder(room) {
    const coder = this.allocate(CODER);
    this.np.np_encode(coder, this.allocate(room), BigInt(room));
    return coder;
  }

  decoder(code) {
    const coder = this.allocate(CODER);
    this.np.np_decode(coder, this.copied(code), BigInt(code.length));
    return coder;
  }

  // Counts the bytes that an encoder has written so far.
  written(coder) {
    return this.view(DataView, coder).getInt32(8, true);
  }

  // Ends an encoding, and returns its bytes.
  finish(coder) {
    const size = Number(this.check(this.np.np_finish(coder)));
    const [begin] = this.view(Uint32Array, coder, 1);
    return this.view(Uint8Array, begin, size).slice();
  }

  // Codes numbers below `most`, each as likely as any other; returns them.
  codeNumbers(coder, numbers, most) {
    return this.freeing(() => {
      const at = this.copied(BigInt64Array.from(numbers, BigInt));
      const count = BigInt(numbers.length);
      this.check(this.np.np_code_numbers(coder, at, count, BigInt(most)));
      return Array.from(this.view(BigInt64Array, at, numbers.length), Number);
    });
  }
}

// A program that was opened, and what its header says.
export class Program {
  constructor(engine, file) {
    this.engine = engine;
    const size = BigInt(file.length);
    const data = engine.copied(file);
    const needed = engine.check(engine.np.np_memory(data, size));
    this.address = engine.np.np_open(data, size, engine.allocate(needed));
    if (!this.address) throw new Error("it is no program of nextpixel");
    const numbers = new DataView(file.buffer, file.byteOffset, file.length);
    for (const [name, place] of Object.entries(HEADER))
      this[name] = Number(numbers.getBigInt64(8 * place, true));
    this.maxLogScale = numbers.getFloat64(8 * HEADER.maxLogScale, true);
    const text = file.subarray(this.description, this.description + this.descriptionSize);
    this.about = JSON.parse(new TextDecoder().decode(text));
    const { orders } = this.about.hyperparameters ?? {};
    this.orders = [4, 8].includes(orders) ? orders : 1; // of the pixels; the first is raster order
    this.classes = this.choices - (this.orders > 1 ? this.orders : 0);
    if (this.classes < 0) throw new Error("it is no program of nextpixel");
    this.pixels = this.height * this.width;
    this.dims = this.channels * this.pixels;
  }
}

// Images on their way through a program, all at the same site. Free the latest session first.
export class Session {
  // Options: `images`; `classes`, weights for each image, or null without any; `order`, the order of
  // the pixels of each image, if it is not raster order; `levels`, `known` and `noise`, flat arrays of
  // all images; `coder`; `temperature`; `guidance`.
  constructor(program, options) {
    const { images, classes = null, order = [], levels, known, noise, coder = 0, vector = null } = options;
    const { temperature = 1, guidance = 1 } = options;
    this.program = program;
    this.engine = program.engine;
    this.before = this.engine.end;
    this.images = images;
    this.size = images * program.dims;
    this.states = guidance === 1 ? images : 2 * images; // the second half has no context
    const { engine, size } = this;
    const { np } = engine;
    this.levelsAt = engine.allocate(8 * size);
    this.intervalsAt = engine.allocate(8 * size);
    const knownAt = known ? engine.copied(Uint8Array.from(known)) : 0;
    const noiseAt = noise ? engine.copied(noise) : 0;
    this.state = engine.allocate(np.np_state_bytes(program.address, BigInt(this.states)));
    this.job = engine.allocate(JOB);
    if (levels) this.levels.set(BigInt64Array.from(levels, BigInt));
    np.np_begin(program.address, this.state, BigInt(this.states));
    for (let image = 0; image < this.states; image++)
      if (program.orders > 1) this.input(image, 0n, program.choices)[program.classes + (order[image % images] ?? 0)] = 1;
    for (let image = 0; image < images; image++) {
      if (classes) this.input(image, 0n, program.choices).set(classes[image]);
      if (vector) this.input(image, 1n, program.vector).set(vector[image]);
      if ((classes || vector) && program.present) this.input(image, 2n, 1)[0] = 1;
    }
    np.np_prepare(program.address, this.state, BigInt(this.states));
    engine.view(Uint32Array, this.job, 4).set([this.levelsAt, noiseAt, knownAt, this.intervalsAt]);
    engine.view(Float64Array, this.job + 16, 2).set([temperature, guidance]);
    engine.view(BigInt64Array, this.job + 32, 1)[0] = BigInt(images);
    engine.view(Uint32Array, this.job + 40, 2).set([0, coder]);
  }

  free() {
    this.engine.end = this.before;
  }

  input(image, which, count) {
    const at = this.engine.np.np_input_at(this.program.address, this.state, BigInt(image), which);
    return this.engine.view(Float32Array, at, count);
  }

  get levels() {
    return this.engine.view(BigInt64Array, this.levelsAt, this.size);
  }

  // The low end and the width of each level's interval of the integer CDF.
  get intervals() {
    return this.engine.view(Uint32Array, this.intervalsAt, 2 * this.size);
  }

  // Runs the sites from `first` to `end - 1`: (row * width + column) * channels + channel.
  run(first, end) {
    const { np } = this.engine;
    const error = np.np_run(this.program.address, this.state, this.job, BigInt(first), BigInt(end));
    this.engine.check(error);
  }

  // The parameters of the distribution at the site that was run last, a view.
  parameters(image, site) {
    const { np } = this.engine;
    const at = np.np_parameters(this.program.address, this.state, BigInt(image), BigInt(site));
    return this.engine.view(Float32Array, at, this.program.parameters);
  }

  // Reorders the images: image i becomes the one that was images[i]. Not with guidance.
  select(images) {
    const { np } = this.engine;
    const address = (i) => np.np_parameters(this.program.address, this.state, BigInt(i), 0n);
    const stride = this.images > 1 ? address(1) - address(0) : 0;
    const states = this.engine.view(Uint8Array, this.state, this.images * stride);
    const { dims } = this.program;
    for (const [array, size] of [[states, stride], [this.levels, dims], [this.intervals, 2 * dims]]) {
      const old = array.slice();
      images.forEach((from, to) => array.set(old.subarray(from * size, (from + 1) * size), to * size));
    }
  }
}

// One weight of 1: the class of an image.
export function oneClass(program, id) {
  const weights = new Float32Array(program.classes);
  weights[id] = 1;
  return weights;
}

// The bytes that a tile takes: its state, levels, intervals.
export function bytesOfTile(program) {
  const state = Number(program.engine.np.np_state_bytes(program.address, 1n));
  return state + (8 + 1 + 8) * program.dims;
}

// The bits of a level whose interval has this width.
export const bitsOf = (width) => TOTAL_BITS - Math.log2(width);
