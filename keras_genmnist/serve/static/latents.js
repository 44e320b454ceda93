// Sliders for the first latents, a random vector, and the image it decodes to.

import { paint } from "./canvas.js";
import { copy, openPanel } from "./panel.js";
import { decode } from "./server.js";
import { figure, symbol } from "./text.js";
import { randomVector } from "./vectors.js";

const SLIDERS = 10;

export const suits = (model) => model.latent_size !== null && model.latent_size !== 2;

export function open(model, signal) {
  const panel = openPanel("latents", model, signal);
  const count = Math.min(SLIDERS, model.latent_size);
  let z = [];

  function refresh() {
    panel.ask("digit", async () => paint(panel.find(".digit"), (await decode(model, [z], signal))[0]));
  }

  function change(index, value) {
    z = z.with(index, value);
    refresh();
  }

  const sliders = Array.from({ length: count }, (_, index) => slider(index, (value) => change(index, value)));

  function set(vector) {
    z = vector;
    sliders.forEach((slider, index) => slider.show(z[index]));
    refresh();
  }

  panel.find(".hint").textContent = hint(count, model.latent_size);
  panel.find(".sliders").append(...sliders.map(({ element }) => element));
  panel.find(".random").addEventListener("click", () => set(randomVector(model.latent_size)));
  panel.find(".zero").addEventListener("click", () => set(new Array(model.latent_size).fill(0)));
  document.addEventListener("class", refresh, { signal });
  set(randomVector(model.latent_size));
  return panel.element;
}

function hint(count, size) {
  if (count === size) return "Each slider is one latent, from −3 to 3.";
  return `The first ${count} of ${size} latents, from −3 to 3. The others are as the random vector has them.`;
}

/** A labelled slider of a latent. `show` moves it, without calling `change`. */
function slider(index, change) {
  const element = copy("slider");
  const input = element.querySelector("input");
  const write = (value) => (element.querySelector("output").textContent = figure(value));
  element.querySelector(".symbol").innerHTML = symbol(index);
  input.addEventListener("input", () => {
    write(input.valueAsNumber);
    change(input.valueAsNumber);
  });
  return {
    element,
    show(value) {
      input.value = value;
      write(value);
    },
  };
}
