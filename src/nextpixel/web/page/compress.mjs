// The panel that compresses: pictures to a .npxz and back.
import { action, button, filePicker, h, percent } from "./dom.mjs";
import { bytesOf } from "./npxz.mjs";
import { paintLevels, readPicture, save } from "./pictures.mjs";
import { sentences, t } from "./words.mjs";

const SHOWN = 100; // pictures of a file

export function compressPanel(app) {
  const { model } = app;
  let written = null;
  const list = h("div", { class: "results", "aria-live": "polite" });
  const counter = h("p", { class: "facts", "aria-live": "polite" });
  const found = h("div", { class: "results" });
  const facts = h("p", { class: "facts", "aria-live": "polite" });
  const download = button("download", "downloadHint", () => save(written, "pictures.npxz", "application/octet-stream"), { disabled: true });

  function thumbnail([height, width], levels, i, form = model) {
    const canvas = h("canvas", { role: "img", "aria-label": t("pictureOf", i + 1) });
    paintLevels(canvas, { ...form, height, width, pixels: height * width }, levels);
    return canvas;
  }

  function repaint() {
    written = null;
    download.disabled = true;
    counter.textContent = "";
    delete panel.dataset.bytes;
    const pictures = app.list.map(({ levels }, i) => {
      const remove = () => {
        app.list.splice(i, 1);
        repaint();
        run.focus(); // the button is gone
      };
      const out = button("remove", "removeHint", remove, { "aria-label": `${t("remove")} (${i + 1})` });
      return h("figure", {}, thumbnail([model.height, model.width], levels, i), out);
    });
    list.replaceChildren(...(pictures.length ? pictures : [h("small", {}, t("noPictures"))]));
  }

  function add(levels, classId) {
    app.list.push({ levels, classId });
    repaint();
  }

  async function addDrawing() {
    try {
      const { levels, classId } = app.drawn ?? (await app.draw());
      add(levels, classId);
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
    const list = app.list.slice();
    if (!list.length) return (counter.textContent = t("noPictures"));
    const raw = list.length * model.dims;
    let [file, code] = [null, 0];
    run.disabled = true;
    counter.textContent = t("waiting");
    try {
      const classes = [];
      for (const item of list) classes.push(await classOf(item));
      const { name, about, page } = app;
      const { sha256, shipped, body } = about;
      const of = { name, sha256, version: page.version, body: shipped ? null : bytesOf(body) };
      of.classNames = model.classes ? app.classNames : null;
      const given = list.map(({ classId }) => model.classes > 0 && classId !== undefined);
      const images = list.map(({ levels }) => levels);
      const show = ({ bytes }) => {
        code = bytes;
        counter.textContent = t("counter", bytes.toLocaleString(), raw.toLocaleString());
      };
      file = await app.client.ask("compress", { model: name, about: of, images, classes, given }, show);
    } catch (error) {
      return app.fail(error);
    } finally {
      run.disabled = false;
    }
    if (list.length !== app.list.length || list.some((item, i) => item !== app.list[i])) return repaint();
    written = file;
    const rest = Math.max(written.length - code, 0);
    const words = [t("file2", raw.toLocaleString(), code.toLocaleString(), percent(code / raw)), t("fileHeaders", rest.toLocaleString(), written.length.toLocaleString())];
    counter.textContent = sentences(...words);
    download.disabled = false;
    panel.dataset.bytes = written.length;
  }

  // Asks the worker; if the page has the file's model and has not loaded it, loads it first.
  async function decoded(options, show) {
    try {
      return await app.client.ask("decompress", options, show);
    } catch (error) {
      if (error.message !== "notLoaded") throw error;
      await app.load(error.values[0]);
      return app.client.ask("decompress", options, show);
    }
  }

  async function decompress(file) {
    try {
      app.say("");
      delete panel.dataset.opened;
      facts.textContent = t("waiting");
      const bytes = new Uint8Array(await file.arrayBuffer());
      const hashes = Object.fromEntries(Object.entries(app.page.models).map(([name, { sha256 }]) => [name, sha256]));
      const show = ({ done }) => (facts.textContent = `${Math.round(100 * done)} %`);
      app.opened = await decoded({ file: bytes, hashes }, show);
      showOpened();
    } catch (error) {
      app.opened = undefined;
      facts.textContent = "";
      found.replaceChildren();
      app.fail(error);
    }
  }

  // Shows the pictures of the file that was opened last.
  function showOpened() {
    const { head, images, checksum } = app.opened;
    const coded = images.filter(({ levels }) => levels);
    const [kept, more] = [images.length - coded.length, coded.length - SHOWN];
    const words = [t("opened", images.length, head.model ?? "", checksum)];
    if (kept) words.push(t("kept", kept));
    if (more > 0) words.push(t("notShown", more));
    facts.textContent = sentences(...words);
    panel.dataset.opened = checksum;
    const form = { channels: head.shape[0], levels: head.levels };
    found.replaceChildren(...coded.slice(0, SHOWN).map(({ size, levels }, i) => thumbnail(size, levels, i, form)));
  }

  const run = button("run2", "compressHint", compress, { class: "main" });
  const panel = h(
    "div",
    { class: "columns wide" },
    h(
      "div",
      {},
      h("p", {}, t("compressIntro")),
      list,
      h("div", { class: "buttons" }, run, download),
      h("small", {}, sentences(t("compressHint"), t("downloadHint"))),
      counter,
      facts,
      found,
    ),
    h(
      "div",
      { class: "controls" },
      action("add", "addHint", addDrawing),
      filePicker("addFile", "addFileHint", "image/*", true, (files) => files.forEach(app.take)),
      action("clear", "clearHint", () => {
        app.list.length = 0;
        repaint();
      }),
      filePicker("open", "openHint", ".npxz", false, ([file]) => decompress(file)),
    ),
  );
  panel.take = async (file) => (file.name?.endsWith(".npxz") ? decompress(file) : add(await readPicture(file, model)));
  repaint();
  if (app.opened) showOpened();
  if (!app.begun) addDrawing();
  app.begun = true;
  return panel;
}
