// Decodes a .npxz by WebAssembly: node decode.mjs WASM FILE. Prints the checksum of each chunk's
// levels, how many images it has, and the sizes of those that are coded; ends with an error if one is wrong.
import { readFileSync } from "node:fs";
import { Engine, Program } from "../../src/nextpixel/web/page/engine.mjs";
import { decodeChunk, joined, readHead, readRecords, unpackProgram } from "../../src/nextpixel/web/page/npxz.mjs";

const [library, path] = process.argv.slice(2);
const engine = await Engine.load(readFileSync(library));
const records = readRecords(engine, new Uint8Array(readFileSync(path)));
const head = await readHead(records);
const { body } = records.find((record) => record.kind === "PROG");
const program = new Program(engine, await unpackProgram(body));
for (const { kind, body } of records) {
  if (kind !== "CHNK") continue;
  const images = await decodeChunk(engine, () => program, head, body);
  const levels = images.filter((image) => image.levels).map(({ levels }) => new Uint8Array(levels.buffer));
  const sizes = images.filter((image) => image.levels).map(({ size }) => size.join("x"));
  console.log(engine.crc32c(joined(levels)), images.length, sizes.join(","));
}
