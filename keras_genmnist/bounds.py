"""Bounds on log p(x): functions of the log densities of S draws z[s] ~ q(z | x), in nats per image."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist import replicas


class LogTerms(NamedTuple):
    """Log densities of S draws for B images, in nats.

    log_likelihood: log p(x | z), [S, B].
    log_prior: log p(z), [S, B].
    log_posterior: log q(z | x), [S, B].
    layer_kl: of L layers of latents, the KL of each from its prior given the draws of the layers that it depends on,
      [L, B], in closed form where there is one; None for the mean of the draws.
    """

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor
    layer_kl: tf.Tensor | None = None


def log_weights(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Importance weights.  log w[s] = log p(x | z[s]) + log p(z[s]) - log q(z[s] | x)

    Args:
      terms: log densities of S draws.
      kl_weight: factor on the last two terms; see `elbo`.
    Returns:
      [S, B], nats.
    Raises:
      ValueError: if the terms differ in shape ([5] - [5, 1] would silently be [5, 5]).
    """
    shapes = [term.shape for term in terms[:3]]
    if any(shape.rank != 2 or not shape.is_compatible_with(shapes[0]) for shape in shapes):
        raise ValueError(f"log terms must all be [S, B]; got {', '.join(map(str, shapes))}")
    if terms.layer_kl is not None and not terms.layer_kl.shape[1:].is_compatible_with(shapes[0][1:]):
        raise ValueError(f"layer_kl must be [L, B], B = {shapes[0][1]}; got {terms.layer_kl.shape}")
    return terms.log_likelihood + kl_weight * (terms.log_prior - terms.log_posterior)


class Objective(NamedTuple):
    """What a training maximises, and how it estimates the gradient of the posterior's parameters.

    bound: "elbo" or "iwae".
    num_draws: S, draws from the posterior a step and image.
    gradient: "standard"; "stl", with "elbo" and no free bits; or "dreg", with "iwae".  See `PathGradient`.
    free_bits: nats of KL that cost nothing, of every layer or of each; see `elbo`.
    beta: what the KL costs; other than 1 with "elbo" alone, and the objective is then no bound (Higgins et al. 2017,
      equation 4, openreview.net/forum?id=Sy2fzU9gl).
    capacity: C nats that the mean KL over the images is drawn to, with "elbo" and no free bits: the objective is
      (1/S) sum{ log p(x | z[s]) } - beta |KL - C| (Burgess et al. 2018, equation 8, arxiv.org/abs/1804.03599); 0 for
      none.
    """

    bound: str = "elbo"
    num_draws: int = 1
    gradient: str = "standard"
    free_bits: float | tuple[float, ...] = 0.0
    beta: float = 1.0
    capacity: float = 0.0

    def __call__(self, terms: LogTerms, warmup: tf.Tensor | float = 1.0) -> tf.Tensor:
        """What a training maximises the mean of, [B], nats; `warmup` is a factor on the KL, or on the capacity."""
        if self.bound == "iwae":
            return iwae_bound(terms, warmup)
        if self.capacity:
            mean_kl = replicas.mean(tf.reduce_mean(kl(terms)))
            return reconstruction(terms) - self.beta * tf.abs(mean_kl - warmup * self.capacity)
        return elbo(terms, self.beta * warmup, self.free_bits)

    def score(self, elbo: float, kl: float) -> float:
        """The objective, less what free bits give, of images whose mean ELBO and KL these are; nats."""
        weighted = self.beta * abs(kl - self.capacity) if self.capacity else self.beta * kl
        return elbo + (kl - weighted)


ELBO = Objective()


class PathGradient:
    """Gradients that reach the posterior's parameters through its draws alone.

    The score d log q / d parameters is left out.  In the ELBO it has expectation 0, whatever the KL's weight, and
    without it the gradient is 0 once q is exact ("sticking the landing", STL).  In the IWAE bound it has not, and is
    turned into a factor on the path of each draw ("doubly reparameterized", DReG): see `dreg_scale`.

    Source: Roeder et al. (2017), equation 8, arxiv.org/abs/1703.09194; Tucker et al. (2018), equation 8,
    arxiv.org/abs/1810.04152
    """

    def __init__(self, tape: tf.GradientTape):
        """tape: persistent."""
        self.tape = tape

    def hold(self, draws: tf.Tensor) -> tf.Tensor:
        """Draws [S, B, D], to be scored by densities whose posterior parameters are held fixed."""
        self.draws, self.held = draws, tf.stop_gradient(draws)
        self.tape.watch(self.held)
        return self.held

    def gradients(self, value: tf.Tensor, scale: tf.Tensor | float, variables: list[tf.Variable]) -> list[tf.Tensor]:
        """Gradients of `value`, those through the draws scaled draw by draw.

        Args:
          value: a scalar, nats, computed from what `hold` returned.
          scale: [S, B] or a number.
          variables: any.
        Returns:
          One of the shape of each variable.
        """
        *direct, at_draws = self.tape.gradient(value, [*variables, self.held], unconnected_gradients="zero")
        if not isinstance(scale, float):
            scale = scale[..., None]
        through = self.tape.gradient(self.draws, variables, scale * at_draws, unconnected_gradients="zero")
        return [a + b for a, b in zip(direct, through, strict=True)]


