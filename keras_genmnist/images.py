"""Sheets of images and PNG files."""

import numpy as np
import tensorflow as tf

LINE = 0.2  # of white; between images that fill their frames, which would run into one another


def tile(images: np.ndarray, columns: int, *, gap: int = 1) -> np.ndarray:
    """Lays images out as one, row by row; empty places are black.

    Args:
      images: [N, H, W, C] in [0, 1].
      columns: images a row.
      gap: the pixels between two images, dark grey.
    Returns:
      [rows (H + gap) - gap, columns (W + gap) - gap, C] in [0, 1].
    """
    images = np.asarray(images)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    padded = np.full([rows * columns, height + gap, width + gap, channels], LINE, images.dtype)
    padded[:, :height, :width] = 0
    padded[:count, :height, :width] = images
    sheet = padded.reshape(rows, columns, height + gap, width + gap, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def png(image: tf.Tensor) -> tf.Tensor:
    """A PNG file.  [..., H, W, C] in [0, 1] -> string [...]"""
    return tf.io.encode_png(tf.image.convert_image_dtype(image, tf.uint8, saturate=True))
