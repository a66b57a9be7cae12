// The panel that scores: which pixels of a picture the model did not expect.
import { Picture } from "./canvas.mjs";
import { Cancelled } from "./client.mjs";
import { choice, filePicker, fixed, h, percent } from "./dom.mjs";
import { Chart, weightsOf } from "./draw.mjs";
import { probabilities } from "./distribution.mjs";
import { bitsOf } from "./engine.mjs";
import { heat, paint, paintLevels, pngOf, readPicture } from "./pictures.mjs";
import { t } from "./words.mjs";

export function surprisePanel(app) {
  const { model } = app;
  let scored = null;
  const picture = new Picture(model, "picture", explain);
  const map = new Picture(model, "bitsMap", explain);
  const mapText = h("small");
  const chart = new Chart();
  const costs = h("p", { class: "facts", "aria-live": "polite" });
  const chances = h("div", { class: "bars" });

  function explain(pixel) {
    picture.select(pixel);
    map.select(pixel);
    const row = Math.floor(pixel / model.width) + 1;
    chart.where.textContent = t("pixelAt", row, (pixel % model.width) + 1);
    if (!scored) return chart.empty("");
    const { levels, parameters, widths } = scored;
    const colours = Array.from({ length: model.channels }, (_, c) => levels[c * model.pixels + pixel]);
    chart.show(
      colours.map((level, c) => ({
        chances: probabilities(model, parameters, pixel, c, colours, { temperature: 1, guidance: 1 }),
        level,
        bits: bitsOf(widths[c * model.pixels + pixel]),
      })),
    );
  }

  // Finds the likeliest class, and scores the picture under it.
  async function score(levels) {
    score.asked?.cancel();
    scored = null;
    paintLevels(picture.canvas, model, levels);
    costs.textContent = "…";
    try {
      let weights = weightsOf(model, app.state);
      chances.replaceChildren();
      if (model.classes) {
        score.asked = app.client.ask("classify", { model: app.name, levels });
        const bits = await score.asked;
        const least = Math.min(...bits);
        const shares = bits.map((x) => 2 ** (least - x));
        const sum = shares.reduce((a, b) => a + b, 0);
        weights = new Float32Array(model.classes);
        weights[bits.indexOf(least)] = 1;
        showClasses(shares.map((x) => x / sum));
      }
      score.asked = app.client.ask("score", { model: app.name, levels, weights });
      scored = { ...(await score.asked), levels };
    } catch (error) {
      if (error instanceof Cancelled) return;
      return app.fail(error);
    }
    const ofPixel = Float64Array.from({ length: model.pixels }, (_, pixel) => {
      let bits = 0;
      for (let c = 0; c < model.channels; c++) bits += bitsOf(scored.widths[c * model.pixels + pixel]);
      return bits;
    });
    const most = Math.max(...ofPixel, 1e-9);
    paint(map.canvas, model, (pixel) => heat(ofPixel[pixel] / most));
    mapText.textContent = t("bitsMap", fixed(most, 1));
    const total = ofPixel.reduce((a, b) => a + b, 0);
    const png = await pngOf(model, levels);
    costs.textContent = `${t("costs", Math.ceil(total / 8), fixed(total / model.dims, 3))} ${t("pngCosts", png.length)}`;
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
      if (!(error instanceof Cancelled)) app.fail(error);
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
  begin("drawing");
  return panel;
}
