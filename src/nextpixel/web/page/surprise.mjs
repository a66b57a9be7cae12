// The panel that scores: which pixels of a picture the model did not expect.
import { Picture } from "./canvas.mjs";
import { choice, filePicker, fixed, h, percent } from "./dom.mjs";
import { Chart, sharesOf } from "./draw.mjs";
import { bitsOf, oneClass } from "./engine.mjs";
import { heat, paint, paintLevels, pngOf, readPicture } from "./pictures.mjs";
import { t } from "./words.mjs";

export function surprisePanel(app) {
  const { model } = app;
  let asked = null;
  const picture = new Picture(model, "picture", explain);
  const map = new Picture(model, "bitsMap", explain);
  const mapText = h("small");
  const chart = new Chart();
  const costs = h("p", { class: "facts", "aria-live": "polite" });
  const chances = h("div", { class: "bars" });

  function explain(pixel) {
    picture.select(pixel);
    map.select(pixel);
    if (app.scored) chart.explain(model, pixel, app.scored);
  }

  // Finds the likeliest class, and scores the picture under it.
  async function score(levels) {
    asked?.cancel();
    app.scored = null;
    app.status.textContent = "";
    paintLevels(picture.canvas, model, levels);
    costs.textContent = "…";
    try {
      let [weights, bits] = [null, null];
      if (model.classes) {
        bits = await (asked = app.client.ask("classify", { model: app.name, levels }));
        weights = oneClass(model, bits.indexOf(Math.min(...bits)));
      }
      const found = await (asked = app.client.ask("score", { model: app.name, levels, weights }));
      app.scored = { ...found, levels, bits, temperature: 1, guidance: 1 };
      if (panel.isConnected) await show();
    } catch (error) {
      app.fail(error);
    }
  }

  async function show() {
    const { levels, widths, bits } = app.scored;
    paintLevels(picture.canvas, model, levels);
    if (bits) showClasses(sharesOf(bits));
    const ofPixel = Float64Array.from({ length: model.pixels }, (_, pixel) => {
      let bits = 0;
      for (let c = 0; c < model.channels; c++) bits += bitsOf(widths[c * model.pixels + pixel]);
      return bits;
    });
    const most = ofPixel.reduce((a, b) => Math.max(a, b), 1e-9);
    paint(map.canvas, model, (pixel) => heat(ofPixel[pixel] / most));
    mapText.textContent = t("bitsMap", fixed(most, 1));
    const total = ofPixel.reduce((a, b) => a + b, 0);
    const withClass = total + Math.log2(Math.max(model.classes, 1)); // which must be told as well
    const png = await pngOf(model, levels);
    costs.textContent = `${t("costs", Math.ceil(withClass / 8), fixed(withClass / model.dims, 3))} ${t("pngCosts", png.length)}`;
    panel.dataset.bits = total;
    explain(ofPixel.indexOf(most));
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

  const starts = [["drawing", t("fromDrawing")], ...app.examples.map((_, i) => [i, t("example", i + 1)])];
  const begin = async (from) => {
    try {
      score(from === "drawing" ? (app.drawn ?? (await app.draw())).levels : app.examples[Number(from)]);
    } catch (error) {
      app.fail(error);
    }
  };
  const panel = h(
    "div",
    { class: "columns wide" },
    h(
      "div",
      {},
      h("p", {}, t("surpriseIntro")),
      h("div", { class: "pair" }, h("figure", {}, picture.element), h("figure", {}, map.element, h("figcaption", {}, mapText))),
      costs,
      chart.element,
    ),
    h(
      "div",
      { class: "controls" },
      choice("from", "surpriseFrom", starts, "drawing", begin),
      filePicker("file", "fileHint", "image/*", false, async ([file]) => app.take(file)),
      chances,
    ),
  );
  panel.take = async (file) => score(await readPicture(file, model));
  panel.leave = () => asked?.cancel();
  if (app.scored) requestAnimationFrame(show);
  else begin("drawing");
  return panel;
}
