"""What every model is, and what it states of itself: training, evaluation, figures and export see only this."""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import bounds, precision
from keras_genmnist.bounds import ELBO, LogTerms
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import gaussian_of, point_of, sample_each
from keras_genmnist.errors import UsageError
from keras_genmnist.inference import RefinedPosterior

if TYPE_CHECKING:
    import tensorflow_probability as tfp

# A refinement that raises the ELBO of no more of the images than this is one that diverges.
LEAST_IMPROVED = 0.5
# A latent whose posterior mean varies over the images by no more than this tells them nothing.
ACTIVE_VARIANCE = 0.01


class GenerativeModel(tf_keras.Model):
    """A model that draws images; `image_shape` is their (H, W, C).

    A tf_keras.Model as any other: `compile`, `fit`, `evaluate`, `predict`, `summary` and `save_weights` work.  For
    training, a subclass defines `compile` and `train_step` of tf_keras, and what stands here.

    likelihood: "exact" if `log_likelihood` is log p(x), "importance" if it is estimated by draws from a posterior and
      below log p(x) in expectation, "bound" if it estimates a bound that no number of draws brings nearer to log p(x),
      None if there is none.
    has_latents: whether it has a `prior`, a `latent_size` and `decode`.
    has_encoder: whether it has `encode`, `reconstruct` and `log_terms` too.
    has_posterior: whether its `encoder` gives a distribution q(z | x), with a density at any z; one that infers a layer
      after the other does not.
    takes_labels: whether it learns p(x | y), and a batch is a pair of images and labels, int64 [B]; it then has
      `num_classes`, and p(x) is the mean of p(x | y) over the classes, unless the model knows p(x) of its own.
    takes_levels: whether training aims at the grey levels that bits are drawn from, and in place of its images a batch
      has {"images": bits, "levels": the probabilities that they were drawn with}; without levels it aims at the bits.
    autograph: whether TensorFlow rewrites its Python, so that `if` and `while` may ask tensors; it takes as long as all
      else of a first call, and the models of this package do without, by tf.cond and tf.while_loop.
    """

    likelihood: str | None = None
    has_latents = False
    has_encoder = False
    has_posterior = False
    takes_labels = False
    takes_levels = False
    autograph = True
    draws_bits = True  # whether the images of `draw` are bits; else they are grey levels, as its probabilities
    mean_images = True  # whether these are mean images, without the noise of pixels; else they are what is drawn
    completes_any = False  # whether `complete`, where there is one, takes pixels known anywhere; else the first ones
    pixel_by_pixel = False  # whether each pixel is drawn given others: the probabilities then are no image of their own
    is_trained = True  # whether it is trained itself; else it is made of others that are
    judge = None  # the name of the classifiers that see samples in validation, see judges.py; read by `compile`
    remedy = "a lower config.learning_rate or a config.clip_norm"  # what to try where training diverges

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.image_shape = image_shape

    @property
    def weights(self) -> list[tf.Variable]:
        """Trainable weights and batch norm's statistics, but not the metrics' sums, which tf_keras counts too."""
        sums = {id(variable) for metric in self.metrics for variable in metric.variables}
        return [weight for weight in super().weights if id(weight) not in sums]

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """Batch norm's statistics: see `weights`."""
        sums = {id(variable) for metric in self.metrics for variable in metric.variables}
        return [weight for weight in super().non_trainable_weights if id(weight) not in sums]

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers."""
        return sum(int(tf.size(weight)) for weight in self.trainable_weights)

    def build_variables(self) -> None:
        """Makes every variable, by one small call of each network."""
        raise NotImplementedError

    @property
    def optimized(self) -> dict[str, list[tf.Variable]]:
        """The variables that each optimizer among the arguments of `compile` trains, by its name there."""
        return {"optimizer": self.trainable_variables}

    def optimizer_steps(self, optimizer: str, batches: int) -> int:
        """How many steps the optimizer named in `optimized` takes in a training on so many batches."""
        return batches

    def step_of_replicas(self, run: Callable[[Callable], None]) -> None:
        """A training step of several replicas of the model: `run` has each take the step that it is given.

        What replicas exchange, as their gradients, cannot be exchanged within a condition or a loop of that step: a
        model that has one there asks for it here.
        """
        run(self.train_step)

    @property
    def curves(self) -> dict[str, list[str]]:
        """What tells how training goes: label of an axis -> columns of metrics.jsonl."""
        raise NotImplementedError

    def score(self, row: dict[str, float]) -> float:
        """How good the epoch of a row of metrics.jsonl is; the best one's weights are kept."""
        raise NotImplementedError

    @property
    def measure(self) -> str:
        """What trainings by different configs compare by: MEASURE of the column val_MEASURE of metrics.jsonl.

        By default the `score`, which is of the model's own objective, as a beta other than 1 changes it.
        """
        return "score"

    def validate(self, batches: list[np.ndarray]) -> dict[str, float]:
        """What the columns val_* of metrics.jsonl say of a split's images, in batches like those of training."""
        raise NotImplementedError

    def warnings(self, rows: list[dict[str, float]]) -> list[str]:
        """What looks wrong after the last of the rows of metrics.jsonl, a line each."""
        return []

    def images_and_labels(self, batch: tf.Tensor | tuple | dict) -> tuple[tf.Tensor, tf.Tensor | None]:
        """A batch's images, and its labels where the model takes them; what else `fit` may be given is left out."""
        x, y, _ = tf_keras.utils.unpack_x_y_sample_weight(batch)
        return x["images"] if isinstance(x, dict) else x, y if self.takes_labels else None

    def levels(self, batch: tf.Tensor | tuple | dict) -> tf.Tensor | None:
        """A batch's grey levels, if it has any."""
        x, _, _ = tf_keras.utils.unpack_x_y_sample_weight(batch)
        return x["levels"] if isinstance(x, dict) else None

    def context(self, y: tf.Tensor | None) -> tf.Tensor | None:
        """What the networks of a model that takes labels are told of them, one-hot classes [..., C]; of others None.

        Args:
          y: labels, whole numbers [...]; or weights of the classes [..., C], between which an image may lie.
        Raises:
          ValueError: if there are none and the model takes labels.
        """
        if not self.takes_labels:
            return None
        if y is None:
            raise ValueError("this model is told the class of an image: give labels, y")
        y = tf.convert_to_tensor(y)
        require_classes(y, self.num_classes)
        return y if y.dtype.is_floating else tf.one_hot(y, self.num_classes)

    def draw(self, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws one image from each seed; a row depends on its own seed alone.

        A model that takes labels draws a class first, each as often as the others.

        Args:
          seeds: int32 [N, 2].
        Returns:
          images: [N, H, W, C] in [0, 1], drawn from p(x).
          probabilities: [N, H, W, C] in [0, 1], the mean image given the same latent variables; of a model that draws
            pixel by pixel, the probability that each pixel was drawn with.
        """
        return self.draw_given(seeds, self.random_labels(seeds))

    def draw_given(self, seeds: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Draws one image of each label, whole numbers [N], or None of a model that takes none; otherwise as `draw`.

        The same seed gives the same latent variables, whatever the label.
        """
        raise NotImplementedError

    def random_labels(self, seeds: tf.Tensor) -> tf.Tensor | None:
        """The classes that `draw` draws from seeds, int32 [N, 2] -> int32 [N]; None of a model that takes no labels."""
        if not self.takes_labels:
            return None
        return tf.map_fn(lambda seed: tf.random.stateless_uniform([], seed, 0, self.num_classes, tf.int32), seeds)

    def sample(
        self, num_samples: tf.Tensor | int, seed: tf.Tensor | int, y: tf.Tensor | int | None = None
    ) -> dict[str, tf.Tensor]:
        """Draws images: the first n of N are the n drawn from the same seed.

        Args:
          num_samples: N.
          seed: int32.
          y: the label of all, or of each [N], of a model that takes labels; None for classes at random.
        Returns:
          As `draw`.
        """
        seeds = tf.stack([tf.fill([num_samples], seed), tf.range(num_samples)], axis=1)
        return self.draw(seeds) if y is None else self.draw_given(seeds, tf.broadcast_to(y, [num_samples]))


class DecoderModel(GenerativeModel):
    """A model that decodes latent vectors from a prior.  A subclass defines `decode`."""

    has_latents = True

    def __init__(self, prior: tf_keras.layers.Layer, image_shape: tuple[int, int, int]):
        """
        Args:
          prior: () -> distribution p(z), event [D]; has `latent_size`, D.
          image_shape: (H, W, C).
        """
        super().__init__(image_shape)
        self.prior, self.latent_size = prior, prior.latent_size

    def prior_of(self, y: tf.Tensor | None = None) -> "tfp.distributions.Distribution":
        """p(z); where the latents depend on the class, p(z | y) of labels [B], with batch [B]."""
        return self.prior()

    def decode(self, z: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        """The mean image given z [..., D] -> [..., H, W, C] in [0, 1], and what `context` takes, which broadcasts."""
        raise NotImplementedError

    def interpolate(
        self,
        z1: tf.Tensor,
        z2: tf.Tensor,
        alphas: tf.Tensor,
        y1: tf.Tensor | None = None,
        y2: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Decodes alpha z1 + (1 - alpha) z2, and goes from class to class likewise.

        Args:
          z1, z2: [B, D].
          alphas: [A].
          y1, y2: labels [B], of a model that takes them; y2 is y1 where it is not given.
        Returns:
          [B, A, H, W, C] in [0, 1].
        """
        weights = alphas[:, None]
        z = weights * z1[:, None] + (1 - weights) * z2[:, None]
        if not self.takes_labels:
            return self.decode(z)
        first, second = (self.context(y)[:, None] for y in (y1, y1 if y2 is None else y2))  # type: ignore[index]
        return self.decode(z, weights * first + (1 - weights) * second)


class LikelihoodModel(GenerativeModel):
    """A model without latents, trained by one optimizer to maximise log p(x) or a bound of it.

    A subclass defines `train_step` and `test_step`, which average a quantity of the images.
    """

    def __init__(self, image_shape: tuple[int, int, int], quantity: str):
        """
        Args:
          image_shape: (H, W, C).
          quantity: what is averaged, the name of its columns of metrics.jsonl.
        """
        super().__init__(image_shape)
        self.average = tf_keras.metrics.Mean(quantity)

    def compile(self, optimizer: tf_keras.optimizers.Optimizer, *, seed: int = 0, jit_compile: bool = False) -> None:
        """Readies the model for training.

        Args:
          optimizer: of all trainable variables.
          seed: of what training draws.
          jit_compile: whether XLA compiles.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self.seed = seed
        self.compiled_test_step = tf.function(self.test_step, autograph=self.autograph, jit_compile=jit_compile)

    @property
    def metrics(self) -> list[tf_keras.metrics.Metric]:
        return [self.average]

    @property
    def measure(self) -> str:
        return self.average.name

    def validate(self, batches: list[np.ndarray]) -> dict[str, float]:
        return _averaged(self, batches)


class BoundedModel(LikelihoodModel):
    """A model trained on a bound of log p(x) that no number of draws makes tight.  A subclass defines `bound_terms`."""

    likelihood = "bound"
    bound_draws = 1  # of `bound_terms` for each image in evaluate, by default; None where the bound has no noise
    bound_images: int | None = None  # how many of a split are scored; None for all

    def __init__(self, image_shape: tuple[int, int, int], quantity: str = "elbo"):
        """
        Args:
          image_shape: (H, W, C).
          quantity: as of LikelihoodModel; where it is another, a subclass defines `curves` and `score` too.
        """
        super().__init__(image_shape, quantity)

    def bound_terms(
        self, x: tf.Tensor, *, num_draws: tf.Tensor | int = 1, seed: tf.Tensor | int = 0
    ) -> dict[str, tf.Tensor]:
        """Estimates of the bound, and of its terms where it has any.

        Args:
          x: images [B, H, W, C], binary or, of a model of grey levels, of levels k / 255.
          num_draws: whose mean the estimate is.
          seed: int32 [] or [2].
        Returns:
          `elbo`, and with it perhaps `reconstruction` and `kl`, whose difference it then is: [B], nats.
        """
        raise NotImplementedError

    def log_likelihood(
        self,
        x: tf.Tensor,
        y: tf.Tensor | None = None,
        *,
        num_draws: tf.Tensor | int | None = None,
        seed: tf.Tensor | int = 0,
    ) -> tf.Tensor:
        """The bound, as `bound_terms`, by `bound_draws` draws unless told: [B], nats, below log p(x) in expectation.

        Args:
          x, num_draws, seed: as of `bound_terms`.
          y: labels [B], of a model that takes them.
        """
        require_images(x, self.image_shape)
        require_pixels(x)
        require_draws(num_draws)
        draws = (self.bound_draws or 1) if num_draws is None else num_draws
        return self.bound_terms(x, num_draws=draws, seed=seed, **told(y))["elbo"]

    @property
    def curves(self) -> dict[str, list[str]]:
        return {"ELBO (nats per image)": ["elbo", "val_elbo"]}

    def score(self, row: dict[str, float]) -> float:
        return row["val_elbo"]


class TractableModel(LikelihoodModel):
    """A model whose log p(x) is known exactly, trained to maximise it.  A subclass defines `log_likelihood`."""

    likelihood = "exact"

    def __init__(self, image_shape: tuple[int, int, int]):
        """
        Args:
          image_shape: (H, W, C).
        """
        super().__init__(image_shape, "nll")

    def log_likelihood(self, x: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        """log p(x), or log p(x | y) of images and labels: what training maximises.

        Args:
          x: images [B, H, W, C], binary.
          y: int64 [B], of a model that takes labels.
        Returns:
          [B], nats.
        """
        raise NotImplementedError

    def expected_log_likelihood(self, x: tf.Tensor, levels: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        """The sum over pixels i of the mean of log p(x[i] | those before it), were x[i] drawn anew.

        Where the pixels were drawn independently with probabilities `levels`, x[i] does not depend on those before it
        but through these.  So the mean over x is that of log p(x), and without the noise of the x[i] that are scored
        its gradient varies less.  A subclass that takes levels defines this.

        Args:
          x: images [B, H, W, C], binary.
          levels: [B, H, W, C] in [0, 1].
          y: int64 [B], of a model that takes labels.
        Returns:
          [B], nats.
        """
        raise NotImplementedError

    def objective(self, x: tf.Tensor, y: tf.Tensor | None, levels: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """What a training step maximises the mean of.

        Args:
          x, y: as of `log_likelihood`.
          levels: as of `expected_log_likelihood`, if the batch has them.
          seed: int32 [2], of this step.
        Returns:
          [B], nats.
        """
        if self.takes_levels and levels is not None:
            return self.expected_log_likelihood(x, levels, y)
        return self.log_likelihood(x, y)

    def build_variables(self) -> None:
        self.log_likelihood(tf.zeros([1, *self.image_shape]))

    @property
    def curves(self) -> dict[str, list[str]]:
        return {"NLL (nats per image)": ["nll", "val_nll"]}

    def score(self, row: dict[str, float]) -> float:
        return -row["val_nll"]

    def train_step(self, batch: tf.Tensor | tuple | dict) -> dict[str, tf.Tensor]:
        (x, y), levels = self.images_and_labels(batch), self.levels(batch)
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])
        with tf.GradientTape() as tape:
            log_likelihood = self.objective(x, y, levels, seed)
            loss = -tf.reduce_mean(log_likelihood)
        variables = self.trainable_variables
        gradients = precision.gradients(tape, loss, variables, self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._record(log_likelihood)

    def test_step(self, batch: tf.Tensor | tuple | dict) -> dict[str, tf.Tensor]:
        return self._record(self.log_likelihood(*self.images_and_labels(batch)))

    def _record(self, log_likelihood: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.update_state(-log_likelihood)
        return {"nll": self.average.result()}


class MadeModel(GenerativeModel):
    """A model that is made of trained ones; it comes before its other base classes."""

    is_trained = False

    def compile(self, *_: object, **__: object) -> None:
        """Refuses to train.

        Raises:
          UsageError: always.
        """
        raise UsageError("this model is made of trained runs by `genmnist mix`, and is not trained itself")


def components_of(config: ConfigDict, spec: DatasetSpec) -> list[GenerativeModel]:
    """The models that the one of `config` is made of, by its `components`, which are configs."""
    package = __name__.rpartition(".")[0]
    parts = [ConfigDict(own) for own in config.components]
    return [importlib.import_module(f"{package}.{own.model}").build(own, spec) for own in parts]


class LatentVariableModel(DecoderModel):
    """p(x) = integral of p(x | z) p(z) dz, trained on a bound of it.  A subclass defines `log_terms`."""

    likelihood = "importance"
    has_encoder = True

    def __init__(
        self,
        encoder: tf_keras.layers.Layer,
        decoder: tf_keras.layers.Layer,
        prior: tf_keras.layers.Layer,
        image_shape: tuple[int, int, int],
        objective: bounds.Objective = ELBO,
        layer_sizes: list[int] | None = None,
        num_classes: int = 0,
    ):
        """
        Args:
          encoder: images [B, H, W, C], training -> distribution q(z | x), batch [B], event [D].
          decoder: z [..., D], training -> distribution p(x | z), batch [...], event [H, W, C]; `draw`, `draws_bits`
            and `pixel_by_pixel` as those of distributions.BernoulliDecoder.
          prior: () -> distribution p(z), event [D]; has `latent_size`, D.
          image_shape: (H, W, C).
          objective: what training maximises.
          layer_sizes: the number of latents of each layer, the lowest first, with sum D; one layer by default.
          num_classes: of the labels that the model takes, as `context` of each of the three; 0 for none.
        """
        super().__init__(prior, image_shape)
        self.num_classes, self.takes_labels = num_classes, num_classes > 0
        self.encoder, self.decoder, self.objective = encoder, decoder, objective
        self.layer_sizes = layer_sizes or [self.latent_size]
        names = dict.fromkeys(("elbo", "kl", "reconstruction", objective.bound, *self.layer_names))
        self.averages = {name: tf_keras.metrics.Mean(name) for name in names}

    @property
    def remedy(self) -> str:  # type: ignore[override]
        if isinstance(self.encoder, RefinedPosterior):
            return f"a lower config.refine_learning_rate, {super().remedy}"
        return super().remedy

    @property
    def pixel_by_pixel(self) -> bool:  # type: ignore[override]
        return self.decoder.pixel_by_pixel

    @property
    def draws_bits(self) -> bool:  # type: ignore[override]
        return self.decoder.draws_bits

    @property
    def orders(self) -> int:
        """K, of the orders of the pixels that p(x | z) is a mean over: draws of z take them in turn, in every call."""
        return getattr(self.decoder, "orders", 1)

    @property
    def layer_names(self) -> list[str]:
        """The metrics that are the KL of each layer; none where there is one layer, whose KL is `kl`."""
        return [f"kl_{number + 1}" for number in range(len(self.layer_sizes))] if len(self.layer_sizes) > 1 else []

    def pieces(self, y: tf.Tensor | None = None) -> list[Callable]:
        """Encoder, decoder and prior, which know the labels [B] of a model that takes them."""
        pieces, context = [self.encoder, self.decoder, self.prior], self.context(y)
        return pieces if context is None else [functools.partial(piece, context=context) for piece in pieces]

    def prior_of(self, y: tf.Tensor | None = None) -> "tfp.distributions.Distribution":
        _, _, prior = self.pieces(y)
        return prior()

    def log_terms(
        self,
        x: tf.Tensor,
        num_samples: int,
        seed: tf.Tensor,
        training: bool = False,
        hold: Callable[[tf.Tensor], tf.Tensor] | None = None,
        y: tf.Tensor | None = None,
    ) -> LogTerms:
        """Log densities of S draws from the posterior.

        Args:
          x: images [B, H, W, C], binary or, of a model of grey levels, of levels k / 255.
          num_samples: S.
          seed: int32 [2]; or, but not in training, [B, 2], of each image's own draws.
          training: whether batch norm uses the batch's statistics.
          hold: of a PathGradient: the densities are those at hold(z), the posterior's with its parameters held fixed.
          y: labels [B], of a model that takes them; then the densities are p(x | z, y), p(z | y) and q(z | x, y).
        Returns:
          LogTerms of [S, B], nats.
        """
        raise NotImplementedError

    def log_terms_at(self, x: tf.Tensor, noise: tf.Tensor, y: tf.Tensor | None = None) -> LogTerms:
        """Log densities of the draws that `noise` leads to.

        Args:
          x: images [B, H, W, C], binary or, of a model of grey levels, of levels k / 255.
          noise: [S, B, D]; standard normal for draws from the posterior, and c times as much for draws from one whose
            scales are c times as large, each given what is drawn before it.
          y: as of `log_terms`.
        Returns:
          LogTerms of [S, B], nats; log_posterior is that of the posterior itself.
        """
        raise NotImplementedError

    def noise_of(self, x: tf.Tensor, z: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor | None:
        """The noise that leads to z, both [S, B, D], for images [B, H, W, C]; None where it takes a search."""
        return None

    def log_likelihood(
        self, x: tf.Tensor, y: tf.Tensor | None = None, *, num_draws: int = 100, seed: int = 0
    ) -> tf.Tensor:
        """An importance-weighted estimate of log p(x), or log p(x | y) of images and labels, below it in expectation.

        log (1/S) sum{ p(x, z[s]) / q(z[s] | x) : s = 1..S },  z[s] from q(z | x)

        Args:
          x: images [B, H, W, C], binary.
          y: labels [B], of a model that takes them; without, log p(x) is the log mean of p(x | y) over the classes.
          num_draws: S, of each class.
          seed: of the draws.
        Returns:
          [B], nats.
        Source: Burda et al. (2016), equation 8, arxiv.org/abs/1509.00519
        """
        require_images(x, self.image_shape)
        require_pixels(x)
        require_draws(num_draws)
        x = tf.cast(x, tf.float32)

        def given(y: tf.Tensor | None) -> tf.Tensor:
            return bounds.iwae_bound(self.log_terms(x, num_draws, tf.constant([seed, 0]), **told(y)))

        if y is not None or not self.takes_labels:
            return given(y)
        # One class after the other: all at once would take as many times the memory.
        by_class = tf.map_fn(
            lambda label: given(tf.fill(tf.shape(x)[:1], label)),
            tf.range(self.num_classes),
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return tf.reduce_logsumexp(by_class, axis=0) - tf.math.log(float(self.num_classes))

    def call(self, x: tf.Tensor, training: bool = False, y: tf.Tensor | None = None) -> tf.Tensor:
        """Reconstructions: see `reconstruct`."""
        return self.reconstruct(x, **told(y))

    def build_variables(self) -> None:
        labels = told(tf.zeros([1], tf.int32) if self.takes_labels else None)
        self.log_terms(tf.zeros([1, *self.image_shape]), 1, seed=tf.constant([0, 0]), **labels)

    def compile(
        self,
        optimizer: tf_keras.optimizers.Optimizer,
        *,
        seed: int = 0,
        warmup_steps: int = 0,
        jit_compile: bool = False,
    ) -> None:
        """Readies the model for training.

        Args:
          optimizer: of all trainable variables.
          seed: of the draws from the posterior.
          warmup_steps: steps over which the KL's weight, or the objective's capacity, rises linearly from 0; 0 for
            none.
          jit_compile: whether XLA compiles.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self.seed, self.warmup_steps = seed, warmup_steps
        self.compiled_test_step = tf.function(self.test_step, autograph=self.autograph, jit_compile=jit_compile)
        self.compiled_encode = tf.function(self.encode, autograph=self.autograph)
        if isinstance(self.encoder, RefinedPosterior):
            improves = self.encoder.improves
            self.compiled_improves = tf.function(improves, autograph=self.autograph, jit_compile=jit_compile)

    @property
    def metrics(self) -> list[tf_keras.metrics.Metric]:
        return list(self.averages.values())

    @property
    def measure(self) -> str:
        return self.objective.bound

    @property
    def curves(self) -> dict[str, list[str]]:
        curves = {f"{name.upper()} (nats per image)": [name, f"val_{name}"] for name in ("elbo", "kl")}
        if self.layer_names:
            curves["validation KL of each layer (nats per image)"] = [f"val_{name}" for name in self.layer_names]
            numbers = range(1, len(self.layer_sizes) + 1)
            curves["validation active units of each layer"] = [f"val_active_units_{number}" for number in numbers]
        return curves

    def score(self, row: dict[str, float]) -> float:
        if self.objective.bound == "iwae":
            return row["val_iwae"]
        return self.objective.score(row["val_elbo"], row["val_kl"])

    def validate(self, batches: list[np.ndarray]) -> dict[str, float]:
        found = _averaged(self, batches)
        if isinstance(self.encoder, RefinedPosterior):
            found["improved"] = float(np.mean(self.compiled_improves(batches[0])))
        if self.layer_names:
            pairs = [self.images_and_labels(batch) for batch in batches]
            means = np.concatenate([self.compiled_encode(x, **told(y))["z"] for x, y in pairs])
            labels = np.concatenate([y for _, y in pairs]) if self.takes_labels else None
            for number, units in enumerate(active_units(means, self.layer_sizes, labels)):
                found[f"active_units_{number + 1}"] = float(units)
        return found

    def warnings(self, rows: list[dict[str, float]]) -> list[str]:
        improved = rows[-1].get("val_improved", 1.0)
        if improved > LEAST_IMPROVED:
            return []
        return [
            f"the refinement of the posteriors diverges: {1 - improved:.0%} of the images have a higher ELBO where it "
            "starts, and stay there; lower config.refine_learning_rate"
        ]

    def train_step(self, batch: tf.Tensor | tuple | dict) -> dict[str, tf.Tensor]:
        x, y = self.images_and_labels(batch)
        step = tf.cast(self.optimizer.iterations, tf.int32)
        warmup = tf.minimum(1.0, tf.cast(step, tf.float32) / self.warmup_steps) if self.warmup_steps else 1.0
        objective, variables = self.objective, self.trainable_variables
        seed = tf.stack([self.seed, step])
        if objective.gradient == "standard":
            with tf.GradientTape() as tape:
                terms = self.log_terms(x, objective.num_draws, seed, training=True, **told(y))
                loss = -tf.reduce_mean(objective(terms, warmup))
            gradients = precision.gradients(tape, loss, variables, self.optimizer)
        else:
            with tf.GradientTape(persistent=True) as tape:
                path = bounds.PathGradient(tape)
                terms = self.log_terms(x, objective.num_draws, seed, training=True, hold=path.hold, **told(y))
                loss = -tf.reduce_mean(objective(terms, warmup))
            scale = bounds.dreg_scale(terms, warmup) if objective.gradient == "dreg" else 1.0
            gradients = path.gradients(loss, scale, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._record(terms)

    def test_step(self, batch: tf.Tensor | tuple | dict) -> dict[str, tf.Tensor]:
        x, y = self.images_and_labels(batch)
        # The same draw every epoch: epochs compare, and a resumed run sees what an uninterrupted one does.
        return self._record(self.log_terms(x, self.objective.num_draws, seed=tf.constant([0, 0]), **told(y)))

    def _record(self, terms: LogTerms) -> dict[str, tf.Tensor]:
        self.averages["elbo"].update_state(bounds.elbo(terms))
        self.averages["kl"].update_state(bounds.kl(terms))
        self.averages["reconstruction"].update_state(bounds.reconstruction(terms))
        if self.objective.bound == "iwae":
            self.averages["iwae"].update_state(bounds.iwae_bound(terms))
        if self.layer_names:
            layers = tf.unstack(bounds.layer_kl(terms), num=len(self.layer_names))
            for name, layer_kl in zip(self.layer_names, layers, strict=True):
                self.averages[name].update_state(layer_kl)
        return {name: average.result() for name, average in self.averages.items()}

    def draw_given(self, seeds: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        z_seeds, x_seeds = tf.unstack(tf.map_fn(lambda seed: tf.random.split(seed, 2), seeds), axis=1)
        uniform = tf.map_fn(
            lambda seed: tf.random.stateless_uniform(self.image_shape, seed), x_seeds, fn_output_signature=tf.float32
        )
        return self._draw_from(sample_each(self.prior_of(labels), z_seeds), uniform, labels)

    def decode(self, z: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        # Of a decoder that draws pixel by pixel, the image whose pixels are the likelier of the two values, in turn.
        return self._draw_from(z, 0.5, y)["probabilities"]

    def _draw_from(self, z: tf.Tensor, uniform: tf.Tensor | float, y: tf.Tensor | None) -> dict[str, tf.Tensor]:
        context = self.context(y)
        return self.decoder.draw(z, uniform) if context is None else self.decoder.draw(z, uniform, context)

    def encode(self, x: tf.Tensor, noise: tf.Tensor | float = 0.0, y: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """The posterior of images [B, H, W, C].

        Args:
          x: the images.
          noise: [B, D], standard normal for a draw.
          y: labels [B], of a model that takes them.
        Returns:
          mean, log_variance: of the Gaussian q(z | x), or of the one that its flow starts from, [B, D].
          z: mean + scale noise, or what the flow makes of it, [B, D].
        """
        require_images(x, self.image_shape)
        encoder, _, _ = self.pieces(y)
        posterior = encoder(x)
        base = gaussian_of(posterior)
        return {"mean": base.mean(), "log_variance": 2 * tf.math.log(base.stddev()), "z": point_of(posterior, noise)}

    def reconstruct(self, x: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        """The image decoded from the posterior's centre, given labels [B] of a model that takes them.

        [B, H, W, C] -> [B, H, W, C] in [0, 1]
        """
        return self.decode(self.encode(x, **told(y))["z"], **told(y))


def require_images(x: tf.Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raises UsageError unless x is [B, H, W, C]."""
    shape = tf.convert_to_tensor(x).shape
    if not shape.is_compatible_with([None, *image_shape]):
        raise UsageError(f"images are of the shape {shape}: give [N, {', '.join(map(str, image_shape))}]")


def require_pixels(x: tf.Tensor) -> None:
    """Raises UsageError unless pixels are in [0, 1]; in a graph, they are not known."""
    if tf.executing_eagerly() and tf.size(x) and not 0 <= np.min(x) <= np.max(x) <= 1:
        given = f"{np.min(x):g} to {np.max(x):g}"
        raise UsageError(f"pixels are from {given}: give images in [0, 1], as `binary` of a data set's splits")


def require_draws(num_draws: tf.Tensor | int | None) -> None:
    """Raises UsageError for a number of draws below 1."""
    if isinstance(num_draws, int) and num_draws < 1:
        raise UsageError(f"num_draws is {num_draws}: give 1 or more")


def require_classes(y: tf.Tensor, num_classes: int) -> None:
    """Raises UsageError for labels that are no classes; in a graph, their values are not known."""
    accepted = f"give the numbers of classes, 0 to {num_classes - 1}"
    if not (y.dtype.is_integer or y.dtype.is_floating):
        raise UsageError(f"labels are of type {y.dtype.name}: {accepted}")
    if y.dtype.is_integer and tf.executing_eagerly():
        wrong = [label for label in np.ravel(y).tolist() if not 0 <= label < num_classes]
        if wrong:
            raise UsageError(f"label {wrong[0]} is out of range: {accepted}")


def told(y: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """The argument y, where there is one: models that take no labels need not know of it."""
    return {} if y is None else {"y": y}


def _averaged(model: LikelihoodModel | LatentVariableModel, batches: list[np.ndarray]) -> dict[str, float]:
    """The test metrics over all batches."""
    model.reset_metrics()
    for batch in batches:
        logs = model.compiled_test_step(batch)
    return {name: float(value) for name, value in logs.items()}


def active_units(means: np.ndarray, layer_sizes: list[int], labels: np.ndarray | None = None) -> list[int]:
    """How many latents of each layer, the lowest first, are used: their posterior mean varies by more than 0.01.

    Args:
      means: of the posteriors of N images, [N, D].
      layer_sizes: the number of latents of each layer, with sum D.
      labels: [N], of a model that is told them: what differs between classes alone says nothing of an image.
    Source: Burda et al. (2016), appendix C, arxiv.org/abs/1509.00519
    """
    if labels is not None:
        _, labels = np.unique(labels, return_inverse=True)
        totals = np.zeros([labels.max() + 1, means.shape[1]])
        np.add.at(totals, labels, means)
        means = means - (totals / np.bincount(labels)[:, None])[labels]
    active = means.var(axis=0) > ACTIVE_VARIANCE
    return [int(layer.sum()) for layer in np.split(active, np.cumsum(layer_sizes)[:-1])]
