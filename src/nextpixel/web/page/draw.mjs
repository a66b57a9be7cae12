// The panel that draws: a picture, how it came to be, and what the model thought of each pixel.
import { DRAWS } from "./address.mjs";
import { Picture } from "./canvas.mjs";
import { entropyOf, probabilities } from "./distribution.mjs";
import { action, button, choice, fixed, h, percent, seedField, slider } from "./dom.mjs";
import { bitsOf } from "./engine.mjs";
import { colourOf, filmOf, paint, pngOf, save } from "./pictures.mjs";
import { sentences, t } from "./words.mjs";

const UNDRAWN = [128, 128, 140, 60];
const SPEEDS = [10, 30, 100, 300, 1000, 3000, 100000];

// Returns the class weights that the state asks for; null without classes.
export function weightsOf(model, state) {
  if (!model.classes) return null;
  const weights = new Float32Array(model.classes);
  const share = state.mix === null || state.mix === state.class ? 0 : state.share;
  weights[state.class] = Math.fround(1 - share);
  if (share) weights[state.mix] = Math.fround(share);
  return weights;
}

// Turns bits under each class into the classes' probabilities, all being as likely beforehand.
export function sharesOf(bits) {
  const least = Math.min(...bits);
  const shares = bits.map((x) => 2 ** (least - x));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((x) => x / sum);
}

export function classControls(app) {
  const { model, state } = app;
  if (!model.classes) return [];
  const names = app.classNames.map((name, id) => [id, name]);
  const share = slider("share", "shareHint", {
    ...{ min: 0, max: 1, step: 0.05, value: state.share, show: fixed },
    change: (value, done) => app.change({ share: value }, done),
  });
  share.hidden = state.mix === null;
  const mixed = (value) => {
    share.hidden = value === "";
    app.change({ mix: value === "" ? null : Number(value) });
  };
  return [
    choice("class", "classHint", names, state.class, (id) => app.change({ class: Number(id) })),
    choice("mix", "mixHint", [["", t("noMix")], ...names], state.mix ?? "", mixed),
    share,
  ];
}

// The command that draws the same picture.
export function command(app) {
  const { model, state } = app;
  const words = ["nextpixel sample", app.about.argument, "-n 1", `--seed ${state.seed}`];
  if (model.classes) {
    const mixed = state.mix !== null && state.mix !== state.class && state.share > 0;
    const name = (id) => (/^\w+$/.test(app.classNames[id]) ? app.classNames[id] : id); // or its number
    const rest = Number((1 - state.share).toFixed(9));
    const mix = `${name(state.class)}=${rest},${name(state.mix)}=${state.share}`;
    words.push(`--class ${mixed ? mix : name(state.class)}`);
  }
  if (state.temperature !== 1) words.push(`--temperature ${state.temperature}`);
  if (state.guidance !== 1) words.push(`--guidance ${state.guidance}`);
  return words.join(" ");
}

const COLOURS = ["red", "green", "blue"];

// A bar for each level, the drawn one marked; a text says the same.
export class Chart {
  constructor() {
    this.canvas = h("canvas", { class: "chart", width: 512, height: 120, role: "img", "aria-label": t("distribution") });
    this.where = h("strong");
    this.text = h("p", { "aria-live": "polite" }, t("pixelHint"));
    this.element = h("section", { class: "why whole" }, this.where, this.canvas, h("small", {}, t("distribution")), this.text);
  }

  empty(text) {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.text.textContent = text;
  }

  // Shows what a model thought of a pixel: `seen` has levels, parameters, widths, temperature, guidance.
  explain(model, pixel, seen) {
    const { levels, parameters, widths } = seen;
    this.name(model, pixel);
    const colours = Array.from({ length: model.channels }, (_, c) => levels[c * model.pixels + pixel]);
    const channels = colours.map((level, c) => ({
      chances: probabilities(model, parameters, pixel, c, colours, seen),
      level,
      bits: bitsOf(widths[c * model.pixels + pixel]),
    }));
    this.show(channels);
  }

