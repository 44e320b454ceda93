"""Where the draws of the importance-weighted likelihood come from: a proposal is a name in PROPOSALS.

(model, images [B, H, W, C], number of draws S, seed int32 [2], labels [B] of a model that takes them) -> LogTerms of
draws from the posterior, for the bounds of it alone, and the log weights of all draws, [S, B], nats:
log p(x, z) - log (density that z is drawn from).
"""

import math

import tensorflow as tf

from keras_genmnist import bounds
from keras_genmnist.bounds import LogTerms
from keras_genmnist.models.base import LatentVariableModel, told

# Factor on the posterior's scales -> of so many draws one is from there.
STRETCHES = {1.5: 4, 2.0: 8}
PRIOR = 8  # of so many draws one is from the prior


def posterior(
    model: LatentVariableModel, x: tf.Tensor, num_draws: int, seed: tf.Tensor, y: tf.Tensor | None = None
) -> tuple[LogTerms, tf.Tensor]:
    """Draws from q(z | x)."""
    terms = model.log_terms(x, num_draws, seed, **told(y))
    return terms, bounds.log_weights(terms)


def defensive(
    model: LatentVariableModel, x: tf.Tensor, num_draws: int, seed: tf.Tensor, y: tf.Tensor | None = None
) -> tuple[LogTerms, tf.Tensor]:
    """Draws from a mixture with wider tails: q(z | x), the same with scales 1.5 and 2 times as large, and the prior.

    Each component gives a fixed number S[j] of the draws, and every draw is weighted by the density of the whole
    mixture, sum{ S[j] / S q[j](z) : components j }: in expectation the mean weight is p(x), as it is by q alone.  Noise
    n with scales c times as large has the density q(z | x) exp((1 - 1 / c^2) |n|^2 / 2) / c^D, for flows and
    ladders too.  The prior, with which no weight is above S / S[prior] p(x | z), is a component where the noise of its
    draws is known without a search: where the posterior is a Gaussian without a flow, of one layer of latents.  Of
    fewer than four draws all are from q.

    Source: Veach & Guibas (1995), "Optimally Combining Sampling Techniques for Monte Carlo Rendering", section 3.2,
    doi.org/10.1145/218380.218498; Owen & Zhou (2000), "Safe and Effective Importance Sampling",
    doi.org/10.1080/01621459.2000.10473909
    """
    noise_seed, prior_seed = tf.unstack(tf.random.split(seed, 2))
    batch, from_prior, others = tf.shape(x)[0], num_draws // PRIOR, []
    if from_prior:
        shape = [from_prior, batch] if y is None else from_prior  # given labels, there is a prior for each image
        prior_noise = model.noise_of(x, model.prior_of(y).sample(shape, seed=prior_seed), **told(y))
        if prior_noise is None:
            from_prior = 0
        else:
            others.append(prior_noise)
    counts = {stretch: num_draws // every for stretch, every in STRETCHES.items() if num_draws >= every}
    counts = {1.0: num_draws - from_prior - sum(counts.values())} | counts
    noise = tf.random.stateless_normal([num_draws - from_prior, batch, model.latent_size], noise_seed)
    own, *wider = tf.split(noise, list(counts.values()))
    others += [stretch * noise for stretch, noise in zip(list(counts)[1:], wider, strict=True)]
    # The bounds of the posterior are those of its own draws, some of which (the KL of a ladder) are already averaged.
    terms = model.log_terms_at(x, own, **told(y))
    densities, noise = terms[:3], own
    if others:
        others = tf.concat(others, axis=0)
        further = model.log_terms_at(x, others, **told(y))
        densities = [tf.concat(pair, axis=0) for pair in zip(densities, further[:3], strict=True)]
        noise = tf.concat([own, others], axis=0)
    log_likelihood, log_prior, log_posterior = densities
    squares = tf.reduce_sum(noise**2, axis=-1)
    components = [
        math.log(count / num_draws) + (1 - c**-2) * squares / 2 - model.latent_size * math.log(c) + log_posterior
        for c, count in counts.items()
    ]
    if from_prior:
        components.append(math.log(from_prior / num_draws) + log_prior)
    mixture = tf.reduce_logsumexp(tf.stack(components), axis=0)
    return terms, bounds.log_weights(LogTerms(log_likelihood, log_prior, mixture))


PROPOSALS = {"posterior": posterior, "defensive": defensive}
