// What the served explorer asks of its server, computed here: fully connected layers, each with batch norm as a factor
// and a shift, and ReLU between them.

const given = JSON.parse(document.getElementById("given").textContent);

/** As the server lists it. */
export const model = { ...given.model, noun: "digit", chosenClass: null };

const layers = given.layers.map(({ inputs, outputs, weights, factors, shifts }) => ({
  inputs,
  outputs,
  weights: halves(bytes(weights)),
  factors: new Float32Array(bytes(factors)),
  shifts: new Float32Array(bytes(shifts)),
}));

/** The mean images [N][H][W][1] of latent vectors [N][2]. */
export async function decode(model, z) {
  await new Promise((resolve) => setTimeout(resolve)); // the page may paint, and hear of the pointer, in between
  return z.map((vector) => image(decodeOne(vector), model.image_shape));
}

/** The probabilities of all pixels, row by row, given a latent vector. */
function decodeOne(vector) {
  let values = Float32Array.from(vector);
  for (const layer of layers) {
    if (layer !== layers[0]) values = values.map((value) => Math.max(0, value)); // ReLU
    values = fullyConnected(layer, values);
  }
  return values.map((logit) => 1 / (1 + Math.exp(-logit)));
}

function fullyConnected({ outputs, weights, factors, shifts }, values) {
  const sums = new Float32Array(outputs);
  values.forEach((value, i) => {
    if (value === 0) return; // as half of them are after a ReLU
    const start = i * outputs;
    for (let j = 0; j < outputs; j++) sums[j] += value * weights[start + j];
  });
  return sums.map((sum, j) => sum * factors[j] + shifts[j]);
}

function image(pixels, [height, width]) {
  const row = (r) => Array.from(pixels.subarray(r * width, (r + 1) * width), (pixel) => [pixel]);
  return Array.from({ length: height }, (_, r) => row(r));
}

/** The buffer that base64 stands for. */
function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

/** Numbers of 16 bits as of 32: a sign, 5 bits of exponent and 10 of fraction. */
function halves(buffer) {
  const bits = new Uint16Array(buffer);
  return Float32Array.from(bits, (bits) => {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return bits >> 15 ? -size : size;
  });
}
