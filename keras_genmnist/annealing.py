"""Annealed importance sampling: log p(x) by chains that go from the prior to the posterior, or back.

Source: Neal (2001), "Annealed Importance Sampling", arxiv.org/abs/physics/9803008; Wu et al. (2017), "On the
Quantitative Analysis of Decoder-Based Generative Models", arxiv.org/abs/1611.04273
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist.models.base import DecoderModel

TEMPERATURES, CHAINS = 1_000, 8
LEAPFROGS, STEP_SIZE = 10, 0.1  # of Hamiltonian Monte Carlo; the step size only at the start
ACCEPTED = 0.65  # the share of moves that the step size then aims at (Wu et al., appendix)


def lower(model: DecoderModel, x: tf.Tensor, seed: int) -> tf.Tensor:
    """An estimate that in expectation is below log p(x): [B], nats, of images [B, H, W, C]."""
    start = model.prior().sample([CHAINS, x.shape[0]], seed=tf.constant([seed, 0]))
    log_weights = _chain(model.prior().log_prob, _joint(model, x), start, seed)
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(CHAINS)


def upper(model: DecoderModel, x: tf.Tensor, z: tf.Tensor, seed: int) -> tf.Tensor:
    """An estimate that in expectation is above log p(x), by the chains of `lower` gone backwards.

    Args:
      model: with a likelihood.
      x: images [B, H, W, C] that the model has drawn.
      z: the latents that it drew them from, [B, D]: draws from the posterior, which only such images have.
      seed: of the chains.
    Returns:
      [B], nats.
    Source: Grosse et al. (2015), "Sandwiching the marginal likelihood", section 3, arxiv.org/abs/1511.02543
    """
    log_weights = _chain(_joint(model, x), model.prior().log_prob, tf.tile(z[None], [CHAINS, 1, 1]), seed)
    return math.log(CHAINS) - tf.reduce_logsumexp(log_weights, axis=0)


def _joint(model: DecoderModel, x: tf.Tensor):
    return lambda z: model.prior().log_prob(z) + model.decoder(z).log_prob(x)


def _chain(start, end, state: tf.Tensor, seed: int) -> tf.Tensor:
    """Log weights, [CHAINS, B], of chains between two unnormalised densities from states [CHAINS, B, D]."""

    def kernel(target):
        # Each image has a step size of its own: some posteriors are wide and others narrow.
        step_size = tf.fill([1, state.shape[1], 1], STEP_SIZE)
        moves = tfp.mcmc.HamiltonianMonteCarlo(target, step_size, num_leapfrog_steps=LEAPFROGS)
        return tfp.mcmc.SimpleStepSizeAdaptation(moves, num_adaptation_steps=TEMPERATURES, target_accept_prob=ACCEPTED)

    return tfp.mcmc.sample_annealed_importance_chain(
        TEMPERATURES, start, end, state, kernel, seed=tf.constant([seed, 1])
    )[1]
