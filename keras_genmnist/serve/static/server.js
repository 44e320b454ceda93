// What the page asks of the server: TensorFlow Serving's predict, the list of models, the sheet of samples.

const OF_A_CLASS = ["decode", "encode", "encode_draw", "reconstruct", "elbo", "discriminate"];

/** Whether a model takes a label with latents or images: a PixelCNN, which draws a chosen class, has neither. */
export const takesLabels = ({ class_conditional, signatures }) => class_conditional && signatures.includes("decode");

/**
 * The models served: name, version, label, signatures, latent_size, class_conditional, latent_means; image_shape,
 * [H, W, C] or null; noun, what an image is called; classes, their names.  `loading`: the names of those to come.
 */
export async function listModels(signal) {
  return (await answered("explorer/models", { signal })).json();
}

/**
 * Calls a signature in the columnar form; of a model that takes labels, with `chosenClass` as the label of each.
 *
 * @param {object} model
 * @param {string} signature
 * @param {object} inputs arrays by the name of the argument
 * @param {AbortSignal} signal
 * @returns {Promise<object>} arrays by the name of the output; of a single output the array itself
 * @throws {Error} with the server's own sentence
 */
export async function predict(model, signature, inputs, signal) {
  if (takesLabels(model) && OF_A_CLASS.includes(signature)) {
    inputs = { ...inputs, label: new Array((inputs.z ?? inputs.images).length).fill(model.chosenClass) };
  }
  const answer = await answered(`v1/models/${encodeURIComponent(model.name)}:predict`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ signature_name: signature, inputs }),
    signal,
  });
  return (await answer.json()).outputs;
}

/** The mean images [N][H][W][C] of latent vectors [N][D]. */
export async function decode(model, z, signal) {
  return (await predict(model, "decode", { z }, signal)).probabilities;
}

/** A sheet of samples, a PNG file.  `query`: num_samples, seed and perhaps digit or label. */
export async function sampleSheet(model, query, signal) {
  const path = `v1/models/${encodeURIComponent(model)}/sample.png?${new URLSearchParams(query)}`;
  return (await answered(path, { signal })).blob();
}

/** fetch, but what is not a success is thrown, in a sentence for people; `final` if another try would end the same. */
async function answered(path, options) {
  // The page's address may hold a password, with which fetch refuses it; the origin and the path are without.
  const address = new URL(path, location.origin + location.pathname);
  const response = await fetch(address, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server does not answer. Is it still running?");
  });
  if (!response.ok) {
    const final = response.status < 500 && response.status !== 429;
    throw Object.assign(new Error(await complaint(response)), { final });
  }
  return response;
}

async function complaint(response) {
  const plain = `The server answered ${response.status} ${response.statusText}`.trim();
  const body = await response.json().catch(() => ({}));
  return String(body.error ?? plain).split("\n")[0];
}