  name(model, pixel) {
    this.where.textContent = t("pixelAt", Math.floor(pixel / model.width) + 1, (pixel % model.width) + 1);
  }

  // Shows the probabilities of each channel, and the level that it has.
  show(channels) {
    const { canvas } = this;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const tall = canvas.height / channels.length;
    const lines = channels.map(({ chances, level, bits }, c) => {
      const most = Math.max(...chances);
      const wide = canvas.width / chances.length;
      chances.forEach((p, i) => {
        context.fillStyle = i === level ? style.getPropertyValue("--accent") : style.color;
        const height = Math.max((tall - 6) * (p / most), i === level ? 3 : 0);
        const grown = i === level ? Math.max(wide, 4) : Math.max(wide, 1);
        context.fillRect(i * wide - (grown - wide) / 2, (c + 1) * tall - height, grown, height);
      });
      const facts = [level, percent(chances[level]), fixed(bits), fixed(entropyOf(chances))];
      if (channels.length === 1) return t("facts", ...facts);
      return t("channelFacts", channels.length === 3 ? t(COLOURS[c]) : t("channel", c + 1), ...facts);
    });
    const scale = t(channels.length === 1 ? "blackToWhite" : "noneToAll", channels[0].chances.length - 1);
    this.text.textContent = sentences(...lines, scale);
  }
}

