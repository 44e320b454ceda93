"""The average of what several networks say of each place, given the places before it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_genmnist.autoregressive import Conditionals, Context, GatedPixelCNN, draw


class AveragedConditionals(Conditionals):
    """p(place | before) = sum{ s[m] p_m(place | before) : m },  shares s >= 0 with sum 1

    Its context is a list of each network's.
    """

    def __init__(self, networks: Sequence[GatedPixelCNN], shares: Sequence[float]):
        """
        Args:
          networks: of the same kind of places.
          shares: one of each.
        """
        super().__init__()
        self.networks, self.log_shares = list(networks), np.log(np.asarray(shares, np.float32))
        self.patches = networks[0].patches

    def call(self, x, context=None):
        return self._joined([network(x, own) for network, own in zip(self.networks, context, strict=True)])

    def _joined(self, logits: list[tf.Tensor]) -> tf.Tensor:
        return self.patches.average(logits, self.log_shares)

    def by_network(self, x: tf.Tensor, context: Sequence[Context]) -> tf.Tensor:
        """log p_m of each place given those before it: [M, B, R, S, C], nats."""
        return tf.stack([network.log_prob(x, own) for network, own in zip(self.networks, context, strict=True)])

    def draw(self, uniform, context=None):
        return draw(self.networks, context, uniform, self._joined)
