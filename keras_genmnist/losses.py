"""Adversarial losses: functions of the discriminator's logits, [B], for real images and for samples.

With "real" and "fake" the logits, and p their sigmoid, the two sides minimise:

  loss            discriminator                               generator
  minimax         -E log p(real) - E log (1 - p(fake))        E log (1 - p(fake))
  non_saturating  -E log p(real) - E log (1 - p(fake))        -E log p(fake)
  least_squares   (E (real - 1)^2 + E fake^2) / 2             E (fake - 1)^2 / 2
  hinge           E max(0, 1 - real) + E max(0, 1 + fake)     -E fake
  wasserstein_gp  E fake - E real + w gradient_penalty        -E fake

They are computed of logits, so that nothing overflows.  `TARGETS` tells which of them compare the real images with a
target, which one-sided label smoothing lowers (Salimans et al. 2016, section 3.4, arxiv.org/abs/1606.03498).
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_genmnist import replicas


class Loss(NamedTuple):
    """The two sides of an adversarial loss.

    discriminator: real [B], fake [B], target (1, or less where labels are smoothed) -> scalar.
    generator: fake [B] -> scalar.
    """

    discriminator: Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]
    generator: Callable[[tf.Tensor], tf.Tensor]


def _cross_entropy(real: tf.Tensor, fake: tf.Tensor, target: float) -> tf.Tensor:
    right = target * tf.nn.softplus(-real) + (1 - target) * tf.nn.softplus(real)
    return tf.reduce_mean(right) + tf.reduce_mean(tf.nn.softplus(fake))


LOSSES = {
    # Goodfellow et al. (2014), equation 1, arxiv.org/abs/1406.2661
    "minimax": Loss(_cross_entropy, lambda fake: -tf.reduce_mean(tf.nn.softplus(fake))),
    # The same, end of section 3: a generator that is still bad has a gradient.
    "non_saturating": Loss(_cross_entropy, lambda fake: tf.reduce_mean(tf.nn.softplus(-fake))),
    # Mao et al. (2017), equation 9, arxiv.org/abs/1611.04076
    "least_squares": Loss(
        lambda real, fake, target: (tf.reduce_mean((real - target) ** 2) + tf.reduce_mean(fake**2)) / 2,
        lambda fake: tf.reduce_mean((fake - 1) ** 2) / 2,
    ),
    # Lim & Ye (2017), arxiv.org/abs/1705.02894; Miyato et al. (2018), equations 16 and 17, arxiv.org/abs/1802.05957
    "hinge": Loss(
        lambda real, fake, target: tf.reduce_mean(tf.nn.relu(1 - real)) + tf.reduce_mean(tf.nn.relu(1 + fake)),
        lambda fake: -tf.reduce_mean(fake),
    ),
    # Arjovsky et al. (2017), equation 2, arxiv.org/abs/1701.07875; with `gradient_penalty`
    "wasserstein_gp": Loss(
        lambda real, fake, target: tf.reduce_mean(fake) - tf.reduce_mean(real),
        lambda fake: -tf.reduce_mean(fake),
    ),
}
TARGETS = ("minimax", "non_saturating", "least_squares")


def gradient_penalty(
    discriminator: Callable[[tf.Tensor], tf.Tensor], real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Mean of (|grad D(x)| - 1)^2 at points drawn uniformly from the lines between pairs of a real and a fake image.

    Args:
      discriminator: images [B, H, W, C] -> logits [B].
      real, fake: images [B, H, W, C].
      seed: int32 [2].
    Source: Gulrajani et al. (2017), equation 3, arxiv.org/abs/1704.00028
    """
    mix = replicas.rows(lambda count: tf.random.stateless_uniform([count, 1, 1, 1], seed), tf.shape(real)[0])
    norms = tf.sqrt(_squared_gradient(discriminator, mix * real + (1 - mix) * fake) + 1e-12)  # a root's slope at 0
    return tf.reduce_mean((norms - 1) ** 2)


def r1_penalty(discriminator: Callable[[tf.Tensor], tf.Tensor], real: tf.Tensor) -> tf.Tensor:
    """Half the mean of |grad D(x)|^2 at the real images.

    Args:
      discriminator: images [B, H, W, C] -> logits [B].
      real: images [B, H, W, C].
    Source: Mescheder et al. (2018), equation 9, arxiv.org/abs/1801.04406
    """
    return tf.reduce_mean(_squared_gradient(discriminator, real)) / 2


def _squared_gradient(discriminator: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = discriminator(images)
    return tf.reduce_sum(tape.gradient(logits, images) ** 2, axis=[1, 2, 3])