def normalised_weights(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0) -> tf.Tensor:
    """w[s] / sum(w), [S, B]; a constant to any gradient.  The weights of `iwae_bound` at the same kl_weight."""
    return tf.stop_gradient(tf.nn.softmax(log_weights(terms, kl_weight), axis=0))


def dreg_scale(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0) -> tf.Tensor:
    """What DReG multiplies the gradient through each draw by.  (1 - b) + b w[s] / sum(w), b the KL's weight

    With f[s] = log w[s] and v[s] = w[s] / sum(w), the IWAE bound has the gradient
    sum{ v[s] (df/dz[s] dz[s]/dphi - b dlog q(z[s])/dphi) }.  As E[g(z) dlog q(z)/dphi] = E[dg/dz dz/dphi], and
    dv[s]/dz[s] = v[s] (1 - v[s]) df/dz[s], its expectation is that of
    sum{ v[s] (1 - b (1 - v[s])) df/dz[s] dz[s]/dphi }.  The v[s] before the bracket is in the gradient of `iwae_bound`
    with the score left out; the bracket is what comes on top.  Tucker et al. have b = 1.

    Args:
      terms: log densities of S draws.
      kl_weight: b; see `elbo`.
    Returns:
      [S, B]; a constant to any gradient.
    """
    return 1 - kl_weight + kl_weight * normalised_weights(terms, kl_weight)


def layer_kl(terms: LogTerms) -> tf.Tensor:
    """KL(q || p) of each layer of latents: in closed form where known, else the mean of log q - log p over the draws.

    Args:
      terms: log densities of S draws.
    Returns:
      [L, B], nats.
    """
    if terms.layer_kl is not None:
        return terms.layer_kl
    return tf.reduce_mean(terms.log_posterior - terms.log_prior, axis=0)[None]


def kl(terms: LogTerms) -> tf.Tensor:
    """KL(q(z | x) || p(z)), the sum of `layer_kl`: [B], nats."""
    return tf.reduce_sum(layer_kl(terms), axis=0)


def reconstruction(terms: LogTerms) -> tf.Tensor:
    """Reconstruction term.  (1/S) sum{ log p(x | z[s]) : s = 1..S }

    Args:
      terms: log densities of S draws.
    Returns:
      [B], nats.
    """
    return tf.reduce_mean(terms.log_likelihood, axis=0)


def elbo(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0, free_bits: float | tuple[float, ...] = 0.0) -> tf.Tensor:
    """Evidence lower bound.  (1/S) sum{ log p(x | z[s]) : s = 1..S } - KL(q(z | x) || p(z))

    Args:
      terms: log densities of S draws.
      kl_weight: factor on the KL; below 1 while warming up (Sonderby et al. 2016, section 2.3,
        arxiv.org/abs/1602.02282), when the result is not a bound.
      free_bits: one number for all layers, or one for each, 0 for none: where a layer's mean KL over the images is
        below this, it costs this and has no gradient (Kingma et al. 2016, equation 15, with a layer as group,
        arxiv.org/abs/1606.04934).
    Returns:
      [B], nats.
    Raises:
      ValueError: if the terms differ in shape.
    Source: Kingma & Welling (2014), equations 3 and 7, arxiv.org/abs/1312.6114
    """
    log_weights(terms)  # for its check of the shapes
    costs = layer_kl(terms)
    if np.any(free_bits):
        floors = tf.reshape(tf.constant(free_bits, costs.dtype), [-1, 1])
        # A KL by draws may be below 0: a floor of 0 would hold it there.
        free = (floors > 0) & (replicas.mean(tf.reduce_mean(costs, axis=1, keepdims=True)) <= floors)
        costs = tf.where(free, floors, costs)
    return reconstruction(terms) - kl_weight * tf.reduce_sum(costs, axis=0)


def iwae_bound(terms: LogTerms, kl_weight: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Importance-weighted bound.  log (1/S) sum{ p(x | z[s]) p(z[s]) / q(z[s] | x) : s = 1..S }

    Args:
      terms: log densities of S draws.
      kl_weight: see `elbo`.
    Returns:
      [B], nats; in expectation equal to the elbo at S = 1 and rising to log p(x) with S.
    Raises:
      ValueError: if the terms differ in shape.
    Source: Burda et al. (2016), section 3, arxiv.org/abs/1509.00519
    """
    log_w = log_weights(terms, kl_weight)
    return tf.reduce_logsumexp(log_w, axis=0) - tf.math.log(tf.cast(tf.shape(log_w)[0], log_w.dtype))
