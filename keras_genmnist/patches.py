"""Square patches of binary images, each one of a few patterns: exact, and a fraction of the steps of single pixels."""

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

SIZES = [1, 2, 3]  # of 4 x 4 pixels, there are 65,536 patterns
IMPOSSIBLE = 1e9  # nats less


class Patches:
    """How an image is a grid of places, each of p x p pixels, and what logits say of the patterns there.

    The channels of a place do not see each other: each is one of 2^(p p) patterns, whose first pixel is the highest of
    its binary digits.  An image whose sides p does not divide has black pixels below and to the right of it, which are
    known and cost nothing.
    """

    def __init__(self, size: int, channels: int):
        """
        Args:
          size: p.
          channels: C, of the image.
        """
        self.size, self.channels, self.pixels = size, channels, size * size
        self.bits = np.array(list(itertools.product([0.0, 1.0], repeat=self.pixels)), np.float32)  # [2^(p p), p p]
        self.num_logits = channels * (1 if size == 1 else len(self.bits))
        self.maps = self.pixels * channels  # of what `seen` gives

    def split(self, images: tf.Tensor, outside: float = 0.0) -> tf.Tensor:
        """Images [B, H, W, C] as places [B, R, S, p p C]; pixels beyond the image are `outside`."""
        if self.size == 1:
            return images
        rest = [-side % self.size for side in images.shape[1:3]]
        if any(rest):
            images = tf.pad(images, [[0, 0], [0, rest[0]], [0, rest[1]], [0, 0]], constant_values=outside)
        return tf.nn.space_to_depth(images, self.size)

    def join(self, places: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """What `split` split: [B, R, S, p p C] -> [B, H, W, C]."""
        return places if self.size == 1 else tf.nn.depth_to_space(places, self.size)[:, :height, :width]

    def seen(self, places: tf.Tensor) -> tf.Tensor:
        """What a network sees of places [..., p p C]: 0 and 1 as -1 and 1, for the zeros around them are neither."""
        return signed(places)

    def log_prob(self, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The mean of log p over the patterns whose pixels are 1 with the probabilities `targets`, independently.

        Args:
          logits: [B, R, S, num_logits].
          targets: [B, H, W, C] in [0, 1]; of bits, the mean is log p of the image itself.
        Returns:
          [B, R, S, C], nats.
        """
        if self.size == 1:  # the same as below, but to the last bit what it was before there were patches
            return -tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        pixels = self._by_channel(self.split(targets))
        shares = tf.ones_like(pixels[..., :1])
        for i in range(self.pixels):
            pair = tf.stack([1 - pixels[..., i], pixels[..., i]], axis=-1)
            shares = tf.reshape(shares[..., None] * pair[..., None, :], [*_shape(pair)[:-1], 2 ** (i + 1)])
        values = self._agreeing(self._patterns(logits), self._outside(targets))
        return -tf.nn.softmax_cross_entropy_with_logits(shares, values)

    def average(self, logits: Sequence[tf.Tensor], log_shares: np.ndarray) -> tf.Tensor:
        """The logits of the patterns whose probabilities are the average of those that each of `logits` gives.

        Args:
          logits: [..., num_logits] of each.
          log_shares: the logs of the weights, which sum to 1.
        Returns:
          [..., num_logits].
        """
        parts = [tf.nn.log_softmax(self._patterns(own)) + share for own, share in zip(logits, log_shares, strict=True)]
        mean = tf.reduce_logsumexp(tf.stack(parts), axis=0)
        return mean[..., 1] - mean[..., 0] if self.size == 1 else tf.reshape(mean, tf.shape(logits[0]))

    def log_prob_known(self, logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """log p of the known pixels of each place, [B, R, S, C], nats; `uniform` [B, H, W, C] as of `draw`."""
        values = self._agreeing(self._patterns(logits), self._outside(uniform))
        known = self._agreeing(values, self.split(uniform, outside=2.0))
        return tf.reduce_logsumexp(known, axis=-1) - tf.reduce_logsumexp(values, axis=-1)

    def draw(self, logits: tf.Tensor, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the pixels of places in turn: one is 1 where its uniform number is below its probability.

        A number below 0 means that the pixel is known to be 1, one of 1 or more that it is known to be 0; the others
        are drawn given these, wherever in the patch they are.

        Args:
          logits: [..., num_logits].
          uniform: [..., p p C].
        Returns:
          The pixels, 0 or 1, and the probabilities that they were drawn with, given those before them: [..., p p C].
        """
        shares = tf.nn.softmax(self._agreeing(self._patterns(logits), uniform))
        uniform = self._by_channel(uniform)
        drawn, probabilities = [], []
        for i in range(self.pixels):
            halves = tf.reshape(shares, [*_shape(uniform)[:-1], 2, 2 ** (self.pixels - 1 - i)])
            black, white = tf.unstack(tf.reduce_sum(halves, axis=-1), axis=-1)
            probability = tf.math.divide_no_nan(white, black + white)
            pixel = uniform[..., i] < probability
            shares = tf.where(pixel[..., None], halves[..., 1, :], halves[..., 0, :])
            drawn.append(tf.cast(pixel, tf.float32))
            probabilities.append(probability)
        # The last axis is that of `split`: place in the patch, then channel.
        return tf.concat(drawn, axis=-1), tf.concat(probabilities, axis=-1)

    def _by_channel(self, places: tf.Tensor) -> tf.Tensor:
        """[..., p p C] -> [..., C, p p]"""
        parted = tf.reshape(places, [*_shape(places)[:-1], self.pixels, self.channels])
        return tf.linalg.matrix_transpose(parted)

    def _patterns(self, logits: tf.Tensor) -> tf.Tensor:
        """[..., num_logits] -> [..., C, 2^(p p)]"""
        if self.size == 1:
            return tf.stack([tf.zeros_like(logits), logits], axis=-1)
        return tf.reshape(logits, [*_shape(logits)[:-1], self.channels, len(self.bits)])

    def _agreeing(self, values: tf.Tensor, uniform: tf.Tensor | None) -> tf.Tensor:
        """The logits [..., C, 2^(p p)] with patterns that disagree with the known pixels as good as excluded."""
        if uniform is None:
            return values
        uniform = self._by_channel(uniform)
        white, black = (tf.cast(known, tf.float32) for known in (uniform < 0, uniform >= 1))
        wrong = tf.linalg.matmul(white, 1 - self.bits, transpose_b=True) + tf.matmul(black, self.bits, transpose_b=True)
        return values - IMPOSSIBLE * wrong

    def _outside(self, images: tf.Tensor) -> tf.Tensor | None:
        """What is known of the pixels beyond images [B, H, W, C], [1, R, S, p p C] as of `draw`; None without such."""
        if not any(side % self.size for side in images.shape[1:3]):
            return None
        return self.split(tf.fill([1, *images.shape[1:]], 0.5), outside=2.0)


def signed(pixels: tf.Tensor) -> tf.Tensor:
    """0 and 1 as -1 and 1."""
    return 2 * pixels - 1


def _shape(values: tf.Tensor) -> list:
    """The sizes of the axes, as numbers where they are known."""
    dynamic = tf.shape(values)
    return [dynamic[i] if size is None else size for i, size in enumerate(values.shape)]
