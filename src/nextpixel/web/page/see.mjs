// The panel that shows what a pixel depends on, and how a masked convolution keeps the order.
import { Picture } from "./canvas.mjs";
import { button, choice, h } from "./dom.mjs";
import { heat, paint } from "./pictures.mjs";
import { sentences, t } from "./words.mjs";

const CARD = { PixelCNN: "blind", GatedPixelCNN: "gated", RowLSTM: "row", DiagonalBiLSTM: "all", PixelCNNPP: "plus", PixelSNAIL: "all" };
const LATER = [128, 128, 140, 40];
const BLIND = [70, 120, 220, 255];
const KERNEL = 5; // side of the kernel that slides
const MAP = 9; // side of the map that it slides over

export function seePanel(app) {
  const { side, kinds } = app.fields;
  const size = side * side;
  const model = { width: side, height: side, channels: 1, pixels: size };
  let kind = kinds[0];
  let at = size - Math.ceil(side * 2.5);
  const picture = new Picture(model, "field", (pixel) => {
    at = pixel;
    repaint();
  });
  const text = h("p", { "aria-live": "polite" });

  function repaint() {
    const from = (kinds.indexOf(kind) * size + at) * size;
    const row = app.fields.values.subarray(from, from + size);
    let [seen, blind] = [0, 0];
    for (let pixel = 0; pixel < at; pixel++) row[pixel] ? seen++ : blind++;
    paint(picture.canvas, model, (pixel) => {
      if (pixel >= at) return LATER;
      return row[pixel] ? heat(0.15 + (0.85 * row[pixel]) / 255) : BLIND;
    });
    picture.select(at);
    text.textContent = sentences(t("fieldFacts", seen, at, blind), t(CARD[kind]));
    panel.dataset.seen = seen;
  }

  const chooser = choice("kind", "kindHint", kinds.map((name) => [name, name]), kind, (name) => {
    kind = name;
    repaint();
  });
  const panel = h(
    "div",
    { class: "columns" },
    h("div", {}, h("p", {}, t("seeIntro")), picture.element, h("small", {}, t("fieldColours"))),
    h("div", { class: "controls" }, h("div", { class: "whole" }, chooser, text), h("div", { class: "whole" }, maskDemo())),
  );
  repaint();
  return panel;
}

// A kernel that slides over a map: which values it may read.
function maskDemo() {
  const model = { width: MAP, height: MAP, channels: 1, pixels: MAP * MAP };
  const reach = (KERNEL - 1) / 2;
  let [type, at, timer] = ["A", Math.floor((MAP * MAP) / 2), null];
  const picture = new Picture(model, "maskPicture", (pixel) => {
    stop();
    at = pixel;
    repaint();
  });
  picture.element.classList.add("small");
  const text = h("p", { "aria-live": "polite" });

  function repaint() {
    const [row, col] = [Math.floor(at / MAP), at % MAP];
    let read = 0;
    paint(picture.canvas, model, (pixel) => {
      const [y, x] = [Math.floor(pixel / MAP) - row, (pixel % MAP) - col];
      if (Math.abs(y) > reach || Math.abs(x) > reach) return pixel < at ? [150, 150, 165, 120] : LATER;
      const allowed = y < 0 || (y === 0 && (x < 0 || (x === 0 && type === "B")));
      read += allowed;
      return allowed ? heat(0.7) : BLIND;
    });
    picture.select(at);
    text.textContent = t(type === "A" ? "maskA" : "maskB", read);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = t("slide");
  }

  const play = button("slide", "slideHint", () => {
    if (timer) return stop();
    play.textContent = t("pause");
    timer = setInterval(() => {
      if (!picture.element.isConnected) return stop();
      at = (at + 1) % model.pixels;
      repaint();
    }, 150);
  });
  const types = choice("mask", "maskHint", [["A", t("optionA")], ["B", t("optionB")]], type, (name) => {
    type = name;
    repaint();
  });
  const element = h("div", {}, types, picture.element, h("div", { class: "buttons" }, play), h("small", {}, t("slideHint")), text);
  repaint();
  return element;
}
