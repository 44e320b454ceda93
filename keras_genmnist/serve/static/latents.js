// Sliders for the first latents, a random vector, and the image it decodes to.

import { paint } from "./canvas.js";
import { randomVectors } from "./draws.js";
import { copy, openPanel } from "./panel.js";
import { decode } from "./server.js";
import { figure, symbol } from "./text.js";

const SLIDERS = 10;
const TRIED = 16; // vectors, by which the sliders are as long as the latents are large

export const suits = (model) => model.latent_size !== null && model.latent_size !== 2;

export function open(model, signal) {
  const panel = openPanel("latents", model, signal);
  const count = Math.min(SLIDERS, model.latent_size);
  let z = new Array(model.latent_size).fill(0);

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

  async function begin() {
    const drawn = await randomVectors(model, TRIED, signal);
    const largest = Math.max(3, ...drawn.flatMap((vector) => vector.slice(0, count).map(Math.abs)));
    const end = Math.ceil(largest);
    sliders.forEach((slider) => slider.reach(end));
    panel.find(".hint").textContent = hint(count, model.latent_size, end);
    set(drawn[0]);
  }

  panel.find(".hint").textContent = hint(count, model.latent_size, 3);
  panel.find(".sliders").append(...sliders.map(({ element }) => element));
  panel.find(".random").addEventListener("click", () => {
    panel.ask("vector", async () => set((await randomVectors(model, 1, signal))[0]));
  });
  panel.find(".zero").addEventListener("click", () => set(new Array(model.latent_size).fill(0)));
  document.addEventListener("class", refresh, { signal });
  panel.ask("vector", begin);
  return panel.element;
}

function hint(count, size, end) {
  if (count === size) return `Each slider is one latent, from −${end} to ${end}.`;
  return `The first ${count} of ${size} latents, from −${end} to ${end}. The others are as the random vector has them.`;
}

/** A labelled slider of a latent. `show` moves it, without calling `change`; `reach` says where it ends. */
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
    reach(end) {
      [input.min, input.max] = [-end, end];
    },
    show(value) {
      input.value = value;
      write(value);
    },
  };
}
