"""Codes on a grid, each one of K: what a GatedPixelCNN needs of places that are no patches of pixels."""

import tensorflow as tf


class Codes:
    """As Patches, of images [B, R, S, 1] whose one value at each place is a code, 0 to K - 1, float32."""

    size = pixels = channels = 1

    def __init__(self, number: int):
        """
        Args:
          number: K.
        """
        self.number = self.num_logits = self.maps = number

    def split(self, codes: tf.Tensor, outside: float = 0.0) -> tf.Tensor:
        """As Patches.split: a place is a code, and there is nothing outside."""
        return codes

    def join(self, places: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """What `split` split."""
        return places

    def seen(self, places: tf.Tensor) -> tf.Tensor:
        """What a network sees of places: codes [..., 1] as one of K, [..., K]."""
        return tf.one_hot(tf.cast(places[..., 0], tf.int32), self.number)

    def log_prob(self, logits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
        """log p of codes [..., 1] given logits [..., K]: [..., 1], nats."""
        labels = tf.cast(codes[..., 0], tf.int32)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)[..., None]

    def draw(self, logits: tf.Tensor, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws codes: the first whose cumulative probability is above a uniform number.

        Args:
          logits: [..., K].
          uniform: [..., 1], in [0, 1).
        Returns:
          The codes, and the probabilities that they were drawn with, [..., 1].
        """
        probabilities = tf.nn.softmax(logits)
        passed = tf.cast(tf.cumsum(probabilities, axis=-1) <= uniform, tf.float32)
        # Of K - 1 sums: the last one may be rounded to less than 1.
        codes = tf.reduce_sum(passed[..., :-1], axis=-1, keepdims=True)
        return codes, tf.reduce_sum(probabilities * self.seen(codes), axis=-1, keepdims=True)
