"""Sheets of images and PNG files."""

import numpy as np
import tensorflow as tf


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Lays images out as one, row by row; empty places are black.

    Args:
      images: [N, H, W, C] in [0, 1].
      columns: images a row.
    Returns:
      [rows H, columns W, C] in [0, 1].
    """
    images = np.asarray(images)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    padded = np.zeros([rows * columns, height, width, channels], images.dtype)
    padded[:count] = images
    sheet = padded.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, channels)


def png(image: tf.Tensor) -> tf.Tensor:
    """A PNG file.  [..., H, W, C] in [0, 1] -> string [...]"""
    return tf.io.encode_png(tf.image.convert_image_dtype(image, tf.uint8, saturate=True))
