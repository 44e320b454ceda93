// A sheet of samples from a seed, to look at and to download.

import { openPanel } from "./panel.js";
import { sampleSheet } from "./server.js";

export const suits = (model) => model.signatures.includes("sample");

export function open(model, signal) {
  const panel = openPanel("samples", signal);
  const form = panel.find("form");
  const { seed, digit } = form.elements;

  function refresh() {
    if (!form.reportValidity()) return;
    const query = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
    panel.ask("sheet", async () => show(panel, await sampleSheet(model.name, query, signal), fileName(model, query)));
  }

  if (model.class_conditional) offerDigits(panel, digit);
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

function offerDigits(panel, select) {
  for (let digit = 0; digit < 10; digit++) select.add(new Option(digit));
  panel.find(".digit-choice").hidden = false;
}

function show(panel, sheet, name) {
  const [image, link] = [panel.find("img"), panel.find(".download")];
  URL.revokeObjectURL(image.src);
  image.src = link.href = URL.createObjectURL(sheet);
  image.alt = `Sheet of samples, ${name}`;
  link.download = `${name}.png`;
  link.hidden = false;
}

function fileName(model, { num_samples, seed, digit }) {
  return [model.name, digit && `digit ${digit}`, `${num_samples} samples`, `seed ${seed}`].filter(Boolean).join(", ");
}
