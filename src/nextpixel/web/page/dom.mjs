// Elements of the page.
import { MOST_SEED } from "./address.mjs";
import { t } from "./words.mjs";

// Makes an element; attributes that begin with "on" are listeners.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

let count = 0;

// A control with its name, and a sentence that explains it.
export function labelled(name, hint, control, value = null) {
  const id = `c${count++}`;
  control.id = id;
  control.setAttribute("aria-describedby", `${id}h`);
  return h(
    "div",
    { class: "control" },
    h("label", { for: id }, t(name), value ? " " : null, value),
    control,
    h("small", { id: `${id}h` }, t(hint)),
  );
}

export function slider(name, hint, { min, max, step, value, show = String, change }) {
  const output = h("output", {}, show(value));
  const input = h("input", { type: "range", min, max, step, value });
  input.addEventListener("input", () => {
    output.textContent = show(Number(input.value));
    change(Number(input.value), false);
  });
  input.addEventListener("change", () => change(Number(input.value), true));
  return labelled(name, hint, input, output);
}

export function choice(name, hint, options, value, change) {
  const select = h(
    "select",
    { onchange: () => change(select.value) },
    options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)),
  );
  return labelled(name, hint, select);
}

// A button with the sentence that explains it below.
export const action = (name, hint, click, attributes = {}) =>
  h("div", { class: "control" }, button(name, hint, click, attributes), h("small", {}, t(hint)));

// A button whose hint is shown on hovering.
export const button = (name, hint, click, attributes = {}) =>
  h("button", { type: "button", title: t(hint), onclick: click, ...attributes }, t(name));

// A button that opens files: its label, because the browser's own speaks the browser's language.
export function filePicker(name, hint, accept, multiple, change) {
  const input = h("input", { type: "file", class: "file", accept, multiple });
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) change(files);
  });
  const control = labelled(name, hint, input);
  control.insertBefore(input, control.firstChild);
  return control;
}

// A field for a seed; what is no whole number in the range becomes the nearest one.
export function seedField(name, hint, value, change) {
  const input = h("input", { type: "number", inputmode: "numeric", min: 0, max: MOST_SEED, step: 1, value });
  input.addEventListener("change", () => {
    input.value = Math.min(Math.max(0, Math.floor(Number(input.value)) || 0), MOST_SEED);
    change(Number(input.value));
  });
  return labelled(name, hint, input);
}

// Buttons of which one is chosen, with the sentence that explains each shown on hovering.
export function buttonGroup(name, options, value, change) {
  const buttons = options.map(([key, hint]) => {
    const chosen = button(key, hint, () => choose(key));
    chosen.dataset.key = key;
    return chosen;
  });
  const mark = (value) => buttons.forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.key === value)));
  const choose = (key) => {
    mark(key);
    change(key);
  };
  mark(value);
  const element = h("div", { role: "group", class: "group", "aria-label": t(name) }, buttons);
  return { element, choose };
}

export const fixed = (value, digits = 2) => value.toFixed(digits);
export const percent = (share) => {
  if (share < 0.001 && share > 0) return "<0.1";
  return share > 0.999 && share < 1 ? ">99.9" : fixed(100 * share, 1);
};
