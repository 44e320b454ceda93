"""A model whose every quantity is known in closed form, in the pieces that the real classes take."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist.bounds import ELBO, Objective
from keras_genmnist.distributions import StandardNormal
from keras_genmnist.models.vae import VAE

tfd = tfp.distributions


class LinearGaussian(NamedTuple):
    """x = W z + b + scale * noise, z ~ N(0, I): probabilistic PCA.

    The columns of W are orthogonal, so that the true posterior is diagonal, as the models' posteriors are.

    weights: W, [P, D], for images [P, 1, 1].
    bias: b, [P].
    scale: standard deviation of the noise.
    """

    weights: np.ndarray
    bias: np.ndarray
    scale: float

    @property
    def posterior_variance(self) -> np.ndarray:
        """[D], the same for every image.  (I + W^T W / scale^2)^-1"""
        return 1 / (1 + (self.weights**2).sum(axis=0) / self.scale**2)

    def posterior_mean(self, x: np.ndarray) -> np.ndarray:
        """[B, P, 1, 1] -> [B, D].  V W^T (x - b) / scale^2"""
        return (x.reshape(len(x), -1) - self.bias) @ self.weights * self.posterior_variance / self.scale**2

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) = log N(x; b, W W^T + scale^2 I), [B, P, 1, 1] -> [B], nats."""
        covariance = self.weights @ self.weights.T + self.scale**2 * np.eye(len(self.bias))
        residual = x.reshape(len(x), -1) - self.bias
        squares = (residual @ np.linalg.inv(covariance) * residual).sum(axis=1)
        return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])

    def elbo(self, x: np.ndarray, shift: float, stretch: float) -> np.ndarray:
        """log p(x) - KL(q || true posterior), for the posterior of `vae(shift, stretch)`; [B], nats.

        KL(N(m + shift, (stretch s)^2) || N(m, s^2)) = (stretch^2 - 1 + shift^2 / s^2) / 2 - log stretch, a dimension.
        """
        gap = (stretch**2 - 1 + shift**2 / self.posterior_variance) / 2 - np.log(stretch)
        return self.log_prob(x) - gap.sum()

    def sample(self, num_samples: int) -> np.ndarray:
        """Images drawn from p(x), float32 [N, P, 1, 1]."""
        generator = np.random.default_rng(0)
        z, noise = (generator.standard_normal([num_samples, size]) for size in self.weights.shape[::-1])
        x = z @ self.weights.T + self.bias + self.scale * noise
        return x.reshape(num_samples, -1, 1, 1).astype(np.float32)

    def vae(self, shift: float = 0.0, stretch: float = 1.0, objective: Objective = ELBO) -> VAE:
        """The VAE with this model as decoder.

        Args:
          shift: added to the mean of the true posterior; a number, or [B, D].
          stretch: factor on the standard deviation of the true posterior.
          objective: what training maximises.
        """
        weights, bias, variance = (
            tf.constant(a, tf.float32) for a in (self.weights, self.bias, self.posterior_variance)
        )

        def encoder(x, training=False):
            residual = tf.reshape(x, [-1, len(self.bias)]) - bias
            mean = residual @ weights * variance / self.scale**2 + shift
            return tfd.Independent(tfd.Normal(mean, stretch * tf.sqrt(variance) * tf.ones_like(mean)), 1)

        def decoder(z, training=False):
            mean = tf.linalg.matvec(weights, z) + bias
            return tfd.Independent(tfd.Normal(mean[..., None, None], self.scale), 3)

        decoder.draws_bits, decoder.pixel_by_pixel = True, False  # its nats are no bits per dimension
        return VAE(encoder, decoder, StandardNormal(self.weights.shape[1]), (len(self.bias), 1, 1), objective)


ORACLE = LinearGaussian(
    weights=np.array([[1.0, 0.5], [-1.0, 0.5], [0.5, 1.0], [0.5, -1.0]]) @ np.diag([1.0, 0.4]),
    bias=np.array([0.3, -0.2, 0.0, 0.5]),
    scale=0.7,
)


def cheapest_steps(losses: np.ndarray, num_steps: int) -> float:
    """The least cost of drawing D pixels in `num_steps` steps: n of them at once, t known, cost n losses[t]; nats.

    Source: the dynamic programme of Watson et al. (2021), arxiv.org/abs/2106.03802, which Hoogeboom et al. (2022),
    section 4.2, take over
    """
    numbers = np.arange(len(losses) + 1)
    cost = np.full([len(numbers), len(numbers)], np.inf)
    drawn = numbers - numbers[:-1, None]
    cost[:-1] = np.where(drawn > 0, drawn * losses[:, None], np.inf)
    least = np.where(numbers == 0, 0.0, np.inf)
    for _ in range(num_steps):
        least = (least[:, None] + cost).min(axis=0)
    return least[-1]
