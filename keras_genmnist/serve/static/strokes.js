// Strokes of a pen as an image: lists of points [x, y], shares of the pad's width and height.

import { imageOf } from "./canvas.js";

/** The pen's width, as a share of the longer side of the pad, and of an image of what is drawn on it. */
export const PEN = 0.075;
const THINNEST = 1.2; // pixels: a thinner line would be grey
const DOT = 0.01; // the length, in pixels, of a stroke of one point: Chromium draws nothing for a line without any

// MNIST scales a digit's ink into a box of 20 x 20 ...
const BOX = 5 / 7; // share of the image's side
const PEN_IN_BOX = 0.12; // share of the box's side, as wide as the strokes of MNIST's digits are about
const LEAST = 0.15; // of the pad; smaller scribbles, as a dot, are not blown up to fill the box

/**
 * What is drawn, as it stands on the pad.
 *
 * @param {number[][][]} strokes
 * @param {number[]} shape [H, W, C]
 * @returns {number[][][]} grey levels in [0, 1], [H][W][C], the same in every channel
 */
export function asDrawn(strokes, shape) {
  const [height, width] = shape;
  const scaled = strokes.map((stroke) => stroke.map(([x, y]) => [x * width, y * height]));
  return nested(draw(scaled, Math.max(THINNEST, PEN * Math.max(height, width)), shape), shape);
}

/**
 * What MNIST would have made of it: the ink is scaled into the box, and its centre of mass moved to the middle.
 * Source: LeCun et al. (1998), "Gradient-based learning applied to document recognition", section III.A
 *
 * @param {number[][][]} strokes at least one
 * @param {number[]} shape [H, W, C] of square images
 * @returns {number[][][]} grey levels in [0, 1], [H][W][C]
 */
export function asDigit(strokes, shape) {
  const [size] = shape;
  const pen = PEN_IN_BOX * BOX * size;
  const { middle, extent } = bounds(strokes.flat());
  const scale = (BOX * size - pen) / Math.max(LEAST, extent);
  const about = (point) => point.map((value, axis) => size / 2 + scale * (value - middle[axis]));
  const scaled = strokes.map((stroke) => stroke.map(about));
  const centre = centreOfMass(draw(scaled, pen, shape), size);
  const centred = scaled.map((stroke) => stroke.map((p) => p.map((value, axis) => value + size / 2 - centre[axis])));
  return nested(draw(centred, pen, shape), shape);
}

/** An image in 0 and 1, as the models of binary pixels learned from. */
export function binarize(image) {
  return image.map((row) => row.map((pixel) => pixel.map((value) => (value > 0.5 ? 1 : 0))));
}

/**
 * What strokes say of pixels, as they stand on the pad; where they cross, the newest holds.
 *
 * @param {number[][][]} strokes
 * @param {Set<number[][]>} black those of them that are; the others are white
 * @param {number[]} shape [H, W, C]
 * @returns {{image: number[][][], mask: number[][][]}} [H][W][C]: 1 where white; 1 where there is any ink
 */
export function asKnown(strokes, black, shape) {
  const covers = strokes.map((stroke) => binarize(asDrawn([stroke], shape)));
  const newest = (row, column) => strokes[covers.findLastIndex((cover) => cover[row][column][0])];
  return {
    image: imageOf(shape, (row, column) => (newest(row, column) && !black.has(newest(row, column)) ? 1 : 0)),
    mask: imageOf(shape, (row, column) => (newest(row, column) ? 1 : 0)),
  };
}

/** Draws strokes with round ends and joints. */
export function ink(context, strokes, width) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  for (const [first, ...rest] of strokes) {
    context.beginPath();
    context.moveTo(...first);
    context.lineTo(first[0] + DOT, first[1]);
    for (const point of rest) context.lineTo(...point);
    context.stroke();
  }
}

function nested(values, shape) {
  return imageOf(shape, (row, column) => values[row * shape[1] + column]);
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

/** How much of each pixel is covered, row by row. */
function draw(strokes, pen, [height, width]) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  ink(context, strokes, pen);
  const { data } = context.getImageData(0, 0, width, height);
  return Array.from({ length: height * width }, (_, i) => data[4 * i + 3] / 255);
}

function centreOfMass(values, width) {
  let [mass, x, y] = [0, 0, 0];
  values.forEach((value, i) => {
    mass += value;
    x += value * ((i % width) + 0.5);
    y += value * (Math.floor(i / width) + 0.5);
  });
  return [x / mass, y / mass];
}
