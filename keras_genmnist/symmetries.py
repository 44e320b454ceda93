"""Reflections and transposes T_0, ..., T_{K-1} of images: T_0 leaves an image as it is."""

import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist.config import require_choice
from keras_genmnist.errors import UsageError

COUNTS = [1, 2, 4, 8]  # K
TRANSPOSED = 8  # as many need square images

# T_k is each of these in turn whose bit in k is 1; each is its own inverse.
_CHANGES = [
    lambda images: tf.reverse(images, [2]),
    lambda images: tf.reverse(images, [1]),
    lambda images: tf.transpose(images, [0, 2, 1, 3]),
]


def transformed(images: tf.Tensor, numbers: tf.Tensor, count: int) -> tf.Tensor:
    """T_k of images [N, H, W, C], each by its own k of `numbers`, int32 [N], below `count`, of COUNTS.

    T_1 reflects left to right, T_2 and T_3 are T_0 and T_1 upside down, and T_4 to T_7 are these four transposed.
    """
    return _changed(images, numbers, list(enumerate(_CHANGES))[: COUNTS.index(count)])


def restored(images: tf.Tensor, numbers: tf.Tensor, count: int) -> tf.Tensor:
    """The inverse of `transformed`."""
    return _changed(images, numbers, list(enumerate(_CHANGES))[: COUNTS.index(count)][::-1])


def _changed(images: tf.Tensor, numbers: tf.Tensor, changes: list) -> tf.Tensor:
    # Not by gathering pixels: the gradient of that takes longer than a small network.
    for bit, change in changes:
        is_set = numbers // 2**bit % 2 == 1  # by arithmetic: TensorFlow Lite has no bitwise operations
        images = tf.where(is_set[:, None, None, None], change(images), images)
    return images


def require_orders(config: ConfigDict, field: str, image_shape: tuple[int, int, int]) -> None:
    """Checks that images of this shape have as many orders of their pixels as the field says.

    Raises:
      UsageError: naming the field, the value given and the values accepted.
    """
    require_choice(config, **{field: COUNTS})
    height, width, _ = image_shape
    if config[field] >= TRANSPOSED and height != width:
        raise UsageError(
            f"config.{field}={config[field]} transposes images, and these have {height} x {width} pixels: "
            f"give {', '.join(map(str, COUNTS[:-1]))}"
        )
