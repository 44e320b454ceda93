// Drawing on canvases.

/** Paints pixels [H][W][1 or 3] in [0, 1], grey or red, green and blue, on a canvas that gets their size. */
export function paint(canvas, pixels) {
  const image = imageData(pixels);
  if (canvas.width !== image.width) canvas.width = image.width;
  if (canvas.height !== image.height) canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The ImageData of pixels [H][W][1 or 3] in [0, 1]. */
export function imageData(pixels) {
  const image = new ImageData(pixels[0].length, pixels.length);
  pixels.flat().forEach(([red, green = red, blue = red], i) => {
    image.data.set([255 * red, 255 * green, 255 * blue, 255], 4 * i);
  });
  return image;
}

/** An image of a shape, [H][W][C], whose pixel at (row, column) is `valueAt` of them in every channel. */
export function imageOf([height, width, channels], valueAt) {
  const pixel = (row, column) => new Array(channels).fill(valueAt(row, column));
  return Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => pixel(row, column)));
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
