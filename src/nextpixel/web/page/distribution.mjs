// What a model says of a pixel, for people: probabilities of all levels, their entropy. The engine
// itself draws by whole numbers, see distributions.h; these are the same up to rounding.

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));

function softmax(logits) {
  const most = Math.max(...logits);
  const some = logits.map((x) => Math.exp(x - most));
  const sum = some.reduce((a, b) => a + b, 0);
  return some.map((x) => x / sum);
}

// Returns the logarithm of a level's bin under a logistic.
function logBin(x, mean, sharp, half) {
  const [z, width] = [(x - mean) * sharp, half * sharp];
  const [first, last] = [x < half - 1, x > 1 - half];
  let nats = 0;
  if (!last) nats += logSigmoid(z + width);
  if (!first) nats += logSigmoid(width - z);
  if (!first && !last) nats += Math.log(Math.max(1e-300, -Math.expm1(-2 * width)));
  return nats;
}

// The components of a mixture of logistics in a channel, given the pixel's levels before it.
function mixture(model, p, channel, pixel, temperature) {
  const { components: k, channels, levels, maxLogScale } = model;
  const half = 1 / (levels - 1);
  const scaled = (c) => 2 * pixel[c] * half - 1;
  const mean = (c, j) => {
    let value = p[k + c * k + j];
    for (let d = 0; d < c; d++)
      value += Math.tanh(p[k + 2 * channels * k + ((c * (c - 1)) / 2 + d) * k + j]) * scaled(d);
    return value;
  };
  const sharp = (c, j) => Math.exp(-Math.min(Math.max(p[k * (1 + channels + c) + j], -7), maxLogScale));
  const logits = Array.from({ length: k }, (_, j) => {
    let value = p[j];
    for (let c = 0; c < channel; c++) value += logBin(scaled(c), mean(c, j), sharp(c, j), half);
    return value / temperature;
  });
  return softmax(logits).map((share, j) => ({
    ...{ share, mean: mean(channel, j), sharp: sharp(channel, j) / temperature },
  }));
}

function probabilitiesAt(model, p, channel, pixel, temperature) {
  if (model.distribution === 0) {
    const one = sigmoid(p[0] / temperature);
    return [1 - one, one];
  }
  const logits = Array.from(p.subarray(0, model.levels), (x) => x / temperature);
  if (model.distribution === 1) return softmax(logits);
  const parts = mixture(model, p, channel, pixel, temperature);
  const half = 1 / (model.levels - 1);
  return Array.from({ length: model.levels }, (_, level) =>
    parts.reduce((sum, { share, mean, sharp }) => {
      return sum + share * Math.exp(logBin(2 * level * half - 1, mean, sharp, half));
    }, 0),
  );
}

// Returns the probabilities of all levels of a channel of a pixel. `pixel` has the pixel's levels;
// `parameters` all that was kept, see `runThrough` in worker.mjs.
export function probabilities(model, parameters, index, channel, pixel, { temperature, guidance }) {
  const copies = guidance === 1 ? 1 : 2;
  const perPixel = model.groups > 1 ? model.channels : 1;
  const at = (index * perPixel + (perPixel > 1 ? channel : 0)) * copies * model.parameters;
  const of = (copy, t) => {
    const begin = at + copy * model.parameters;
    const p = parameters.subarray(begin, begin + model.parameters);
    return probabilitiesAt(model, p, channel, pixel, t);
  };
  if (copies === 1) return of(0, temperature);
  const log = (values) => values.map((x) => Math.log(Math.max(x, 1e-300)));
  const [given, without] = [log(of(0, 1)), log(of(1, 1))];
  return softmax(without.map((x, i) => (x + guidance * (given[i] - x)) / temperature));
}

export const entropyOf = (chances) => chances.reduce((sum, p) => (p > 0 ? sum - p * Math.log2(p) : sum), 0);
