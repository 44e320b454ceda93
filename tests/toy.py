"""A SavedModel of a few lines, to serve: not all that a server must do needs a model of digits."""

from pathlib import Path

import tensorflow as tf


class Toy(tf.Module):
    """Signatures of each kind: rows to rows, several inputs, scalars, and one that takes as long as it is told."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset = tf.Variable(offset)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def half(self, x):
        """x / 2 + offset, and refuses what is negative."""
        tf.debugging.assert_non_negative(x, "x is negative: give 0 or more")
        return {"y": x / 2 + self.offset}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None], tf.string)])
    def pair(self, numbers, text):
        return {"sums": tf.reduce_sum(numbers, axis=1), "text": text, "text_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def count(self, n):
        """Counts to n, a loop of n steps."""
        return {"n": tf.while_loop(lambda i: i < n, lambda i: [i + 1], [0])[0], "zeros": tf.zeros([2])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def log(self, x):
        return {"y": tf.math.log(x)}


def save(folder: Path, version: int = 1, offset: float = 2.0) -> Path:
    """Writes folder/VERSION and returns it."""
    toy, path = Toy(offset), folder / str(version)
    signatures = {"serving_default": toy.half, "pair": toy.pair, "count": toy.count, "log": toy.log}
    beside = folder / f".{version}"
    tf.saved_model.save(toy, str(beside), signatures)
    beside.rename(path)
    return path
