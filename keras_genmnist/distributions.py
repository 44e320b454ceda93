"""Pieces: callables from a tensor to a TFP distribution."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

tfd, tfpl = tfp.distributions, tfp.layers


class GaussianPosterior(tf_keras.Model):
    """q(z | x) = N(z; mean(x), diag(scale(x)^2)), images [B, H, W, C] -> distribution over z, batch [B], event [D].

    Source: Kingma & Welling (2014), appendix C.2, arxiv.org/abs/1312.6114; scale = softplus of the network's output.
    """

    def __init__(self, network: tf_keras.Model, latent_size: int):
        super().__init__()
        self.network = network
        self.parameters = tf_keras.layers.Dense(tfpl.IndependentNormal.params_size(latent_size))
        # The mean as its tensor value: the default is a draw, which nothing reads.
        self.distribution = tfpl.IndependentNormal(latent_size, convert_to_tensor_fn=tfd.Distribution.mean)

    def call(self, x, training=False):
        return self.distribution(self.parameters(self.network(x, training=training)))


class BernoulliDecoder(tf_keras.Model):
    """p(x | z) = prod{ Bernoulli(x[i]; sigmoid(logits(z)[i])) : pixels i }, z [..., D] -> distribution over images.

    Source: Kingma & Welling (2014), appendix C.1, arxiv.org/abs/1312.6114
    """

    def __init__(self, network: tf_keras.Model, image_shape: tuple[int, int, int]):
        super().__init__()
        self.network = network
        self.pixels = int(np.prod(image_shape))
        self.distribution = tfpl.IndependentBernoulli(image_shape, convert_to_tensor_fn=tfd.Distribution.mean)

    def call(self, z, training=False):
        # Draws and images folded into one axis for the network, and back.
        logits = self.network(tf.reshape(z, [-1, z.shape[-1]]), training=training)
        return self.distribution(tf.reshape(logits, tf.concat([tf.shape(z)[:-1], [self.pixels]], axis=0)))


def standard_normal(latent_size: int) -> tfd.Distribution:
    """The spherical prior p(z) = N(0, I), event [D], of the family whose KL with `GaussianPosterior` is registered."""
    return tfd.Independent(tfd.Normal(tf.zeros([latent_size]), 1.0), reinterpreted_batch_ndims=1)
