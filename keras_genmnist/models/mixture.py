"""A mixture of trained models.

p(x) = sum{ s[m] p_m(x) : m },  shares s >= 0 with sum 1

It draws from model m with probability s[m].  Where every p_m(x) is known, so is p(x).  Where some are only estimated
without bias, as by importance weights, their weighted sum is such an estimate too, whose log is below log p(x) in
expectation.  A bound of log p_m(x) that is itself an expectation has no place here: exp of its estimate is biased.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import bounds
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import categorical_each
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import BoundedModel, GenerativeModel, MadeModel, TractableModel, components_of

DRAWS_PER_CALL = 50  # of importance weights: more at once would not fit in memory


class _Mixture(MadeModel):
    """What mixtures have in common."""

    def __init__(self, components: Sequence[GenerativeModel], shares: Sequence[float]):
        """
        Args:
          components: models of the same images, without bounds.
          shares: one of each.
        """
        super().__init__(components[0].image_shape)
        self.components, self.log_shares = list(components), np.log(np.asarray(shares, np.float32))
        self.draws_bits = components[0].draws_bits
        self.pixel_by_pixel = any(component.pixel_by_pixel for component in components)
        self.autograph = any(component.autograph for component in components)

    def build_variables(self):
        for component in self.components:
            component.build_variables()

    def by_component(self, x: tf.Tensor, num_draws: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
        """log p_m(x), or its estimate by so many draws, of images [B, H, W, C] and the seed [2]: [M, B], nats."""
        x = tf.cast(x, tf.float32)
        return tf.stack(
            [
                component.log_likelihood(x)
                if component.likelihood == "exact"
                else _by_draws(component, x, num_draws, tf.stack([seed[0] + (number << 20), seed[1]]))
                for number, component in enumerate(self.components)
            ]
        )

    def mixed(self, log_px: tf.Tensor) -> tf.Tensor:
        """The log of the weighted sum of the densities whose logs are given: [M, B] -> [B], nats."""
        return tf.reduce_logsumexp(self.log_shares[:, None] + log_px, axis=0)

    def draw_given(self, seeds, labels):
        pairs = tf.map_fn(lambda seed: tf.random.split(seed, 2), seeds)
        count = tf.shape(seeds)[0]
        log_shares = tf.tile(self.log_shares[:, None], [1, count])
        chosen, shape = categorical_each(log_shares, pairs[:, 0]), [count, *self.image_shape]
        drawn = {"images": tf.zeros(shape), "probabilities": tf.zeros(shape)}
        for number, component in enumerate(self.components):
            rows = tf.where(chosen == number)
            own_seeds = tf.concat([tf.gather(pairs[:, 1], rows[:, 0]), pairs[:1, 1]], axis=0)
            own = component.draw(own_seeds)  # of none, oneDNN's convolution has a wrong shape, so one is drawn too many
            drawn = {name: tf.tensor_scatter_nd_update(images, rows, own[name][:-1]) for name, images in drawn.items()}
        return drawn


def _by_draws(component, x: tf.Tensor, num_draws: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """The importance-weighted log p(x), [B], nats, by parts of the draws that fit in memory."""
    num_draws = tf.convert_to_tensor(num_draws)
    most = DRAWS_PER_CALL - DRAWS_PER_CALL % component.orders  # as many of each order, but for the last call's

    def more(done, total):
        count = tf.minimum(most, num_draws - done)
        log_w = bounds.log_weights(component.log_terms(x, count, tf.random.experimental.stateless_fold_in(seed, done)))
        return done + count, tf.reduce_logsumexp(tf.concat([total[None], log_w], axis=0), axis=0)

    start = tf.constant(0), tf.fill(tf.shape(x)[:1], -np.inf)
    _, total = tf.while_loop(lambda done, _: done < num_draws, more, start)
    return total - tf.math.log(tf.cast(num_draws, tf.float32))


class ExactMixture(_Mixture, TractableModel):
    """Of models that know log p(x)."""

    def log_likelihood(self, x, y=None):
        return self.mixed(self.by_component(x, 0, tf.constant([0, 0])))


class EstimatedMixture(_Mixture, BoundedModel):
    """Of models some of whose log p(x) is estimated by importance weights."""

    bound_draws = 100

    def bound_terms(self, x, *, num_draws=1, seed=0):
        seed = tf.convert_to_tensor(seed)
        seed = seed if seed.shape.rank else tf.stack([seed, 0])
        return {"elbo": self.mixed(self.by_component(x, num_draws, seed))}


def of(components: Sequence[GenerativeModel], shares: Sequence[float]) -> ExactMixture | EstimatedMixture:
    """The mixture of models of the same images.

    Raises:
      UsageError: if one has no likelihood but a bound or none at all, is told the classes and estimates its likelihood,
        or if some draw bits and others grey levels.
    """
    for component in components:
        name = type(component).__name__
        if component.likelihood not in ("exact", "importance"):
            known = "a bound of its likelihood alone" if component.likelihood else "no likelihood"
            raise UsageError(f"a {name} has {known}: give models whose likelihood is exact, or by importance weights")
        if component.likelihood == "importance" and component.takes_labels:
            raise UsageError(f"a {name} that is told the classes has a likelihood for each: leave it out")
    if len({component.draws_bits for component in components}) > 1:
        raise UsageError("some of the models are of bits and others of grey levels: give those of one kind")
    exact = all(component.likelihood == "exact" for component in components)
    return (ExactMixture if exact else EstimatedMixture)(components, shares)


def build(config: ConfigDict, spec: DatasetSpec) -> ExactMixture | EstimatedMixture:
    """The mixture of `config`: its `components` are configs, and its `shares` those of each; errors as of `of`."""
    return of(components_of(config, spec), config.shares)