export function drawPanel(app) {
  const { model, state } = app;
  let position = 0; // pixels that are shown
  let playing = false;
  let before = null; // the time of the last frame
  let carried = 0; // parts of a pixel
  const picture = new Picture(model, "picture", explain);
  const chart = new Chart();
  const facts = h("p", { class: "facts", "aria-live": "polite" });
  const code = h("code");
  const sum = h("small");
  const scrub = h("input", { type: "range", min: 0, max: model.pixels, value: 0, "aria-label": t("playHint") });
  const play = button("play", "playHint", toggle);

  function repaint() {
    const drawn = app.drawn?.levels;
    paint(picture.canvas, model, (pixel) =>
      drawn && pixel < position ? colourOf(model, drawn, pixel) : UNDRAWN,
    );
    scrub.value = position;
    play.textContent = t(playing ? "pause" : "play");
    chart.text.setAttribute("aria-live", playing ? "off" : "polite");
    if (playing && position > 0 && position <= model.pixels) explain(position - 1);
  }

  function explain(pixel) {
    picture.select(pixel);
    if (app.drawn && pixel < position) return chart.explain(model, pixel, app.drawn);
    chart.name(model, pixel);
    chart.empty(t("notYet"));
  }

  function mostSurprising() {
    const { widths } = app.drawn;
    return widths.indexOf(widths.reduce((a, b) => Math.min(a, b))) % model.pixels;
  }

  async function saveAs(make, name) {
    if (app.drawn) save(await make(model, app.drawn.levels), name, "image/png");
  }

  function toggle() {
    playing = !playing;
    if (playing && position >= model.pixels) position = 0;
    before = null;
    repaint();
    if (playing) requestAnimationFrame(frame);
  }

  function frame(now) {
    if (!playing || !panel.isConnected) return;
    const seconds = before === null ? 0 : Math.min((now - before) / 1000, 0.1); // a hidden tab stands still
    before = now;
    carried += seconds * state.speed;
    position = Math.min(model.pixels, position + Math.floor(carried));
    carried %= 1;
    playing = position < model.pixels;
    repaint();
    if (playing) requestAnimationFrame(frame);
    else explain(mostSurprising());
  }
  function move(to) {
    playing = false;
    position = Math.min(Math.max(to, 0), model.pixels);
    repaint();
    if (position) explain(position - 1);
  }
  scrub.addEventListener("input", () => move(Number(scrub.value)));

  function showFacts() {
    const { widths, took, checksum } = app.drawn;
    for (const each of needing) each.disabled = false;
    const bits = widths.reduce((total, width) => total + bitsOf(width), 0);
    facts.textContent = sentences(t("took", took), t("total", Math.round(bits), fixed(bits / model.dims, 3)));
    code.textContent = command(app);
    sum.textContent = t("checksum", checksum);
    panel.dataset.checksum = checksum; // what tests wait for
  }

  // Draws anew; shows it at once, or lets it come.
  async function draw(watch) {
    playing = false;
    try {
      await app.draw(({ done }) => (facts.textContent = t("drawing", Math.round(100 * done))));
    } catch (error) {
      return app.fail(error);
    }
    if (!panel.isConnected || !app.drawn) return;
    showFacts();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    watch &&= !still;
    position = watch ? 0 : model.pixels;
    playing = watch;
    before = null;
    repaint();
    if (playing) requestAnimationFrame(frame);
    else explain(picture.pixel ?? mostSurprising());
  }

  const seed = seedField("seed", "seedHint", state.seed, (value) => app.change({ seed: value }));
  const another = action("another", "anotherHint", () => {
    const value = Math.floor(Math.random() * 1e6);
    seed.querySelector("input").value = value;
    app.change({ seed: value });
  }, { class: "main" });
  const temperature = slider("temperature", "temperatureHint", {
    ...{ min: 0.2, max: 1.5, step: 0.05, value: state.temperature, show: fixed },
    change: (value, done) => app.change({ temperature: value }, done),
  });
  const guidance = slider("guidance", "guidanceHint", {
    ...{ min: 0, max: 4, step: 0.25, value: state.guidance, show: fixed },
    change: (value, done) => app.change({ guidance: value }, done),
  });
  const distances = SPEEDS.map((speed) => Math.abs(Math.log(speed / state.speed)));
  const nearestSpeed = distances.indexOf(Math.min(...distances));
  const speed = slider("speed", "speedHint", {
    ...{ min: 0, max: SPEEDS.length - 1, step: 1, value: nearestSpeed },
    show: (at) => SPEEDS[at].toLocaleString(),
    change: (at, done) => app.change({ speed: SPEEDS[at] }, done),
  });
  const toSurprise = action("toSurprise", "toSurpriseHint", () => {
    app.state.from = "drawing";
    app.show("surprise");
  });
  const named = (end) => `${app.name}-seed-${state.seed}${end}`;
  const saving = action("save", "saveHint", () => saveAs(pngOf, named(".png")));
  const savingFilm = action("saveFilm", "saveFilmHint", () => saveAs(filmOf, named("-film.png")));
  const needing = [play, ...[saving, savingFilm].map((each) => each.querySelector("button"))];
  for (const each of needing) each.disabled = !app.drawn; // until there is a picture
  const panel = h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      h("p", {}, t("drawIntro")),
      picture.element,
      scrub,
      h(
        "div",
        { class: "buttons" },
        button("start", "startHint", () => move(0)),
        button("back", "backHint", () => move(position - 1)),
        play,
        button("step", "stepHint", () => move(position + 1)),
        button("end", "endHint", () => move(model.pixels)),
      ),
      h("small", {}, t("playHint")),
      facts,
    ),
    h(
      "div",
      { class: "controls" },
      chart.element,
      another,
      ...classControls(app),
      temperature,
      app.guided ? guidance : null,
      seed,
      speed,
      h("p", { class: "whole" }, t("samePicture"), h("br"), code, h("br"), sum),
      toSurprise,
      saving,
      savingFilm,
      action("copyLink", "linkHint", () => app.copyLink()),
    ),
  );
  panel.changed = (keys) => {
    if (keys.some((key) => DRAWS.includes(key))) draw(keys.includes("seed"));
  };
  if (app.drawn) {
    position = model.pixels;
    showFacts();
    requestAnimationFrame(() => {
      repaint();
      explain(mostSurprising());
    });
  } else {
    requestAnimationFrame(() => draw(true)); // when the panel is in the page
  }
  return panel;
}
