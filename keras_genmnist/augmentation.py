"""Training images moved a little: turned, shifted and scaled.

A model is told which images are moved and which are as they are, so that what it says of the latter is not blurred by
the former.

Source: Sinha & Dieng (2021), "Consistency Regularization for Variational Auto-Encoders", arxiv.org/abs/2105.14859, of
the maps, which its code calls simple; Jun et al. (2020), "Distribution Augmentation for Generative Modeling", section
3, proceedings.mlr.press/v119/jun20a.html, of telling the model
"""

import math

import tensorflow as tf

from keras_genmnist import replicas

TURN, SHIFT, SCALE = math.radians(15), 0.05, 0.1  # at most; the shift is a share of the height and width


def moved(x: tf.Tensor, levels: tf.Tensor, share: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Moves some images of a batch, each by a map of its own, and draws their bits anew.

    Args:
      x: bits [B, H, W, C].
      levels: the probabilities that they were drawn with, [B, H, W, C].
      share: in [0, 1], of the images that are moved.
      seed: int32 [2].
    Returns:
      The bits, the probabilities, and which images are moved, bool [B].
    """
    seeds, count = tf.random.split(seed, 2), tf.shape(x)[0]
    draws = replicas.rows(lambda count: tf.random.stateless_uniform([count, 5], seeds[0]), count)
    uniform = replicas.rows(lambda count: tf.random.stateless_uniform([count, *x.shape[1:]], seeds[1]), count)
    is_moved, maps = draws[:, 0] < share, transformed(levels, 2 * draws[:, 1:] - 1)
    chosen = is_moved[:, None, None, None]
    return tf.where(chosen, tf.cast(uniform < maps, tf.float32), x), tf.where(chosen, maps, levels), is_moved


def transformed(images: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    """Images [B, H, W, C] turned, shifted and scaled about their middle, bilinear, with black beyond their borders.

    Args:
      images: in [0, 1].
      by: in [-1, 1], [B, 4]: counter-clockwise, to the right, down, and larger, each as a share of the most.
    """
    turn, right, down, scale = tf.unstack(by, axis=1)
    height, width = images.shape[1:3]
    cos, sin = (function(TURN * turn) / (1 + SCALE * scale) for function in (tf.cos, tf.sin))
    # Where a pixel comes from, as seen from the middle, where rows count downwards.
    middle = [(width - 1) / 2, (height - 1) / 2]
    x, y = middle[0] + SHIFT * width * right, middle[1] + SHIFT * height * down
    zero = tf.zeros_like(turn)
    rows = [cos, -sin, middle[0] - cos * x + sin * y, sin, cos, middle[1] - sin * x - cos * y, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
