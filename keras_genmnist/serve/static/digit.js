// Strokes of a pen as the 28 x 28 image that MNIST would have made of them.

const SIZE = 28;
const BOX = 20; // MNIST scales a digit's ink into a box of 20 x 20 ...
const PEN = 2.4; // ... in which its strokes are about so wide
const LEAST = 0.15; // of the pad; smaller scribbles, as a dot, are not blown up to fill the box

/**
 * Scales the ink into the box and moves its centre of mass to the middle of the image.
 * Source: LeCun et al. (1998), "Gradient-based learning applied to document recognition", section III.A
 *
 * @param {number[][][]} strokes at least one; each a list of points [x, y], shares of the pad's width and height
 * @returns {number[]} 784 grey levels in [0, 1]
 */
export function toImage(strokes) {
  const { middle, extent } = bounds(strokes.flat());
  const scale = (BOX - PEN) / Math.max(LEAST, extent);
  const about = (point) => point.map((value, axis) => SIZE / 2 + scale * (value - middle[axis]));
  const scaled = strokes.map((stroke) => stroke.map(about));
  const centre = centreOfMass(draw(scaled));
  const centred = scaled.map((stroke) => stroke.map((p) => p.map((value, axis) => value + SIZE / 2 - centre[axis])));
  return draw(centred);
}

/** An image in 0 and 1, as the models of binary pixels learned from. */
export function binarize(image) {
  return image.map((value) => (value > 0.5 ? 1 : 0));
}

/** The image nested as the signatures take it, [28][28][1]. */
export function nested(image) {
  return Array.from({ length: SIZE }, (_, row) => image.slice(SIZE * row, SIZE * (row + 1)).map((value) => [value]));
}

/** Draws strokes with round ends and joints. */
export function ink(context, strokes, width) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  for (const [first, ...rest] of strokes) {
    context.beginPath();
    context.moveTo(...first);
    for (const point of [first, ...rest]) context.lineTo(...point); // a stroke of one point is a dot
    context.stroke();
  }
}

function bounds(points) {
  const sides = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  return {
    middle: sides.map(([low, high]) => (low + high) / 2),
    extent: Math.max(...sides.map(([low, high]) => high - low)),
  };
}

function draw(strokes) {
  const context = new OffscreenCanvas(SIZE, SIZE).getContext("2d", { willReadFrequently: true });
  ink(context, strokes, PEN);
  const { data } = context.getImageData(0, 0, SIZE, SIZE);
  return Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i + 3] / 255); // how much of the pixel is covered
}

function centreOfMass(image) {
  let [mass, x, y] = [0, 0, 0];
  image.forEach((value, i) => {
    mass += value;
    x += value * ((i % SIZE) + 0.5);
    y += value * (Math.floor(i / SIZE) + 0.5);
  });
  return [x / mass, y / mass];
}
