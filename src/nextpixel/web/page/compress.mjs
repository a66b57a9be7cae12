// The panel that compresses: pictures to a .npxz and back.
import { button, filePicker, fixed, h, percent } from "./dom.mjs";
import { paintLevels, readPicture, save } from "./pictures.mjs";
import { t } from "./words.mjs";

export function compressPanel(app) {
  const { model, state } = app;
  app.list ??= [];
  let written = null;
  const list = h("div", { class: "results", "aria-live": "polite" });
  const counter = h("p", { class: "facts", "aria-live": "polite" });
  const found = h("div", { class: "results" });
  const facts = h("p", { class: "facts", "aria-live": "polite" });
  const download = button("download", "downloadHint", () => save(written, "pictures.npxz", "application/octet-stream"), { disabled: true });

  function thumbnail(size, levels) {
    const canvas = h("canvas", { role: "img", "aria-label": t("picture") });
    const [height, width] = size;
    paintLevels(canvas, { ...model, height, width, pixels: height * width }, levels);
    return canvas;
  }

  function repaint() {
    written = null;
    download.disabled = true;
    const pictures = app.list.map(({ levels }) => thumbnail([model.height, model.width], levels));
    list.replaceChildren(...(pictures.length ? pictures : [h("small", {}, t("noPictures"))]));
  }

  async function add(levels, classId) {
    app.list.push({ levels, classId });
    repaint();
  }

  async function addDrawing() {
    try {
      const { levels, classId } = app.drawn ?? (await app.draw());
      add(levels, state.mix === null ? classId : undefined);
    } catch (error) {
      app.fail(error);
    }
  }

  // The class of a picture that has none is the one that costs the fewest bits.
  async function classOf({ levels, classId }) {
    if (!model.classes) return 0;
    if (classId !== undefined) return classId;
    const bits = await app.client.ask("classify", { model: app.name, levels });
    return bits.indexOf(Math.min(...bits));
  }

  async function compress() {
    if (!app.list.length) return (counter.textContent = t("noPictures"));
    const raw = app.list.length * model.dims;
    try {
      const classes = [];
      for (const item of app.list) classes.push((item.classId = await classOf(item)));
      const images = app.list.map(({ levels }) => levels);
      const about = { name: app.name, sha256: app.sha256, version: app.version, classNames: model.classes ? app.classNames : null };
      const show = ({ bytes }) => (counter.textContent = t("counter", bytes.toLocaleString(), raw.toLocaleString()));
      written = await app.client.ask("compress", { model: app.name, about, images, classes }, show);
    } catch (error) {
      return app.fail(error);
    }
    const bits = fixed((8 * written.length) / raw, 3);
    counter.textContent = t("file2", written.length.toLocaleString(), percent(written.length / raw), bits);
    download.disabled = false;
    panel.dataset.bytes = written.length;
  }

  async function decompress(file) {
    try {
      const bytes = new Uint8Array(await file.arrayBuffer());
      const { head, images } = await app.client.ask("decompress", { file: bytes, hashes: { [app.name]: app.sha256 } });
      const coded = images.filter(({ levels }) => levels);
      const sum = app.checksumOf(coded.map(({ levels }) => levels));
      const text = t("opened", images.length, head.model ?? "", sum);
      const kept = images.length - coded.length;
      facts.textContent = kept ? `${text} ${t("kept", kept)}` : text;
      panel.dataset.opened = sum;
      found.replaceChildren(...coded.slice(0, 100).map(({ size, levels }) => thumbnail(size, levels)));
    } catch (error) {
      app.fail(error);
    }
  }

  const panel = h(
    "div",
    { class: "columns wide" },
    h(
      "div",
      {},
      h("p", {}, t("compressIntro")),
      list,
      h("div", { class: "buttons" }, button("run2", "compressHint", compress, { class: "main" }), download),
      counter,
      found,
      facts,
    ),
    h(
      "div",
      { class: "controls" },
      button("add", "addHint", addDrawing),
      filePicker("addFile", "addFileHint", "image/*", true, (files) => files.forEach(app.take)),
      button("clear", "clearHint", () => {
        app.list.length = 0;
        repaint();
      }),
      filePicker("open", "openHint", ".npxz", false, ([file]) => decompress(file)),
    ),
  );
  panel.take = async (file) => (file.name?.endsWith(".npxz") ? decompress(file) : add(await readPicture(file, model)));
  repaint();
  if (!app.list.length) addDrawing();
  return panel;
}
