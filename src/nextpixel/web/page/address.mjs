// The address of the page: the state of each panel, so that a link shows the same as here.

export const MOST_SEED = Number.MAX_SAFE_INTEGER;
export const STATE = {
  panel: "draw",
  seed: 0,
  class: 3,
  mix: null,
  share: 0.5,
  temperature: 1,
  guidance: 1,
  speed: 300,
  sketch: null, // of Complete: known pixels, see `encodePicture`; null is an empty upper half
  first: 0, // the seed of the completions
  completed: 0, // whether they are shown
  classes: "guess",
  particles: 1,
  from: "drawing", // what Surprise shows: "drawing", "example1" and so on, or "own"
  picture: null, // of "own"
  word: null, // of Listen
  speaker: null,
};
export const DRAWS = ["seed", "class", "mix", "share", "temperature", "guidance"]; // what decides a drawing
// What a panel shows. Its address tells nothing else, so that Back leaves the other panels alone.
const KEYS = {
  draw: [...DRAWS, "speed"],
  complete: ["sketch", "first", "completed", "classes", "class", "mix", "share", "particles"],
  surprise: ["from", "picture", ...DRAWS],
  compress: DRAWS,
  see: [],
  listen: ["word", "speaker"],
};
// The least and the largest number that an address may give; the others are rounded to whole ones.
const RANGES = {
  seed: [0, MOST_SEED],
  first: [0, MOST_SEED],
  completed: [0, 1],
  particles: [1, 128],
  class: [0, 1e6],
  mix: [0, 1e6],
  share: [0, 1],
  temperature: [0.2, 1.5],
  guidance: [0, 4],
  speed: [1, 1e6],
};
const FRACTIONS = ["share", "temperature", "guidance"];

function valueOf(key, text) {
  if (!(key in RANGES) || text === null) return text ?? STATE[key];
  const [least, most] = RANGES[key];
  const value = Number(text);
  if (!Number.isFinite(value)) return STATE[key];
  const within = Math.min(Math.max(value, least), most);
  return FRACTIONS.includes(key) ? within : Math.round(within);
}

// Reads the address into the state; `panels` are those of the page.
export function readAddress(state, panels) {
  const given = new URLSearchParams(location.hash.slice(1));
  const panel = given.get("panel");
  state.panel = panels.includes(panel) ? panel : STATE.panel;
  for (const key of KEYS[state.panel]) state[key] = valueOf(key, given.get(key));
  return { model: given.get("model"), language: given.get("lang") };
}

// Returns what stands in the address behind the #.
export function addressOf(state, model, language) {
  const words = new URLSearchParams({ model, lang: language });
  for (const key of ["panel", ...KEYS[state.panel]])
    if (state[key] !== null && state[key] !== STATE[key]) words.set(key, state[key]);
  return String(words);
}

// --- pictures -------------------------------------------------------------------------------------

const base64url = (bytes) =>
  btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

// Writes a whole number, seven bits in a byte, the lowest first.
function pushNumber(bytes, number) {
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) + 128);
  bytes.push(number);
}

function runs(values) {
  const found = [];
  for (const value of values)
    if (found.at(-1)?.value === value) found.at(-1).length++;
    else found.push({ value, length: 1 });
  return found;
}

// The levels that are known, and the pixels' numbers of all channels.
const knownOf = (hidden, { dims, pixels }) =>
  Array.from({ length: dims }, (_, at) => at).filter((at) => !hidden[at % pixels]);

// Writes a picture in letters: the lengths of the runs of known and hidden pixels in turn; then the
// levels of the known ones, as runs of equal ones (twice their number, the level) and others (twice
// their number and one more, the levels).
export function encodePicture({ levels, hidden }, model) {
  const bytes = [];
  if (hidden[0]) bytes.push(0);
  for (const { length } of runs(hidden)) pushNumber(bytes, length);
  let others = [];
  const flush = () => {
    if (others.length) pushNumber(bytes, 2 * others.length + 1);
    for (const level of others) pushLevel(level);
    others = [];
  };
  const pushLevel = (level) => (model.levels > 256 ? bytes.push(level & 255, level >> 8) : bytes.push(level));
  for (const { value, length } of runs(knownOf(hidden, model).map((at) => levels[at]))) {
    if (length < 3) others.push(...new Array(length).fill(value));
    else {
      flush();
      pushNumber(bytes, 2 * length);
      pushLevel(value);
    }
  }
  flush();
  return base64url(bytes);
}

// Reads what `encodePicture` wrote; null for anything else. Hidden pixels get the level 0.
export function decodePicture(text, model) {
  const { dims, pixels } = model;
  if (text.length > 8 * dims + 4 * pixels + 16 || !/^[\w-]+$/.test(text)) return null;
  try {
    const letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    let at = 0;
    const next = () => {
      if (at === bytes.length) throw new RangeError();
      return bytes[at++];
    };
    const number = (most) => {
      let [value, times] = [0, 1];
      for (let byte = 128; byte > 127; times *= 128) {
        byte = next();
        value += (byte % 128) * times;
        if (value > most) throw new RangeError();
      }
      return value;
    };
    const hidden = new Uint8Array(pixels);
    for (let pixel = 0, turn = 0; pixel < pixels; turn++) {
      const length = number(pixels - pixel);
      if (!length && turn) return null;
      hidden.fill(turn % 2, pixel, pixel + length);
      pixel += length;
    }
    const level = () => {
      const value = model.levels > 256 ? next() + 256 * next() : next();
      if (value >= model.levels) throw new RangeError();
      return value;
    };
    const levels = new Uint16Array(dims);
    const known = knownOf(hidden, model);
    for (let done = 0; done < known.length; ) {
      const head = number(2 * (known.length - done) + 1);
      const length = head >> 1;
      if (!length || done + length > known.length) return null;
      const one = head % 2 ? null : level();
      for (const end = done + length; done < end; done++) levels[known[done]] = one ?? level();
    }
    return at === bytes.length ? { levels, hidden } : null;
  } catch {
    return null; // it ended too early, or is no base64
  }
}
