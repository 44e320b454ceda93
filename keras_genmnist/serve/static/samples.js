// A sheet of samples from a seed, to look at and to download.

import { openPanel } from "./panel.js";
import { sampleSheet } from "./server.js";

export const suits = (model) => model.signatures.includes("sample");

export function open(model, signal) {
  const panel = openPanel("samples", model, signal);
  const form = panel.find("form");
  const { seed } = form.elements;

  function refresh() {
    if (!form.reportValidity()) return;
    const query = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
    panel.ask("sheet", async () => show(panel, await sampleSheet(model.name, query, signal), fileName(model, query)));
  }

  if (model.class_conditional && model.classes.length) offerClasses(panel, model);
  form.addEventListener("change", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  panel.find(".another").addEventListener("click", () => {
    seed.stepUp();
    refresh();
  });
  signal.addEventListener("abort", () => URL.revokeObjectURL(panel.find("img").src));
  refresh();
  return panel.element;
}

/**
 * Lets one choose the class.  What MNIST's is called in the address, `digit`, is `label` for others, and tells the
 * class's name: the server takes a number for the name of a class before it takes it for a place among them.
 */
function offerClasses(panel, { classes, noun }) {
  const select = panel.find(".class-choice select");
  if (noun !== "digit") {
    select.name = "label";
    panel.find(".class-choice span").textContent = "Class";
  }
  // An empty name would stand for any class.
  classes.forEach((name, label) => select.add(new Option(name, noun === "digit" || !name ? label : name)));
  panel.find(".class-choice").hidden = false;
}

function show(panel, sheet, name) {
  const [image, link] = [panel.find("img"), panel.find(".download")];
  URL.revokeObjectURL(image.src);
  image.src = link.href = URL.createObjectURL(sheet);
  image.alt = `Sheet of samples, ${name}`;
  link.download = `${name}.png`;
  link.hidden = false;
}

function fileName(model, { num_samples, seed, digit, label }) {
  const chosen = digit ? `digit ${digit}` : label;
  return [model.name, chosen, `${num_samples} samples`, `seed ${seed}`].filter(Boolean).join(", ");
}
