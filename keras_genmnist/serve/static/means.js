// The posterior means of test images on the map, in the colour of their digit, and the legend that chooses among them.

import { copy } from "./panel.js";
import { share } from "./places.js";

const NEAR = 0.12;

// A digit each. Told apart on black, by colour-blind eyes too: of all such palettes sampled, the one whose closest pair
// is farthest apart (in OKLab, for normal, protan, deutan and tritan sight); digits often confused are given far ones.
const COLOURS = [
  "#ec7280", "#a1c9fe", "#5f80fd", "#82ffff", "#688b03", "#09b1c2", "#ffea21", "#b048b6", "#d6b301", "#10e9a2",
];
const NO_LABEL = "#ffea21";

/** The means as objects: z, and label, null if not known. */
export function readMeans(given) {
  return (given?.means ?? []).map((z, i) => ({ z, label: given.labels?.[i] ?? null }));
}

/** Draws dots, and the digit itself in the middle of each class. */
export function scatter({ context, width, height }, visible, total) {
  const radius = Math.max(1.1, Math.min(2.4, 0.13 * width / Math.sqrt(total)));
  const at = (z) => share(z).map((value, axis) => value * (axis ? height : width));
  for (const { z, label } of visible) {
    context.beginPath();
    context.arc(...at(z), radius, 0, 2 * Math.PI);
    context.fillStyle = colour(label);
    context.fill();
  }
  for (const label of new Set(visible.map((mean) => mean.label))) {
    if (label === null) continue;
    writeLabel(context, label, at(middle(visible.filter((mean) => mean.label === label))), Math.max(18, width / 21));
  }
}

/** Of a digit, or of an image whose digit is not known. */
export const colour = (label) => COLOURS[label] ?? NO_LABEL;

function writeLabel(context, label, [x, y], size) {
  context.font = `700 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = size / 4;
  context.strokeStyle = "#000";
  context.strokeText(label, x, y);
  context.fillStyle = colour(label);
  context.fillText(label, x, y);
}

/** The median of each coordinate: a class's middle in spite of its strays. */
function middle(means) {
  return [0, 1].map((axis) => {
    const sorted = means.map(({ z }) => z[axis]).sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  });
}

/** The mean next to a place; null if none is near. */
export function nearest(means, [x, y]) {
  const distance = ({ z }) => Math.hypot(z[0] - x, z[1] - y);
  const best = means.reduce((a, b) => (a && distance(a) <= distance(b) ? a : b), null);
  return best && distance(best) < NEAR ? best : null;
}

/** Fills the legend; `choose` is called with "all", a digit, or "none". */
export function showLegend(legend, means, choose) {
  const digits = [...new Set(means.map(({ label }) => label))].filter((label) => label !== null).sort();
  for (const value of ["all", ...digits, "none"]) {
    const chip = copy("chip");
    const input = chip.querySelector("input");
    input.value = value;
    input.checked = value === "all";
    input.addEventListener("change", () => choose(String(value)));
    chip.querySelector("span").textContent = value;
    chip.querySelector(".swatch").style.background = digits.includes(value) ? colour(value) : "none";
    chip.classList.toggle("word", !digits.includes(value));
    legend.querySelector(".chips").append(chip);
  }
  legend.hidden = false;
}
