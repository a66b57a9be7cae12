// The panel that scores: which pixels of a picture the model did not expect.
import { decodePicture, encodePicture } from "./address.mjs";
import { Picture } from "./canvas.mjs";
import { action, choice, filePicker, fixed, h, percent } from "./dom.mjs";
import { Chart, sharesOf } from "./draw.mjs";
import { bitsOf, oneClass } from "./engine.mjs";
import { chequered, colourOf, heat, paint, pngOf, readPicture } from "./pictures.mjs";
import { sentences, t } from "./words.mjs";

export function surprisePanel(app) {
  const { model, state } = app;
  const nothing = new Uint8Array(model.pixels);
  let asked = null;
  let shown = null; // levels and hidden pixels
  const picture = new Picture(model, "picture", explain);
  const map = new Picture(model, "bitsMapName", explain);
  const mapText = h("small");
  const chart = new Chart();
  const costs = h("p", { class: "facts", "aria-live": "polite" });
  const chances = h("div", { class: "bars" });
  const of = h("p", { "aria-live": "polite" });

  function explain(pixel) {
    picture.select(pixel);
    map.select(pixel);
    if (!scored()) return;
    if (!shown.hidden[pixel]) return chart.explain(model, pixel, app.scored);
    chart.name(model, pixel);
    chart.empty(t("hiddenPixel"));
  }

  // What was found of the picture that is shown, by this model.
  const scored = () => shown && app.scored?.levels === shown.levels && app.scored.model === app.name && app.scored;

  // Finds the likeliest class, and scores the picture under it. Hidden pixels are 0, and cost nothing.
  async function score() {
    const { levels, hidden } = shown;
    const known = Uint8Array.from(levels, (_, at) => 1 - hidden[at % model.pixels]);
    let [weights, bits] = [null, null];
    const show = (key) => ({ done }) => (costs.textContent = t(key, Math.round(100 * done)));
    if (model.classes) {
      bits = await (asked = app.client.ask("classify", { model: app.name, levels, known }, show("classifying")));
      weights = oneClass(model, bits.indexOf(Math.min(...bits)));
    }
    asked = app.client.ask("score", { model: app.name, levels, weights }, show("scoring"));
    app.scored = { ...(await asked), model: app.name, levels, bits, temperature: 1, guidance: 1 };
  }

  // Shows a picture, and then where it is surprising.
  async function show(given) {
    asked?.cancel();
    shown = given;
    delete panel.dataset.bits;
    const { hidden, levels } = given;
    paint(picture.canvas, model, (pixel) => (hidden[pixel] ? chequered(model, pixel) : colourOf(model, levels, pixel)));
    paint(map.canvas, model, () => [128, 128, 140, 60]);
    mapText.textContent = "";
    chances.replaceChildren();
    chart.empty("");
    of.textContent = hidden.includes(1) ? t("knownOnly") : "";
    if (!scored()) await score();
    if (shown === given && panel.isConnected) await showScored();
  }

  async function showScored() {
    const { levels, widths, bits } = app.scored;
    const { hidden } = shown;
    if (bits) showClasses(sharesOf(bits));
    const ofPixel = Float64Array.from({ length: model.pixels }, (_, pixel) => {
      let bits = 0;
      for (let c = 0; c < model.channels; c++) bits += bitsOf(widths[c * model.pixels + pixel]);
      return hidden[pixel] ? 0 : bits;
    });
    const most = ofPixel.reduce((a, b) => Math.max(a, b), 1e-9);
    paint(map.canvas, model, (pixel) => (hidden[pixel] ? chequered(model, pixel) : heat(ofPixel[pixel] / most)));
    mapText.textContent = t("bitsMap", fixed(most, 1));
    const total = ofPixel.reduce((a, b) => a + b, 0);
    const withClass = total + Math.log2(Math.max(model.classes, 1)); // which must be told as well
    const some = hidden.includes(1);
    const dims = model.channels * hidden.reduce((sum, hides) => sum + 1 - hides, 0);
    const words = [t("surprised", fixed(total, 0)), t("costs", Math.ceil(withClass / 8), fixed(withClass / Math.max(dims, 1), 3))];
    if (model.classes) words.push(t("classCosts"));
    if (!some) words.push(t("pngCosts", (await pngOf(model, levels)).length));
    costs.textContent = sentences(...words);
    panel.dataset.bits = total;
    explain(Math.max(0, ofPixel.indexOf(most)));
  }

  function showClasses(shares) {
    const best = shares.indexOf(Math.max(...shares));
    const rows = shares.map((share, id) =>
      h(
        "div",
        { class: id === best ? "bar best" : "bar" },
        h("span", {}, app.classNames[id]),
        h("span", { class: "track" }, h("span", { style: `width: ${100 * share}%` })),
        h("span", {}, `${percent(share)} %`),
      ),
    );
    chances.replaceChildren(h("strong", {}, `${t("takenFor")} ${app.classNames[best]}`), h("small", {}, t("classChances")), ...rows);
  }

  // Shows what the state asks for.
  async function begin() {
    try {
      const whole = (levels) => ({ levels, hidden: nothing });
      if (state.from === "own") await show(app.own);
      else if (state.from === "drawing") {
        costs.textContent = t("waiting");
        await show(whole((app.drawn ?? (await app.draw())).levels));
      } else await show(whole(app.examples[Number(state.from.slice(7)) - 1]));
    } catch (error) {
      app.fail(error);
    }
  }

  // Takes over a picture of the address, unless it fits no picture of the model.
  function readOwn() {
    if (app.own) return true;
    app.own = state.picture === null ? null : decodePicture(state.picture, model);
    return app.own !== null;
  }

  let lost = false;
  if (state.from === "own" && !readOwn()) [state.from, lost] = ["drawing", true];
  if (!["own", "drawing", ...app.examples.map((_, i) => `example${i + 1}`)].includes(state.from)) state.from = "drawing";
  state.picture = state.from === "own" ? encodePicture(app.own, model) : null;
  const starts = [["drawing", t("fromDrawing")], ...app.examples.map((_, i) => [`example${i + 1}`, t("example", i + 1)])];
  if (app.own) starts.push(["own", t("own")]);
  const from = choice("surprisePicture", "surpriseFrom", starts, state.from, (from) => {
    state.picture = from === "own" ? encodePicture(app.own, model) : null;
    app.change({ from });
  });
  const panel = h(
    "div",
    { class: "columns wide" },
    h(
      "div",
      {},
      h("p", {}, t("surpriseIntro")),
      h("div", { class: "pair" }, h("figure", {}, picture.element), h("figure", {}, map.element, h("figcaption", {}, mapText))),
      of,
      costs,
      chart.element,
    ),
    h(
      "div",
      { class: "controls" },
      from,
      filePicker("file", "fileHint", "image/*", false, ([file]) => app.take(file)),
      action("copyLink", "linkHint", () => app.copyLink()),
      chances,
    ),
  );
  panel.changed = begin;
  panel.take = async (file) => app.surpriseBy({ levels: await readPicture(file, model) });
  panel.leave = () => asked?.cancel();
  queueMicrotask(() => {
    if (lost) app.say(t("badPicture"));
    begin();
  });
  return panel;
}
