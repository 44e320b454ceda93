// Random latent vectors.

import { predict, takesLabels } from "./server.js";

/**
 * Draws of a model's latent vector, [count][D], of the chosen class where it takes labels.
 *
 * Where the prior is learned, a draw of the standard normal may be far from all that the model has seen.  So a model
 * that encodes is asked for samples and for the latents of these.
 */
export async function randomVectors(model, count, signal) {
  if (!["sample", "encode_draw"].every((signature) => model.signatures.includes(signature))) {
    return Array.from({ length: count }, () => Array.from({ length: model.latent_size }, normal));
  }
  model = { ...model }; // both requests are of one class, though another may be chosen meanwhile
  const given = { num_samples: count, seed: randomSeed() };
  const { images } = takesLabels(model)
    ? await predict(model, "sample_class", { ...given, label: model.chosenClass }, signal)
    : await predict(model, "sample", given, signal);
  return (await predict(model, "encode_draw", { images, seed: images.map(randomSeed) }, signal)).z;
}

/** A draw from the standard normal distribution, by Box and Muller. */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

const randomSeed = () => Math.floor(2 ** 31 * Math.random());
