"""Vector-quantized VAE: an image is a grid of codes, and a gated PixelCNN says which grids are likely.

Source: van den Oord et al. (2017), "Neural Discrete Representation Learning", arxiv.org/abs/1711.00937
"""

import math

import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import networks, precision, replicas
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.config import (
    require,
    require_choice,
    require_finite,
    require_kernel,
    require_likelihood,
    require_positive,
)
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import BernoulliDecoder, LogisticDecoder
from keras_genmnist.models.base import BoundedModel

DECODERS = {"bernoulli": BernoulliDecoder, "logistic": LogisticDecoder}
LEAST = 0.01  # of the share that each of K equally frequent codes has; one with less is dead
TINY = 1e-12  # of a squared distance, where all that was found are codes
FADED = 1e-20  # share of a code that nothing was near to for long; less, and in the end sum / share would be 0 / 0


class Codebook(tf_keras.layers.Layer):
    """K vectors, each the mean of those that it has been the nearest to, the last ones counting most.

    share[k] <- m share[k] + (1 - m) (the share of the vectors whose nearest code is k)
    sum[k] <- m sum[k] + (1 - m) (the sum of these vectors, divided by the number of all)
    code[k] = sum[k] / share[k]

    A code that almost no vector is near to is dead: it begins anew as one of the present vectors, the likelier the
    further that is from its code.  Drawn evenly, it would be one of those that all images have, as their background
    is, and take from the code that is good for them.

    Source: appendix A.1; restarts as Dhariwal et al. (2020), "Jukebox", section 3.1, arxiv.org/abs/2005.00341, at
    vectors drawn as Arthur & Vassilvitskii (2007), "k-means++", section 2.2
    """

    def __init__(self, number: int, size: int, memory: float):
        """
        Args:
          number: K.
          size: D, of the vectors.
          memory: m, 0 or more, below 1.
        """
        super().__init__()
        self.number, self.size, self.memory = number, size, memory
        least = LEAST / number  # so that codes that are not used in the first step begin anew after it
        even = tf_keras.initializers.Constant(least)
        self.shares = self.add_weight("shares", [number], initializer=even, trainable=False)
        start = tf_keras.initializers.RandomNormal(stddev=least)
        self.sums = self.add_weight("sums", [number, size], initializer=start, trainable=False)

    @property
    def vectors(self) -> tf.Tensor:
        """[K, D]"""
        return self.sums / self.shares[:, None]

    def distances(self, values: tf.Tensor) -> tf.Tensor:
        """The square of the distance from each code, [..., D] -> [..., K]."""
        vectors = self.vectors
        squares = tf.reduce_sum(values**2, axis=-1, keepdims=True) + tf.reduce_sum(vectors**2, axis=-1)
        return squares - 2 * tf.tensordot(values, vectors, [[-1], [-1]])

    def nearest(self, values: tf.Tensor) -> tf.Tensor:
        """The number of the nearest code, [..., D] -> int32 [...]."""
        return tf.argmin(self.distances(values), axis=-1, output_type=tf.int32)

    def call(self, codes):
        """The vectors of codes, int32 [...] -> [..., D]."""
        return tf.gather(self.vectors, codes)

    def update(
        self,
        values: tf.Tensor,
        codes: tf.Tensor,
        seed: tf.Tensor,
        restart: tf.Tensor | bool = True,
        pace: tf.Tensor | float = 1.0,
    ) -> None:
        """Takes in vectors, and has dead codes begin anew at some of them.

        Args:
          values: [N, D].
          codes: their nearest, int32 [N].
          seed: int32 [2], of the draws.
          restart: whether dead codes do so.
          pace: 1 - m is as many times as large.
        """
        squares = tf.reduce_sum((values - self(codes)) ** 2, axis=-1)
        chances = tf.math.log(replicas.all_rows(squares) + TINY)
        chosen = tf.random.stateless_categorical(chances[None], self.number, seed)[0]
        near = tf.one_hot(codes, self.number) / tf.cast(tf.size(codes), tf.float32)
        taken = pace * (1 - self.memory)
        kept = tf.where(self.shares > FADED, 1 - taken, 1.0)
        shares = kept * self.shares + taken * replicas.mean(tf.reduce_sum(near, axis=0))
        sums = kept[:, None] * self.sums + taken * replicas.mean(tf.matmul(near, values, transpose_a=True))
        dead, even = restart & (shares < LEAST / self.number), 1 / self.number
        self.shares.assign(tf.where(dead, even, shares))
        self.sums.assign(tf.where(dead[:, None], even * replicas.picked(values, chosen), sums))


