"""Flow matching: noise flows to images of grey levels along a velocity that a network has learned.

Source: Lipman et al. (2023), "Flow Matching for Generative Modeling", arxiv.org/abs/2210.02747; Liu et al. (2023),
"Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", arxiv.org/abs/2209.03003
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import precision, replicas
from keras_genmnist.config import LARGEST, require, require_choice, require_fit, require_labels, require_positive
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.denoising import LevelPixels, NormalPixels
from keras_genmnist.distributions import StandardNormal, sample_each
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import BoundedModel
from keras_genmnist.networks import UNet

LEVELS = 256  # each a piece of [-1, 1] as wide as all others
WIDTH = 2 / LEVELS / math.sqrt(12)  # the standard deviation of what stands for a level
SCORING_STEPS = 32  # within 0.7 nats of an image of 256 steps; if even in (1 - t)^(1/2), 3 too high
FREQUENCIES = np.geomspace(1.0, 100.0, 16, dtype=np.float32)  # of the time, in radians


class FlowMatching(BoundedModel):
    """dx/dt = v(x, t) from x ~ N(0, I) at t = 0 to an image, in [-1, 1], at t = 1.

    Training draws a point of the straight path from noise to an image, and v learns the mean direction of the paths
    that cross there:

    loss = E || v((1 - t) noise + t x, t) - (x - noise) ||^2

    An image of levels k / 255 becomes x uniform within the piece of [-1, 1] that each level stands for, so that p(x) is
    a density.

    Source: Lipman et al. (2023), equation 23 with sigma_min = 0
    """

    draws_bits = mean_images = False
    most_steps, steps_shown = 1000, [1, 2, 4, 8, 16, 32]
    bound_images = 200  # each takes as long as 200 samples

    def __init__(
        self,
        network: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        image_shape: tuple[int, int, int],
        sampling_steps: int,
        *,
        pixels: NormalPixels | LevelPixels | None = None,
        solver: str = "heun",
        times: str = "uniform",
        num_classes: int = 0,
        label_dropout: float = 0.0,
        guidance: float = 1.0,
    ):
        """
        Args:
          network: [B, H, W, C], context [B, F] -> [B, H, W, C pixels.outputs]; the context is features of the time
            and the one-hot class, all zero for none.
          image_shape: (H, W, C).
          sampling_steps: of the solver, for an image.
          pixels: what makes velocities of what the network says; NormalPixels by default.
          solver: one of SOLVERS, by which images are drawn.
          times: one of TIMES, what t is drawn from in training.
          num_classes: of the labels that the model takes; 0 for none.
          label_dropout: the share of images in training of which it is not told the label.
          guidance: w of the velocity (1 - w) v(x, t) + w v(x, t | y) by which images are drawn.
        """
        super().__init__(image_shape, "loss")
        self.network, self.size = network, math.prod(image_shape)
        self.pixels = pixels or NormalPixels()
        self.sampling_steps, self.solver, self.times = sampling_steps, solver, times
        self.num_classes, self.takes_labels = num_classes, num_classes > 0
        self.label_dropout, self.guidance = label_dropout, guidance

    def build_variables(self):
        x = tf.zeros([1, *self.image_shape])
        self.velocity(x, tf.zeros([1]), self.no_class(x))

    def no_class(self, x: tf.Tensor) -> tf.Tensor | None:
        """What a model that takes labels is told where an image may be of any class; of others None."""
        return tf.zeros([tf.shape(x)[0], self.num_classes]) if self.takes_labels else None

    def velocity(self, x: tf.Tensor, t: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        """v(x, t | y): what `pixels` make of what the network says of x, scaled to a variance of 1, and of t and y.

        Args:
          x: [B, H, W, C].
          t: [B] in [0, 1], or one for all [].
          classes: one-hot [B, K], all zero for v(x, t); None of a model that takes no labels.
        Returns:
          [B, H, W, C].
        """
        t = tf.broadcast_to(t, tf.shape(x)[:1])[:, None]
        context = [tf.sin(t * FREQUENCIES), tf.cos(t * FREQUENCIES)] + ([] if classes is None else [classes])
        t = t[:, :, None, None]
        said = self.network(x * tf.math.rsqrt((1 - t) ** 2 + t**2), tf.concat(context, axis=-1))
        return self.pixels.velocity(x, t, said)

    def guided(self, x: tf.Tensor, t: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        """(1 - w) v(x, t) + w v(x, t | y), with w the guidance; as `velocity`.

        Source: Ho & Salimans (2022), equation 6, arxiv.org/abs/2207.12598, with w in place of w + 1
        """
        if classes is None or self.guidance == 1:
            return self.velocity(x, t, classes)
        without, given = tf.split(
            self.velocity(tf.concat([x, x], axis=0), t, tf.concat([tf.zeros_like(classes), classes], axis=0)), 2
        )
        return (1 - self.guidance) * without + self.guidance * given

    def draw(self, seeds, num_steps: int | None = None):
        """As GenerativeModel.draw, in `num_steps`, by default `sampling_steps`; the last one is by `euler`.

        Source: Karras et al. (2022), algorithm 1, arxiv.org/abs/2206.00364
        """
        return self.draw_given(seeds, self.random_labels(seeds), num_steps)

    def draw_given(self, seeds, labels, num_steps: int | None = None):
        classes = self.context(labels)
        own = tf.map_fn(lambda seed: tf.random.split(seed, 2)[1], seeds)  # the label is drawn from the seed itself
        noise = tf.reshape(sample_each(StandardNormal(self.size)(), own), [-1, *self.image_shape])
        steps = num_steps or self.sampling_steps
        last = 1 / steps

        def slope(x, t, k=None):
            return self.guided(x, t, classes)

        # The last step by `euler`: at its end the velocity no longer says what is noise.
        x = solve(slope, noise, 0.0, 1 - last, steps - 1, SOLVERS[self.solver])
        x = euler(slope, x, 1 - last, last)
        images = tf.clip_by_value((LEVELS * (x + 1) / 2 - 0.5) / (LEVELS - 1), 0.0, 1.0)
        return {"images": images, "probabilities": images}

    def dequantized(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] of levels k / 255, uniform within the piece of [-1, 1] that stands for each level."""
        uniform = _as_rows(tf.random.stateless_uniform, x, seed)
        return 2 * (tf.round((LEVELS - 1) * x) + uniform) / LEVELS - 1

    def bound_terms(self, x, y: tf.Tensor | None = None, *, num_draws=1, seed=0):
        """As BoundedModel.bound_terms: of log p(x), or of log p(x | y) of images and labels.

        log p(x) >= E[ log density of the dequantized x ] - D log 128,  by Jensen's inequality

        Args:
          x: images [B, H, W, C] of levels k / 255.
          y: labels [B], of a model that takes them; without, by the velocity of all classes together.
          num_draws: of the dequantized image and of the probes of the trace, for each image.
          seed: int32 [] or [2].
        Source: Theis et al. (2016), section 3.1, arxiv.org/abs/1511.01844
        """
        x, seed = tf.cast(x, tf.float32), tf.broadcast_to(seed, [2])

        classes = self.no_class(x) if y is None else self.context(y)

        def term(number):
            level_seed, probe_seed = tf.unstack(tf.random.split(tf.random.fold_in(seed, number), 2))
            density = self.log_density(self.dequantized(x, level_seed), probe_seed, classes)
            return density - self.size * math.log(LEVELS / 2)

        terms = tf.map_fn(term, tf.range(num_draws), fn_output_signature=tf.float32, parallel_iterations=1)
        return {"elbo": tf.reduce_mean(terms, axis=0)}

    def log_density(
        self, x: tf.Tensor, seed: tf.Tensor, classes: tf.Tensor | None, num_steps: int = SCORING_STEPS
    ) -> tf.Tensor:
        """log p(x) of points in [-1, 1]^D, without guidance.

        log p(x) = log N(x(0); 0, I) - integral{ trace dv/dx : t = 0..1 },  along the path that ends in x(1) = x

        The trace is estimated by a probe of its own in every step: the mean of its estimates over the steps is the
        closer.  The steps are the shorter the closer t is to 1, where the velocity of what is nearly an image changes
        fastest: 1 - t = w sinh(u) with w the scale of what stands for a level, and the steps of u are equal.

        Args:
          x: [B, H, W, C].
          seed: int32 [2], of the probes.
          classes: as of `velocity`.
          num_steps: of the solver.
        Returns:
          [B], nats; its mean over probes is that of the exact trace.
        Source: Chen et al. (2018), equation 8, arxiv.org/abs/1806.07366; Grathwohl et al. (2019), equations 7 and 8,
          arxiv.org/abs/1810.01367
        """
        shape, size = tf.shape(x), self.size

        def slope(state, u, k):
            bits = tf.random.stateless_uniform(shape, tf.random.fold_in(seed, k), 0, 2, tf.int32)
            probe = 2 * tf.cast(bits, tf.float32) - 1
            x = tf.reshape(state[:, :size], shape)
            v, trace = with_trace(lambda x: self.velocity(x, 1 - WIDTH * tf.sinh(u), classes), x, probe)
            return -WIDTH * tf.cosh(u) * tf.concat([tf.reshape(v, [-1, size]), trace[:, None]], axis=1)

        start = tf.pad(tf.reshape(x, [-1, size]), [[0, 0], [0, 1]])
        end = solve(slope, start, 0.0, math.asinh(1 / WIDTH), num_steps, runge_kutta)
        noise, integral = end[:, :size], end[:, size]
        return integral - 0.5 * tf.reduce_sum(noise**2, axis=1) - 0.5 * size * math.log(2 * math.pi)

    @property
    def curves(self):
        return {"squared error of the velocity": ["loss", "val_loss"]}

    def score(self, row):
        return -row["val_loss"]

    def train_step(self, batch):
        x, y = self.images_and_labels(batch)
        classes, seed = self.context(y), tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])
        if classes is not None:
            heard = (
                _as_rows(tf.random.stateless_uniform, classes[:, :1], tf.random.fold_in(seed, 1)) >= self.label_dropout
            )
            classes *= tf.cast(heard, tf.float32)
        with tf.GradientTape() as tape:
            errors = self.errors(x, seed, classes)
            loss = tf.reduce_mean(errors)
        variables = self.trainable_variables
        gradients = precision.gradients(tape, loss, variables, self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._record(errors)

    def test_step(self, batch):
        x, y = self.images_and_labels(batch)
        # The same draws in every epoch, and others for each batch.
        return self._record(self.errors(x, tf.stack([0, tf.cast(self.average.count, tf.int32)]), self.context(y)))

    def errors(self, x: tf.Tensor, seed: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        """The squared error of the velocity at a point of the path to each image.

        The times of a batch are even shares of the distribution apart: what they add to the variance is small.

        Args:
          x: images [B, H, W, C] of levels k / 255.
          seed: int32 [2].
          classes: as of `velocity`.
        Returns:
          [B], summed over the pixels.
        """
        time_seed, noise_seed, level_seed = tf.unstack(tf.random.split(seed, 3))
        start = tf.random.stateless_uniform([], time_seed)
        shares = replicas.rows(
            lambda count: (tf.range(count, dtype=tf.float32) + start) / tf.cast(count, tf.float32), tf.shape(x)[0]
        )
        t = TIMES[self.times](shares)
        x, noise = self.dequantized(x, level_seed), _as_rows(tf.random.stateless_normal, x, noise_seed)
        at = t[:, None, None, None]
        error = self.velocity((1 - at) * noise + at * x, t, classes) - (x - noise)
        return tf.reduce_sum(error**2, axis=[1, 2, 3])

    def _record(self, errors: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.update_state(errors)
        return {"loss": self.average.result()}


def _as_rows(draw: Callable, like: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """What `draw`, of shape and seed, draws of the shape of `like`, [B, ...]; see `replicas.rows`."""
    return replicas.rows(lambda count: draw(tf.concat([[count], tf.shape(like)[1:]], axis=0), seed), tf.shape(like)[0])


TIMES = {
    "uniform": lambda shares: shares,
    # Esser et al. (2024), equation 19 with location 0 and scale 1, arxiv.org/abs/2403.03206
    "logit_normal": lambda shares: tf.sigmoid(tf.math.ndtri(tf.clip_by_value(shares, 1e-6, 1 - 1e-6))),
}


def euler(f: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], x: tf.Tensor, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """x + h f(x, t): of order 1."""
    return x + h * f(x, t)


def heun(f: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], x: tf.Tensor, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """The mean of the slopes at both ends of the step, the other one by `euler`: of order 2."""
    first = f(x, t)
    return x + h / 2 * (first + f(x + h * first, t + h))


def runge_kutta(f: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], x: tf.Tensor, t: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """The classical one, of order 4."""
    first = f(x, t)
    second = f(x + h / 2 * first, t + h / 2)
    third = f(x + h / 2 * second, t + h / 2)
    return x + h / 6 * (first + 2 * second + 2 * third + f(x + h * third, t + h))


SOLVERS = {"euler": euler, "heun": heun}


def solve(
    f: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    start: float,
    end: float,
    num_steps: tf.Tensor | int,
    step: Callable,
) -> tf.Tensor:
    """The solution at `end` of dx/dt = f(x, t, k), with k the number of the step, that is x at `start`.

    Args:
      f: x, t [], k [] -> as x.
      x: [B, ...].
      start, end: of t; the one may be the later.
      num_steps: all of the same length.
      step: `euler`, `heun` or `runge_kutta`.
    """
    h = (end - start) / tf.cast(num_steps, tf.float32)

    def body(k, x):
        return k + 1, step(lambda x, t: f(x, t, k), x, start + h * tf.cast(k, tf.float32), h)

    return tf.while_loop(lambda k, x: k < num_steps, body, (0, x), parallel_iterations=1)[1]


def with_trace(f: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, probe: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """f(x) and an estimate of the trace of its Jacobian, of each row: probe^T df/dx probe.

    Args:
      f: [B, ...] -> [B, ...], each row of its own alone.
      x: [B, ...].
      probe: [B, ...], of -1 and 1, each as likely; then its mean is the trace.
    Returns:
      [B, ...] and [B].
    Source: Hutchinson (1990), doi.org/10.1080/03610919008812866
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = f(x)
    product = tape.gradient(value, x, output_gradients=probe)
    return value, tf.reduce_sum(product * probe, axis=range(1, len(x.shape)))


def build(config: ConfigDict, spec: DatasetSpec) -> FlowMatching:
    """The flow matching of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_fit(config, "model", binarization=["none"])  # a density of grey levels
    if spec.values == "binary":
        raise UsageError(
            f"config.dataset={config.dataset} has pixels of 0 and 1 alone, of which no density is learned: give images "
            "of grey levels"
        )
    num_classes = require_labels(config, spec.name, spec.num_classes)
    require_choice(config, solver=SOLVERS, times=TIMES)
    require_positive(config, "features", "num_blocks", "hidden_size", "sampling_steps")
    require(config, "levels", config.levels == 0 or 3 <= config.levels <= LEVELS, f"0, or 3 to {LEVELS}")
    require(config, "label_dropout", 0 < config.label_dropout < 1, "a value above 0 and below 1")
    require(config, "guidance", 0 <= config.guidance <= LARGEST, "0 or more, finite; 1 for none")
    if config.guidance != 1:
        require_fit(config, "guidance", class_conditional=[True])
    sizes = config.features, config.num_blocks, config.hidden_size
    pixels = LevelPixels(config.levels, LEVELS) if config.levels else NormalPixels()
    network = UNet(spec.image_shape, *sizes, outputs=spec.image_shape[-1] * pixels.outputs, takes_context=True)
    return FlowMatching(
        network,
        spec.image_shape,
        config.sampling_steps,
        pixels=pixels,
        solver=config.solver,
        times=config.times,
        num_classes=num_classes,
        label_dropout=config.label_dropout,
        guidance=config.guidance,
    )
