"""Pieces: callables from a tensor, or from nothing, to a TFP distribution.

Each also takes `context`, [B, F], which is how a label comes in: as a one-hot class.  With None it knows of none.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import replicas
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.errors import UsageError
from keras_genmnist.networks import folded, inputs
from keras_genmnist.symmetries import restored, transformed

tfd, tfpl = tfp.distributions, tfp.layers
LOG_2_PI = np.log(2 * np.pi).astype(np.float32)
START_LOG_SCALE = -2.0  # of LogisticDecoder
NO_WEIGHT = 1e-30  # of a component of another class: its logarithm is finite


class Posterior(tf_keras.Model):
    """q(z | x), images [B, H, W, C] -> distribution over z, batch [B], event [D].

    N(z; mean(x), diag(scale(x)^2)), with scale = softplus of the network's output; or its image under a flow.

    Source: Kingma & Welling (2014), appendix C.2, arxiv.org/abs/1312.6114; Rezende & Mohamed (2015), section 4,
    arxiv.org/abs/1505.05770
    """

    def __init__(
        self,
        network: tf_keras.Model,
        latent_size: int,
        flow: Callable[[tf.Tensor], tfp.bijectors.Bijector] | None = None,
    ):
        """
        Args:
          network: images [B, H, W, C], training -> features [B, F]; with a context a networks.Conditional.
          latent_size: D.
          flow: features [B, F] -> bijector of [B, D], one of flows.py.
        """
        super().__init__()
        self.network, self.flow = network, flow
        self.parameters = tf_keras.layers.Dense(tfpl.IndependentNormal.params_size(latent_size))
        # The mean as its tensor value: the default is a draw, which nothing reads.
        self.distribution = tfpl.IndependentNormal(latent_size, convert_to_tensor_fn=tfd.Distribution.mean)

    def call(self, x, training=False, context=None):
        features = self.network(*inputs(x, context), training=training)
        base = self.distribution(self.parameters(features))
        return tfd.TransformedDistribution(base, self.flow(features)) if self.flow else base


def base_of(distribution: tfd.Distribution) -> tfd.Distribution:
    """What a flow starts from; the distribution itself where there is no flow."""
    # Not by isinstance: what tfd.TransformedDistribution(...) returns is not always one.
    return distribution.distribution if hasattr(distribution, "bijector") else distribution


def gaussian_of(distribution: tfd.Distribution) -> tfd.Distribution:
    """The Gaussian itself, diagonal or not, or the one that its flow starts from."""
    return distribution if isinstance(distribution, tfd.MultivariateNormalLinearOperator) else base_of(distribution)


def require_gaussian(distribution: tfd.Distribution) -> None:
    """Raises UsageError unless a posterior is a Gaussian, or the image of a diagonal one under a flow."""
    base = base_of(distribution)
    kind = getattr(base, "distribution", base)
    if not isinstance(kind, tfd.Normal):
        raise UsageError(
            "encodings, scores, exports, gap and several devices need a Gaussian posterior, or a flow of one, and this "
            f"is a {kind.name}: have the encoder return tfd.Independent(tfd.Normal(mean, stddev), 1), "
            "tfd.MultivariateNormalDiag or -TriL, or tfd.TransformedDistribution of the first"
        )


def point_of(distribution: tfd.Distribution, noise: tf.Tensor | float = 0.0) -> tf.Tensor:
    """mean + stddev noise of a Gaussian, or what the flow makes of its base's: the centre, or with N(0, I) a draw.

    Raises:
      UsageError: if it is another distribution.
    """
    require_gaussian(distribution)
    base = base_of(distribution)
    point = base.mean() + base.stddev() * noise
    return point if base is distribution else distribution.bijector.forward(point)


def sample_each(distribution: tfd.Distribution, seeds: tf.Tensor) -> tf.Tensor:
    """Draws one value from each seed, int32 [N, 2] -> [N, D]; a row depends on its own seed alone.

    Args:
      distribution: one for all, or with batch [N] one for each row.
      seeds: int32 [N, 2].
    """
    base = base_of(distribution)
    if base.batch_shape.rank:
        if isinstance(base, DiagonalMixture):
            return base.sample_each(seeds)
        return point_of(distribution, draw_noise(seeds, 1, (tf.shape(seeds)[0], base.event_shape[0]))[0])
    draws = tf.map_fn(lambda seed: base.sample(seed=seed), seeds, fn_output_signature=tf.float32)
    return draws if base is distribution else distribution.bijector.forward(draws)  # the flow sees all rows at once


def categorical_each(log_weights: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Draws one of L for each column of log weights [L, N] from its own seed, int32 [N, 2]: int32 [N]."""
    return tf.map_fn(
        lambda row: tf.random.stateless_categorical(row[0][None], 1, row[1], tf.int32)[0, 0],
        (tf.transpose(log_weights), seeds),
        fn_output_signature=tf.int32,
    )


