"""Variational autoencoders with several layers of latents.

Layer 1 is next to the image; p(z) = p(z[L]) prod{ p(z[l] | z[l+1]) : l < L }, all Gaussian.  What the package sees as
the latents is e, of all layers side by side, with z[l] = mean(z[l+1]) + scale(z[l+1]) e[l]: under the prior a standard
normal, so that any model can be sampled, decoded and interpolated alike.  Log densities are those of e: the factors of
the change from z are the same in p and q, and leave the bounds as they are.

Source: Sonderby et al. (2016), "Ladder Variational Autoencoders", arxiv.org/abs/1602.02282
"""

import math
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import networks, replicas
from keras_genmnist.bounds import LogTerms, Objective
from keras_genmnist.config import (
    require,
    require_choice,
    require_finite,
    require_fit,
    require_labels,
    require_likelihood,
    require_objective,
    require_positive,
)
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import BernoulliDecoder, LogisticDecoder, StandardNormal, draw_noise
from keras_genmnist.models.base import LatentVariableModel, require_images
from keras_genmnist.networks import folded, inputs

tfd = tfp.distributions
STANDARD = tfd.Normal(0.0, 1.0)
DECODERS = {"bernoulli": BernoulliDecoder, "logistic": LogisticDecoder}
# The scales of the bottom-up Gaussians begin near 0.007.  After 20 epochs, 5 of warm-up, ladder is at -93.0 so, and at
# -93.8 where they begin near 0.7.
BOTTOM_UP_BIAS = -5.0
MIN_SCALE = 1e-4  # below, a conditional that the image leaves alone shrinks until ratios of scales overflow


class Gaussian(tf_keras.Model):
    """Gaussians given vectors, [..., F] -> tfd.Normal, [..., D]; scale = MIN_SCALE + softplus of what was learned."""

    def __init__(self, network: tf_keras.Model, latent_size: int, scale_bias: float = 0.0):
        """
        Args:
          network: [N, F], training -> features [N, F'].
          latent_size: D.
          scale_bias: what the network's output for the scales begins around.
        """
        super().__init__()
        self.network = network
        start = tf_keras.initializers.Constant(latent_size * [0.0] + latent_size * [scale_bias])
        self.parameters = tf_keras.layers.Dense(2 * latent_size, bias_initializer=start)

    def call(self, values, training=False, context=None):
        # Draws and images folded into one axis for the network, and back.
        parameters = self.parameters(self.network(*folded(values, context), training=training))
        parameters = tf.reshape(parameters, tf.concat([tf.shape(values)[:-1], [self.parameters.units]], axis=0))
        mean, scale = tf.split(parameters, 2, axis=-1)
        # Not a MultivariateNormalDiag: the mean of one of a single latent forgets in a graph how many it has.
        return tfd.Normal(mean, MIN_SCALE + tf.nn.softplus(scale))


class TopDown(tf_keras.Model):
    """p(x | e), e [..., D] -> distribution over images: from the topmost layer down to the image."""

    def __init__(
        self, conditionals: list[Gaussian], decoder: BernoulliDecoder | LogisticDecoder, layer_sizes: list[int]
    ):
        """
        Args:
          conditionals: p(z[l] | z[l+1]) for l = 1 .. L-1.
          decoder: p(x | z[1]).
          layer_sizes: the number of latents of each layer, the lowest first; D is their sum.
        """
        super().__init__()
        self.conditionals, self.decoder, self.layer_sizes = conditionals, decoder, layer_sizes
        self.draws_bits, self.pixel_by_pixel = decoder.draws_bits, decoder.pixel_by_pixel

    def call(self, e, training=False, context=None):
        return self.decoder(self._lowest(e, training, context), training=training, context=context)

    def draw(self, e, uniform, context=None):
        """As BernoulliDecoder.draw."""
        return self.decoder.draw(self._lowest(e, context=context), uniform, context)

    def _lowest(self, e: tf.Tensor, training: bool = False, context: tf.Tensor | None = None) -> tf.Tensor:
        """z[1]"""
        *below, z = tf.split(e, self.layer_sizes, axis=-1)
        for conditional, noise in zip(reversed(self.conditionals), reversed(below), strict=True):
            prior = conditional(z, training=training, context=context)
            z = prior.mean() + prior.stddev() * noise
        return z


