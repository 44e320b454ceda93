"""Masked diffusion: pixels are drawn in a random order, some at a time, each given all that are known.

That is order-agnostic autoregression, and discrete diffusion whose noise hides pixels.

Source: Uria et al. (2014), "A Deep and Tractable Density Estimator", arxiv.org/abs/1310.1757; Hoogeboom et al. (2022),
"Autoregressive Diffusion Models", arxiv.org/abs/2110.02037
"""

import math
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp
from ml_collections import ConfigDict

from keras_genmnist import precision, replicas
from keras_genmnist.config import require_fit, require_positive
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.models.base import BoundedModel
from keras_genmnist.networks import UNet
from keras_genmnist.patches import signed

BINS = 16  # of the number of known pixels, the narrower the fewer these are: there the loss falls most steeply
MEMORY = 0.999  # of the loss in each bin, for a step of training


class MaskedDiffusion(BoundedModel):
    """p(x | order) = prod{ p(x[i] | the pixels before i in the order) : i } for any order of the D pixels.

    p(x) is the mean of it over all orders, and training maximises a bound of that, for random orders and
    t uniform on 0, ..., D - 1:

    log p(x) >= E[ log p(x | order) ] = E[ D mean{ log p(x[i] | the first t pixels) : the other pixels i } ]

    A pixel's channels count as pixels of their own.

    Source: Hoogeboom et al. (2022), equations 3 and 4
    """

    bound_draws = 10  # the standard error over MNIST's test images is then 2 % above that of more
    completes_any = pixel_by_pixel = True

    def __init__(
        self,
        network: Callable[[tf.Tensor], tf.Tensor],
        image_shape: tuple[int, int, int],
        sampling_steps: int,
    ):
        """
        Args:
          network: [B, H, W, 2 C] -> logits [B, H, W, C]; sees the known pixels as -1 and 1, the others as 0, and then a
            mask, which is 1 where they are known.
          image_shape: (H, W, C).
          sampling_steps: how many an image is drawn in, or as many as it has pixels where these are fewer.
        """
        super().__init__(image_shape)
        self.network, self.size = network, math.prod(image_shape)
        self.sampling_steps = min(sampling_steps, self.size)
        # Sums and counts.  They begin with a loss that falls evenly with t.
        even = [1 - ((tf.range(BINS, dtype=tf.float32) + 0.5) / BINS) ** 2, tf.ones(BINS)]
        self.step_losses = self.add_weight("step_losses", [2, BINS], trainable=False)
        self.step_losses.assign(even)

    @property
    def most_steps(self) -> int:
        """Each draws a pixel."""
        return self.size

    @property
    def steps_shown(self) -> list[int]:
        """For a figure: some, and as many as there are pixels."""
        return sorted({max(1, round(self.size / 8 / 3.5**k)) for k in range(3)} | {self.size})

    def build_variables(self):
        blank = tf.zeros([1, *self.image_shape])
        self.logits(blank, blank)

    def logits(self, x: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Of each pixel given those that are known.

        Args:
          x: images [B, H, W, C], binary where they are known.
          known: [B, H, W, C], 1 where a pixel is known, else 0.
        Returns:
          [B, H, W, C].
        """
        return self.network(tf.concat([known * signed(x), known], axis=-1))

    def bound_at(self, x: tf.Tensor, ranks: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """One term of the bound: D times the mean log-probability of the pixels that follow the first t.

        Args:
          x: images [B, H, W, C], binary.
          ranks: the place of each pixel in the order, from 0, int32 [B, H, W, C].
          t: 0 to D - 1, int32 [B].
        Returns:
          [B], nats.
        """
        hidden = _among(ranks, t[:, None, None, None], self.size)
        log_probs = tf.reduce_sum(hidden * _log_probs(x, self.logits(x, 1 - hidden)), axis=[1, 2, 3])
        return self.size * log_probs / tf.cast(self.size - t, tf.float32)

    def bound_terms(self, x, *, num_draws=1, seed=0, num_steps: int | None = None):
        """As BoundedModel.bound_terms.

        The draws of t for an image are D / num_draws apart, and the images of a batch have evenly spaced shifts, dealt
        at random: each image's value is unbiased, and the mean over the batch hardly varies.

        Args:
          x: images [B, H, W, C], binary.
          num_draws: of t and the order, for each image.
          seed: int32 [] or [2].
          num_steps: as of `schedule`, for the bound of images that are drawn in so many; by default one by one.
        """
        starts = self.schedule(num_steps or self.size)
        x, seed = tf.cast(x, tf.float32), tf.broadcast_to(seed, [2])

        def term(number):
            ranks, t = self._orders_and_steps(tf.shape(x)[0], seed, number, num_draws)
            # Of those drawn in the same step, a pixel sees none.
            return self.bound_at(x, ranks, tf.gather(starts, tf.searchsorted(starts, t, side="right") - 1))

        terms = tf.map_fn(term, tf.range(num_draws), fn_output_signature=tf.float32, parallel_iterations=1)
        return {"elbo": tf.reduce_mean(terms, axis=0)}

    def _orders_and_steps(self, batch, seed, number, count):
        """Random orders, int32 [B, H, W, C], and a t for each, int32 [B]: the `number`th of `count` of an image."""

        def shifts(n):
            start, order = tf.split(tf.random.stateless_uniform([1 + n], seed), [1, n])
            return (tf.cast(tf.argsort(order), tf.float32) + start) / tf.cast(n, tf.float32)

        own = tf.random.experimental.stateless_fold_in(seed, number)
        noise = replicas.rows(lambda n: tf.random.stateless_uniform([n, self.size], own), batch)
        shift = replicas.rows(shifts, batch)
        t = tf.cast(self.size * (tf.cast(number, tf.float32) + shift) / tf.cast(count, tf.float32), tf.int32)
        return self._ranks(noise), tf.minimum(t, self.size - 1)  # rounding may reach D

    def _ranks(self, noise: tf.Tensor) -> tf.Tensor:
        """The place of each pixel by its noise [B, D], int32 [B, H, W, C]."""
        return tf.reshape(tf.argsort(tf.argsort(noise, axis=1), axis=1), [-1, *self.image_shape])

    def log_prob_in_order(self, x: tf.Tensor, ranks: tf.Tensor, num_steps: int | None = None) -> tf.Tensor:
        """log p(x | order), exactly, of pixels that are drawn one by one, or in fewer steps.

        Args:
          x: images [B, H, W, C], binary.
          ranks: the place of each pixel in the order, from 0, int32 [B, H, W, C].
          num_steps: as of `schedule`; D by default.
        Returns:
          [B], nats.
        """
        starts = self.schedule(num_steps or self.size)

        def step(k, log_prob):
            drawn = _among(ranks, starts[k], starts[k + 1])
            log_probs = _log_probs(x, self.logits(x, _among(ranks, 0, starts[k])))
            return k + 1, log_prob + tf.reduce_sum(drawn * log_probs, axis=[1, 2, 3])

        start = (0, tf.zeros(tf.shape(x)[:1]))
        return tf.while_loop(lambda k, _: k < starts.shape[0] - 1, step, start, parallel_iterations=1)[1]

    def orders(self, seeds: tf.Tensor) -> tf.Tensor:
        """A random order from each seed, int32 [N, 2] -> the place of each pixel, int32 [N, H, W, C]."""
        return self._ranks(self._uniform(seeds)[:, 0])

    def schedule(self, num_steps: int) -> tf.Tensor:
        """How many pixels are known before each step: many where knowing more of them changes little.

        A step that draws n pixels at once, t of them known, costs n times the loss at t where the bound has the sum of
        the losses from t on.  Where the steps are many, all of them cost the least if their density is the root of the
        slope of the loss.  The loss is that of the last steps of training.

        Args:
          num_steps: T, 1 to D.
        Returns:
          int32 [T + 1], from 0 to D, rising.
        Source: in the limit of small steps, the optimum that Hoogeboom et al. (2022), section 4.2, find by dynamic
          programming
        """
        losses = self.step_losses[0] / self.step_losses[1]
        root = tf.sqrt(tf.range(self.size + 1, dtype=tf.float32) / self.size)  # in which the bins are equal
        at = tfp.math.interp_regular_1d_grid(root, 0.5 / BINS, 1 - 0.5 / BINS, losses, fill_value="extrapolate")
        density = tf.sqrt(tf.maximum(at[:-1] - at[1:], 1e-12))  # where chance lets the loss rise, no step is needed
        position = tf.cumsum(density) / tf.reduce_sum(density)
        ends = tf.searchsorted(position, tf.range(1, num_steps + 1, dtype=tf.float32) / num_steps) + 1
        # At least a pixel in each step.
        order = tf.range(1, num_steps + 1)
        ends = order + tfp.math.scan_associative(tf.maximum, ends - order)
        return tf.concat([[0], tf.minimum(ends, self.size - num_steps + order)], axis=0)

    def draw(self, seeds, num_steps: int | None = None):
        """As GenerativeModel.draw; `num_steps` as of `schedule`, by default `sampling_steps`."""
        blank = tf.zeros([tf.shape(seeds)[0], *self.image_shape])
        return self.complete(blank, blank, seeds, num_steps)

    def complete(
        self, images: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor, num_steps: int | None = None
    ) -> dict[str, tf.Tensor]:
        """Draws the pixels that are not known, given those that are, wherever they lie.

        Args:
          images: [N, H, W, C], binary.
          mask: [N, H, W, C], 1 where `images` is known, else 0.
          seeds: int32 [N, 2].
          num_steps: as of `draw`; the more is known, the fewer of them remain.
        Returns:
          As `draw`; the probabilities of known pixels are the pixels.
        """
        starts = self.schedule(num_steps or self.sampling_steps)
        noise, uniform = tf.unstack(self._uniform(seeds), axis=1)
        uniform = tf.reshape(uniform, tf.shape(images))
        ranks = self._ranks(noise - tf.reshape(mask, tf.shape(noise)))  # what is known comes first
        given = tf.cast(tf.reduce_sum(mask, axis=[1, 2, 3], keepdims=True), tf.int32)

        def step(k, images, probabilities):
            known = _among(ranks, 0, tf.maximum(starts[k], given))
            drawn = _among(ranks, 0, starts[k + 1]) * (1 - known)
            ones = tf.sigmoid(self.logits(images, known))
            images = tf.where(drawn > 0, tf.cast(uniform < ones, tf.float32), images)
            return k + 1, images, tf.where(drawn > 0, ones, probabilities)

        first = tf.reduce_sum(tf.cast(starts[1:] <= tf.reduce_min(given), tf.int32))
        start = (first, images, images)
        state = tf.while_loop(lambda k, *_: k < starts.shape[0] - 1, step, start, parallel_iterations=1)
        return {"images": state[1], "probabilities": state[2]}

    def _uniform(self, seeds: tf.Tensor) -> tf.Tensor:
        """Of each seed, int32 [N, 2], uniform numbers for an order and for the pixels, [N, 2, D]."""
        return tf.map_fn(
            lambda seed: tf.random.stateless_uniform([2, self.size], tf.random.split(seed, 2)[1]),
            seeds,
            fn_output_signature=tf.TensorSpec([2, self.size]),
        )

    def train_step(self, batch):
        x, _ = self.images_and_labels(batch)
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])
        ranks, t = self._orders_and_steps(tf.shape(x)[0], seed, 0, 1)
        with tf.GradientTape() as tape:
            elbo = self.bound_at(x, ranks, t)
            loss = -tf.reduce_mean(elbo)
        variables = self.trainable_variables
        gradients = precision.gradients(tape, loss, variables, self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        bins = tf.cast(BINS * tf.sqrt(t / self.size), tf.int32)
        seen = tf.math.unsorted_segment_sum(tf.stack([-elbo / self.size, tf.ones_like(elbo)], axis=1), bins, BINS)
        self.step_losses.assign(MEMORY * self.step_losses + tf.transpose(replicas.total(seen)))
        return self._record(elbo)

    def test_step(self, batch):
        x, _ = self.images_and_labels(batch)
        # The same draws in every epoch, and others for each batch.
        seed = tf.stack([0, tf.cast(self.average.count, tf.int32)])
        return self._record(self.log_likelihood(x, num_draws=1, seed=seed))

    def _record(self, elbo: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.update_state(elbo)
        return {"elbo": self.average.result()}


def _among(ranks: tf.Tensor, first: tf.Tensor | int, end: tf.Tensor | int) -> tf.Tensor:
    """1 where a rank is `first` or more and below `end`, else 0."""
    return tf.cast((ranks >= first) & (ranks < end), tf.float32)


def _log_probs(x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Of each pixel, nats."""
    return -tf.nn.sigmoid_cross_entropy_with_logits(x, logits)


def build(config: ConfigDict, spec: DatasetSpec) -> MaskedDiffusion:
    """The masked diffusion model of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_fit(config, "model", binarization=["dynamic", "static", "threshold"])  # its pixels are bits
    require_positive(config, "features", "num_blocks", "hidden_size", "sampling_steps")
    sizes = config.features, config.num_blocks, config.hidden_size
    network = UNet(spec.image_shape, *sizes, outputs=spec.image_shape[-1])
    return MaskedDiffusion(network, spec.image_shape, config.sampling_steps)
