// The map of a latent plane: what each place decodes to, the test images' posterior means, and a point to move.

import { imageData, onResize, paint, sharpen } from "./canvas.js";
import { colour, namesOf, nearest, readMeans, scatter, showLegend } from "./means.js";
import { openPanel } from "./panel.js";
import { EDGE, place } from "./places.js";
import { decode } from "./server.js";
import { figure, symbol } from "./text.js";

const CELLS = 20; // a side of the map has of square images; of others the cells are nearly as many, and as they are
const PARTS = 5; // in which the map appears
const AGAIN = 2000; // milliseconds until a part that failed is asked for anew
const STEP = 0.1;

export const suits = (model) => model.latent_size === 2 && model.image_shape;

export function open(model, signal) {
  const panel = openPanel("plane", model, signal);
  const map = panel.find(".map");
  const digit = panel.find(".reading .digit");
  const means = readMeans(model.latent_means);
  const classes = namesOf(model);
  let shown = "all";
  let point = [0, 0];

  function moveTo(z) {
    point = z.map((value) => Math.min(EDGE, Math.max(-EDGE, value)));
    place(panel.find(".point"), point);
    panel.find(".coordinates").innerHTML = coordinates(point);
    renewTip();
    panel.ask("digit", async () => paint(digit, (await decode(model, [point], signal))[0]));
  }

  function renewTip() {
    showTip(panel.find(".tip"), nearest(means.filter(isShown), point), point, classes);
  }

  const isShown = ({ label }) => shown === "all" || shown === String(label);

  function drawMeans() {
    const visible = means.filter(isShown);
    map.classList.toggle("covered", visible.length > 0);
    scatter(sharpen(panel.find(".means")), visible, means.length, classes);
  }

  function choose(value) {
    shown = value;
    drawMeans();
    renewTip();
  }

  if (means.length) showLegend(panel.find(".legend"), means, classes, choose);
  drawTicks(panel);
  onResize(map, drawMeans, signal);
  followPointer(map, moveTo);
  followKeys(map, (step) => moveTo(point.map((value, axis) => value + step[axis])));
  document.addEventListener("encoded", ({ detail }) => markDrawn(panel.find(".drawn"), detail), { signal });
  document.addEventListener(
    "class",
    () => {
      loadGrid(panel, model, signal);
      moveTo(point);
    },
    { signal },
  );
  loadGrid(panel, model, signal);
  moveTo(point);
  return panel.element;
}

function coordinates(z) {
  return z.map((value, i) => `<span>${symbol(i)} = ${figure(value)}</span>`).join("");
}

/**
 * Asks for the grid some rows at a time: in between, the image under the pointer has its turn.  A newer grid, of
 * another class, ends this.
 */
function loadGrid(panel, model, signal) {
  const [height, width] = model.image_shape;
  // The map is square: so many images fill it.
  const columns = Math.round(CELLS * Math.sqrt(height / width));
  const rows = Math.round(CELLS * Math.sqrt(width / height));
  const canvas = panel.find(".grid");
  canvas.width = width * columns;
  canvas.height = height * rows;
  const context = canvas.getContext("2d");
  const all = Array.from({ length: rows * columns }, (_, i) => [Math.floor(i / columns), i % columns]);
  const centre = ([row, column]) => [
    -EDGE + (column + 0.5) * ((2 * EDGE) / columns),
    EDGE - (row + 0.5) * ((2 * EDGE) / rows),
  ];
  const step = columns * Math.ceil(rows / PARTS);
  const turn = (canvas.turn = {});
  const ask = () => canvas.turn === turn && panel.ask("grid", next);
  let start = 0;

  async function next() {
    const cells = all.slice(start, start + step);
    const images = await decode(model, cells.map(centre), signal).catch((error) => {
      if (!signal.aborted && !error.final) setTimeout(ask, AGAIN);
      throw error;
    });
    if (canvas.turn !== turn) return;
    images.forEach((image, i) => context.putImageData(imageData(image), width * cells[i][1], height * cells[i][0]));
    start += step;
    if (start < all.length) ask();
  }

  ask();
}

function drawTicks(panel) {
  for (let value = -EDGE; value <= EDGE; value++) {
    for (const axis of ["x", "y"]) {
      const tick = document.createElement("span");
      tick.textContent = figure(value, 0);
      place(tick, [value, value]);
      panel.find(`.ticks.${axis}`).append(tick);
    }
  }
}

function showTip(tip, mean, [x, y], classes) {
  tip.classList.toggle("left", x > 0);
  tip.classList.toggle("below", y > 0);
  tip.hidden = mean?.label == null;
  if (tip.hidden) return;
  tip.textContent = classes[mean.label];
  tip.style.color = colour(mean.label, classes.length);
}

function followPointer(map, moveTo) {
  const move = (event) => {
    const box = map.getBoundingClientRect();
    moveTo([
      EDGE * ((2 * (event.clientX - box.left)) / box.width - 1),
      EDGE * (1 - (2 * (event.clientY - box.top)) / box.height),
    ]);
  };
  map.addEventListener("pointermove", move);
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    move(event);
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function followKeys(map, moveBy) {
  map.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (!direction) return;
    event.preventDefault(); // of scrolling
    moveBy(direction.map((value) => value * (event.shiftKey ? 5 * STEP : STEP)));
  });
}

function markDrawn(mark, z) {
  mark.hidden = z === null;
  if (z) place(mark, z);
}
