// The panel that completes: a picture to draw on, what is hidden of it, and how the model goes on.
import { Picture } from "./canvas.mjs";
import { Cancelled } from "./client.mjs";
import { button, choice, filePicker, fixed, h, slider } from "./dom.mjs";
import { bitsOf, oneClass } from "./engine.mjs";
import { colourOf, paint, paintLevels, readPicture } from "./pictures.mjs";
import { classControls, weightsOf } from "./draw.mjs";
import { t } from "./words.mjs";

const TIMES = 3;
const PARTICLES = [1, 8, 32, 128];

export function completePanel(app) {
  const { model, state } = app;
  app.sketch ??= { levels: new Uint16Array(model.dims), hidden: hiddenBy("keepTop") };
  const { sketch } = app;
  let [tool, wide, shade, particles] = ["brush", 2, model.levels - 1, 1];
  let guesses = model.classes > 0;
  const picture = new Picture(model, "yours", stroke, "strokeKeys");
  picture.paints = true;
  picture.element.classList.add("paints");
  const results = h("div", { class: "results" });
  const note = h("p", { "aria-live": "polite" });

  function hiddenBy(part) {
    const { width, height, pixels } = model;
    const hides = {
      keepTop: (pixel) => pixel >= width * Math.ceil(height / 2),
      keepLeft: (pixel) => pixel % width >= Math.ceil(width / 2),
      keepAll: () => false,
    };
    return Uint8Array.from({ length: pixels }, (_, pixel) => Number(hides[part](pixel)));
  }

  function repaint() {
    const { width } = model;
    paint(picture.canvas, model, (pixel) => {
      if (!sketch.hidden[pixel]) return colourOf(model, sketch.levels, pixel);
      return (Math.floor(pixel / width) + pixel) % 2 ? [120, 120, 150, 110] : [120, 120, 150, 60];
    });
  }

  function stroke(pixel, how) {
    if (how === "move" || how === "key") return;
    const { width, height, channels, pixels } = model;
    const [row, col] = [Math.floor(pixel / width), pixel % width];
    const from = (at) => at - Math.floor((wide - 1) / 2);
    for (let y = from(row); y < from(row) + wide; y++)
      for (let x = from(col); x < from(col) + wide; x++) {
        if (x < 0 || y < 0 || x >= width || y >= height) continue;
        const at = y * width + x;
        if (tool === "hide" || tool === "unhide") sketch.hidden[at] = Number(tool === "hide");
        else
          for (let c = 0; c < channels; c++)
            sketch.levels[c * pixels + at] = tool === "brush" ? shade : 0;
      }
    if (tool === "hide" || tool === "unhide") keep.querySelector("select").value = "keepMine";
    repaint();
  }

  async function complete() {
    complete.asked?.forEach((asked) => asked.cancel());
    if (!sketch.hidden.includes(1)) return (note.textContent = t("nothingHidden"));
    note.textContent = "";
    const known = Uint8Array.from({ length: model.dims }, (_, i) => 1 - sketch.hidden[i % model.pixels]);
    const canvases = Array.from({ length: TIMES }, (_, i) =>
      h("canvas", { role: "img", "aria-label": `${t("complete")} ${i + 1}` }),
    );
    const texts = canvases.map(() => h("small"));
    results.replaceChildren(...canvases.map((canvas, i) => h("figure", {}, canvas, h("figcaption", {}, texts[i]))));
    canvases.forEach((canvas) => paintLevels(canvas, model, sketch.levels));
    const chosen = guesses ? await guess(known) : canvases.map(() => weightsOf(model, state));
    complete.asked = canvases.map((_, i) => {
      const common = { model: app.name, weights: chosen[i], levels: sketch.levels, known };
      const show = ({ done }) => (texts[i].textContent = `${Math.round(100 * done)} %`);
      if (particles > 1) return app.client.ask("complete", { ...common, seed: state.seed + i, particles }, show);
      const options = { seed: state.seed, numbers: [i], temperature: state.temperature, guidance: 1 };
      return app.client.ask("draw", { ...common, ...options }, show);
    });
    try {
      for (const [i, asked] of complete.asked.entries()) {
        const { levels, widths } = await asked;
        paintLevels(canvases[i], model, levels);
        const bits = widths.reduce((sum, width, at) => (known[at] ? sum : sum + bitsOf(width)), 0);
        const guessed = guesses ? `${app.classNames[chosen[i].indexOf(1)]}: ` : "";
        texts[i].textContent = `${guessed}${fixed(bits, 0)} bits`;
      }
      panel.dataset.completed = Number(panel.dataset.completed ?? 0) + 1;
    } catch (error) {
      if (!(error instanceof Cancelled)) app.fail(error);
    }
  }

  // Draws a class for each completion, as likely as what is given makes it.
  async function guess(known) {
    const bits = await app.client.ask("classify", { model: app.name, levels: sketch.levels, known });
    const least = Math.min(...bits);
    const shares = bits.map((x) => 2 ** (least - x));
    const sum = shares.reduce((a, b) => a + b, 0);
    return Array.from({ length: TIMES }, (_, i) => {
      let left = sum * (((state.seed * 0.618 + (i + 0.5) / TIMES) % 1 + 1) % 1);
      const id = shares.findIndex((share) => (left -= share) < 0);
      return oneClass(model, Math.max(id, 0));
    });
  }

  async function begin(from) {
    if (from === "empty") sketch.levels.fill(0);
    else if (from === "drawing" && app.drawn) sketch.levels.set(app.drawn.levels);
    else if (app.examples[Number(from)]) sketch.levels.set(app.examples[Number(from)]);
    repaint();
  }

  const keeps = ["keepTop", "keepLeft", "keepAll", "keepMine"].map((part) => [part, t(part)]);
  const keep = choice("keep", "keepHint", keeps, "keepTop", (part) => {
    if (part === "keepMine") tool = "hide";
    else sketch.hidden.set(hiddenBy(part));
    repaint();
  });
  const starts = [["empty", t("empty")], ...(app.drawn ? [["drawing", t("fromDrawing")]] : [])];
  app.examples.forEach((_, i) => starts.push([i, t("example", i + 1)]));
  const given = h("div", { class: "controls whole", hidden: true }, classControls(app));
  const classes = (which) => {
    guesses = which === "guess";
    given.hidden = guesses;
  };
  const tools = ["brush", "eraser", "hide", "unhide"].map((name) => [name, t(name)]);
  const panel = h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      h("p", {}, t("completeIntro")),
      picture.element,
      h("small", {}, t("yours")),
      h("div", { class: "buttons" }, button("run", "runHint", complete, { class: "main" })),
      note,
      results,
    ),
    h(
      "div",
      { class: "controls" },
      choice("tool", "toolHint", tools, tool, (name) => (tool = name)),
      slider("size", "sizeHint", { min: 1, max: 6, step: 1, value: wide, change: (value) => (wide = value) }),
      model.levels > 2
        ? slider("shade", "shadeHint", {
            ...{ min: 0, max: model.levels - 1, step: 1, value: shade },
            change: (value) => (shade = value),
          })
        : null,
      keep,
      choice("from", "fromHint", starts, "empty", begin),
      filePicker("file", "fileHint", "image/*", false, async ([file]) => app.take(file)),
      guesses ? choice("classes", "classesHint", [["guess", t("guess")], ["given", t("given")]], "guess", classes) : null,
      given,
      choice("particles", "particlesHint", PARTICLES.map((n) => [n, n]), 1, (n) => (particles = Number(n))),
    ),
  );
  panel.take = async (file) => {
    sketch.levels.set(await readPicture(file, model));
    repaint();
  };
  repaint();
  return panel;
}
