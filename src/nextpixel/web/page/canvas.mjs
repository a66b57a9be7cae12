// A picture on the page, whose pixels can be pointed at, by mouse, finger or arrow keys.
import { h } from "./dom.mjs";
import { t } from "./words.mjs";

export class Picture {
  // `point(pixel, how, before)` is called with a pixel and the one before; how is "move", "press",
  // "drag", "key" or, at the end of a stroke, "release".
  constructor(model, name, point, hint = "pixelHint") {
    Object.assign(this, { model, point, pixel: null });
    this.canvas = h("canvas", { width: model.width, height: model.height });
    this.mark = h("div", { class: "mark", hidden: true });
    this.element = h(
      "div",
      { class: "picture", tabindex: 0, role: "application", "aria-label": `${t(name)}. ${t(hint)}` },
      this.canvas,
      this.mark,
    );
    this.element.style.aspectRatio = `${model.width} / ${model.height}`;
    const { element } = this;
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      if (event.pointerType !== "touch" || this.paints) element.setPointerCapture(event.pointerId);
      this.pointed(event, "press");
    });
    element.addEventListener("pointermove", (event) => this.pointed(event, "move"));
    for (const end of ["pointerup", "pointercancel"])
      element.addEventListener(end, () => this.pixel !== null && this.point(this.pixel, "release"));
    element.addEventListener("keydown", (event) => this.key(event));
  }

  pointed(event, how) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const col = Math.floor(((event.clientX - left) / width) * this.model.width);
    const row = Math.floor(((event.clientY - top) / height) * this.model.height);
    if (col < 0 || row < 0 || col >= this.model.width || row >= this.model.height) return (this.outside = true);
    const [before, pixel] = [this.outside ? null : this.pixel, row * this.model.width + col];
    this.outside = false;
    if (how === "move" && pixel === before) return;
    this.select(pixel);
    this.point(pixel, how === "move" && event.buttons ? "drag" : how, before);
  }

  key(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const { width, height } = this.model;
    const at = this.pixel ?? -1;
    if (event.key === " ") {
      this.select(Math.max(at, 0));
      this.point(this.pixel, "press", null);
      this.point(this.pixel, "release");
    } else if (!moves[event.key]) return;
    else {
      const [down, right] = at < 0 ? [0, 1] : moves[event.key];
      const row = Math.min(Math.max(Math.floor(at / width) + down, 0), height - 1);
      const col = Math.min(Math.max((at % width) + right, 0), width - 1);
      this.select(row * width + col);
      this.point(this.pixel, "key");
    }
    event.preventDefault();
  }

  select(pixel) {
    this.pixel = pixel;
    this.mark.hidden = pixel === null;
    if (pixel === null) return;
    const { width, height } = this.model;
    this.mark.style.left = `${(100 * (pixel % width)) / width}%`;
    this.mark.style.top = `${(100 * Math.floor(pixel / width)) / height}%`;
    this.mark.style.width = `${100 / width}%`;
    this.mark.style.height = `${100 / height}%`;
  }
}
