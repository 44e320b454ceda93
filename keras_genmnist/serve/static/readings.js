// What a model says of a drawn image.  A kind of reading names the signatures that it needs.  Its `open`, given
// call(signature, inputs) and the shape of images, makes its element, names the place of that in the panel, and shows
// it for an image [H][W][C], or null where nothing is drawn; of a model that completes anything, with a mask of what is
// known of it.

import { imageOf, onResize, paint, sharpen } from "./canvas.js";
import { copy } from "./panel.js";
import { takesLabels } from "./server.js";
import { figure } from "./text.js";

const ELBO_DRAWS = 8; // one draw alone is off by nats
const COMPLETIONS = 6;

/** The readings that a model's signatures allow, in the order in which they stand on the page. */
export function readingsOf(model) {
  const code = model.latent_size === 2 ? codeOnPlane : codeAsBars;
  const rank = model.log_likelihoods ? [rankAmong(model)] : [];
  const kinds = [reconstruction, elboOf(model), logProb, ...rank, logit, code, completions];
  const known = kinds.filter(({ needs }) => needs.every((signature) => model.signatures.includes(signature)));
  return known.length && model.image_shape ? [seen, ...known] : [];
}

const seen = {
  open(call, panel, signal, shape) {
    const { element, show } = picture("As the model sees it", shape);
    const grey = (image, mask) => imageOf(shape, (row, column) => (mask[row][column][0] ? image[row][column][0] : 0.5));
    return { element, place: ".beside", show: async (image, _, mask) => show(mask ? grey(image, mask) : image) };
  },
};

const reconstruction = {
  needs: ["reconstruct"],
  open(call, panel, signal, shape) {
    const { element, show } = picture("Reconstruction", shape);
    return {
      element,
      place: ".beside",
      show: async (image) => show(image && (await call("reconstruct", { images: [image] })).probabilities[0]),
    };
  },
};

function elboOf(model) {
  const bounded = takesLabels(model) ? ["of log p(x | class)"] : [];
  return {
    needs: ["elbo"],
    open: (call) =>
      number(`ELBO, ${ELBO_DRAWS} draws`, bounded, ["reconstruction", "KL"], async (image) => {
        const terms = await call("elbo", { images: new Array(ELBO_DRAWS).fill(image), seed: 0 });
        const average = (draws) => figure(mean(draws), 1);
        return { value: `${average(terms.elbo)} nats`, terms: [average(terms.reconstruction), average(terms.kl)] };
      }),
  };
}

const logProb = {
  needs: ["log_prob"],
  open: (call) =>
    number("log p(x)", ["exact"], [], async (image) => {
      const [value] = await call("log_prob", { images: [image] });
      return { value: `${figure(value, 1)} nats` };
    }),
};

/** Where the likelihood of an image stands among those of test images, in ascending order. */
function rankAmong(model) {
  const { log_likelihoods: values, num_draws: draws } = model.log_likelihoods;
  const ranked = takesLabels(model) ? ["of log p(x), whichever its class"] : [];
  return {
    needs: ["log_likelihood"],
    open: (call, panel) => {
      const name = `Likelier than, of ${values.length} test images`;
      const at = (share) => figure(values[Math.floor(share * (values.length - 1))], 0);
      const middle = `their middle half: ${at(0.25)} to ${at(0.75)} nats`;
      const reading = number(name, [...ranked, middle], ["this one"], async (image) => {
        const { log_likelihood } = await call("log_likelihood", { images: [image], num_draws: draws, seed: 0 });
        const below = values.filter((value) => value < log_likelihood[0]).length;
        return { value: `${figure((100 * below) / values.length, 0)} %`, terms: [figure(log_likelihood[0], 0)] };
      });
      return {
        ...reading,
        // By so many draws it may be too slow to follow the pen.
        show: async (image, finished, mask) => (finished || !image) && panel.ask("rank", () => reading.show(image, finished, mask)),
      };
    },
  };
}

const logit = {
  needs: ["discriminate"],
  open: (call) =>
    number("Discriminator’s logit", ["the higher, the more real"], [], async (image) => {
      const [value] = await call("discriminate", { images: [image] });
      return { value: figure(value) };
    }),
};

const codeOnPlane = {
  needs: ["encode", "reconstruct"],
  open: (call) => {
    const reading = number("Latent code", ["the diamond on the map"], [], async (image) => {
      const { z } = await call("encode", { images: [image] });
      announce(z[0]);
      return { value: z[0].map((value) => figure(value)).join(", ") };
    });
    return {
      ...reading,
      show(image) {
        if (!image) announce(null);
        return reading.show(image);
      },
    };
  },
};

