// The panel that completes: a sketch, what is hidden of it, and how the model goes on.
import { MOST_SEED, encodePicture } from "./address.mjs";
import { Picture } from "./canvas.mjs";
import { Cancelled } from "./client.mjs";
import { action, button, buttonGroup, choice, filePicker, fixed, h, seedField, slider } from "./dom.mjs";
import { classControls, sharesOf, weightsOf } from "./draw.mjs";
import { bitsOf, oneClass } from "./engine.mjs";
import { chequered, colourOf, paint, paintLevels, pngOf, readPicture, save } from "./pictures.mjs";
import { Sketch, hiddenBy } from "./sketch.mjs";
import { t } from "./words.mjs";

const TIMES = 3;
const GOLDEN = 0.61803; // seeds that follow each other choose other classes
const PARTICLES = [1, 8, 32, 128];

export function completePanel(app) {
  const { model, state } = app;
  const read = app.sketch ?? Sketch.read(state.sketch, model);
  const sketch = (app.sketch = read instanceof Sketch ? read : new Sketch(model, read));
  const empty = encodePicture(new Sketch(model), model);
  const brush = (app.brush ??= { tool: "brush", wide: 2, shade: model.levels - 1 });
  const guesses = () => model.classes > 0 && state.classes !== "given";
  const particles = PARTICLES.findLast((n) => n <= state.particles);
  state.particles = particles;
  let asked = []; // what is under way
  let turn = 0; // the number of the last completion
  const picture = new Picture(model, "yours", stroke, "strokeKeys");
  picture.paints = true;
  picture.element.classList.add("paints");
  const results = h("div", { class: "results three" });
  const note = h("p", { "aria-live": "polite" });
  const halt = button("stop", "stopHint", stop, { hidden: true });
  const undo = button("undo", "undoHint", () => {
    sketch.undo();
    edited();
  });

  function repaint() {
    paint(picture.canvas, model, (pixel) =>
      sketch.hidden[pixel] ? chequered(model, pixel) : colourOf(model, sketch.levels, pixel),
    );
    undo.disabled = !sketch.past.length;
    keep.querySelector("select").value = sketch.part;
  }

  function stroke(pixel, how, before) {
    if (how === "release") return edited();
    if (how !== "press" && how !== "drag") return;
    if (how === "press") sketch.remember();
    const unseen = sketch.line(how === "drag" ? before : null, pixel, brush);
    note.textContent = unseen ? t("brushHidden") : "";
    repaint();
  }

  // Changes the sketch in one step, which can be undone.
  function step(change) {
    sketch.remember();
    change();
    edited();
  }

  // What decides the completions.
  function key() {
    const weights = guesses() ? null : [...(weightsOf(model, state) ?? [])];
    return JSON.stringify([app.name, encodePicture(sketch, model), state.first, state.particles, weights]);
  }

  // Shows the sketch, and whether the completions are of it.
  function edited() {
    if (asked.length) stop();
    tellAddress();
    state.completed = Number(app.completions?.key === key());
    repaint();
    showAge();
    app.write();
  }

  function tellAddress() {
    const text = encodePicture(sketch, model);
    state.sketch = text === empty ? null : text;
  }

  function showAge() {
    results.classList.toggle("old", !state.completed);
    hint.hidden = !results.childElementCount;
    age.hidden = Boolean(state.completed) || !results.childElementCount;
  }

  function stop() {
    turn++;
    for (const each of asked) each.cancel();
    asked = [];
    if (!halt.hidden) {
      results.replaceChildren();
      note.textContent = t("stopped");
      state.completed = 0;
      showAge();
    }
    halt.hidden = true;
    app.write();
  }

  // Completes with the next seed, unless the one that is shown was not used yet.
  function again() {
    if (app.used === state.first) state.first = state.first === MOST_SEED ? 0 : state.first + 1;
    seed.querySelector("input").value = state.first;
    complete();
  }

  async function complete() {
    if (asked.length || !halt.hidden) stop();
    if (!sketch.hidden.includes(1)) return (note.textContent = t("nothingHidden"));
    const own = turn;
    app.used = state.first;
    state.completed = 1;
    app.write();
    note.textContent = state.particles === 1 && laterKnown(sketch.hidden) ? t("tryParticles") : "";
    halt.hidden = false;
    delete panel.dataset.completed;
    const known = Uint8Array.from({ length: model.dims }, (_, i) => 1 - sketch.hidden[i % model.pixels]);
    const levels = sketch.levels.map((level, at) => (known[at] ? level : 0));
    const asks = { key: key(), levels, known, seed: state.first, particles: state.particles };
    const shown = Array.from({ length: TIMES }, (_, i) => figure(i));
    results.replaceChildren(...shown.map(({ element }) => element));
    shown.forEach(({ canvas, text }) => {
      paint(canvas, model, (pixel) => (known[pixel] ? colourOf(model, levels, pixel) : chequered(model, pixel)));
      text.textContent = t(guesses() ? "guessing" : "waiting");
    });
    showAge();
    try {
      const chosen = guesses() ? await guess(asks, own) : shown.map(() => weightsOf(model, state));
      if (own !== turn) return;
      asked = shown.map(({ text }, i) => ask(asks, chosen[i], i, text));
      const done = await Promise.all(asked.map((each, i) => each.then((found) => shown[i].show(finished(asks, chosen[i], found)))));
      if (own !== turn) return;
      asked = [];
      halt.hidden = true;
      app.completions = { key: asks.key, done };
      told();
    } catch (error) {
      if (!(error instanceof Cancelled) && own === turn) stop();
      app.fail(error);
    }
  }

  function ask({ levels, known, seed, particles }, weights, i, text) {
    const common = { model: app.name, weights, levels, known, seed };
    const show = ({ done }) => (text.textContent = `${Math.round(100 * done)} %`);
    return particles > 1
      ? app.client.ask("complete", { ...common, number: i, particles }, show)
      : app.client.ask("draw", { ...common, numbers: [i], temperature: 1, guidance: 1 }, show);
  }

  function finished({ known }, weights, { levels, widths, checksum }) {
    const bits = widths.reduce((sum, width, at) => (known[at] ? sum : sum + bitsOf(width)), 0);
    return { levels, bits, checksum, classId: guesses() ? weights.indexOf(1) : undefined };
  }

  // Tells tests that the completions are there, and which ones.
  function told() {
    panel.dataset.completed = app.completions.done.map(({ checksum }) => checksum).join(" ");
  }

  // A place for a completion, and what can be done with it.
  function figure(i) {
    const canvas = h("canvas", { role: "img", "aria-label": t("completion", i + 1) });
    const text = h("small");
    const buttons = h("div", { class: "buttons" });
    const show = (completion) => {
      const { levels, bits, classId, checksum } = completion;
      paintLevels(canvas, model, levels);
      const of = classId === undefined ? "" : t("asClass", app.classNames[classId]);
      text.textContent = of + t("bits", fixed(bits, 0));
      canvas.title = t("checksum", checksum);
      const name = `${app.name}-completion-${state.first}-${i + 1}.png`;
      buttons.replaceChildren(
        button("surprise", "toSurpriseHint", () => app.surpriseBy(completion), { "aria-label": `${t("surprise")} (${i + 1})` }),
        button("saveShort", "saveHint", async () => save(await pngOf(model, levels), name, "image/png"), { "aria-label": `${t("saveShort")} (${i + 1})` }),
      );
      return completion;
    };
    return { canvas, text, show, element: h("figure", {}, canvas, h("figcaption", {}, text), buttons) };
  }

  // Draws a class for each completion, as likely as the pixels before the first hidden one make it.
  async function guess({ levels, known, seed }, own) {
    const first = known.subarray(0, model.pixels).indexOf(0);
    const before = known.map((_, i) => Number(i % model.pixels < first));
    asked = [app.client.ask("classify", { model: app.name, levels, known: before })];
    const shares = sharesOf(await asked[0]);
    if (own === turn) asked = [];
    return Array.from({ length: TIMES }, (_, i) => {
      let left = (seed * GOLDEN + (i + 0.5) / TIMES) % 1;
      const id = shares.findIndex((share) => (left -= share) < 0);
      return oneClass(model, Math.max(id, 0));
    });
  }

  // Takes a whole picture; without one the sketch becomes empty.
  function take(levels) {
    step(() => (levels ? sketch.levels.set(levels) : sketch.levels.fill(0)));
  }

  const keeps = ["keepTop", "keepLeft", "keepAll", "keepMine"].map((part) => [part, t(part)]);
  const keep = choice("keep", "keepHint", keeps, sketch.part, (part) => {
    if (part === "keepMine") return tools.choose("hide");
    step(() => sketch.hidden.set(hiddenBy(part, model)));
  });
  const starts = [["", t("chooseOne")], ["drawing", t("fromDrawing")]];
  app.examples.forEach((_, i) => starts.push([i, t("example", i + 1)]));
  const from = choice("from", "fromHint", starts, "", async (name) => {
    from.querySelector("select").value = ""; // so that it can be chosen again
    try {
      const levels = name === "drawing" ? (app.drawn ?? (await app.draw())).levels : app.examples[Number(name)];
      if (panel.isConnected) take(levels);
    } catch (error) {
      app.fail(error);
    }
  });
  const given = h("div", { class: "controls whole", hidden: guesses() || !model.classes }, classControls(app));
  const ways = [["guess", t("guess")], ["given", t("given")]];
  const classes = choice("classes", "classesHint", ways, state.classes, (which) => {
    given.hidden = which === "guess";
    app.change({ classes: which });
  });
  const tools = buttonGroup("tool", [["brush", "brushHint"], ["eraser", "eraserHint"], ["hide", "hideHint"], ["unhide", "unhideHint"]], brush.tool, (name) => {
    brush.tool = name;
    note.textContent = "";
  });
  const seed = seedField("first", "firstHint", state.first, (first) => app.change({ first }));
  const hint = h("small", { hidden: true }, t("resultsHint"));
  const age = h("p", { hidden: true, "aria-live": "polite" }, t("oldResults"));
  const panel = h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      h("p", {}, t("completeIntro")),
      picture.element,
      h("small", {}, t("yours")),
      h("div", { class: "buttons" }, tools.element, undo, button("empty", "emptyHint", () => take())),
      h("div", { class: "buttons" }, button("run", "runHint", again, { class: "main" }), halt),
      h("small", {}, t("runHint")),
      note,
      age,
      results,
      hint,
    ),
    h(
      "div",
      { class: "controls" },
      slider("size", "sizeHint", { min: 1, max: 6, step: 1, value: brush.wide, change: (value) => (brush.wide = value) }),
      model.levels > 2
        ? slider("shade", "shadeHint", {
            ...{ min: 0, max: model.levels - 1, step: 1, value: brush.shade },
            change: (value) => (brush.shade = value),
          })
        : null,
      keep,
      from,
      filePicker("file", "fileHint", "image/*", false, ([file]) => app.take(file)),
      model.classes ? classes : null,
      given,
      seed,
      choice("particles", "particlesHint", PARTICLES.map((n) => [n, n]), particles, (n) => app.change({ particles: Number(n) })),
      action("toSurprise", "sketchSurpriseHint", () => app.surpriseBy(sketch)),
      action("save", "saveSketchHint", async () => {
        const levels = sketch.levels.map((level, at) => (sketch.hidden[at % model.pixels] ? 0 : level));
        save(await pngOf(model, levels), `${app.name}-sketch.png`, "image/png");
      }),
      action("copyLink", "linkSketchHint", () => app.copyLink()),
    ),
  );
  panel.addEventListener("keydown", (event) => {
    const wanted = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !event.shiftKey;
    if (!wanted || event.target.matches("input[type=number]") || undo.disabled) return;
    event.preventDefault();
    undo.click();
  });
  panel.leave = () => {
    turn++;
    for (const each of asked) each.cancel();
  };
  panel.take = async (file) => take(await readPicture(file, model));
  // Seed, classes and particles that change give other completions at once, if there are any.
  panel.changed = () => {
    if (state.completed) complete();
  };
  tellAddress();
  repaint();
  if (!read) queueMicrotask(() => app.say(t("badPicture")));
  if (app.completions?.key === key()) {
    const shown = app.completions.done.map((completion, i) => {
      const place = figure(i);
      place.show(completion);
      return place.element;
    });
    results.replaceChildren(...shown);
    state.completed = 1;
    told();
    showAge();
  } else if (state.completed) queueMicrotask(complete);
  return panel;
}

// Whether a known pixel comes after a hidden one.
const laterKnown = (hidden) => hidden.some((hides, pixel) => hides && hidden[pixel + 1] === 0);
