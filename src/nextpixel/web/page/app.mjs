// The page: its state, which stands in the address, and its panels.
import { Client } from "./client.mjs";
import { completePanel } from "./complete.mjs";
import { compressPanel } from "./compress.mjs";
import { button, choice, h } from "./dom.mjs";
import { drawPanel, weightsOf } from "./draw.mjs";
import { listenPanel } from "./listen.mjs";
import { seePanel } from "./see.mjs";
import { surprisePanel } from "./surprise.mjs";
import { languageCode, setLanguage, t } from "./words.mjs";

const PANELS = {
  draw: drawPanel,
  complete: completePanel,
  surprise: surprisePanel,
  compress: compressPanel,
  see: seePanel,
  listen: listenPanel,
};
const STATE = {
  panel: "draw",
  seed: 0,
  class: 3,
  mix: null,
  share: 0.5,
  temperature: 1,
  guidance: 1,
  speed: 300,
};

const CRC32C = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0x82f63b78 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

class App {
  constructor(page, worker) {
    this.page = page; // what the export wrote: version, wasm, models
    this.client = new Client(worker);
    this.main = document.querySelector("main");
    this.status = document.querySelector("#status");
    const given = new URLSearchParams(location.hash.slice(1));
    this.state = { ...STATE };
    for (const [key, value] of Object.entries(STATE)) {
      const text = given.get(key);
      if (text === null) continue;
      if (typeof value === "string") this.state[key] = text;
      else if (Number.isFinite(Number(text))) this.state[key] = Number(text);
    }
    this.panels = Object.keys(PANELS).filter((name) => name !== "listen" || page.sounds.length);
    if (!this.panels.includes(this.state.panel)) this.state.panel = STATE.panel;
    setLanguage(given.get("lang") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
    const models = Object.keys(page.models);
    this.name = models.includes(given.get("model")) ? given.get("model") : models[0];
    window.addEventListener("paste", ({ clipboardData }) => [...clipboardData.files].forEach(this.take));
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      [...event.dataTransfer.files].forEach(this.take);
    });
  }

  // Opens the chosen model, then shows the page.
  async open() {
    const about = this.page.models[this.name];
    this.status.textContent = t("loading");
    try {
      about.body ??= await loadScript(about.script);
      this.fields ??= { ...this.page.fields, values: await greysOf(this.page.fields.png) };
      const wasm = bytesOf(this.page.wasm);
      this.model = await this.client.ask("open", { wasm, name: this.name, body: bytesOf(about.body) });
    } catch (error) {
      return this.fail(error);
    }
    const { model, state } = this;
    this.sha256 = about.sha256;
    this.version = this.page.version;
    this.guided = about.guidance;
    this.classNames = about.class_names ?? Array.from({ length: model.classes }, (_, i) => String(i));
    this.examples = (about.examples ?? []).map((text) => Uint16Array.from(bytesOf(text)));
    this.drawn = this.sketch = this.list = undefined;
    const classes = Math.max(model.classes, 1) - 1;
    state.class = Math.min(Math.max(state.class, 0), classes);
    if (state.mix !== null) state.mix = Math.min(Math.max(state.mix, 0), classes);
    if (!this.guided) state.guidance = 1;
    this.render();
  }

  // Draws what the state asks for; an earlier drawing that is not finished ends.
  async draw() {
    this.asked?.cancel();
    const { seed, temperature, guidance } = this.state;
    const began = performance.now();
    const weights = weightsOf(this.model, this.state);
    const options = { model: this.name, seed, numbers: [0], weights, temperature, guidance };
    this.asked = this.client.ask("draw", options);
    const drawn = await this.asked;
    const took = Math.round(performance.now() - began);
    this.drawn = { ...drawn, temperature, guidance, took, classId: this.state.class };
    return this.drawn;
  }

  render() {
    this.status.textContent = "";
    document.title = `${t("title")} · nextpixel`;
    document.querySelector("h1").textContent = t("title");
    document.querySelector("#intro").textContent = t("intro");
    const tabs = this.panels.map((name) => {
      const selected = name === this.state.panel;
      return h(
        "button",
        { role: "tab", id: `tab-${name}`, type: "button", "aria-selected": String(selected), "aria-controls": "panel", tabindex: selected ? 0 : -1, onclick: () => this.show(name) },
        t(name),
      );
    });
    const bar = h("div", { role: "tablist", "aria-label": t("panels") }, tabs);
    bar.addEventListener("keydown", (event) => {
      const names = this.panels;
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      this.show(names[(names.indexOf(this.state.panel) + step + names.length) % names.length]);
      document.querySelector(`#tab-${this.state.panel}`).focus();
    });
    this.panel = PANELS[this.state.panel](this);
    const area = h("div", { role: "tabpanel", id: "panel", "aria-labelledby": `tab-${this.state.panel}` }, this.panel);
    this.main.replaceChildren(bar, area);
    const models = Object.keys(this.page.models);
    const chooser = choice("model", "modelHint", models.map((name) => [name, name]), this.name, (name) => {
      this.name = name;
      this.open();
    });
    const other = button("language", "language", () => {
      setLanguage(languageCode() === "zh" ? "en" : "zh");
      this.render();
    });
    document.querySelector("#tools").replaceChildren(...(models.length > 1 ? [chooser] : []), other);
    this.write();
  }

  show(panel) {
    this.state.panel = panel;
    this.render();
  }

  // Changes the state; `done` is false while a slider moves.
  change(values, done = true) {
    Object.assign(this.state, values);
    if (!done && !("speed" in values)) return;
    this.write();
    this.panel.changed?.(Object.keys(values));
  }

  // Writes the state into the address.
  write() {
    const words = new URLSearchParams({ model: this.name, lang: languageCode() });
    for (const [key, value] of Object.entries(this.state))
      if (value !== null && value !== STATE[key]) words.set(key, value);
    history.replaceState(null, "", `#${words}`);
  }

  copyLink() {
    this.write();
    const said = () => (this.status.textContent = t("copied"));
    navigator.clipboard?.writeText(location.href).then(said, () => prompt("", location.href)) ?? prompt("", location.href);
  }

  // Loads the sounds; once.
  loadSounds() {
    this.sounds ??= Promise.all(this.page.sounds.map(loadScript));
    return this.sounds;
  }

  take = (file) => this.panel.take?.(file)?.catch?.((error) => this.fail(error));

  fail(error) {
    this.status.textContent = t("wrong", error.message);
  }

  checksum(levels) {
    return this.checksumOf([this.model.levels > 256 ? levels : Uint8Array.from(levels)]);
  }

  checksumOf(arrays) {
    let crc = 0xffffffff;
    for (const array of arrays)
      for (const byte of new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
        crc = CRC32C[(crc ^ byte) & 255] ^ (crc >>> 8);
    return (~crc >>> 0).toString(16).padStart(8, "0");
  }
}

// Reads the grey values of a picture in base64.
async function greysOf(base64) {
  const bitmap = await createImageBitmap(new Blob([bytesOf(base64)], { type: "image/png" }));
  const { width, height } = bitmap;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 0);
}

// Loads what lies beside the page, one after the other: a script calls `nextpixelLoaded` with data.
let loaded = Promise.resolve();

function loadScript(source) {
  loaded = loaded.then(
    () =>
      new Promise((resolve, reject) => {
        window.nextpixelLoaded = resolve;
        document.head.append(h("script", { src: source, onerror: () => reject(new Error(source)) }));
      }),
  );
  return loaded;
}

new App(JSON.parse(document.querySelector("#page").textContent), JSON.parse(document.querySelector("#worker").textContent)).open();