/** Tells the map where the drawn digit is; null that nothing is drawn. */
function announce(z) {
  document.dispatchEvent(new CustomEvent("encoded", { detail: z }));
}

const codeAsBars = {
  needs: ["encode", "reconstruct"],
  open(call, panel, signal) {
    const element = copy("code");
    const canvas = element.querySelector("canvas");
    let posterior = null;
    const draw = () => drawBars(sharpen(canvas), posterior);
    onResize(canvas, draw, signal);
    // What is painted keeps the ink of its time.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });
    return {
      element,
      place: ".below",
      async show(image) {
        const outputs = image && (await call("encode", { images: [image] }));
        posterior = outputs && outputs.mean[0].map((mean, i) => [mean, Math.exp(outputs.log_variance[0][i])]);
        draw();
      },
    };
  },
};

const completions = {
  needs: ["complete"],
  open(call, panel, signal, shape, anything) {
    const element = copy("completions");
    const pictures = Array.from({ length: COMPLETIONS }, (_, i) => picture(`Completion ${i + 1}`, shape));
    const upperHalf = imageOf(shape, (row) => (row < Math.floor(shape[0] / 2) ? 1 : 0));
    let [image, mask] = [null, null];
    let seed = 1;

    async function refresh() {
      const known = mask ?? upperHalf;
      const rows = { images: new Array(COMPLETIONS).fill(image), mask: new Array(COMPLETIONS).fill(known) };
      const outputs = image && (await call("complete", { ...rows, seed }));
      pictures.forEach(({ show }, i) => show(outputs && outputs.images[i]));
    }

    if (anything) element.querySelector("figcaption span").textContent = "The ink as drawn, the rest by the model";
    element.querySelector(".sheet").append(...pictures.map(({ canvas }) => canvas));
    element.querySelector("button").addEventListener("click", () => {
      seed += 1;
      panel.ask("completions", refresh);
    });
    return {
      element,
      place: ".below",
      async show(drawn, finished, known) {
        [image, mask] = [drawn, known];
        if (finished) panel.ask("completions", refresh); // pixel by pixel is too slow to follow the pen
      },
    };
  },
};

function mean(values) {
  return values.reduce((a, b) => a + b) / values.length;
}

/** An image of a shape with a caption; null shows black. */
function picture(caption, shape) {
  const element = copy("picture");
  const canvas = element.querySelector("canvas");
  const show = (image) => paint(canvas, image ?? imageOf(shape, () => 0));
  element.querySelector("figcaption").textContent = caption;
  canvas.setAttribute("aria-label", caption);
  show(null);
  return { element, canvas, show };
}

/**
 * A reading that is a number: `read` makes its value of an image, and the terms it is made of.
 *
 * Below it is a line for each of `notes`, and one for the name of each term.  What changes has a place of its own
 * beside that, of a fixed width: the name breaks where it broke before, and nothing moves.
 */
function number(name, notes, names, read) {
  const element = copy("number");
  const line = (text) => {
    const element = copy("note");
    element.firstElementChild.textContent = text;
    return element;
  };
  const lines = names.map(line);
  const write = ({ value, terms = [] }) => {
    element.querySelector("output").textContent = value;
    lines.forEach((line, i) => (line.lastElementChild.textContent = terms[i] ?? ""));
  };
  element.querySelector("span").textContent = name;
  const bare = notes.map(line);
  bare.forEach((note) => note.lastElementChild.remove());
  element.append(...bare, ...lines);
  write({ value: "–" });
  return { element, place: ".beside", show: async (image) => write(image ? await read(image) : { value: "–" }) };
}

/** A bar for each latent's [mean, variance], from -3 to 3 or further; faint where its variance is near the prior's, 1. */
function drawBars({ context, width, height }, posterior) {
  context.fillStyle = getComputedStyle(context.canvas).color;
  context.globalAlpha = 0.3;
  context.fillRect(0, height / 2 - 0.5, width, 1);
  const step = width / (posterior?.length ?? 1);
  const end = Math.max(3, ...(posterior ?? []).map(([mean]) => Math.abs(mean)));
  posterior?.forEach(([mean, variance], i) => {
    const length = (height / 2) * (mean / end);
    context.globalAlpha = Math.max(0.2, 1 - variance);
    context.fillRect((i + 0.15) * step, height / 2 - Math.max(0, length), 0.7 * step, Math.abs(length));
  });
}
