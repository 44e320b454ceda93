// Two random vectors and the images between them: alpha z1 + (1 - alpha) z2.

import { paint } from "./canvas.js";
import { randomVectors } from "./draws.js";
import { copy, openPanel } from "./panel.js";
import { decode } from "./server.js";
import { figure, symbol } from "./text.js";
import { mix } from "./vectors.js";

const ALPHAS = [0, 0.2, 0.4, 0.6, 0.8, 1];

export const suits = (model) => model.latent_size !== null && model.latent_size !== 2;

export function open(model, signal) {
  const panel = openPanel("interpolation", model, signal);
  const slider = panel.find(".alpha");
  const stops = ALPHAS.map((alpha) => stop(alpha, () => choose(alpha)));
  let z1 = new Array(model.latent_size).fill(0);
  let z2 = z1;

  function refresh() {
    const alpha = slider.valueAsNumber;
    panel.find(".coordinates").innerHTML = `<span><i>α</i> = ${figure(alpha)}</span>`;
    panel.ask("digit", async () => {
      paint(panel.find(".reading .digit"), (await decode(model, [mix(alpha, z1, z2)], signal))[0]);
    });
  }

  function choose(alpha) {
    slider.value = alpha;
    refresh();
  }

  function set(first, second) {
    [z1, z2] = [first, second];
    refresh();
    panel.ask("strip", async () => {
      const images = await decode(model, ALPHAS.map((alpha) => mix(alpha, z1, z2)), signal);
      images.forEach((image, i) => paint(stops[i].querySelector(".digit"), image));
    });
  }

  /** Draws both vectors, and lets one choose what to keep of them. */
  function renew(chosen) {
    panel.ask("vectors", async () => set(...chosen(await randomVectors(model, 2, signal))));
  }

  panel.find(".strip").append(...stops);
  slider.addEventListener("input", refresh);
  panel.find(".first").addEventListener("click", () => renew(([first]) => [first, z2]));
  panel.find(".second").addEventListener("click", () => renew(([, second]) => [z1, second]));
  panel.find(".both").addEventListener("click", () => renew((both) => both));
  document.addEventListener("class", () => set(z1, z2), { signal });
  renew((both) => both);
  return panel.element;
}

/** One of the strip's images: a button that takes the slider there. */
function stop(alpha, choose) {
  const element = copy("stop");
  const end = { 0: ` (${symbol(1)})`, 1: ` (${symbol(0)})` }[alpha] ?? "";
  element.querySelector("span").innerHTML = alpha + end;
  element.setAttribute("aria-label", `alpha ${alpha}`);
  element.addEventListener("click", choose);
  return element;
}
