"""Annealed importance sampling: log p(x) by chains that go from a Gaussian like q(z | x) to the posterior, or back.

From the prior, where Wu et al. start, the way is much longer.

The bounds hold in expectation, as the step of the moves is fixed before a chain begins: one that a chain adapted while
it ran would depend on where it has been, and its moves would no longer leave each density as it is.  The step is the
same for all images and temperatures, in units of each image's own Gaussian: where a posterior is narrower, moves are
refused, and the bound is looser but no less one.  What remains is that a finite number of chains may all miss a mode,
and that `upper` needs exact draws from the posterior, which only images drawn from the model have.

Source: Neal (2001), "Annealed Importance Sampling", arxiv.org/abs/physics/9803008; Wu et al. (2017), "On the
Quantitative Analysis of Decoder-Based Generative Models", arxiv.org/abs/1611.04273
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist.models.base import LatentVariableModel

tfd = tfp.distributions

TEMPERATURES, CHAINS = 200, 8
LEAPFROGS = 10  # of Hamiltonian Monte Carlo
STEPS = (0.05, 0.1, 0.2, 0.4, 0.8)  # in the Gaussian's deviations
TUNING_IMAGES = 20
MOMENT_DRAWS = 100


def simulate(model: LatentVariableModel, count: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Images that the model draws, [count, H, W, C], and the latents [count, D] that it drew them from."""
    z = model.prior().sample(count, seed=tf.constant([seed, 4]))
    uniform = tf.random.stateless_uniform([count, *model.image_shape], tf.constant([seed, 3]))
    return model.decoder.draw(z, uniform)["images"], z


def step_size(model: LatentVariableModel, seed: int) -> float:
    """The one of STEPS with which `lower` comes highest on images that the model draws.

    Args:
      model: with a likelihood.
      seed: of these images; no image whose log p(x) is wanted may be among them.
    """
    x, _ = simulate(model, TUNING_IMAGES, seed)
    bound = tf.function(lower, autograph=model.autograph)
    return max(STEPS, key=lambda step: float(tf.reduce_mean(bound(model, x, seed, tf.constant(step)))))


def lower(model: LatentVariableModel, x: tf.Tensor, seed: int, step: tf.Tensor | float) -> tf.Tensor:
    """An estimate that in expectation is below log p(x).

    Args:
      model: with a likelihood.
      x: images [B, H, W, C].
      seed: of the chains.
      step: of the moves, in the Gaussian's deviations; see `step_size`.
    Returns:
      [B], nats.
    """
    gaussian = _gaussian(model, x, seed)
    start = gaussian.sample(CHAINS, seed=tf.constant([seed, 0]))
    log_weights = _chain(gaussian.log_prob, _joint(model, x), start, step * gaussian.stddev(), seed)
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(CHAINS)


def upper(model: LatentVariableModel, x: tf.Tensor, z: tf.Tensor, seed: int, step: tf.Tensor | float) -> tf.Tensor:
    """An estimate that in expectation is above log p(x), by the chains of `lower` gone backwards.

    Args:
      model: with a likelihood.
      x: images [B, H, W, C] that the model has drawn.
      z: the latents that it drew them from, [B, D]: draws from the posterior, which only such images have.
      seed: of the chains.
      step: as of `lower`.
    Returns:
      [B], nats.
    Source: Grosse et al. (2015), "Sandwiching the marginal likelihood", section 3, arxiv.org/abs/1511.02543
    """
    gaussian = _gaussian(model, x, seed)
    start = tf.tile(z[None], [CHAINS, 1, 1])
    log_weights = _chain(_joint(model, x), gaussian.log_prob, start, step * gaussian.stddev(), seed)
    return math.log(CHAINS) - tf.reduce_logsumexp(log_weights, axis=0)


def _gaussian(model: LatentVariableModel, x: tf.Tensor, seed: int) -> tfd.Distribution:
    """The diagonal Gaussian with the moments of q(z | x): a flow's own density costs D passes, or is not to be had."""
    mean, variance = tf.nn.moments(model.encoder(x).sample(MOMENT_DRAWS, seed=tf.constant([seed, 2])), axes=[0])
    return tfd.Independent(tfd.Normal(mean, tf.sqrt(variance)), reinterpreted_batch_ndims=1)


def _joint(model: LatentVariableModel, x: tf.Tensor):
    return lambda z: model.prior().log_prob(z) + model.decoder(z).log_prob(x)


def _chain(start, end, state: tf.Tensor, step: tf.Tensor, seed: int) -> tf.Tensor:
    """Log weights, [CHAINS, B], of chains between two unnormalised densities from states [CHAINS, B, D].

    Args:
      step: [B, D], of the moves.
    """

    def kernel(target):
        return Moves(target, step[None], num_leapfrog_steps=LEAPFROGS)

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
