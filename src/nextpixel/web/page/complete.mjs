// The panel that completes: a picture to draw on, what is hidden of it, and how the model goes on.
import { Picture } from "./canvas.mjs";
import { button, choice, filePicker, fixed, h, slider } from "./dom.mjs";
import { bitsOf, oneClass } from "./engine.mjs";
import { colourOf, paint, paintLevels, readPicture } from "./pictures.mjs";
import { classControls, sharesOf, weightsOf } from "./draw.mjs";
import { t } from "./words.mjs";

const TIMES = 3;
const GOLDEN = 0.61803; // seeds that follow each other choose other classes
const PARTICLES = [1, 8, 32, 128];

export function completePanel(app) {
  const { model, state } = app;
  app.sketch ??= { levels: new Uint16Array(model.dims), hidden: hiddenBy("keepTop") };
  const { sketch } = app;
  let [tool, wide, shade, particles] = ["brush", 2, model.levels - 1, 1];
  let guesses = model.classes > 0;
  let asked = []; // what is under way
  let latest = 0; // the number of the last completion
  const picture = new Picture(model, "yours", stroke, "strokeKeys");
  picture.paints = true;
  picture.element.classList.add("paints");
  const results = h("div", { class: "results" });
  const note = h("p", { "aria-live": "polite" });
  const halt = button("stop", "stopHint", stop, { hidden: true });

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

  // Draws a line from where the pointer was.
  function stroke(pixel, how, before) {
    if (how === "move" || how === "key") return;
    const { width } = model;
    const start = how === "drag" && before !== null ? before : pixel;
    const at = (share, of) => Math.round(of(start) + share * (of(pixel) - of(start)));
    const [row, col] = [(p) => Math.floor(p / width), (p) => p % width];
    const steps = Math.max(Math.abs(row(pixel) - row(start)), Math.abs(col(pixel) - col(start)), 1);
    for (let i = 0; i <= steps; i++) dab(at(i / steps, row), at(i / steps, col));
    if (tool === "hide" || tool === "unhide") keep.querySelector("select").value = "keepMine";
    repaint();
  }

  function dab(row, col) {
    const { width, height, channels, pixels } = model;
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
  }

  function stop() {
    latest++;
    for (const each of asked) each.cancel();
    asked = [];
    halt.hidden = true;
  }

  async function complete() {
    stop();
    if (!sketch.hidden.includes(1)) return (note.textContent = t("nothingHidden"));
    const number = latest;
    note.textContent = "";
    halt.hidden = false;
    const known = Uint8Array.from({ length: model.dims }, (_, i) => 1 - sketch.hidden[i % model.pixels]);
    const levels = sketch.levels.slice();
    const canvases = Array.from({ length: TIMES }, (_, i) =>
      h("canvas", { role: "img", "aria-label": `${t("complete")} ${i + 1}` }),
    );
    const texts = canvases.map(() => h("small"));
    results.replaceChildren(...canvases.map((canvas, i) => h("figure", {}, canvas, h("figcaption", {}, texts[i]))));
    canvases.forEach((canvas) => paintLevels(canvas, model, levels));
    try {
      const chosen = guesses ? await guess(levels, known) : canvases.map(() => weightsOf(model, state));
      if (number !== latest) return;
      asked = canvases.map((_, i) => {
        const common = { model: app.name, weights: chosen[i], levels, known, seed: state.seed };
        const show = ({ done }) => (texts[i].textContent = `${Math.round(100 * done)} %`);
        return particles > 1
          ? app.client.ask("complete", { ...common, number: i, particles }, show)
          : app.client.ask("draw", { ...common, numbers: [i], temperature: 1, guidance: 1 }, show);
      });
      const done = asked.map(async (each, i) => {
        const { levels, widths } = await each;
        paintLevels(canvases[i], model, levels);
        const bits = widths.reduce((sum, width, at) => (known[at] ? sum : sum + bitsOf(width)), 0);
        const guessed = guesses ? `${app.classNames[chosen[i].indexOf(1)]}: ` : "";
        texts[i].textContent = guessed + t("bits", fixed(bits, 0));
      });
      await Promise.all(done);
      halt.hidden = true;
      panel.dataset.completed = Number(panel.dataset.completed ?? 0) + 1;
    } catch (error) {
      app.fail(error);
    }
  }

  // Draws a class for each completion, as likely as the pixels before the first hidden one make it.
  async function guess(levels, known) {
    const first = sketch.hidden.indexOf(1);
    const before = known.map((_, i) => Number(i % model.pixels < first));
    const bits = await app.client.ask("classify", { model: app.name, levels, known: before });
    const shares = sharesOf(bits);
    return Array.from({ length: TIMES }, (_, i) => {
      let left = (state.seed * GOLDEN + (i + 0.5) / TIMES) % 1;
      const id = shares.findIndex((share) => (left -= share) < 0);
      return oneClass(model, Math.max(id, 0));
    });
  }

  function begin(from) {
    if (from === "empty") sketch.levels.fill(0);
    else if (from === "drawing" && app.drawn) sketch.levels.set(app.drawn.levels);
    else if (app.examples[Number(from)]) sketch.levels.set(app.examples[Number(from)]);
    repaint();
  }

  const keeps = ["keepTop", "keepLeft", "keepAll", "keepMine"].map((part) => [part, t(part)]);
  const keep = choice("keep", "keepHint", keeps, "keepTop", (part) => {
    if (part === "keepMine") toolChoice.querySelector("select").value = tool = "hide";
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
  const toolChoice = choice("tool", "toolHint", tools, tool, (name) => (tool = name));
  const panel = h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      h("p", {}, t("completeIntro")),
      picture.element,
      h("small", {}, t("yours")),
      h("div", { class: "buttons" }, button("run", "runHint", complete, { class: "main" }), halt),
      h("small", {}, t("runHint")),
      note,
      results,
    ),
    h(
      "div",
      { class: "controls" },
      toolChoice,
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
  panel.leave = stop;
  panel.take = async (file) => {
    sketch.levels.set(await readPicture(file, model));
    repaint();
  };
  repaint();
  return panel;
}
