// The posterior means of test images on the map, in the colour of their class, and the legend that chooses among them.

import { copy } from "./panel.js";
import { share } from "./places.js";

const NEAR = 0.12;

// A class each, where there are no more. Told apart on black, by colour-blind eyes too: of all such palettes sampled,
// the one whose closest pair is farthest apart (in OKLab, for normal, protan, deutan and tritan sight); digits often
// confused are given far ones.
const COLOURS = [
  "#ec7280", "#a1c9fe", "#5f80fd", "#82ffff", "#688b03", "#09b1c2", "#ffea21", "#b048b6", "#d6b301", "#10e9a2",
];
const NO_LABEL = "#ffea21";

// Of more classes, hues in turn of three lightnesses.
const LIGHTNESSES = [65, 82, 50];
const LONG = 2; // letters: longer names are written smaller

/** The means as objects: z, and label, null if not known. */
export function readMeans(given) {
  return (given?.means ?? []).map((z, i) => ({ z, label: given.labels?.[i] ?? null }));
}

/** The name of each class, or its number where it has none. */
export function namesOf({ classes = [], latent_means: means }) {
  const count = Math.max(classes.length, 1 + Math.max(-1, ...(means?.labels ?? [])));
  return Array.from({ length: count }, (_, label) => classes[label] ?? String(label));
}

/** Draws dots, and the name in the middle of each class. */
export function scatter({ context, width, height }, visible, total, classes) {
  const radius = Math.max(1.1, Math.min(2.4, 0.13 * width / Math.sqrt(total)));
  const at = (z) => share(z).map((value, axis) => value * (axis ? height : width));
  for (const { z, label } of visible) {
    context.beginPath();
    context.arc(...at(z), radius, 0, 2 * Math.PI);
    context.fillStyle = colour(label, classes.length);
    context.fill();
  }
  for (const label of new Set(visible.map((mean) => mean.label))) {
    if (label === null) continue;
    context.fillStyle = colour(label, classes.length);
    const place = at(middle(visible.filter((mean) => mean.label === label)));
    writeName(context, classes[label], place, isCrowded(classes) ? 13 : Math.max(18, width / 21), width);
  }
}

/** Of a class among so many, or of an image whose class is not known. */
export function colour(label, count) {
  if (label === null) return NO_LABEL;
  if (count <= COLOURS.length) return COLOURS[label];
  return `hsl(${(360 * label) / count} 90% ${LIGHTNESSES[label % LIGHTNESSES.length]}%)`;
}

const isCrowded = (classes) => classes.length > COLOURS.length || classes.some((name) => name.length > LONG);

/** Writes it at a place, all of it within the map's width. */
function writeName(context, name, [x, y], size, width) {
  context.font = `700 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = size / 4;
  context.strokeStyle = "#000";
  const half = context.measureText(name).width / 2;
  const inside = Math.max(half, Math.min(width - half, x));
  context.strokeText(name, inside, y);
  context.fillText(name, inside, y);
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

/** Fills the legend; `choose` is called with "all", a label, or "none". */
export function showLegend(legend, means, classes, choose) {
  const labels = [...new Set(means.map(({ label }) => label))].filter((label) => label !== null).sort((a, b) => a - b);
  legend.querySelector(".chips").classList.toggle("crowded", isCrowded(classes));
  for (const value of ["all", ...labels, "none"]) {
    const chip = copy("chip");
    const input = chip.querySelector("input");
    input.value = value;
    input.checked = value === "all";
    input.addEventListener("change", () => choose(String(value)));
    const isClass = labels.includes(value);
    chip.querySelector("span").textContent = isClass ? classes[value] : value;
    chip.querySelector(".swatch").style.background = isClass ? colour(value, classes.length) : "none";
    chip.classList.toggle("word", !isClass);
    legend.querySelector(".chips").append(chip);
  }
  legend.hidden = false;
}
