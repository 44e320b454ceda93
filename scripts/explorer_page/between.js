// The images on the line between two places, which are chosen in turn on the map of the latent plane.

import { paint } from "./canvas.js";
import { openPanel } from "./panel.js";
import { EDGE, place } from "./places.js";
import { decode } from "./server.js";
import { figure } from "./text.js";
import { mix } from "./vectors.js";

const STOPS = 12;

/** `map`: the element that the plane's panel moves its point on, by pointer and by arrow keys. */
export function open(model, signal, map) {
  const panel = openPanel("between", model, signal);
  const strip = panel.find(".strip");
  const images = Array.from({ length: STOPS }, () => document.createElement("canvas"));
  const marks = ["1", "2"].map(mark);
  const ends = [[-1.5, 1], [1.5, -1]];
  let next = 0;

  function refresh() {
    ends.forEach((z, i) => place(marks[i], z));
    const [first, last] = ends.map((z) => `(${z.map((value) => figure(value)).join(", ")})`);
    strip.setAttribute("aria-label", `Digits on the line from ${first} to ${last}`);
    panel.find("output").textContent = `From ${first} to ${last}`;
    panel.ask("strip", async () => {
      const line = images.map((_, i) => mix(1 - i / (STOPS - 1), ...ends));
      (await decode(model, line, signal)).forEach((image, i) => paint(images[i], image));
    });
  }

  function choose() {
    ends[next] = placeOf(map.querySelector(".point"));
    next = 1 - next;
    refresh();
  }

  images.forEach((image) => (image.className = "digit"));
  strip.append(...images);
  map.append(...marks);
  map.addEventListener("click", choose);
  map.addEventListener("keydown", ({ key }) => key === "Enter" && choose());
  refresh();
  return panel.element;
}

function mark(name) {
  const element = document.createElement("span");
  element.className = "ring end";
  element.textContent = name;
  return element;
}

/** Where a mark was put. */
function placeOf({ style }) {
  const [left, top] = [style.left, style.top].map((share) => parseFloat(share) / 100);
  return [EDGE * (2 * left - 1), EDGE * (1 - 2 * top)];
}
