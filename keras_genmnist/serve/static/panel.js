// A panel of the page: a copy of its <template>, and the requests it makes.

/** A copy of the first element in the template with this id. */
export function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** Says of images what an element says of digits, as those of MNIST are. */
function sayImages(element) {
  const words = [["a digit", "an image"], ["digit", "image"], ["Digit", "Image"]];
  const said = (text) => words.reduce((said, [digit, image]) => said.replaceAll(digit, image), text);
  const nodes = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) nodes.currentNode.data = said(nodes.currentNode.data);
  for (const labelled of element.querySelectorAll("[aria-label]")) labelled.ariaLabel = said(labelled.ariaLabel);
}

/**
 * Opens the panel of a template.
 *
 * @param {string} id of the template
 * @param {object} model that the panel is of
 * @param {AbortSignal} signal aborted when the page turns to another model
 * @returns {{element: Element, find: function, ask: function}}
 *   find(selector): an element of the panel.
 *   ask(kind, task): runs the task, which makes the requests.  One task runs at a time; of those of a kind that wait,
 *   only the newest is kept, so that requests never pile up.  Why one failed stands in the panel's line for errors.
 */
export function openPanel(id, model, signal) {
  const element = copy(id);
  if (model.noun !== "digit") sayImages(element);
  const find = (selector) => element.querySelector(selector);
  const waiting = new Map();
  const errors = new Map();
  let running = false;

  async function run(kind, task) {
    try {
      await task();
      errors.delete(kind);
    } catch (error) {
      if (!signal.aborted) errors.set(kind, error.message);
    }
    find(".error").textContent = [...errors.values()].join(" ");
  }

  async function ask(kind, task) {
    waiting.set(kind, task);
    if (running) return;
    running = true;
    element.setAttribute("aria-busy", "true");
    for (const [kind, task] of waiting) { // sees what is set while it runs
      waiting.delete(kind);
      await run(kind, task);
    }
    element.removeAttribute("aria-busy");
    running = false;
  }

  return { element, find, ask };
}
