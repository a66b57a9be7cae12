// Elements of the page.
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

export function filePicker(name, hint, accept, multiple, change) {
  const input = h("input", { type: "file", accept, multiple });
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) change(files);
  });
  return labelled(name, hint, input);
}

export const fixed = (value, digits = 2) => value.toFixed(digits);
export const percent = (share) => (share < 0.001 && share > 0 ? "<0.1" : fixed(100 * share, 1));