class Layer(NamedTuple):
    """A layer of latents, inferred: q(e | x and the layers that it was inferred from), a draw, and its z.

    posterior: tfd.Normal, [S, B, D].
    e, z: [S, B, D].
    """

    posterior: tfd.Normal
    e: tf.Tensor
    z: tf.Tensor


class BottomUp(tf_keras.Model):
    """q(z | x) = q(z[1] | x) prod{ q(z[l] | z[l-1]) : l > 1 }: the generative model's way back.

    Source: section 2.1 and equation 4
    """

    kl_is_exact = False  # of a layer whose draw the layer above was inferred from

    def __init__(self, network: tf_keras.Model, posteriors: list[Gaussian]):
        """
        Args:
          network: images [B, H, W, C], training -> features [B, F].
          posteriors: of the features, then of the layer below.
        """
        super().__init__()
        self.network, self.posteriors = network, posteriors

    def infer(
        self,
        x: tf.Tensor,
        conditionals: list[Gaussian],
        noise: list[tf.Tensor],
        training: bool,
        seed: tf.Tensor | None = None,
        context: tf.Tensor | None = None,
    ) -> list[Layer]:
        """
        Args:
          x: images [B, H, W, C].
          conditionals: p(z[l] | z[l+1]) for l = 1 .. L-1.
          noise: of each layer, [S, B, D], standard normal to draw and zero for the means.
          training: whether batch norm uses the batch's statistics, and features are dropped.
          seed: int32 [2], of the dropout.
          context: [B, F], or None.
        Returns:
          The layers, the lowest first.
        """
        below, inferred = self.network(*inputs(x, context), training=training), []
        for posterior, own in zip(self.posteriors, noise, strict=True):
            q = posterior(below, training=training, context=context)
            below = q.mean() + q.stddev() * own
            inferred.append((q, below))
        priors = [
            conditional(z, training=training, context=context)
            for conditional, (_, z) in zip(conditionals, inferred[1:], strict=True)
        ]
        layers = []
        for (q, z), prior in zip(inferred, [*priors, STANDARD], strict=True):
            mean, scale = prior.mean(), prior.stddev()
            own = tfd.Normal((q.mean() - mean) / scale, q.stddev() / scale * tf.ones_like(z))
            layers.append(Layer(own, (z - mean) / scale, z))
        return layers


