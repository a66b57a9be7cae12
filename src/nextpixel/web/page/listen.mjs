// The panel that plays: codes, spectrogram and sound of spoken words.
import { button, choice, h } from "./dom.mjs";
import { heat, paint } from "./pictures.mjs";
import { t } from "./words.mjs";

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// A colour for each code, far from those of its neighbours.
function colourOfCode(code) {
  const hue = (code * 0.61803) % 1;
  const channel = (shift) => Math.round(255 * (0.55 + 0.4 * Math.cos(2 * Math.PI * (hue + shift))));
  return [channel(0), channel(1 / 3), channel(2 / 3), 255];
}

export function listenPanel(app) {
  const panel = h("div", {}, h("p", {}, t("loading")));
  app.loadSounds().then(([sounds]) => fill(panel, sounds)).catch((error) => app.fail(error));
  return panel;
}

function fill(panel, { items, rate, bands, codebook, source }) {
  const parts = items.map(({ name }) => name.split(" "));
  const words = [...new Set(parts.map(([word]) => word))];
  const speakers = [...new Set(parts.map(([, speaker]) => speaker))].filter(Boolean);
  let [word, speaker] = [words[Math.min(3, words.length - 1)], speakers[0]];
  const codes = h("canvas", { class: "sound", role: "img", "aria-label": t("codes") });
  const picture = h("canvas", { class: "sound", role: "img", "aria-label": t("spectrogram") });
  let playing = null;

  const chosen = () => items.find((_, i) => parts[i][0] === word && (!speaker || parts[i][1] === speaker));

  // Shows what was heard until a share of the sound; time runs to the right.
  function show(share) {
    const item = chosen();
    const across = item.codes[0].length;
    const ends = item.codes.findIndex((row) => row.every((code) => code === codebook - 1));
    const coded = ends < 0 ? item.codes.length : ends;
    paint(codes, { width: coded, height: across }, (pixel) => {
      const [row, col] = [pixel % coded, across - 1 - Math.floor(pixel / coded)];
      const code = item.codes[row][col];
      return row < share * coded && code < codebook - 1 ? colourOfCode(code) : [128, 128, 140, 40];
    });
    const levels = bytes(item.spectrogram);
    const most = Math.max(...levels, 1);
    paint(picture, { width: item.rows, height: bands }, (pixel) => {
      const [row, band] = [pixel % item.rows, bands - 1 - Math.floor(pixel / item.rows)];
      return row < share * item.rows ? heat(levels[row * bands + band] / most) : [128, 128, 140, 40];
    });
  }

  function play() {
    playing?.close();
    const audio = (playing = new AudioContext());
    const samples = new Int16Array(bytes(chosen().wave).buffer);
    const buffer = audio.createBuffer(1, samples.length, rate);
    buffer.getChannelData(0).set(Float32Array.from(samples, (x) => x / 32768));
    const node = audio.createBufferSource();
    node.buffer = buffer;
    node.connect(audio.destination);
    node.start();
    const frame = () => {
      if (playing !== audio || !panel.isConnected) return audio.close();
      const share = audio.currentTime / buffer.duration;
      show(Math.min(share, 1));
      if (share < 1) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    panel.dataset.samples = samples.length;
  }

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
      button("hear", "hearHint", play, { class: "main whole" }),
      choice("word", "wordHint", pairs(words), word, (value) => {
        word = value;
        show(1);
      }),
      speakers.length
        ? choice("speaker", "speakerHint", pairs(speakers), speaker, (value) => {
            speaker = value;
            show(1);
          })
        : null,
      h("small", { class: "whole" }, t("trainedOn", source)),
    ),
  );
  show(1);
}
