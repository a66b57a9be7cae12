// The panel that plays: codes, spectrogram and sound of spoken words.
import { action, choice, h } from "./dom.mjs";
import { bytesOf } from "./npxz.mjs";
import { heat, paint } from "./pictures.mjs";
import { t } from "./words.mjs";

// A colour for each code, far from those of its neighbours.
function colourOfCode(code) {
  const hue = (code * 0.61803) % 1;
  const channel = (shift) => Math.round(255 * (0.55 + 0.4 * Math.cos(2 * Math.PI * (hue + shift))));
  return [channel(0), channel(1 / 3), channel(2 / 3), 255];
}

export function listenPanel(app) {
  const panel = h("div", {}, h("p", {}, t("loading")));
  app.loadSounds().then(([sounds]) => fill(app, panel, sounds)).catch((error) => app.fail(error));
  return panel;
}

function fill(app, panel, { items, rate, bands, codebook, source }) {
  const parts = items.map(({ name }) => name.split(" "));
  const words = [...new Set(parts.map(([word]) => word))];
  const speakers = [...new Set(parts.map(([, speaker]) => speaker))].filter(Boolean);
  const { state } = app;
  if (!words.includes(state.word)) state.word = words[Math.min(3, words.length - 1)];
  if (!speakers.includes(state.speaker)) state.speaker = speakers[0] ?? null;
  app.write();
  const codes = h("canvas", { class: "sound", role: "img", "aria-label": t("codes") });
  const picture = h("canvas", { class: "sound", role: "img", "aria-label": t("spectrogram") });
  let [sound, audio, node] = [null, null, null];

  const chosen = () => items.find((_, i) => parts[i][0] === state.word && (!state.speaker || parts[i][1] === state.speaker));

  // Prepares what is shown and heard of the chosen word.
  function take() {
    node?.stop();
    node = null;
    const item = chosen();
    note.textContent = item ? "" : t("noSound");
    listen.disabled = !item;
    if (!item) {
      sound = null;
      return [codes, picture].forEach((canvas) => paint(canvas, { width: 1, height: 1 }, () => [128, 128, 140, 40]));
    }
    const ends = item.codes.findIndex((row) => row.every((code) => code === codebook - 1));
    const levels = bytesOf(item.spectrogram);
    const samples = new Int16Array(bytesOf(item.wave).buffer);
    sound = { ...item, coded: ends < 0 ? item.codes.length : ends, levels, most: Math.max(...levels, 1), samples };
    show(1);
  }

  // Shows what was heard until a share of the sound; time runs to the right.
  function show(share) {
    const { codes: grid, coded, rows, levels, most } = sound;
    const across = grid[0].length;
    paint(codes, { width: Math.max(coded, 1), height: across }, (pixel) => {
      const [row, col] = [pixel % Math.max(coded, 1), across - 1 - Math.floor(pixel / Math.max(coded, 1))];
      const code = grid[row][col];
      return row < share * coded && code < codebook - 1 ? colourOfCode(code) : [128, 128, 140, 40];
    });
    paint(picture, { width: rows, height: bands }, (pixel) => {
      const [row, band] = [pixel % rows, bands - 1 - Math.floor(pixel / rows)];
      return row < share * rows ? heat(levels[row * bands + band] / most) : [128, 128, 140, 40];
    });
  }

  function play() {
    if (!sound) return;
    node?.stop();
    audio ??= new AudioContext();
    audio.resume();
    const { samples } = sound;
    const buffer = audio.createBuffer(1, samples.length, rate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (x) => x / 32768));
    const own = (node = audio.createBufferSource());
    own.buffer = buffer;
    own.connect(audio.destination);
    const began = audio.currentTime;
    own.start();
    const frame = () => {
      if (node !== own) return;
      if (!panel.isConnected) return own.stop();
      const share = (audio.currentTime - began) / buffer.duration;
      show(Math.min(share, 1));
      if (share < 1) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    panel.dataset.samples = samples.length;
  }

  const note = h("p", { "aria-live": "polite" });
  const hear = action("hear", "hearHint", play, { class: "main" });
  const listen = hear.querySelector("button");
  const pairs = (values) => values.map((value) => [value, value]);
  panel.classList.add("columns");
  panel.replaceChildren(
    h(
      "div",
      {},
      h("p", {}, t("listenIntro")),
      h("figure", {}, codes, h("figcaption", {}, h("small", {}, t("codes")))),
      h("figure", {}, picture, h("figcaption", {}, h("small", {}, t("spectrogram")))),
    ),
    h(
      "div",
      { class: "controls" },
      hear,
      choice("word", "wordHint", pairs(words), state.word, (word) => app.change({ word })),
      speakers.length ? choice("speaker", "speakerHint", pairs(speakers), state.speaker, (speaker) => app.change({ speaker })) : null,
      note,
      h("small", { class: "whole" }, t("trainedOn", source)),
    ),
  );
  panel.changed = take;
  take();
}
