// A pad to draw an image on, and what the model says of it.

import { onResize, sharpen } from "./canvas.js";
import { openPanel } from "./panel.js";
import { readingsOf } from "./readings.js";
import { predict } from "./server.js";
import { asDigit, asDrawn, asKnown, binarize, ink, PEN } from "./strokes.js";

const MOST_INK = 0.4; // share of white pixels: of MNIST's digits, none has as much
const TOO_WHITE = "Too white for a digit: its numbers mean little.";

const COLOURLESS = "White on black in every channel: the model has learned from colours, so its numbers mean little.";

export const suits = (model) => readingsOf(model).length > 0;

export function open(model, signal) {
  const panel = openPanel("drawing", model, signal);
  const pad = panel.find(".pad");
  const shape = model.image_shape;
  const call = (signature, inputs) => predict(model, signature, inputs, signal);
  const anything = model.completes_any;
  const readings = readingsOf(model).map((kind) => kind.open(call, panel, signal, shape, anything));
  const grey = (strokes) => (model.noun === "digit" ? asDigit : asDrawn)(strokes, shape);
  const seen = model.grey ? grey : (strokes) => binarize(grey(strokes));
  let strokes = [];
  const black = new Set(); // of the strokes

  function refresh(finished) {
    drawInk();
    panel.find(".invitation").hidden = strokes.length > 0;
    // A part of a digit stays where it is; of a whole one, the place is known.
    const known = () => (anything ? asKnown(strokes, black, shape) : { image: seen(strokes), mask: null });
    const { image, mask } = strokes.length ? known() : { image: null, mask: null };
    panel.find(".warning").textContent = image && model.noun === "digit" && isTooWhite(image) ? TOO_WHITE : "";
    panel.ask("readings", async () => {
      let first = null; // of the errors: where one reading fails and shows nothing, the others are still of this image
      for (const reading of readings) {
        await reading.show(image, finished, mask).catch((error) => {
          first ??= error;
          return reading.show(null, false, null);
        });
      }
      if (first) throw first;
    });
  }

  function drawInk() {
    const { context, width, height } = sharpen(panel.find(".pad canvas"));
    for (const stroke of strokes) {
      context.strokeStyle = black.has(stroke) ? "#000" : "#fff";
      ink(context, [stroke.map(([x, y]) => [x * width, y * height])], PEN * Math.max(width, height));
    }
  }

  const blackInk = panel.find(".black");
  const pen = {
    down(point) {
      strokes.push([point]);
      if (blackInk.ariaPressed === "true") black.add(strokes.at(-1));
      refresh(false);
    },
    move(points) {
      strokes.at(-1).push(...points);
      refresh(false);
    },
    up() {
      refresh(true);
    },
  };

  if (anything) {
    pad.classList.add("unknown");
    panel.find(".parts").hidden = blackInk.hidden = false;
  }
  blackInk.addEventListener("click", () => (blackInk.ariaPressed = blackInk.ariaPressed !== "true"));
  if (shape[2] > 1) panel.find(".hint").append(` ${COLOURLESS}`);
  for (const { element, place } of readings) panel.find(place).append(element);
  panel.find(".clear").addEventListener("click", () => {
    strokes = [];
    black.clear();
    refresh(true);
  });
  onResize(pad, drawInk, signal);
  document.addEventListener("class", () => refresh(true), { signal });
  followPointer(pad, pen);
  followKeys(pad, panel.find(".pen"), pen, [1 / shape[1], 1 / shape[0]]); // a pixel a step
  return panel.element;
}

/** Whether an image [H][W][1] is nothing that a model of digits, white on black, has seen. */
function isTooWhite(image) {
  const pixels = image.flat(2);
  return pixels.reduce((sum, pixel) => sum + pixel, 0) > MOST_INK * pixels.length;
}

function followPointer(pad, pen) {
  let drawing = null; // the pointer that draws: a second finger does not
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const lift = (event) => {
    if (event.pointerId !== drawing) return;
    drawing = null;
    pen.up();
  };
  pad.addEventListener("pointerdown", (event) => {
    if (drawing !== null || event.button !== 0) return;
    drawing = event.pointerId;
    pad.setPointerCapture(drawing);
    pen.down(at(event));
  });
  pad.addEventListener("pointermove", (event) => {
    // A screen's frame may hold several moves: with them all a quick stroke is round.  A browser tells them only to
    // pages that it calls secure, and another machine's are not without TLS.
    if (event.pointerId === drawing) pen.move((event.getCoalescedEvents?.() ?? [event]).map(at));
  });
  pad.addEventListener("pointerup", lift);
  pad.addEventListener("pointercancel", lift);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function followKeys(pad, mark, pen, step) {
  let point = [0.5, 0.5];
  let isDown = false;

  function setDown(down) {
    if (down === isDown) return;
    isDown = down;
    mark.classList.toggle("down", down);
    if (down) pen.down(point);
    else pen.up();
  }

  function moveBy(direction) {
    point = point.map((value, axis) => Math.min(1, Math.max(0, value + step[axis] * direction[axis])));
    [mark.style.left, mark.style.top] = point.map((share) => `${100 * share}%`);
    if (isDown) pen.move([point]);
  }

  pad.addEventListener("keydown", (event) => {
    if (event.key === " ") setDown(!isDown);
    else if (ARROWS[event.key]) moveBy(ARROWS[event.key]);
    else return;
    event.preventDefault(); // of scrolling
  });
  pad.addEventListener("blur", () => setDown(false));
}
