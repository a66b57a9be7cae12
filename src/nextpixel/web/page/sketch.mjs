// A sketch: levels and which pixels are hidden, changed by strokes that can be undone.
import { decodePicture } from "./address.mjs";

const PAST = 100; // steps that can be undone

// The pixels that are hidden where a part is kept.
export function hiddenBy(part, { width, height, pixels }) {
  const hides = {
    keepTop: (pixel) => pixel >= width * Math.ceil(height / 2),
    keepLeft: (pixel) => pixel % width >= Math.ceil(width / 2),
    keepAll: () => false,
  };
  return Uint8Array.from({ length: pixels }, (_, pixel) => Number(hides[part](pixel)));
}

export class Sketch {
  // `picture` has levels and hidden pixels; without one it is empty, and its lower half is hidden.
  constructor(model, picture) {
    this.model = model;
    this.levels = picture?.levels.slice() ?? new Uint16Array(model.dims);
    this.hidden = picture?.hidden.slice() ?? hiddenBy("keepTop", model);
    this.past = [];
  }

  // Reads a sketch from the address; null if it fits no picture of the model.
  static read(text, model) {
    const picture = text === null ? undefined : decodePicture(text, model);
    return picture === null ? null : new Sketch(model, picture);
  }

  // Keeps the sketch as it is, for `undo`.
  remember() {
    this.past.push({ levels: this.levels.slice(), hidden: this.hidden.slice() });
    if (this.past.length > PAST) this.past.shift();
  }

  undo() {
    Object.assign(this, this.past.pop());
  }

  // The part that is kept, or "keepMine".
  get part() {
    const same = (part) => hiddenBy(part, this.model).every((hides, pixel) => hides === this.hidden[pixel]);
    return ["keepTop", "keepLeft", "keepAll"].find(same) ?? "keepMine";
  }

  // Draws a line from a pixel (or from none) to another; returns whether it changed nothing that is seen.
  line(before, pixel, brush) {
    const { width } = this.model;
    const start = before ?? pixel;
    const at = (share, of) => Math.round(of(start) + share * (of(pixel) - of(start)));
    const [row, col] = [(p) => Math.floor(p / width), (p) => p % width];
    const steps = Math.max(Math.abs(row(pixel) - row(start)), Math.abs(col(pixel) - col(start)), 1);
    let unseen = true;
    for (let i = 0; i <= steps; i++) unseen = this.dab(at(i / steps, row), at(i / steps, col), brush) && unseen;
    return unseen;
  }

  dab(row, col, { tool, wide, shade }) {
    const { width, height, channels, pixels } = this.model;
    const from = (at) => at - Math.floor((wide - 1) / 2);
    let unseen = true;
    for (let y = from(row); y < from(row) + wide; y++)
      for (let x = from(col); x < from(col) + wide; x++) {
        if (x < 0 || y < 0 || x >= width || y >= height) continue;
        const at = y * width + x;
        if (tool === "hide" || tool === "unhide") this.hidden[at] = Number(tool === "hide");
        else if (this.hidden[at]) continue;
        else for (let c = 0; c < channels; c++) this.levels[c * pixels + at] = tool === "brush" ? shade : 0;
        unseen = false;
      }
    return unseen;
  }
}