class Ladder(tf_keras.Model):
    """q(z | x) = q(z[L] | x) prod{ q(z[l] | z[l+1], x) : l < L }: from the top down, as the generative model.

    Each factor is the product of p(z[l] | z[l+1]) and of a Gaussian that the image gives on the way up.

    Source: section 2.2, equations 15 to 19
    """

    kl_is_exact = True

    def __init__(
        self,
        networks: list[tf_keras.Model],
        latent_sizes: list[int],
        dropout: float = 0.0,
        bottom_up_noise: float = 0.0,
    ):
        """
        Args:
          networks: images [B, H, W, C], training -> features [B, F], then each of the features before it.
          latent_sizes: D of each layer.
          dropout: share of the features dropped on the way from each network to the next, in training.
          bottom_up_noise: standard deviation added to the image's Gaussians above the lowest layer, in units of that of
            p(z[l] | z[l+1]).
        """
        super().__init__()
        self.networks, self.dropout, self.bottom_up_noise = networks, dropout, bottom_up_noise
        self.bottom_up = [Gaussian(tf_keras.Sequential(), size, BOTTOM_UP_BIAS) for size in latent_sizes]

    def _lookup_dependency(self, name, *args):
        # What checkpoints of earlier versions call it.
        return super()._lookup_dependency("bottom_up" if name == "votes" else name, *args)

    def _kept(self, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A factor on features [B, F]: 0 where they are dropped."""
        kept = replicas.rows(
            lambda n: tf.nn.experimental.stateless_dropout(tf.ones([n, features.shape[1]]), self.dropout, seed),
            tf.shape(features)[0],
        )
        return tf.cast(kept, features.dtype)  # in 16 bits it would be drawn otherwise

    def infer(
        self,
        x: tf.Tensor,
        conditionals: list[Gaussian],
        noise: list[tf.Tensor],
        training: bool,
        seed: tf.Tensor | None = None,
        context: tf.Tensor | None = None,
    ) -> list[Layer]:
        """As BottomUp.infer."""
        features, gaussians = x, []
        for number, (network, gaussian) in enumerate(zip(self.networks, self.bottom_up, strict=True)):
            # Without it and the noise the layers above the lowest learn the training images by heart.
            if training and self.dropout and number:
                own_seed = tf.random.experimental.stateless_fold_in(seed, number)
                features *= self._kept(features, own_seed)
            features = network(*inputs(features, context), training=training)
            gaussians.append(gaussian(features))
        shape = tf.shape(noise[-1])
        noise_scales = [0.0, *(len(gaussians) - 1) * [self.bottom_up_noise]]
        top_scale = tf.sqrt(gaussians[-1].stddev() ** 2 + noise_scales[-1] ** 2)
        top = tfd.Normal(*(tf.broadcast_to(part, shape) for part in (gaussians[-1].mean(), top_scale)))
        z = top.loc + top.scale * noise[-1]
        layers = [Layer(top, z, z)]
        lower = (parts[-2::-1] for parts in (gaussians, noise_scales, noise))
        for conditional, gaussian, noise_scale, own in zip(conditionals[::-1], *lower, strict=True):
            prior = conditional(z, training=training, context=context)
            mean, scale = prior.mean(), prior.stddev()
            # The product of N(0, 1), the prior's, and the bottom-up Gaussian, whose scale is r: without
            # 1 - 1 / (1 + r^2), which rounds to 0 where that Gaussian is sure.
            r = tf.sqrt((gaussian.stddev() / scale) ** 2 + noise_scale**2)
            q = tfd.Normal((gaussian.mean() - mean) / scale / (1 + r**2), r / tf.sqrt(1 + r**2))
            e = q.loc + q.scale * own
            z = mean + scale * e
            layers.append(Layer(q, e, z))
        return layers[::-1]


class HierarchicalVAE(LatentVariableModel):
    """Several layers of latents, inferred as the encoder does.

    Labels, where it takes them, are told to every network; the topmost layer stays a standard normal.
    """

    def __init__(
        self,
        encoder: BottomUp | Ladder,
        decoder: TopDown,
        image_shape: tuple[int, int, int],
        objective: Objective,
        num_classes: int = 0,
    ):
        sizes = decoder.layer_sizes
        super().__init__(encoder, decoder, StandardNormal(sum(sizes)), image_shape, objective, sizes, num_classes)

    def _infer(
        self,
        x: tf.Tensor,
        noise: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
        y: tf.Tensor | None = None,
    ) -> list[Layer]:
        split = tf.split(noise, self.layer_sizes, axis=-1)
        return self.encoder.infer(x, self.decoder.conditionals, split, training, seed, self.context(y))

    def log_terms(self, x, num_samples, seed, training=False, hold=None, y=None):
        noise = draw_noise(seed, num_samples, (tf.shape(x)[0], self.latent_size))
        return self.log_terms_at(x, noise, y, training, seed)

    def log_terms_at(self, x, noise, y=None, training=False, seed=None):
        layers = self._infer(x, noise, training, seed, y)
        log_priors = tf.stack([tf.reduce_sum(STANDARD.log_prob(layer.e), axis=-1) for layer in layers])
        log_posteriors = tf.stack([tf.reduce_sum(layer.posterior.log_prob(layer.e), axis=-1) for layer in layers])
        if self.encoder.kl_is_exact:
            kls = tf.stack([tf.reduce_sum(layer.posterior.kl_divergence(STANDARD), axis=-1) for layer in layers])
        else:
            kls = log_posteriors - log_priors
        return LogTerms(
            self.decoder.decoder(layers[0].z, training=training, context=self.context(y)).log_prob(x),
            tf.reduce_sum(log_priors, axis=0),
            tf.reduce_sum(log_posteriors, axis=0),
            tf.reduce_mean(kls, axis=1),
        )

    def encode(self, x, noise=0.0, y=None):
        require_images(x, self.image_shape)
        # With noise, the mean and variance of a layer given the draws of those it was inferred from.
        layers = self._infer(x, noise + tf.zeros([1, tf.shape(x)[0], self.latent_size]), y=y)
        found = [(layer.posterior.mean(), 2 * tf.math.log(layer.posterior.stddev()), layer.e) for layer in layers]
        values = [tf.concat(parts, axis=-1)[0] for parts in zip(*found, strict=True)]
        return dict(zip(("mean", "log_variance", "z"), values, strict=True))


def build(config: ConfigDict, spec: DatasetSpec) -> HierarchicalVAE:
    """The model of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_choice(config, network=["mlp", "conv"], inference=["ladder", "bottom_up"], bound=["elbo", "iwae"])
    require_choice(config, norm=networks.NORMS, decoder=DECODERS)
    require_likelihood(config, spec.values)
    num_classes = require_labels(config, spec.name, spec.num_classes)
    require_positive(config, "num_layers", "latent_size", "hidden_layers", "hidden_size", "train_draws")
    require_positive(config, "encoder_channels", "decoder_channels")
    require_objective(config)
    require_finite(config, "bottom_up_noise")
    require(config, "dropout", 0 <= config.dropout < 1, "0 (none) or a value below 1")
    for field in ("dropout", "bottom_up_noise"):
        if config[field]:
            require_fit(config, field, inference=["ladder"])  # bottom-up, noise of the layer below has its place
    latent_sizes, hidden_sizes = (
        [max(1, size >> layer) for layer in range(config.num_layers)]
        for size in (config.latent_size, config.hidden_size)
    )

    # The image holds the lowest layer open; those above collapse more easily.
    free_bits = (0.0, *(config.free_bits * size for size in latent_sizes[1:]))

    def told(network):
        return networks.Conditional(network) if num_classes else network

    def mlp(layer):
        return networks.mlp(config.hidden_layers, hidden_sizes[layer], config.norm)

    if config.network == "mlp":
        bottom, image = mlp(0), mlp(0)
        image.add(networks.layers.Dense(math.prod(spec.image_shape)))
    else:
        bottom = networks.conv_encoder(spec.image_shape, config.encoder_channels, config.hidden_size, config.norm)
        image = networks.conv_decoder(spec.image_shape, config.decoder_channels, config.hidden_size, config.norm)
    bottom, image = told(bottom), told(image)
    up = [told(mlp(layer)) for layer in range(1, config.num_layers)]
    if config.inference == "ladder":
        encoder = Ladder([bottom, *up], latent_sizes, config.dropout, config.bottom_up_noise)
    else:
        below = [told(tf_keras.Sequential()), *up]  # the features of the image, then the layer below
        encoder = BottomUp(bottom, [Gaussian(*pair) for pair in zip(below, latent_sizes, strict=True)])
    conditionals = [Gaussian(told(mlp(layer + 1)), latent_sizes[layer]) for layer in range(config.num_layers - 1)]
    return HierarchicalVAE(
        encoder,
        TopDown(conditionals, DECODERS[config.decoder](image, spec.image_shape), latent_sizes),
        spec.image_shape,
        Objective(config.bound, config.train_draws, free_bits=free_bits, beta=config.beta, capacity=config.capacity),
        num_classes,
    )
