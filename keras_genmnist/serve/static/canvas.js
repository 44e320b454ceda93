// Drawing on canvases.

/** Paints pixels in [0, 1], in any nesting of 784, on a canvas of 28 x 28. */
export function paint(canvas, pixels) {
  canvas.getContext("2d").putImageData(grey(pixels), 0, 0);
}

/** The ImageData of 784 pixels in [0, 1]. */
export function grey(pixels) {
  const image = new ImageData(28, 28);
  pixels.flat(2).forEach((value, i) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
  return image;
}

/**
 * Sizes a canvas to the screen's own pixels, and so clears it.
 *
 * @returns {{context, width, height}} a unit of which is a CSS pixel
 */
export function sharpen(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const density = window.devicePixelRatio;
  canvas.width = Math.round(density * width);
  canvas.height = Math.round(density * height);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  return { context, width, height };
}

/** Calls `draw` now that the element has a size, and whenever that changes, until the signal. */
export function onResize(element, draw, signal) {
  const observer = new ResizeObserver(draw);
  observer.observe(element);
  signal.addEventListener("abort", () => observer.disconnect());
}
