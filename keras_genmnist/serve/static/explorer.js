// The page: which model is looked at, and the panels that suit it.

import * as drawing from "./drawing.js";
import * as interpolation from "./interpolation.js";
import * as latents from "./latents.js";
import * as plane from "./plane.js";
import * as samples from "./samples.js";
import { listModels, takesLabels } from "./server.js";

const PANELS = [plane, latents, interpolation, drawing, samples];
const at = (id) => document.getElementById(id);
let models = [];
let loading = []; // names of those that the server does not serve yet
let awaited = true; // whether the model looked at may still be among them
let asking = new AbortController(); // ends what was asked before one tries again
let leave = new AbortController(); // ends what the panels of the model looked at have begun

async function start() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  say("Asking the server for its models …");
  at("retry").hidden = true;
  awaited = true;
  do {
    try {
      ({ models, loading } = await listModels(signal));
    } catch (error) {
      return signal.aborted || give(error.message);
    }
    if (!models.length && !loading.length) return give("No model is available yet.");
    fillPicker();
    if (awaited) turnTo(chosen());
  } while (loading.length && (await afterASecond()));
}

const afterASecond = () => new Promise((resolve) => setTimeout(resolve, 1000, true));

function give(message) {
  say(message);
  at("retry").hidden = false;
}

function say(message) {
  at("notice").textContent = message;
}

/** The name in the address, or the first model. */
function chosen() {
  const name = location.hash.slice(1);
  try {
    return decodeURIComponent(name) || models[0]?.name || loading[0];
  } catch {
    return name; // a stray %: no model has this name, and the page says so
  }
}

function fillPicker() {
  const picker = at("picker");
  const before = picker.value;
  picker.replaceChildren(...models.map(({ name }) => new Option(name)));
  picker.value = before;
  picker.parentElement.hidden = models.length < 2;
}

/** Shows the model of this name. */
function turnTo(name) {
  leave.abort();
  leave = new AbortController();
  at("panels").replaceChildren();
  at("picker").value = name;
  at("class").parentElement.hidden = true;
  const model = models.find((model) => model.name === name);
  at("title").textContent = model?.label ?? name;
  at("facts").textContent = model ? facts(model) : "";
  document.title = `${model?.label ?? name} · genmnist`;
  at("retry").hidden = true;
  awaited = !model && loading.includes(name);
  if (awaited) return say(`The server is loading ${name} …`);
  if (!model) return give(`No model named ${name} is available here. Choose one of: ${names().join(", ")}.`);
  offerClasses(model);
  const [height, width] = model.image_shape ?? [1, 1];
  at("panels").style.setProperty("--shape", width / height);
  const suited = PANELS.filter(({ suits }) => suits(model));
  at("panels").replaceChildren(...suited.map(({ open }) => open(model, leave.signal)));
  say(suited.length ? "" : `The explorer knows none of this model’s signatures: ${model.signatures.join(", ")}.`);
}

/** Lets one choose the class that latents are decoded in and drawn images are taken for. */
function offerClasses(model) {
  if (!takesLabels(model)) return;
  const select = at("class");
  model.chosenClass ??= 0;
  select.previousElementSibling.textContent = model.noun === "digit" ? "Digit" : "Class";
  select.replaceChildren(...model.classes.map((name, label) => new Option(name, label)));
  select.value = model.chosenClass;
  select.onchange = () => {
    model.chosenClass = Number(select.value);
    document.dispatchEvent(new CustomEvent("class"));
  };
  select.parentElement.hidden = false;
}

const names = () => [...models.map(({ name }) => name), ...loading];

function facts({ version, image_shape: shape, noun, latent_size, class_conditional }) {
  return [
    `Version ${version}`,
    shape && noun !== "digit" && `${shape[0]} × ${shape[1]} pixels${shape[2] > 1 ? " in colour" : ""}`,
    latent_size && `${latent_size} latent dimensions`,
    class_conditional && "class-conditional",
  ].filter(Boolean).join(" · ");
}

at("picker").addEventListener("change", () => (location.hash = encodeURIComponent(at("picker").value)));
at("retry").addEventListener("click", start);
window.addEventListener("hashchange", () => models.length && turnTo(chosen()));
start();
