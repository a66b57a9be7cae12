// Prints the hash of the integer CDFs of some images, by WebAssembly: node hash.mjs WASM FILE IMAGES.
import { readFileSync } from "node:fs";

const [library, path, count] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(library), {});
const { memory, __heap_base, ...np } = instance.exports;
const file = readFileSync(path);
const images = BigInt(count);

let end = __heap_base.value;
function allocate(bytes) {
  const begin = Math.ceil(end / 64) * 64;
  end = begin + Number(bytes);
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  new Uint8Array(memory.buffer, begin, Number(bytes)).fill(0);
  return begin;
}

const [CHANNELS, HEIGHT, WIDTH, CLASSES, VECTOR] = [0n, 1n, 2n, 7n, 8n]; // enum np_number
const [INPUT_CLASSES, INPUT_VECTOR, INPUT_PRESENT] = [0n, 1n, 2n]; // enum np_input
const size = BigInt(file.length);
const data = allocate(size);
new Uint8Array(memory.buffer).set(file, data);
const program = np.np_open(data, size, allocate(np.np_memory(data, size)));
const number = (which) => np.np_number_of(program, which);
const sites = number(CHANNELS) * number(HEIGHT) * number(WIDTH);
const [levels, noise, intervals] = [0, 0, 0].map(() => allocate(images * sites * 8n));
const state = allocate(np.np_state_bytes(program, images));
np.np_begin(program, state, images);
for (let image = 0n; image < images; image++) {
  np.np_noise(0n, image, noise + Number(image * sites * 8n), sites);
  const input = (which, count) => {
    const at = np.np_input_at(program, state, image, which);
    return new Float32Array(memory.buffer, at, at ? Number(count) : 0);
  };
  const classes = input(INPUT_CLASSES, number(CLASSES));
  if (classes.length) classes[Number(image) % classes.length] = 1;
  input(INPUT_VECTOR, number(VECTOR)).forEach((_, i, v) => (v[i] = ((i + Number(image)) % 3) - 1));
  input(INPUT_PRESENT, 1).fill(1);
}
np.np_prepare(program, state, images);
const job = allocate(48); // of wasm32: no crew, no coder
new Uint32Array(memory.buffer, job, 4).set([levels, noise, 0, intervals]);
new Float64Array(memory.buffer, job + 16, 2).fill(1);
new BigInt64Array(memory.buffer, job + 32, 1)[0] = images;
const error = np.np_run(program, state, job, 0n, sites);
if (error) throw new Error(`error ${-error}`);
const hash = BigInt.asUintN(64, np.np_checksum(intervals, images * sites * 8n));
console.log(hash.toString(16).padStart(16, "0"));
