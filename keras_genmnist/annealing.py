"""Annealed importance sampling: log p(x) by chains that go from a Gaussian like q(z | x) to the posterior, or back.

From the prior, where Wu et al. start, the way is much longer.

Source: Neal (2001), "Annealed Importance Sampling", arxiv.org/abs/physics/9803008; Wu et al. (2017), "On the
Quantitative Analysis of Decoder-Based Generative Models", arxiv.org/abs/1611.04273
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist.models.base import LatentVariableModel

tfd = tfp.distributions

TEMPERATURES, CHAINS = 200, 8
LEAPFROGS, STEP_SIZE = 10, 0.5  # of Hamiltonian Monte Carlo; the step, in the Gaussian's deviations, only at the start
MOMENT_DRAWS = 100
ACCEPTED = 0.65  # the share of moves that the step size then aims at (Wu et al., appendix)


def lower(model: LatentVariableModel, x: tf.Tensor, seed: int) -> tf.Tensor:
    """An estimate that in expectation is below log p(x): [B], nats, of images [B, H, W, C]."""
    gaussian = _gaussian(model, x, seed)
    start = gaussian.sample(CHAINS, seed=tf.constant([seed, 0]))
    log_weights = _chain(gaussian.log_prob, _joint(model, x), start, gaussian.stddev(), seed)
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(CHAINS)


def upper(model: LatentVariableModel, x: tf.Tensor, z: tf.Tensor, seed: int) -> tf.Tensor:
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
    gaussian = _gaussian(model, x, seed)
    start = tf.tile(z[None], [CHAINS, 1, 1])
    log_weights = _chain(_joint(model, x), gaussian.log_prob, start, gaussian.stddev(), seed)
    return math.log(CHAINS) - tf.reduce_logsumexp(log_weights, axis=0)


def _gaussian(model: LatentVariableModel, x: tf.Tensor, seed: int) -> tfd.Distribution:
    """The diagonal Gaussian with the moments of q(z | x): a flow's own density costs D passes, or is not to be had."""
    mean, variance = tf.nn.moments(model.encoder(x).sample(MOMENT_DRAWS, seed=tf.constant([seed, 2])), axes=[0])
    return tfd.Independent(tfd.Normal(mean, tf.sqrt(variance)), reinterpreted_batch_ndims=1)


def _joint(model: LatentVariableModel, x: tf.Tensor):
    return lambda z: model.prior().log_prob(z) + model.decoder(z).log_prob(x)


def _chain(start, end, state: tf.Tensor, scale: tf.Tensor, seed: int) -> tf.Tensor:
    """Log weights, [CHAINS, B], of chains between two unnormalised densities from states [CHAINS, B, D].

    Args:
      scale: [B, D], in which steps are measured.
    """

    def kernel(target):
        moves = Moves(target, STEP_SIZE * scale[None], num_leapfrog_steps=LEAPFROGS)
        return tfp.mcmc.SimpleStepSizeAdaptation(moves, num_adaptation_steps=TEMPERATURES, target_accept_prob=ACCEPTED)

    return tfp.mcmc.sample_annealed_importance_chain(
        TEMPERATURES, start, end, state, kernel, seed=tf.constant([seed, 1])
    )[1]


class Moves(tfp.mcmc.HamiltonianMonteCarlo):
    """Hamiltonian Monte Carlo whose target may differ from step to step.

    TFP's chain hands the density of the state on from the step before, which was at another temperature: moves would be
    accepted by the wrong ratio (github.com/tensorflow/probability/issues/1429).
    """

    def one_step(self, current_state, previous_kernel_results, seed=None):
        now = self.bootstrap_results(current_state).accepted_results
        accepted = previous_kernel_results.accepted_results._replace(
            target_log_prob=now.target_log_prob, grads_target_log_prob=now.grads_target_log_prob
        )
        return super().one_step(current_state, previous_kernel_results._replace(accepted_results=accepted), seed=seed)
