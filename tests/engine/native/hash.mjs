// Prints the hash of the integer CDFs of some images, by WebAssembly: node hash.mjs WASM FILE IMAGES.
import { readFileSync } from "node:fs";
import { Engine, Program, Session, oneClass } from "../../../src/nextpixel/web/page/engine.mjs";

const [library, path, count] = process.argv.slice(2);
const engine = await Engine.load(readFileSync(library));
const program = new Program(engine, new Uint8Array(readFileSync(path)));
const numbers = Array.from({ length: Number(count) }, (_, i) => i);
const noise = new Float64Array(numbers.length * program.dims);
numbers.forEach((i) => noise.set(engine.noise(0, i, program.dims), i * program.dims));
const vectorOf = (image) => Float32Array.from({ length: program.vector }, (_, i) => ((i + image) % 3) - 1);
const session = new Session(program, {
  images: numbers.length,
  classes: program.classes ? numbers.map((i) => oneClass(program, i % program.classes)) : null,
  vector: program.vector ? numbers.map(vectorOf) : null,
  noise,
});
session.run(0, program.dims);
console.log(engine.checksum(session.intervalsAt, 8 * session.size).toString(16).padStart(16, "0"));