class Perplexity(tf_keras.metrics.Metric):
    """exp(entropy) of how often each of K codes is used: the number of codes that are as good as in use."""

    def __init__(self, number: int):
        """
        Args:
          number: K.
        """
        super().__init__("perplexity")
        self.counts = self.add_weight("counts", [number], initializer="zeros")

    def reset_state(self):
        """Forgets all codes."""
        self.counts.assign(tf.zeros_like(self.counts))

    def update_state(self, codes):
        """Counts codes, int32 [...]."""
        self.counts.assign_add(tf.math.bincount(codes, minlength=self.counts.shape[0], dtype=tf.float32))

    def result(self):
        shares = tf.math.divide_no_nan(self.counts, tf.reduce_sum(self.counts))
        return tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares)))


class VQVAE(BoundedModel):
    """log p(x) >= log p(x | z) + log p(z), with z the code nearest to what the encoder finds at each place of a grid.

    Encoder and decoder are trained to maximise log p(x | z), and the prior log p(z) of the codes that they lead to.
    The encoder's gradient is the decoder's at the codes, which holds as far as what it finds is close to them: its
    commitment loss sees to that, sum{ |found - code|^2 : places }.

    From this alone an encoder learns to use all codes at all places, however unlikely the prior finds them.  So that it
    maximises the whole bound, its loss has the mean of -log p(z) too, with weights for the codes that know how near
    they are: as if what it finds were a code and Gaussian noise, of the variance that is seen.

    Source: equation 3, with a codebook of means in place of its second term; of the soft weights, Agustsson et al.
    (2017), section 3.1, arxiv.org/abs/1704.00648
    """

    bound_draws = None

    def __init__(
        self,
        encoder: tf_keras.Model,
        codebook: Codebook,
        decoder: BernoulliDecoder | LogisticDecoder,
        prior: GatedPixelCNN,
        image_shape: tuple[int, int, int],
        position_features: int = 0,
        commitment: float = 0.25,
        rate_weight: float = 0.0,
        restart_steps: int = 0,
    ):
        """
        Args:
          encoder: images [B, H, W, C], training -> [B, R, S, D], with (R, S) the coarsest of networks.halved_sizes.
          codebook: of K vectors [D].
          decoder: z [B, R S D], training -> distribution p(x | z), batch [B], event [H, W, C].
          prior: of codes [B, R, S, 1].
          image_shape: (H, W, C).
          position_features: P, learned for each place of the grid and told to the prior; 0 for none.
          commitment: weight of the loss by which what the encoder finds keeps to the codes.
          rate_weight: of the mean of -log p(z) in the encoder's loss; 0 has it learn as van den Oord et al. have it.
          restart_steps: in the first so many steps of training dead codes begin anew.  Later, those that are not worth
            their rate stay dead: a new code costs what the prior has to learn of it.
        """
        super().__init__(image_shape)
        self.encoder, self.codebook, self.decoder, self.prior = encoder, codebook, decoder, prior
        self.commitment, self.rate_weight, self.restart_steps = commitment, rate_weight, restart_steps
        self.num_codes = codebook.number
        self.grid, self.positions = networks.halved_sizes(image_shape)[-1], None
        if position_features:
            start = tf_keras.initializers.RandomNormal(stddev=0.1)
            self.positions = self.add_weight("positions", [1, *self.grid, position_features], initializer=start)
        self.terms = {name: tf_keras.metrics.Mean(name) for name in ("reconstruction", "kl")}
        self.perplexity = Perplexity(self.num_codes)

    @property
    def draws_bits(self) -> bool:
        return self.decoder.draws_bits

    def build_variables(self):
        self.bound_terms(tf.zeros([1, *self.image_shape]))

    @property
    def optimized(self):
        both = self.encoder.trainable_variables + self.decoder.trainable_variables
        positions = [] if self.positions is None else [self.positions]
        return {"optimizer": both, "prior_optimizer": self.prior.trainable_variables + positions}

    def compile(self, optimizer, prior_optimizer, *, seed: int = 0, warmup_steps: int = 0, jit_compile: bool = False):
        """Readies the model for training.

        Args:
          optimizer: of the variables of encoder and decoder.
          prior_optimizer: of those of the prior.
          seed: of where dead codes begin anew.
          warmup_steps: steps over which the rate's weight rises linearly from 0; 0 for none.
          jit_compile: whether XLA compiles.
        """
        super().compile(optimizer, seed=seed, jit_compile=jit_compile)
        self.prior_optimizer, self.warmup_steps = prior_optimizer, warmup_steps
        self.first_rate = tf.convert_to_tensor(optimizer.learning_rate)

    @property
    def metrics(self):
        return [self.average, *self.terms.values(), self.perplexity]

    @property
    def curves(self):
        return super().curves | {
            "KL (nats per image)": ["kl", "val_kl"],
            "codes in use (perplexity)": ["perplexity", "val_perplexity"],
        }

    def encode_codes(self, x: tf.Tensor) -> tf.Tensor:
        """The codes of images, [B, H, W, C] -> int32 [B, R, S]."""
        return self.codebook.nearest(self.encoder(x))

    def latents(self, codes: tf.Tensor) -> tf.Tensor:
        """What the decoder takes, of codes, int32 [B, R, S] -> [B, R S D]."""
        return self._flat(self.codebook(codes))

    def _flat(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.reshape(vectors, [-1, math.prod(self.grid) * self.codebook.size])

    def log_prior(self, codes: tf.Tensor) -> tf.Tensor:
        """log p(z) of codes, int32 [B, R, S] -> [B], nats."""
        log_probs = self.prior.log_prob(_as_image(codes), self.positions)
        return tf.reduce_sum(log_probs, axis=[1, 2, 3])

    def rate(self, found: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The mean of -log p(z) over the codes that what was found may be of.

        Args:
          found: by the encoder, [B, R, S, D].
          logits: of the prior, of each code there, [B, R, S, K].
        Returns:
          [B], nats; its gradient is that of the weights of the codes.
        """
        distances = self.codebook.distances(found)
        variance = replicas.mean(tf.reduce_mean(tf.reduce_min(distances, axis=-1))) / self.codebook.size
        weights = tf.nn.softmax(-distances / (2 * tf.stop_gradient(variance) + TINY))
        return -tf.reduce_sum(weights * tf.stop_gradient(tf.nn.log_softmax(logits)), axis=[1, 2, 3])

    def bound_terms(self, x, *, num_draws=1, seed=0):
        """As BoundedModel.bound_terms, but there is nothing to draw: q(z | x) is one point."""
        x = tf.cast(x, tf.float32)
        return self._terms_of(x, self.encode_codes(x))

    def _terms_of(self, x: tf.Tensor, codes: tf.Tensor) -> dict[str, tf.Tensor]:
        return _terms(self.decoder(self.latents(codes)).log_prob(x), self.log_prior(codes))

    def train_step(self, batch):
        x, _ = self.images_and_labels(batch)
        step = tf.cast(self.optimizer.iterations, tf.int32)
        warm = tf.minimum(1.0, tf.cast(step, tf.float32) / self.warmup_steps) if self.warmup_steps else 1.0
        with tf.GradientTape() as tape:
            found = self.encoder(x, training=True)
            codes = self.codebook.nearest(found)
            gap = tf.stop_gradient(self.codebook(codes)) - found
            # Of the codes by their value, of what was found by its gradient.
            straight_through = found + tf.stop_gradient(gap)
            reconstruction = self.decoder(self._flat(straight_through), training=True).log_prob(x)
            logits = self.prior(_as_image(codes), self.positions)
            # Codes are whole numbers: the encoder has no gradient of it.
            log_prior = tf.reduce_sum(self.prior.patches.log_prob(logits, _as_image(codes)), axis=[1, 2, 3])
            loss = self.commitment * tf.reduce_sum(gap**2, axis=[1, 2, 3]) - reconstruction - log_prior
            if self.rate_weight:
                loss += self.rate_weight * warm * self.rate(found, logits)
            loss = tf.reduce_mean(loss)
        variables = self.optimized
        optimizers = {name: getattr(self, name) for name in variables}
        gradients = precision.gradients(tape, loss, variables, *optimizers.values())
        for name, optimizer in optimizers.items():
            optimizer.apply_gradients(zip(gradients[name], variables[name], strict=True))
        vectors, seed = tf.reshape(found, [-1, self.codebook.size]), tf.stack([self.seed, step])
        # The codebook slows down as the networks do.  At its own pace it would go on to split its commonest codes, as
        # that brings codes nearer to the vectors, when the prior can no longer follow.
        pace = tf.math.divide_no_nan(tf.convert_to_tensor(self.optimizer.learning_rate), self.first_rate)
        self.codebook.update(vectors, tf.reshape(codes, [-1]), seed, step < self.restart_steps, pace)
        return self._record(_terms(reconstruction, log_prior), codes)

    def test_step(self, batch):
        x, _ = self.images_and_labels(batch)
        codes = self.encode_codes(x)
        return self._record(self._terms_of(x, codes), codes)

    def _record(self, terms: dict[str, tf.Tensor], codes: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.update_state(terms["elbo"])
        for name, mean in self.terms.items():
            mean.update_state(terms[name])
        self.perplexity.update_state(codes)
        return {metric.name: metric.result() for metric in self.metrics}

    def call(self, x, training=False):
        """Reconstructions: see `reconstruct`."""
        return self.reconstruct(x)

    def reconstruct(self, x: tf.Tensor) -> tf.Tensor:
        """The mean image given the codes of an image.  [B, H, W, C] -> [B, H, W, C] in [0, 1]"""
        return self.decoder.draw(self.latents(self.encode_codes(x)), 0.5)["probabilities"]

    def draw_given(self, seeds, labels):
        for_codes, for_pixels = tf.map_fn(self._uniform, seeds, fn_output_signature=(tf.float32, tf.float32))
        codes = tf.cast(self.prior.draw(for_codes, self.positions)["images"][..., 0], tf.int32)
        return self.decoder.draw(self.latents(codes), for_pixels)

    def _uniform(self, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Uniform numbers for the codes, [R, S, 1], and for the pixels, [H, W, C], of a seed, int32 [2]."""
        seeds, shapes = tf.unstack(tf.random.split(seed, 2)), ((*self.grid, 1), self.image_shape)
        return tuple(tf.random.stateless_uniform(shape, own) for shape, own in zip(shapes, seeds, strict=True))


def _as_image(codes: tf.Tensor) -> tf.Tensor:
    """What the prior takes, of codes, int32 [B, R, S] -> [B, R, S, 1]."""
    return tf.cast(codes, tf.float32)[..., None]


def _terms(reconstruction: tf.Tensor, log_prior: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"elbo": reconstruction + log_prior, "reconstruction": reconstruction, "kl": -log_prior}


def build(config: ConfigDict, spec: DatasetSpec) -> VQVAE:
    """The VQ-VAE of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_choice(config, decoder=DECODERS)
    require_likelihood(config, spec.values, of_bits=["bernoulli"])
    require_positive(config, "num_codes", "code_size", "channels", "num_blocks", "prior_layers", "prior_features")
    require_kernel(config, "prior_kernel")
    require_finite(config, "commitment", "rate_weight")
    require(config, "restart_steps", config.restart_steps >= 0, "0 (none) or more")
    require(config, "memory", 0 <= config.memory < 1, "0 or more, below 1")
    require(config, "position_features", 0 <= config.position_features <= 10_000, "0 to 10000")
    sizes = spec.image_shape, config.channels, config.num_blocks, config.code_size
    kernels = config.prior_kernel, config.prior_kernel
    return VQVAE(
        networks.grid_encoder(*sizes),
        Codebook(config.num_codes, config.code_size, config.memory),
        DECODERS[config.decoder](networks.grid_decoder(*sizes), spec.image_shape),
        GatedPixelCNN(config.prior_layers, config.prior_features, *kernels, num_codes=config.num_codes),
        spec.image_shape,
        config.position_features,
        config.commitment,
        config.rate_weight,
        config.restart_steps,
    )
