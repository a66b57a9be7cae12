// The page: its state, which stands in the address, and its panels.
import { DRAWS, STATE, addressOf, readAddress } from "./address.mjs";
import { Cancelled, Client } from "./client.mjs";
import { completePanel } from "./complete.mjs";
import { compressPanel } from "./compress.mjs";
import { button, choice, h } from "./dom.mjs";
import { drawPanel, weightsOf } from "./draw.mjs";
import { listenPanel } from "./listen.mjs";
import { Trouble, bytesOf } from "./npxz.mjs";
import { seePanel } from "./see.mjs";
import { surprisePanel } from "./surprise.mjs";
import { isWord, languageCode, setLanguage, t } from "./words.mjs";

const PANELS = {
  draw: drawPanel,
  complete: completePanel,
  surprise: surprisePanel,
  compress: compressPanel,
  see: seePanel,
  listen: listenPanel,
};
const WITHOUT_MODEL = ["see", "listen"]; // panels that show the same whatever model is chosen
const SAID = 5000; // milliseconds that a message stays

class App {
  constructor(page, worker) {
    this.page = page; // what the export wrote: version, wasm, models
    this.client = new Client(worker, (error) => this.fail(error));
    this.main = document.querySelector("main");
    this.status = document.querySelector("#status");
    this.status.addEventListener("click", () => this.say(""));
    this.panels = Object.keys(PANELS).filter((name) => name !== "listen" || page.sounds.length);
    this.state = { ...STATE };
    this.list = []; // of Compress
    setLanguage(navigator.language.startsWith("zh") ? "zh" : "en");
    this.read();
    window.addEventListener("hashchange", () => {
      this.place = undefined; // the browser has moved already
      this.read();
      this.open(this.wanted);
    });
    window.addEventListener("paste", ({ clipboardData }) => {
      // A link to somebody else's copy of this file leads nowhere, but what it shows can be shown here.
      const [, link] = clipboardData.getData("text").match(/#(model=\S+)/) ?? [];
      if (link) location.hash = link;
      else this.takeAll(clipboardData.files);
    });
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      this.takeAll(event.dataTransfer.files);
    });
  }

  // Takes over what the address says.
  read() {
    const { model, language } = readAddress(this.state, this.panels);
    if (this.state.panel === "complete") this.sketch = undefined; // the panels read them from the address
    if (this.state.panel === "surprise") this.own = undefined;
    if (language) setLanguage(language);
    const models = Object.keys(this.page.models);
    this.wanted = models.includes(model) ? model : models[0];
    this.missing = model && model !== this.wanted ? model : null;
  }

  // Opens a model, then shows the page; the last one that was asked for.
  async open(name) {
    this.wanted = name;
    if (name !== this.name) {
      this.say(t("loading"), true);
      try {
        const model = await this.load(name);
        if (name !== this.wanted) return;
        this.use(name, model);
      } catch (error) {
        this.wanted = this.name;
        if (this.name) this.render(); // with the one that is open
        return this.fail(error);
      }
    }
    const { model, state } = this;
    if (model.classes) {
      const last = model.classes - 1;
      state.class = Math.min(state.class, last);
      if (state.mix !== null) state.mix = Math.min(state.mix, last);
    }
    if (!this.guided) state.guidance = 1;
    this.render();
    if (this.missing) this.say(t("noModel", this.missing, name));
    this.missing = null;
  }

  // Loads a model into the worker.
  async load(name) {
    const about = this.page.models[name];
    about.body ??= await loadScript(about.script);
    this.fields ??= { ...this.page.fields, values: await greysOf(this.page.fields.png) };
    return this.client.ask("open", { wasm: bytesOf(this.page.wasm), name, body: bytesOf(about.body) });
  }

  // Takes a loaded model; pictures of the same size stay.
  use(name, model) {
    const before = this.model;
    const about = this.page.models[name];
    Object.assign(this, { name, model, about, guided: about.guidance });
    this.classNames = about.class_names ?? Array.from({ length: model.classes }, (_, i) => String(i));
    this.examples = (about.examples ?? []).map((text) => Uint16Array.from(bytesOf(text)));
    this.brush = undefined;
    if (!before) return;
    const fitted = (picture) => picture && fit(picture, before, model);
    this.sketch = fitted(this.sketch);
    this.own = fitted(this.own);
    this.list = this.list.map(fitted).filter(Boolean).map(({ levels }) => ({ levels }));
  }

  // The picture under Draw, if it is the one that the state asks for.
  get drawn() {
    return this.latest?.key === this.drawKey() ? this.latest : undefined;
  }

  drawKey() {
    return JSON.stringify([this.name, ...DRAWS.map((key) => this.state[key])]);
  }

  // Draws what the state asks for; an earlier drawing that is not finished ends.
  async draw(show) {
    this.asked?.cancel();
    const { seed, temperature, guidance, mix } = this.state;
    const key = this.drawKey();
    const began = performance.now();
    const weights = weightsOf(this.model, this.state);
    const options = { model: this.name, seed, numbers: [0], weights, temperature, guidance };
    this.asked = this.client.ask("draw", options, show);
    const classId = this.model.classes && mix === null ? this.state.class : undefined;
    const drawn = await this.asked;
    const took = Math.round(performance.now() - began);
    this.latest = { ...drawn, key, temperature, guidance, took, classId };
    return this.latest;
  }

  // Shows where a picture surprises the model; what is hidden of it counts for nothing.
  surpriseBy({ levels, hidden = new Uint8Array(this.model.pixels) }) {
    this.own = { levels: levels.map((level, at) => (hidden[at % hidden.length] ? 0 : level)), hidden: hidden.slice() };
    this.state.from = "own";
    this.show("surprise");
  }

  // Builds the page anew. What had the focus has it again, or else the panel's tab.
  render() {
    const focus = document.activeElement?.id;
    const focused = document.activeElement !== document.body;
    this.panel?.leave?.();
    this.say("");
    document.title = `${t(this.state.panel)} · ${t("title")} · nextpixel`;
    document.querySelector("h1").textContent = t("title");
    document.querySelector("#intro").textContent = t("intro");
    const tabs = this.panels.map((name) => {
      const selected = name === this.state.panel;
      return h(
        "button",
        {
          ...{ role: "tab", id: `tab-${name}`, type: "button", title: t(`${name}Tab`), "aria-selected": String(selected) },
          ...{ "aria-controls": "panel", tabindex: selected ? 0 : -1, onclick: () => this.show(name) },
        },
        t(name),
      );
    });
    const bar = h("div", { role: "tablist", "aria-label": t("panels") }, tabs);
    bar.addEventListener("keydown", (event) => {
      const names = this.panels;
      const at = names.indexOf(this.state.panel);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.show(names[(to + names.length) % names.length]);
      document.getElementById(`tab-${this.state.panel}`).focus();
    });
    this.panel = PANELS[this.state.panel](this);
    const area = h("div", { role: "tabpanel", id: "panel", "aria-labelledby": `tab-${this.state.panel}` }, this.panel);
    this.main.replaceChildren(bar, area);
    document.querySelector("#tools").replaceChildren(...this.tools());
    this.write();
    if (focus) document.getElementById(focus)?.focus();
    if (focused && document.activeElement === document.body) document.getElementById(`tab-${this.state.panel}`).focus();
  }

  // The choice of the model, where there is one, and of the language.
  tools() {
    const change = () => {
      setLanguage(languageCode() === "zh" ? "en" : "zh");
      this.render();
    };
    const other = button("language", "languageHint", change, { id: "language", lang: languageCode() === "zh" ? "en" : "zh-CN" });
    const models = Object.keys(this.page.models);
    if (models.length < 2 || WITHOUT_MODEL.includes(this.state.panel)) return [other];
    const chooser = choice("model", "modelHint", models.map((name) => [name, name]), this.name, (name) => {
      this.open(name);
    });
    chooser.querySelector("select").id = "model";
    chooser.querySelector("label").htmlFor = "model";
    return [chooser, other];
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
    this.panel.changed?.(Object.keys(values));
  }

  // Writes the state into the address. Back leads to the panel and the model before.
  write() {
    const address = `#${addressOf(this.state, this.name, languageCode())}`;
    const place = JSON.stringify([this.state.panel, this.name]);
    const moved = this.place && this.place !== place;
    this.place = place;
    if (address === location.hash) return;
    if (moved) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  copyLink() {
    this.write();
    const done = () => this.say(t(location.protocol === "file:" ? "copiedFile" : "copied"));
    const byHand = () => prompt(t("copyThis"), location.href);
    navigator.clipboard?.writeText(location.href).then(done, byHand) ?? byHand();
  }

  // Shows a message, which goes by itself unless it `stays`.
  say(text, stays = false) {
    clearTimeout(this.saying);
    this.status.textContent = text;
    if (text && !stays) this.saying = setTimeout(() => this.say(""), SAID + 60 * text.length);
  }

  // Loads the sounds; once.
  loadSounds() {
    this.sounds ??= Promise.all(this.page.sounds.map(loadScript)).catch((error) => {
      this.sounds = undefined;
      throw error;
    });
    return this.sounds;
  }

  takeAll(files) {
    if (files.length && !this.panel?.take) return this.say(t("noDrop"));
    [...files].forEach(this.take);
  }

  take = (file) => this.panel.take(file).catch((error) => this.fail(error));

  fail(error) {
    if (error instanceof Cancelled) return;
    const { message, values = [] } = error;
    this.say(isWord(message) ? t(message, ...values) : t("wrong", message), true);
  }
}

// Fits a picture of one model to another: the same size, perhaps in other levels.
function fit({ levels, hidden }, before, model) {
  const same = ["channels", "height", "width"].every((side) => before[side] === model[side]);
  if (!same) return undefined;
  const share = (model.levels - 1) / (before.levels - 1);
  return { levels: levels.map((level) => Math.round(level * share)), hidden };
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
        document.head.append(h("script", { src: encodeURIComponent(source), onerror: () => reject(new Trouble("noScript", source)) }));
      }),
  );
  return loaded;
}

const app = new App(JSON.parse(document.querySelector("#page").textContent), JSON.parse(document.querySelector("#worker").textContent));
app.open(app.wanted);
// A page that shows this one in a frame can make the frame as high as this.
if (parent !== window)
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
