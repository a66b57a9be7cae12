// The page: its state, which stands in the address, and its panels.
import { Cancelled, Client } from "./client.mjs";
import { completePanel } from "./complete.mjs";
import { compressPanel } from "./compress.mjs";
import { button, choice, h } from "./dom.mjs";
import { MOST_SEED, drawPanel, weightsOf } from "./draw.mjs";
import { listenPanel } from "./listen.mjs";
import { bytesOf } from "./npxz.mjs";
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
const DRAWS = ["seed", "class", "mix", "share", "temperature", "guidance"]; // what decides a drawing
// The least and the largest number that an address may give; the others are rounded to whole ones.
const RANGES = { seed: [0, MOST_SEED], class: [0, 1e6], mix: [0, 1e6], share: [0, 1], temperature: [0.2, 1.5], guidance: [0, 4], speed: [1, 1e6] };
const FRACTIONS = ["share", "temperature", "guidance"];

// Reads the state from the address.
function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const state = { ...STATE, panel: given.get("panel") ?? STATE.panel };
  for (const [key, [least, most]] of Object.entries(RANGES)) {
    const value = given.get(key) === null ? NaN : Number(given.get(key));
    if (!Number.isFinite(value)) continue;
    const within = Math.min(Math.max(value, least), most);
    state[key] = FRACTIONS.includes(key) ? within : Math.round(within);
  }
  return { state, model: given.get("model"), language: given.get("lang") };
}

class App {
  constructor(page, worker) {
    this.page = page; // what the export wrote: version, wasm, models
    this.client = new Client(worker, (error) => this.fail(error));
    this.main = document.querySelector("main");
    this.status = document.querySelector("#status");
    this.panels = Object.keys(PANELS).filter((name) => name !== "listen" || page.sounds.length);
    this.read();
    window.addEventListener("hashchange", () => {
      this.read();
      this.open(this.wanted);
    });
    window.addEventListener("paste", ({ clipboardData }) => [...clipboardData.files].forEach(this.take));
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      [...event.dataTransfer.files].forEach(this.take);
    });
  }

  // Takes over what the address says.
  read() {
    const { state, model, language } = readState();
    this.state = state;
    if (!this.panels.includes(state.panel)) state.panel = STATE.panel;
    setLanguage(language ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
    const models = Object.keys(this.page.models);
    this.wanted = models.includes(model) ? model : models[0];
  }

  // Opens a model, then shows the page; the last one that was asked for.
  async open(name) {
    const about = this.page.models[name];
    this.wanted = name;
    this.status.textContent = t("loading");
    let model;
    try {
      about.body ??= await loadScript(about.script);
      this.fields ??= { ...this.page.fields, values: await greysOf(this.page.fields.png) };
      model = await this.client.ask("open", { wasm: bytesOf(this.page.wasm), name, body: bytesOf(about.body) });
    } catch (error) {
      return this.fail(error);
    }
    if (name !== this.wanted) return;
    const { state } = this;
    Object.assign(this, { name, model, about, guided: about.guidance });
    this.classNames = about.class_names ?? Array.from({ length: model.classes }, (_, i) => String(i));
    this.examples = (about.examples ?? []).map((text) => Uint16Array.from(bytesOf(text)));
    this.drawn = this.sketch = this.list = this.scored = undefined;
    const last = Math.max(model.classes, 1) - 1;
    state.class = Math.min(state.class, last);
    if (state.mix !== null) state.mix = Math.min(state.mix, last);
    if (!this.guided) state.guidance = 1;
    this.render();
  }

  // Draws what the state asks for; an earlier drawing that is not finished ends.
  async draw() {
    this.asked?.cancel();
    const { seed, temperature, guidance, mix } = this.state;
    const began = performance.now();
    const weights = weightsOf(this.model, this.state);
    const options = { model: this.name, seed, numbers: [0], weights, temperature, guidance };
    this.asked = this.client.ask("draw", options);
    const classId = this.model.classes && mix === null ? this.state.class : undefined;
    const drawn = await this.asked;
    const took = Math.round(performance.now() - began);
    this.status.textContent = "";
    this.drawn = { ...drawn, temperature, guidance, took, classId };
    return this.drawn;
  }

  // Builds the page anew. What had the focus has it again.
  render() {
    const focus = document.activeElement?.id;
    this.panel?.leave?.();
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
      document.getElementById(`tab-${this.state.panel}`).focus();
    });
    this.panel = PANELS[this.state.panel](this);
    const area = h("div", { role: "tabpanel", id: "panel", "aria-labelledby": `tab-${this.state.panel}` }, this.panel);
    this.main.replaceChildren(bar, area);
    const models = Object.keys(this.page.models);
    const chooser = choice("model", "modelHint", models.map((name) => [name, name]), this.name, (name) => {
      this.open(name);
    });
    chooser.querySelector("select").id = "model";
    chooser.querySelector("label").htmlFor = "model";
    const change = () => {
      setLanguage(languageCode() === "zh" ? "en" : "zh");
      this.render();
    };
    const other = button("language", "language", change, { id: "language" });
    document.querySelector("#tools").replaceChildren(...(models.length > 1 ? [chooser] : []), other);
    this.write();
    if (focus) document.getElementById(focus)?.focus();
  }

  show(panel) {
    this.state.panel = panel;
    this.render();
  }

  // Changes the state; `done` is false while a slider moves.
  change(values, done = true) {
    Object.assign(this.state, values);
    if (!done) return;
    this.write();
    if (!this.panel.changed && DRAWS.some((key) => key in values)) this.drawn = undefined; // it is another now
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
    this.sounds ??= Promise.all(this.page.sounds.map(loadScript)).catch((error) => {
      this.sounds = undefined;
      throw error;
    });
    return this.sounds;
  }

  take = (file) => this.panel.take?.(file)?.catch?.((error) => this.fail(error));

  fail(error) {
    if (error instanceof Cancelled) return;
    this.status.textContent = t("wrong", error.message);
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
  loaded = loaded.catch(() => {}).then(
    () =>
      new Promise((resolve, reject) => {
        window.nextpixelLoaded = resolve;
        document.head.append(h("script", { src: encodeURIComponent(source), onerror: () => reject(new Error(source)) }));
      }),
  );
  return loaded;
}

const app = new App(JSON.parse(document.querySelector("#page").textContent), JSON.parse(document.querySelector("#worker").textContent));
app.open(app.wanted);
// A page that shows this one in a frame can make the frame as high as this.
if (parent !== window)
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
