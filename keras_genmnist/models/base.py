"""What every model offers: training, evaluation, figures and export see only this."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras

from keras_genmnist import bounds
from keras_genmnist.bounds import ELBO, LogTerms
from keras_genmnist.distributions import PixelCNNDecoder, StandardNormal, base_of, point_of, sample_each
from keras_genmnist.images import png
from keras_genmnist.inference import RefinedPosterior

# More in one request could exhaust a server's memory; the check is inside the exported graph.
MAX_SAMPLES = 1024
# Images that a signature takes at once, where their number has no bound: a PixelCNN's activations are 0.6 MB an image.
CHUNK = 64
# A refinement that raises the ELBO of no more of the images than this is one that diverges.
LEAST_IMPROVED = 0.5
# A latent whose posterior mean varies over the images by no more than this tells them nothing.
ACTIVE_VARIANCE = 0.01


class GenerativeModel(tf_keras.Model):
    """A model that draws images; `image_shape` is their (H, W, C).

    For training, a subclass defines `compile` and `train_step` of tf_keras, and what stands here; `labelled` says
    whether a batch is then a pair of images and labels, int64 [B].
    """

    labelled = False
    draws_bits = True  # whether the images of `draw` are bits; else they are grey levels, as its probabilities
    pixel_by_pixel = False  # whether each pixel is drawn given others: the probabilities then are no image of their own
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

    @property
    def curves(self) -> dict[str, list[str]]:
        """What tells how training goes: label of an axis -> columns of metrics.jsonl."""
        raise NotImplementedError

    def merit(self, row: dict[str, float]) -> float:
        """How good the epoch of a row of metrics.jsonl is; the best one's weights are kept."""
        raise NotImplementedError

    def validate(self, batches: list[np.ndarray]) -> dict[str, float]:
        """What the columns val_* of metrics.jsonl say of a split's images, in batches like those of training."""
        raise NotImplementedError

    def warnings(self, rows: list[dict[str, float]]) -> list[str]:
        """What looks wrong after the last of the rows of metrics.jsonl, a line each."""
        return []

    def draw(self, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws one image from each seed; a row depends on its own seed alone.

        Args:
          seeds: int32 [N, 2].
        Returns:
          images: [N, H, W, C] in [0, 1], drawn from p(x).
          probabilities: [N, H, W, C] in [0, 1], the mean image given the same latent variables; of a model that draws
            pixel by pixel, the probability that each pixel was drawn with.
        """
        raise NotImplementedError

    def sample(self, num_samples: tf.Tensor | int, seed: tf.Tensor | int) -> dict[str, tf.Tensor]:
        """Draws images: the first n of N are the n drawn from the same seed.

        Args:
          num_samples: N, from 1 to MAX_SAMPLES.
          seed: int32.
        Returns:
          As `draw`.
        Raises:
          tf.errors.InvalidArgumentError: if num_samples is out of range.
        """
        num_samples = capped(num_samples, num_samples)
        return self.draw(tf.stack([tf.fill([num_samples], seed), tf.range(num_samples)], axis=1))

    def checked(self, images: tf.Tensor, name: str = "images", binary: bool = False) -> tf.Tensor:
        """The images [B, H, W, C] given to a signature as `name`, refused unless they are pixels in [0, 1], or bits."""
        # A signature does not enforce its own shapes, and grey levels 0..255 would pass for pixels.
        images = _finite(tf.ensure_shape(images, [None, *self.image_shape]), name)
        message = f"values of {name} are out of range: give pixels {'of 0 or 1' if binary else 'in [0, 1]'}"
        checks = [
            tf.debugging.assert_non_negative(images, message),
            tf.debugging.assert_less_equal(images, 1.0, message),
        ]
        if binary:
            checks.append(tf.debugging.assert_equal(images, tf.round(images), message))
        with tf.control_dependencies(checks):
            return tf.identity(images)

    def signatures(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """What the exported model can do: tf.functions with input signatures, by name."""
        integer = tf.TensorSpec([], tf.int32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def sample_rows(seed):
            seed = capped(tf.size(seed), seed, "the number of seeds")
            return with_png(self.draw(tf.stack([seed, tf.zeros_like(seed)], axis=1)))

        @tf.function(input_signature=[integer, integer])
        def sample(num_samples, seed):
            return with_png(self.sample(num_samples, seed))

        return {"sample_rows": sample_rows, "sample": sample}


class DecoderModel(GenerativeModel):
    """A model that decodes latent vectors from a prior.  A subclass defines `decode`."""

    def __init__(self, prior, image_shape: tuple[int, int, int]):
        """
        Args:
          prior: () -> distribution p(z), event [D]; has `latent_size`, D.
          image_shape: (H, W, C).
        """
        super().__init__(image_shape)
        self.prior, self.latent_size = prior, prior.latent_size

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """The mean image given z [..., D] -> [..., H, W, C] in [0, 1]."""
        raise NotImplementedError

    def interpolate(self, z1: tf.Tensor, z2: tf.Tensor, alphas: tf.Tensor) -> tf.Tensor:
        """Decodes alpha z1 + (1 - alpha) z2.  z1, z2 [B, D], alphas [A] -> [B, A, H, W, C] in [0, 1]."""
        weights = alphas[:, None]
        return self.decode(weights * z1[:, None] + (1 - weights) * z2[:, None])

    def signatures(self):
        latents = tf.TensorSpec([None, self.latent_size], tf.float32)

        @tf.function(input_signature=[latents])
        def decode_probabilities(z):
            z = _finite(tf.ensure_shape(z, latents.shape), "z")
            return {"probabilities": self.decode(capped(tf.shape(z)[0], z, "the number of rows of z"))}

        @tf.function(input_signature=[latents])
        def decode(z):
            return with_png(decode_probabilities(z))

        @tf.function(input_signature=[latents, latents, tf.TensorSpec([None], tf.float32)])
        def interpolate(z1, z2, alphas):
            z1, z2, alphas = _finite(z1, "z1"), _finite(z2, "z2"), _finite(alphas, "alphas")
            rows = tf.maximum(*(tf.shape(z, tf.int64)[0] for z in (z1, z2)))  # one row serves all of the other
            number, name = rows * tf.size(alphas, tf.int64), "the number of rows of z1 and z2 times that of alphas"
            z1, z2 = (capped(number, z, name) for z in (z1, z2))
            return with_png({"probabilities": self.interpolate(z1, z2, alphas)})

        own = [decode, decode_probabilities, interpolate]
        return super().signatures() | {function.__name__: function for function in own}


class TractableModel(GenerativeModel):
    """A model whose log p(x) is known exactly, trained to maximise it.  A subclass defines `log_prob`."""

    def __init__(self, image_shape: tuple[int, int, int]):
        """
        Args:
          image_shape: (H, W, C).
        """
        super().__init__(image_shape)
        self.average = tf_keras.metrics.Mean("nll")

    def log_prob(self, x: tf.Tensor) -> tf.Tensor:
        """log p(x) of binary images [B, H, W, C] -> [B], nats."""
        raise NotImplementedError

    def build_variables(self):
        self.log_prob(tf.zeros([1, *self.image_shape]))

    def compile(self, optimizer, *, seed: int = 0, jit_compile: bool = False):
        """Readies the model for training.

        Args:
          optimizer: of all trainable variables.
          seed: of nothing here; all models take it.
          jit_compile: whether XLA compiles.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self.compiled_test_step = tf.function(self.test_step, jit_compile=jit_compile)

    @property
    def metrics(self):
        return [self.average]

    @property
    def curves(self):
        return {"NLL (nats per image)": ["nll", "val_nll"]}

    def merit(self, row):
        return -row["val_nll"]

    def validate(self, batches):
        return _averaged(self, batches)

    def learned(self, batch: tf.Tensor | tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """What training maximises for each image of a batch, [B], nats: log p(x)."""
        return self.log_prob(batch)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            learned = self.learned(batch)
            loss = -tf.reduce_mean(learned)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return self._record(learned)

    def test_step(self, batch):
        return self._record(self.learned(batch))

    def _record(self, learned: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.update_state(-learned)
        return {"nll": self.average.result()}

    def signatures(self):
        @tf.function(input_signature=[tf.TensorSpec([None, *self.image_shape], tf.float32)])
        def log_prob(images):
            return in_chunks(lambda x: {"log_prob": self.log_prob(x)}, self.checked(images, binary=True))

        return super().signatures() | {"log_prob": log_prob}


class LatentVariableModel(DecoderModel):
    """p(x) = integral of p(x | z) p(z) dz, trained on a bound of it.  A subclass defines `log_terms`."""

    def __init__(self, encoder, decoder, prior, image_shape, objective=ELBO, layer_sizes=None):
        """
        Args:
          encoder: images [B, H, W, C], training -> distribution q(z | x), batch [B], event [D].
          decoder: z [..., D], training -> distribution p(x | z), batch [...], event [H, W, C]; `draw` as that of
            distributions.BernoulliDecoder.
          prior: () -> distribution p(z), event [D]; has `latent_size`, D.
          image_shape: (H, W, C).
          objective: what training maximises.
          layer_sizes: the number of latents of each layer, the lowest first, with sum D; one layer by default.
        """
        super().__init__(prior, image_shape)
        self.encoder, self.decoder, self.objective = encoder, decoder, objective
        self.layer_sizes = layer_sizes or [self.latent_size]
        names = dict.fromkeys(("elbo", "kl", "reconstruction", objective.bound, *self.layer_names))
        self.averages = {name: tf_keras.metrics.Mean(name) for name in names}

    @property
    def remedy(self) -> str:
        if isinstance(self.encoder, RefinedPosterior):
            return f"a lower config.refine_learning_rate, {super().remedy}"
        return super().remedy

    @property
    def pixel_by_pixel(self) -> bool:
        return isinstance(self.decoder, PixelCNNDecoder)

    @property
    def layer_names(self) -> list[str]:
        """The metrics that are the KL of each layer; none where there is one layer, whose KL is `kl`."""
        return [f"kl_{number + 1}" for number in range(len(self.layer_sizes))] if len(self.layer_sizes) > 1 else []

    def log_terms(
        self,
        x: tf.Tensor,
        num_samples: int,
        seed: tf.Tensor,
        training: bool = False,
        hold: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> LogTerms:
        """Log densities of S draws from the posterior.

        Args:
          x: images [B, H, W, C], binary.
          num_samples: S.
          seed: int32 [2]; or, but not in training, [B, 2], of each image's own draws.
          training: whether batch norm uses the batch's statistics.
          hold: of a PathGradient: the densities are those at hold(z), the posterior's with its parameters held fixed.
        Returns:
          LogTerms of [S, B], nats.
        """
        raise NotImplementedError

    def log_terms_at(self, x: tf.Tensor, noise: tf.Tensor) -> LogTerms:
        """Log densities of the draws that `noise` leads to.

        Args:
          x: images [B, H, W, C], binary.
          noise: [S, B, D]; standard normal for draws from the posterior, and c times as much for draws from one whose
            scales are c times as large, each given what is drawn before it.
        Returns:
          LogTerms of [S, B], nats; log_posterior is that of the posterior itself.
        """
        raise NotImplementedError

    def noise_of(self, x: tf.Tensor, z: tf.Tensor) -> tf.Tensor | None:
        """The noise that leads to z, both [S, B, D], for images [B, H, W, C]; None where it takes a search."""
        return None

    def build_variables(self):
        self.log_terms(tf.zeros([1, *self.image_shape]), 1, seed=tf.constant([0, 0]))

    def compile(self, optimizer, *, seed: int = 0, warmup_steps: int = 0, jit_compile: bool = False):
        """Readies the model for training.

        Args:
          optimizer: of all trainable variables.
          seed: of the draws from the posterior.
          warmup_steps: steps over which the KL's weight rises linearly from 0 to 1; 0 for none.
          jit_compile: whether XLA compiles.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self.seed, self.warmup_steps = seed, warmup_steps
        self.compiled_test_step = tf.function(self.test_step, jit_compile=jit_compile)
        self.compiled_encode = tf.function(self.encode)
        if isinstance(self.encoder, RefinedPosterior):
            self.compiled_improves = tf.function(self.encoder.improves, jit_compile=jit_compile)

    @property
    def metrics(self):
        return list(self.averages.values())

    @property
    def curves(self):
        curves = {f"{name.upper()} (nats per image)": [name, f"val_{name}"] for name in ("elbo", "kl")}
        if self.layer_names:
            curves["validation KL of each layer (nats per image)"] = [f"val_{name}" for name in self.layer_names]
            numbers = range(1, len(self.layer_sizes) + 1)
            curves["validation active units of each layer"] = [f"val_active_units_{number}" for number in numbers]
        return curves

    def merit(self, row):
        return row[f"val_{self.objective.bound}"]

    def validate(self, batches):
        found = _averaged(self, batches)
        if isinstance(self.encoder, RefinedPosterior):
            found["improved"] = float(np.mean(self.compiled_improves(batches[0])))
        if self.layer_names:
            means = np.concatenate([self.compiled_encode(batch)["z"] for batch in batches])
            for number, units in enumerate(active_units(means, self.layer_sizes)):
                found[f"active_units_{number + 1}"] = float(units)
        return found

    def warnings(self, rows):
        improved = rows[-1].get("val_improved", 1.0)
        if improved > LEAST_IMPROVED:
            return []
        return [
            f"the refinement of the posteriors diverges: {1 - improved:.0%} of the images have a higher ELBO where it "
            "starts, and stay there; lower config.refine_learning_rate"
        ]

    def train_step(self, x):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        kl_weight = tf.minimum(1.0, tf.cast(step, tf.float32) / self.warmup_steps) if self.warmup_steps else 1.0
        objective, variables = self.objective, self.trainable_variables
        seed = tf.stack([self.seed, step])
        if objective.gradient == "standard":
            with tf.GradientTape() as tape:
                terms = self.log_terms(x, objective.num_draws, seed, training=True)
                loss = -tf.reduce_mean(objective(terms, kl_weight))
            gradients = tape.gradient(loss, variables)
        else:
            with tf.GradientTape(persistent=True) as tape:
                path = bounds.PathGradient(tape)
                terms = self.log_terms(x, objective.num_draws, seed, training=True, hold=path.hold)
                loss = -tf.reduce_mean(objective(terms, kl_weight))
            scale = bounds.dreg_scale(terms, kl_weight) if objective.gradient == "dreg" else 1.0
            gradients = path.gradients(loss, scale, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._record(terms)

    def test_step(self, x):
        # The same draw every epoch: epochs compare, and a resumed run sees what an uninterrupted one does.
        return self._record(self.log_terms(x, self.objective.num_draws, seed=tf.constant([0, 0])))

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

    def draw(self, seeds):
        z_seeds, x_seeds = tf.unstack(tf.map_fn(lambda seed: tf.random.split(seed, 2), seeds), axis=1)
        uniform = tf.map_fn(
            lambda seed: tf.random.stateless_uniform(self.image_shape, seed), x_seeds, fn_output_signature=tf.float32
        )
        return self.decoder.draw(sample_each(self.prior(), z_seeds), uniform)

    def decode(self, z):
        # Of a decoder that draws pixel by pixel, the image whose pixels are the likelier of the two values, in turn.
        return self.decoder.draw(z, 0.5)["probabilities"]

    def encode(self, x: tf.Tensor, noise: tf.Tensor | float = 0.0) -> dict[str, tf.Tensor]:
        """The posterior of images [B, H, W, C].

        Args:
          x: the images.
          noise: [B, D], standard normal for a draw.
        Returns:
          mean, log_variance: of the Gaussian q(z | x), or of the one that its flow starts from, [B, D].
          z: mean + scale noise, or what the flow makes of it, [B, D].
        """
        posterior = self.encoder(x)
        base = base_of(posterior)
        return {"mean": base.mean(), "log_variance": 2 * tf.math.log(base.stddev()), "z": point_of(posterior, noise)}

    def reconstruct(self, x: tf.Tensor) -> tf.Tensor:
        """The image decoded from the posterior's centre.  [B, H, W, C] -> [B, H, W, C] in [0, 1]."""
        return self.decode(self.encode(x)["z"])

    def signatures(self):
        batch = tf.TensorSpec([None, *self.image_shape], tf.float32)

        @tf.function(input_signature=[batch])
        def encode(images):
            return in_chunks(self.encode, self.checked(images))

        @tf.function(input_signature=[batch, tf.TensorSpec([None], tf.int32)])
        def encode_draw(images, seed):
            tf.debugging.assert_equal(tf.size(seed), tf.shape(images)[0], "give a seed for each image")
            seeds = tf.stack([seed, tf.zeros_like(seed)], axis=1)
            noise = sample_each(StandardNormal(self.latent_size)(), seeds)
            return in_chunks(self.encode, self.checked(images), noise)

        @tf.function(input_signature=[batch])
        def reconstruct(images):
            images = capped(tf.shape(images)[0], self.checked(images), "the number of images")
            return with_png({"probabilities": self.reconstruct(images)})

        @tf.function(input_signature=[batch, tf.TensorSpec([], tf.int32)])
        def elbo(images, seed):
            def measured(x, seeds):
                terms = self.log_terms(x, 1, seeds)
                values = {"elbo": bounds.elbo, "kl": bounds.kl, "reconstruction": bounds.reconstruction}
                return {name: value(terms) for name, value in values.items()}

            numbers = tf.range(tf.shape(images)[0])
            seeds = tf.stack([tf.fill(tf.shape(numbers), seed), numbers], axis=1)
            return in_chunks(measured, self.checked(images, binary=True), seeds)

        own = [encode, encode_draw, reconstruct, elbo]
        return super().signatures() | {function.__name__: function for function in own}


def _averaged(model: TractableModel | LatentVariableModel, batches: list[np.ndarray]) -> dict[str, float]:
    """The test metrics over all batches."""
    model.reset_metrics()
    for batch in batches:
        logs = model.compiled_test_step(batch)
    return {name: float(value) for name, value in logs.items()}


def active_units(means: np.ndarray, layer_sizes: list[int]) -> list[int]:
    """How many latents of each layer, the lowest first, are used: their posterior mean varies by more than 0.01.

    Args:
      means: of the posteriors of N images, [N, D].
      layer_sizes: the number of latents of each layer, with sum D.
    Source: Burda et al. (2016), appendix C, arxiv.org/abs/1509.00519
    """
    active = means.var(axis=0) > ACTIVE_VARIANCE
    return [int(layer.sum()) for layer in np.split(active, np.cumsum(layer_sizes)[:-1])]


def capped(number: tf.Tensor | int, values: tf.Tensor | int, name: str = "num_samples") -> tf.Tensor:
    """`values`, once the number of images has been checked: what is made of them cannot run, and allocate, before."""
    number, most = tf.cast(number, tf.int64), tf.constant(MAX_SAMPLES, tf.int64)
    message = f"{name} is out of range: give 1 to {MAX_SAMPLES}"
    checks = (
        tf.debugging.assert_positive(number, message),
        tf.debugging.assert_less_equal(number, most, message),
    )
    with tf.control_dependencies([check for check in checks if check is not None]):  # None when eager: already done
        return tf.identity(values)


def in_chunks(function: Callable[..., dict[str, tf.Tensor]], *rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """`function` of all rows, computed CHUNK of them at a time: its memory does not grow with their number.

    Args:
      function: tensors [n, ...] -> float32 tensors [n, ...] by name, each row from its own alone.
      rows: tensors [B, ...].
    Returns:
      The outputs, [B, ...].
    """
    # Traced once: the loop needs to know its outputs before it starts.
    specs = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in rows]
    chunk = tf.function(function).get_concrete_function(*specs)
    count = tf.shape(rows[0])[0]
    chunks = tf.maximum(1, -(-count // CHUNK))  # of no rows, the outputs are empty
    found = {
        name: tf.TensorArray(tf.float32, chunks, element_shape=[None, *spec.shape[1:]], infer_shape=False)
        for name, spec in chunk.structured_outputs.items()
    }

    def step(i, found):
        outputs = chunk(*(part[i * CHUNK : (i + 1) * CHUNK] for part in rows))
        return i + 1, {name: array.write(i, outputs[name]) for name, array in found.items()}

    _, found = tf.while_loop(lambda i, found: i < chunks, step, (0, found), parallel_iterations=1)
    return {name: array.concat() for name, array in found.items()}


def _finite(values: tf.Tensor, name: str) -> tf.Tensor:
    return tf.debugging.check_numerics(values, f"{name} must be finite")


def with_png(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A signature's outputs and, as `png_bytes` [N], its `probabilities` as PNG files."""
    # A digit as PNG is 180 bytes, as JSON numbers 4 to 15 KB.
    return outputs | {"png_bytes": png(outputs["probabilities"])}
