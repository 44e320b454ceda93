"""A VAE whose prior is a ring of ten Gaussians."""

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_genmnist import config, distributions, networks
from keras_genmnist.models.vae import VAE

tfd = tfp.distributions


def get_config():
    return config.training("ring", dataset="mnist_5k", epochs=20, hidden_size=200, radius=3.0)


class Ring:
    latent_size = 2

    def __init__(self, radius):
        angles = np.linspace(0, 2 * np.pi, 10, endpoint=False, dtype=np.float32)
        self.means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def __call__(self):
        components = tfd.MultivariateNormalDiag(self.means, scale_diag=[0.5, 0.5])
        return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(10)), components)


def build(config, spec):
    encoder, decoder = (networks.mlp(2, config.hidden_size, norm="batch") for _ in range(2))
    decoder.add(networks.layers.Dense(math.prod(spec.image_shape)))
    posterior = distributions.Posterior(encoder, Ring.latent_size)
    pixels = distributions.BernoulliDecoder(decoder, spec.image_shape)
    return VAE(posterior, pixels, Ring(config.radius), spec.image_shape)
