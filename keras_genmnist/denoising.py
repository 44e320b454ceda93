"""What a pixel is, given its noisy value and what a network says of it: its velocity on the path from noise to image.

A point of the path at time t is x(t) = (1 - t) noise + t x, with standard normal noise, and the velocity at x(t) is
E[ x - noise | x(t) ].
"""

import numpy as np
import tensorflow as tf


class NormalPixels:
    """The velocity of standard normal pixels, and what a network adds to it.

    With c = (1 - t)^2 + t^2 the variance of x(t), it is (2 t - 1) / c x(t) + said / c^(1/2).

    Source: Karras et al. (2022), equation 7, arxiv.org/abs/2206.00364, for straight paths
    """

    outputs = 1  # of the network, for each pixel

    def velocity(self, x: tf.Tensor, t: tf.Tensor, said: tf.Tensor) -> tf.Tensor:
        """The velocity at x.

        Args:
          x: [B, H, W, C], at time t.
          t: [B, 1, 1, 1].
          said: by the network, [B, H, W, C `outputs`].
        Returns:
          [B, H, W, C].
        """
        variance = (1 - t) ** 2 + t**2
        return (2 * t - 1) / variance * x + tf.math.rsqrt(variance) * said


class LevelPixels:
    """The velocity of pixels of which a network gives the probability of each of K levels of grey.

    A pixel of level k is normal, of mean m[k] and standard deviation s[k].  By Bayes' rule, with c[k] = (1 - t)^2 +
    t^2 s[k]^2 the variance of x(t) given k,

    p(k | x(t)) is as p(k) N(x(t); t m[k], c[k]), and
    v = sum{ p(k | x(t)) (m[k] + (t s[k]^2 - (1 - t)) / c[k] (x(t) - t m[k])) : k }

    So the network need not read off what the noisy value of the pixel itself tells, but only what the others do.

    The levels are evenly spaced over [-1, 1].  Those at the ends are as wide as the piece that stands for the lowest
    and for the highest of an image's levels, and the others half as wide as they are apart.

    Source: Dieleman et al. (2022), score interpolation, arxiv.org/abs/2211.15089, whose network gives p(k | x(t))
      itself, and whose levels are points
    """

    def __init__(self, levels: int, image_levels: int):
        """
        Args:
          levels: K, 3 or more.
          image_levels: how many an image has.
        """
        self.outputs = levels
        piece = 2 / image_levels
        self.means = np.linspace(-1, 1, levels, dtype=np.float32)
        self.means[[0, -1]] = piece / 2 - 1, 1 - piece / 2
        self.variances = np.full(levels, 1 / (levels - 1) ** 2, np.float32)
        self.variances[[0, -1]] = piece**2 / 12

    def velocity(self, x: tf.Tensor, t: tf.Tensor, said: tf.Tensor) -> tf.Tensor:
        """As NormalPixels.velocity; `said` are the logits of p(k) up to a constant, the K of each channel together."""
        x, t = x[..., None], t[..., None]
        said = tf.reshape(said, tf.concat([tf.shape(x)[:-1], [self.outputs]], axis=0))
        variances = (1 - t) ** 2 + t**2 * self.variances
        distance = x - t * self.means
        shares = tf.nn.softmax(said - 0.5 * (distance**2 / variances + tf.math.log(variances)))
        each = self.means + (t * self.variances - (1 - t)) / variances * distance
        return tf.reduce_sum(shares * each, axis=-1)
