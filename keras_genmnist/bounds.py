"""Bounds on log p(x): functions of the log densities of S draws z[s] ~ q(z | x), in nats per image."""

from typing import NamedTuple

import tensorflow as tf


class LogTerms(NamedTuple):
    """Log densities of S draws for B images, in nats.

    log_likelihood: log p(x | z), [S, B].
    log_prior: log p(z), [S, B].
    log_posterior: log q(z | x), [S, B].
    exact_kl: KL(q(z | x) || p(z)) in closed form, [B], or None where there is none.
    """

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor
    exact_kl: tf.Tensor | None = None


def log_weights(terms: LogTerms) -> tf.Tensor:
    """Importance weights.  log w[s] = log p(x | z[s]) + log p(z[s]) - log q(z[s] | x)

    Args:
      terms: log densities of S draws.
    Returns:
      [S, B], nats.
    Raises:
      ValueError: if the terms differ in shape ([5] - [5, 1] would silently be [5, 5]).
    """
    shapes = [term.shape for term in terms[:3]]
    if any(shape.rank != 2 or not shape.is_compatible_with(shapes[0]) for shape in shapes):
        raise ValueError(f"log terms must all be [S, B]; got {', '.join(map(str, shapes))}")
    if terms.exact_kl is not None and not terms.exact_kl.shape.is_compatible_with(shapes[0][1:]):
        raise ValueError(f"exact_kl must be [B], {shapes[0][1:]}; got {terms.exact_kl.shape}")
    return terms.log_likelihood + terms.log_prior - terms.log_posterior


def kl(terms: LogTerms) -> tf.Tensor:
    """KL(q(z | x) || p(z)): in closed form where known, else (1/S) sum{ log q(z[s] | x) - log p(z[s]) : s = 1..S }.

    Args:
      terms: log densities of S draws.
    Returns:
      [B], nats.
    """
    if terms.exact_kl is not None:
        return terms.exact_kl
    return tf.reduce_mean(terms.log_posterior - terms.log_prior, axis=0)


def reconstruction(terms: LogTerms) -> tf.Tensor:
    """Reconstruction term.  (1/S) sum{ log p(x | z[s]) : s = 1..S }

    Args:
      terms: log densities of S draws.
    Returns:
      [B], nats.
    """
    return tf.reduce_mean(terms.log_likelihood, axis=0)


def elbo(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Evidence lower bound.  (1/S) sum{ log p(x | z[s]) : s = 1..S } - KL(q(z | x) || p(z))

    Args:
      terms: log densities of S draws.
      kl_weight: factor on the KL, in [0, 1]; below 1 while warming up (Sonderby et al. 2016, section 2.3,
        arxiv.org/abs/1602.02282), when the result is not a bound.
    Returns:
      [B], nats.
    Raises:
      ValueError: if the terms differ in shape.
    Source: Kingma & Welling (2014), equations 3 and 7, arxiv.org/abs/1312.6114
    """
    log_weights(terms)  # for its check of the shapes
    return reconstruction(terms) - kl_weight * kl(terms)


def iwae_bound(terms: LogTerms) -> tf.Tensor:
    """Importance-weighted bound.  log (1/S) sum{ p(x | z[s]) p(z[s]) / q(z[s] | x) : s = 1..S }

    Args:
      terms: log densities of S draws.
    Returns:
      [B], nats; in expectation equal to the elbo at S = 1 and rising to log p(x) with S.
    Raises:
      ValueError: if the terms differ in shape.
    Source: Burda et al. (2016), section 3, arxiv.org/abs/1509.00519
    """
    log_w = log_weights(terms)
    return tf.reduce_logsumexp(log_w, axis=0) - tf.math.log(tf.cast(tf.shape(log_w)[0], log_w.dtype))