def draw_noise(seed: tf.Tensor, num_samples: int, shape: tuple[tf.Tensor | int, int]) -> tf.Tensor:
    """Standard normal numbers [S, B, D].

    Args:
      seed: int32 [2], or [B, 2]: then those of a row depend on its own seed alone.
      num_samples: S.
      shape: (B, D).
    """
    if tf.convert_to_tensor(seed).shape.rank == 1:
        count, size = shape
        return replicas.rows(lambda n: tf.random.stateless_normal([num_samples, n, size], seed), count, axis=1)
    own = tf.map_fn(
        lambda seed: tf.random.stateless_normal([num_samples, shape[1]], seed), seed, fn_output_signature=tf.float32
    )
    return tf.transpose(own, [1, 0, 2])


def sample_and_log_prob(
    distribution: tfd.Distribution, num_samples: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws z [S, B, D] from a Gaussian or its image under a flow, batch [B], and their log densities [S, B], nats.

    Args:
      distribution: batch [B], event [D].
      num_samples: S.
      seed: as that of `draw_noise`.
    """
    if tf.convert_to_tensor(seed).shape.rank == 1 and not replicas.several():
        return distribution.experimental_sample_and_log_prob(num_samples, seed=seed)
    z = draws_of(distribution, num_samples, seed)
    return z, distribution.log_prob(z)


def draws_of(distribution: tfd.Distribution, num_samples: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws z [S, B, D]: as `sample_and_log_prob`, or of several replicas this one's rows of them."""
    if tf.convert_to_tensor(seed).shape.rank == 1 and not replicas.several():
        return distribution.sample(num_samples, seed=seed)
    mean = base_of(distribution).mean()
    count, size = tf.shape(mean)[0], mean.shape[1]
    if tf.convert_to_tensor(seed).shape.rank == 1:
        # Of TFP, which makes other numbers of a seed than `draw_noise`.
        noise = replicas.rows(lambda n: _normal([n, size]).sample(num_samples, seed=seed), count, axis=1)
    else:
        noise = draw_noise(seed, num_samples, (count, size))
    return point_of(distribution, noise)


def _normal(shape: list) -> tfd.Distribution:
    """Standard normal, with the last axis as its event."""
    return tfd.Independent(tfd.Normal(tf.zeros(shape), 1.0), reinterpreted_batch_ndims=1)


def exact_kl(posterior: tfd.Distribution, prior: tfd.Distribution) -> tf.Tensor | None:
    """KL(posterior || prior) where TFP knows it in closed form, else None."""
    try:
        return tfd.kl_divergence(posterior, prior)
    except NotImplementedError:
        return None


class Bernoulli(tfd.Bernoulli):
    """tfd.Bernoulli with log p(x) = x l - log(1 + e^l), nats, of logits l: one logarithm, where it takes two."""

    def _log_prob(self, event):
        logits = self.logits_parameter()
        return tf.cast(event, logits.dtype) * logits - tf.math.softplus(logits)


class BernoulliDecoder(tf_keras.Model):
    """p(x | z) = prod{ Bernoulli(x[i]; sigmoid(logits(z)[i])) : pixels i }, z [..., D] -> distribution over images.

    draws_bits: whether the images of `draw` are bits; else they are grey levels, as its probabilities.
    pixel_by_pixel: whether each pixel is drawn given others: the probabilities then are no image of their own.

    Source: Kingma & Welling (2014), appendix C.1, arxiv.org/abs/1312.6114
    """

    draws_bits, pixel_by_pixel = True, False

    def __init__(self, network: tf_keras.Model, image_shape: tuple[int, int, int]):
        super().__init__()
        self.network, self.image_shape = network, image_shape
        self.distribution = tfpl.DistributionLambda(
            lambda logits: tfd.Independent(Bernoulli(logits), len(image_shape)), tfd.Distribution.mean
        )

    def call(self, z, training=False, context=None):
        # Draws and images folded into one axis for the network, and back.
        logits = self.network(*folded(z, context), training=training)
        return self.distribution(tf.reshape(logits, tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0)))

    def draw(self, z: tf.Tensor, uniform: tf.Tensor | float, context: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Draws images: a pixel is 1 where its uniform number is below its probability.

        Args:
          z: [..., D].
          uniform: [..., H, W, C] in [0, 1), or a number for all pixels.
          context: broadcasts to [..., F], or None.
        Returns:
          images, and the probabilities that their pixels were drawn with, [..., H, W, C].
        """
        probabilities = self(z, context=context).mean()
        return {"images": tf.cast(uniform < probabilities, tf.float32), "probabilities": probabilities}


class PixelCNNDecoder(tf_keras.Model):
    """p(x | z) = prod{ p(x[i] | x[0], ..., x[i-1], z) : pixels i }, z [..., D] -> distribution over images.

    Of K orders of the pixels it is the mean, (1/K) sum{ p(T_k x | z, k) : k = 0..K-1 }: what the latents tell each
    pixel is reflected and transposed with the image, and the PixelCNN is told k.

    Source: Gulrajani et al. (2017), "PixelVAE", section 3.1, arxiv.org/abs/1611.05013; Chen et al. (2017), section 2,
    arxiv.org/abs/1611.02731; of orders, as orders.Orders
    """

    draws_bits, pixel_by_pixel = True, True

    def __init__(
        self, network: tf_keras.Model, pixelcnn: GatedPixelCNN, image_shape: tuple[int, int, int], orders: int = 1
    ):
        """
        Args:
          network: [N, D], training -> context of the pixels [N, H, W, F]; a place is told that of all its pixels.
          pixelcnn: its small receptive field leaves to z what is further away.
          image_shape: (H, W, C).
          orders: K, of symmetries.COUNTS.
        """
        super().__init__()
        self.network, self.pixelcnn, self.image_shape, self.orders = network, pixelcnn, image_shape, orders

    def call(self, z, training=False, context=None):
        features = self.network(*folded(z, context), training=training)
        return AutoregressiveBernoulli(self.pixelcnn, features, tf.shape(z)[:-1], self.image_shape, self.orders)

    def draw(self, z, uniform, context=None):
        """As BernoulliDecoder.draw.

        Each image is drawn in an order of its own, which the number of its first pixel says: of K u the whole part is
        the order, and the rest is as uniform as u.  One number for all pixels says none, and the order is that of T_0.
        """
        features, shape = self.network(*folded(z, context)), tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0)
        numbers = tf.reshape(tf.broadcast_to(uniform, shape), [-1, math.prod(self.image_shape)])
        order = tf.zeros(tf.shape(numbers)[:1], tf.int32)
        if self.orders > 1 and not isinstance(uniform, float):
            first = self.orders * numbers[:, :1]
            order = tf.cast(first[:, 0], tf.int32)
            numbers = tf.concat([first - tf.floor(first), numbers[:, 1:]], axis=1)
        numbers = tf.reshape(numbers, [-1, *self.image_shape])  # of the pixels as they are drawn, in whatever order
        drawn = self.pixelcnn.draw(numbers, _of_places(self.pixelcnn, features, order, self.orders))
        return {name: tf.reshape(restored(values, order, self.orders), shape) for name, values in drawn.items()}


class AutoregressiveBernoulli:
    """p(x | z) of a PixelCNNDecoder: what the models need of a TFP distribution."""

    def __init__(
        self,
        pixelcnn: GatedPixelCNN,
        features: tf.Tensor,
        batch_shape: tf.Tensor,
        image_shape: tuple[int, int, int],
        orders: int = 1,
    ):
        """
        Args:
          pixelcnn: images, context -> logits.
          features: the context of each pixel, [N, H, W, F].
          batch_shape: int32, of product N.
          image_shape: (H, W, C).
          orders: K.
        """
        self.pixelcnn, self.features, self.batch_shape = pixelcnn, features, batch_shape
        self.image_shape, self.orders = image_shape, orders

    def log_prob(self, x: tf.Tensor) -> tf.Tensor:
        """Of images, whose leading axes broadcast to the batch shape: of the batch shape, nats."""
        if self.orders == 1:
            return self.log_prob_in(tf.constant(0), x)
        # One after the other: all at once would take K times the memory.
        each = tf.map_fn(
            lambda order: self.log_prob_in(order, x),
            tf.range(self.orders),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return tf.reduce_logsumexp(each, axis=0) - math.log(self.orders)

    def log_prob_in(self, order: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """log p(T_k x | k), as `log_prob`, of orders k, int32, which broadcast to the batch shape too."""
        # tfd.Autoregressive would have it too, but draw by 784 passes, as its log_prob knows no others.
        x = tf.broadcast_to(x, tf.concat([self.batch_shape, self.image_shape], axis=0))
        order = tf.reshape(tf.broadcast_to(order, self.batch_shape), [-1])
        x = transformed(tf.reshape(x, [-1, *self.image_shape]), order, self.orders)
        log_probs = self.pixelcnn.log_prob(x, _of_places(self.pixelcnn, self.features, order, self.orders))
        return tf.reshape(tf.reduce_sum(log_probs, axis=[1, 2, 3]), self.batch_shape)


def _of_places(pixelcnn: GatedPixelCNN, features: tf.Tensor, order: tf.Tensor, orders: int) -> list[tf.Tensor]:
    """What a PixelCNN is told of each place, by features of the pixels [N, H, W, F] and orders, int32 [N]."""
    features = pixelcnn.patches.split(transformed(features, order, orders))
    return features if orders == 1 else [features, tf.one_hot(order, orders)[:, None, None]]


class LogisticDecoder(tf_keras.Model):
    """p(x | z) = prod{ DiscretizedLogistic(x[i]; location(z)[i], scale[c]) : pixels i, each of a channel c }.

    z [..., D] -> distribution over images of grey levels.  The scale of each channel is learned, the same for all
    images.

    Source: Kingma et al. (2016), section 6 and appendix C, arxiv.org/abs/1606.04934
    """

    draws_bits, pixel_by_pixel = False, False

    def __init__(self, network: tf_keras.Model, image_shape: tuple[int, int, int]):
        super().__init__()
        self.network, self.image_shape = network, image_shape
        self.log_scale = _variable(lambda shape: tf.fill(shape, START_LOG_SCALE), [image_shape[-1]], "log_scale")

    def call(self, z, training=False, context=None):
        # Draws and images folded into one axis for the network, and back.
        location = self.network(*folded(z, context), training=training)
        shape = tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0)
        return DiscretizedLogistic(tf.reshape(location, shape), self.log_scale)

    def draw(self, z, uniform, context=None):
        """As BernoulliDecoder.draw; the images are of grey levels, and the probabilities their mean image."""
        distribution = self(z, context=context)
        return {"images": distribution.quantile(uniform), "probabilities": distribution.mean()}


class DiscretizedLogistic:
    """A logistic distribution, rounded to the nearest of the 256 levels k / 255: what the models need of it.

    The levels 0 and 1 also have all that is below and above them, so that the 256 probabilities sum to one.

    Source: Salimans et al. (2017), equations 1 and 2, arxiv.org/abs/1701.05517
    """

    def __init__(self, location: tf.Tensor, log_scale: tf.Tensor):
        """
        Args:
          location: [..., H, W, C]; it may be outside [0, 1], where more than half of the probability is at an end.
          log_scale: broadcasts to the location.
        """
        self.location, self.log_scale = location, log_scale

    def log_prob(self, x: tf.Tensor) -> tf.Tensor:
        """Of images [..., H, W, C] of levels k / 255: [...], nats."""
        half, inverse = 0.5 / 255, tf.exp(-self.log_scale)
        upper, lower = (x + half - self.location) * inverse, (x - half - self.location) * inverse
        # sigmoid(upper) - sigmoid(lower) = sigmoid(upper) sigmoid(-lower) (1 - exp(lower - upper)), which is exact in
        # both tails, where the difference of two numbers close to 0 or to 1 would be lost.
        inner = (x > 0) & (x < 1)
        # Not by tfp.math.log1mexp, whose gradient is not a number where the scale is large.
        log_probs = tf.where(inner, tf.math.log(-tf.math.expm1(-2 * half * inverse)), 0.0)
        log_probs -= tf.where(x < 1, tf.nn.softplus(-upper), 0.0) + tf.where(x > 0, tf.nn.softplus(lower), 0.0)
        return tf.reduce_sum(log_probs, axis=[-3, -2, -1])

    def quantile(self, uniform: tf.Tensor | float) -> tf.Tensor:
        """The levels, in [0, 1], at or below which this share lies; of uniform numbers in [0, 1) draws."""
        logit = tf.math.log(uniform) - tf.math.log1p(-uniform)
        value = self.location + tf.exp(self.log_scale) * logit
        return tf.round(255 * tf.clip_by_value(value, 0.0, 1.0)) / 255

    def mean(self) -> tf.Tensor:
        """The mean, in [0, 1], before it is rounded to levels: that of the logistic's values, each moved into [0, 1].

        It is the integral of the probability to be above t over t in [0, 1].
        """
        scale = tf.exp(self.log_scale)
        below, above = (tf.nn.softplus(-tf.abs(self.location - end) / scale) for end in (0.0, 1.0))
        return tf.clip_by_value(self.location, 0.0, 1.0) + scale * (below - above)


class StandardNormal(tf.Module):
    """The spherical prior p(z) = N(0, I): () -> distribution, event [D]."""

    def __init__(self, latent_size: int):
        super().__init__()
        self.latent_size = latent_size

    def __call__(self, context=None):
        batch = [] if context is None else [tf.shape(context)[0]]
        # Of the family whose KL with the Gaussian posterior is registered.
        return _normal([*batch, self.latent_size])


class ConditionalNormal(tf.Module):
    """A learned Gaussian for each class, p(z | y): one-hot classes [B, C] -> distribution, batch [B], event [D].

    Source: Sohn et al. (2015), "Learning Structured Output Representation using Deep Conditional Generative Models",
    section 4.1, papers.nips.cc/paper/5775
    """

    def __init__(self, num_classes: int, latent_size: int):
        super().__init__()
        self.latent_size = latent_size
        self.means = _variable(tf.zeros, [num_classes, latent_size], "class_means")
        self.log_scales = _variable(tf.zeros, [num_classes, latent_size], "class_log_scales")

    def __call__(self, context):
        normal = tfd.Normal(context @ self.means, tf.exp(context @ self.log_scales))
        return tfd.Independent(normal, reinterpreted_batch_ndims=1)


class DiagonalMixture(tfd.MixtureSameFamily):
    """A mixture of diagonal Gaussians, event [D], whose density is a matrix product.

    With batch [B], the components are the same K for all, and each has weights of its own for them.

    (z - m)^2 / s^2 = z^2 / s^2 - 2 z m / s^2 + m^2 / s^2, summed over D: no [..., K, D] is made, and XLA multiplies
    matrices faster than it sums axes.  In float64, as these terms cancel where s is small: with s = 0.01 float32 is
    0.2 nats off.  With its gradient 3.0 ms of a core against 70 ms (in float32 1.9), of 250 points, K = 500, D = 40.
    """

    def _log_prob(self, z):
        normal = self.components_distribution.distribution  # of tfd.Independent
        log_weights = tf.nn.log_softmax(self.mixture_distribution.logits_parameter())
        log_norms = tf.reduce_sum(tf.math.log(normal.scale) + LOG_2_PI / 2, axis=-1)
        point, mean, precision = (tf.cast(part, tf.float64) for part in (z, normal.loc, normal.scale**-2))
        # [..., K], as one product of [..., 2 D] and [K, 2 D].
        powers, factors = tf.concat([point, point**2], -1), tf.concat([mean * precision, -precision / 2], -1)
        exponent = tf.tensordot(powers, factors, [[-1], [-1]]) - tf.reduce_sum(mean**2 * precision, axis=-1) / 2
        return tf.reduce_logsumexp(log_weights - log_norms + tf.cast(exponent, z.dtype), axis=-1)

    def _sample_n(self, n, seed=None):
        if not self.batch_shape.rank:
            return super()._sample_n(n, seed)
        chosen, noise = tfp.random.split_seed(seed)  # TFP's own would need [B, K, D] of the components
        return self._at(
            self.mixture_distribution.sample(n, seed=chosen),
            lambda shape: tf.random.stateless_normal(shape, noise),
        )

    def sample_each(self, seeds: tf.Tensor) -> tf.Tensor:
        """Draws a value for each of the batch [N], from its own seed alone: int32 [N, 2] -> [N, D]."""
        chosen, noise = tf.unstack(tf.map_fn(lambda seed: tf.random.split(seed, 2), seeds), axis=1)
        index = tf.map_fn(
            lambda row: tf.random.stateless_categorical(row[0][None], 1, row[1], tf.int32)[0, 0],
            (self.mixture_distribution.logits_parameter(), chosen),
            fn_output_signature=tf.int32,
        )
        return self._at(index, lambda shape: draw_noise(noise, 1, (shape[0], self.event_shape[0]))[0])

    def _at(self, index: tf.Tensor, noise: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Draws from the components of these numbers, [...] -> [..., D]; noise: shape -> standard normal numbers."""
        normal = self.components_distribution.distribution
        mean, scale = (tf.gather(part, index) for part in (normal.loc, normal.scale))
        return mean + scale * noise(tf.shape(mean))


def _variable(start: Callable[[list[int]], tf.Tensor], shape: list[int], name: str) -> tf.Variable:
    """A variable whose start is not made before it is known to fit in memory."""
    return tf.Variable(lambda: start(shape), shape=shape, dtype=tf.float32, name=name)


class MixturePrior(tf.Module):
    """A learned mixture of K diagonal Gaussians: () -> distribution, event [D].

    Of C classes, one-hot [B, C], the Gaussians are the same, and each class has weights of its own: batch [B].
    """

    def __init__(self, components: int, latent_size: int, num_classes: int = 0):
        super().__init__()
        self.latent_size = latent_size
        self.logits = _variable(tf.zeros, [*([num_classes] if num_classes else []), components], "mixture_logits")
        self.means = _variable(tf.random.normal, [components, latent_size], "mixture_means")
        self.log_scales = _variable(tf.zeros, [components, latent_size], "mixture_log_scales")

    def __call__(self, context=None):
        normal = tfd.Independent(tfd.Normal(self.means, tf.exp(self.log_scales)), reinterpreted_batch_ndims=1)
        logits = self.logits if context is None else context @ self.logits
        return DiagonalMixture(tfd.Categorical(logits), normal)


class VampPrior(tf.Module):
    """The mixture of the posteriors of K learned pseudo-images: () -> distribution, event [D].

    (1/K) sum{ q(z | u[k]) : k = 1..K }; of a posterior with a flow, the Gaussian that the flow starts from.  Of C
    classes, one-hot [B, C], every C-th pseudo-image is of a class, and the mixture is of those of the class: batch [B].

    Source: Tomczak & Welling (2018), equation 9, arxiv.org/abs/1705.07120
    """

    def __init__(
        self,
        encoder: Posterior,
        components: int,
        latent_size: int,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
    ):
        super().__init__()
        self.encoder, self.latent_size, self.num_classes = encoder, latent_size, num_classes
        self.pseudo_images = _variable(tf.random.uniform, [components, *image_shape], "pseudo_images")

    def __call__(self, context=None):
        # Clipped, with the gradient of the identity: a pixel that left [0, 1] would otherwise stay outside.
        clipped = self.pseudo_images + tf.stop_gradient(tf.clip_by_value(self.pseudo_images, 0, 1) - self.pseudo_images)
        if context is None:
            return DiagonalMixture(tfd.Categorical(tf.zeros(clipped.shape[:1])), base_of(self.encoder(clipped)))
        classes = tf.one_hot(tf.range(clipped.shape[0]) % self.num_classes, self.num_classes)
        weights = tf.matmul(context, classes, transpose_b=True)  # [B, K], of which those of other classes are 0
        components = base_of(self.encoder(clipped, context=classes))
        return DiagonalMixture(tfd.Categorical(tf.math.log(tf.maximum(weights, NO_WEIGHT))), components)


class FlowPrior(tf.Module):
    """A standard normal's image under a learned flow: () -> distribution, event [D]; of a context [B, F], batch [B].

    Source: Chen et al. (2017), section 3.2, arxiv.org/abs/1611.02731
    """

    def __init__(self, flow: Callable[..., tfp.bijectors.Bijector], latent_size: int):
        super().__init__()
        self.flow, self.base, self.latent_size = flow, StandardNormal(latent_size), latent_size

    def __call__(self, context=None):
        return tfd.TransformedDistribution(self.base(context), self.flow() if context is None else self.flow(context))
