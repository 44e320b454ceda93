"""Generative adversarial network.

Source: Goodfellow et al. (2014), "Generative Adversarial Nets", arxiv.org/abs/1406.2661; Radford et al. (2016),
"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", arxiv.org/abs/1511.06434
"""

import functools
import math

import numpy as np
import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import judges, losses, networks, precision, quality, replicas
from keras_genmnist.config import (
    require,
    require_choice,
    require_finite,
    require_fit,
    require_labels,
    require_positive,
)
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import StandardNormal, sample_each
from keras_genmnist.errors import UsageError
from keras_genmnist.losses import LOSSES
from keras_genmnist.models.base import DecoderModel, told
from keras_genmnist.networks import folded, inputs

# What `warnings` calls a discriminator that has won and a class that is lost, as a share of what each of equally
# frequent classes has, if so for PERSISTENT epochs.
WON, LOST, PERSISTENT = 0.999, 0.05, 5


class GAN(DecoderModel):
    """A generator of images from latent vectors, trained against a discriminator of real images and samples.

    Of a class-conditional one both networks are told the class, of a sample that of the real image beside it.
    """

    draws_bits = mean_images = False

    def __init__(
        self,
        generator: tf_keras.Model,
        discriminator: tf_keras.Model,
        prior,
        image_shape: tuple[int, int, int],
        loss: str = "non_saturating",
        *,
        critic_steps: int = 1,
        label_smoothing: float = 0.0,
        gradient_penalty: float = 0.0,
        r1_penalty: float = 0.0,
        num_classes: int | None = None,
        judge: str | None = None,
        takes_labels: bool = False,
    ):
        """
        Args:
          generator: z [B, D], training -> logits of the pixels [B, H, W, C].
          discriminator: images [B, H, W, C], training -> logits [B, 1].
          prior: () -> distribution p(z), event [D]; has `latent_size`, D.
          image_shape: (H, W, C).
          loss: one of losses.LOSSES.
          critic_steps: the generator takes a step after so many of the discriminator.
          label_smoothing: the discriminator's target for real images is 1 less this.
          gradient_penalty, r1_penalty: weights of the two in the discriminator's loss; 0 for none.
          num_classes: of the images, where they are labelled.
          judge: the name of the classifiers, the first of which judges samples in validation; None for their pixels.
          takes_labels: whether the two networks take one-hot classes [B, K] as their second argument.
        """
        super().__init__(prior, image_shape)
        self.generator, self.discriminator, self.loss_pair = generator, discriminator, LOSSES[loss]
        self.critic_steps, self.target = critic_steps, 1 - label_smoothing
        self.gradient_penalty, self.r1_penalty = gradient_penalty, r1_penalty
        self.num_classes, self.judge, self.takes_labels = num_classes, judge, takes_labels
        # A critic's loss has no 0 to be below: only where there is a verdict can it be too good.
        self.has_verdict = loss != "wasserstein_gp"
        names = ("generator_loss", "discriminator_loss", "accuracy")
        self.averages = {name: tf_keras.metrics.Mean(name) for name in names}

    def build_variables(self):
        y = told(tf.zeros([1], tf.int32) if self.takes_labels else None)
        self.discriminate(self.decode(tf.zeros([1, self.latent_size]), **y), **y)

    def compile(self, generator_optimizer, discriminator_optimizer, *, seed: int = 0, jit_compile: bool = False):
        """Readies the model for training.

        Args:
          generator_optimizer, discriminator_optimizer: of the variables of the two networks.
          seed: of the draws from the prior.
          jit_compile: whether XLA compiles.
        Raises:
          Fault: if the judge is missing or altered: no epoch could be judged.
        """
        super().compile(optimizer=generator_optimizer, jit_compile=jit_compile)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.seed = seed
        self.classifier = next((judge.load() for judge in judges.find(self.judge)), None)
        self.real_features = None
        self.compiled_decode = tf.function(self.decode, autograph=self.autograph, jit_compile=jit_compile)

    @property
    def optimized(self):
        return {
            "generator_optimizer": self.generator.trainable_variables,
            "discriminator_optimizer": self.discriminator.trainable_variables,
        }

    def optimizer_steps(self, optimizer, batches):
        return batches // self.critic_steps if optimizer == "generator_optimizer" else batches

    @property
    def metrics(self):
        return list(self.averages.values())

    def train_step(self, batch):
        return self._step(batch, True if self.critic_steps == 1 else self._generator_is_due())

    def step_of_replicas(self, run):
        if self.critic_steps == 1:
            run(self.train_step)
            return
        with_generator, without = (functools.partial(self._step, generator=due) for due in (True, False))
        tf.cond(self._generator_is_due(), lambda: run(with_generator), lambda: run(without))

    def _generator_is_due(self) -> tf.Tensor:
        return (self.discriminator_optimizer.iterations + 1) % self.critic_steps == 0

    def _step(self, batch, generator: tf.Tensor | bool) -> dict[str, tf.Tensor]:
        """A step of the discriminator, and one of the generator if that is due."""
        x, y = self.images_and_labels(batch)
        step = tf.cast(self.discriminator_optimizer.iterations, tf.int32)
        z_seed, mix_seed = tf.unstack(tf.random.split(tf.stack([self.seed, step]), 2))
        z = replicas.rows(lambda count: self.prior().sample(count, seed=z_seed), tf.shape(x)[0])
        self._train_discriminator(x, self.generate(z, training=True, y=y), mix_seed, y)
        if tf.is_tensor(generator):
            tf.cond(generator, lambda: self._train_generator(z, y), lambda: None)
        elif generator:
            self._train_generator(z, y)
        return {name: average.result() for name, average in self.averages.items()}

    def _train_discriminator(self, real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor, y: tf.Tensor | None) -> None:
        def discriminate(images):
            return self.discriminate(images, training=True, y=y)

        with tf.GradientTape() as tape:
            real_logits, fake_logits = discriminate(real), discriminate(fake)
            loss = self.loss_pair.discriminator(real_logits, fake_logits, self.target)
            total = loss
            if self.gradient_penalty:
                total += self.gradient_penalty * losses.gradient_penalty(discriminate, real, fake, seed)
            if self.r1_penalty:
                total += self.r1_penalty * losses.r1_penalty(discriminate, real)
        variables = self.discriminator.trainable_variables
        gradients = precision.gradients(tape, total, variables, self.discriminator_optimizer)
        self.discriminator_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.averages["discriminator_loss"].update_state(loss)
        self.averages["accuracy"].update_state(tf.cast(real_logits > fake_logits, tf.float32))

    def _train_generator(self, z: tf.Tensor, y: tf.Tensor | None) -> None:
        with tf.GradientTape() as tape:
            fake = self.generate(z, training=True, y=y)
            loss = self.loss_pair.generator(self.discriminate(fake, training=True, y=y))
        variables = self.generator.trainable_variables
        gradients = precision.gradients(tape, loss, variables, self.generator_optimizer)
        self.generator_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.averages["generator_loss"].update_state(loss)

    @property
    def curves(self):
        asked = {"samples in the class asked for": ["val_class_asked_for"]} if self.takes_labels and self.judge else {}
        return {
            "loss": ["generator_loss", "discriminator_loss"],
            "pairs that the discriminator ranks rightly": ["accuracy"],
            "Frechet distance" if self.judge else "Frechet distance of pixels": ["val_frechet"],
            **asked,
        }

    def validate(self, batches):
        """Of as many samples, from the same latents every time: Frechet distance, and the share of the rarest class.

        Given labels, the samples are of the images' own, and the share of those that the judge puts there is told too.
        Without a judge the distance is one of pixels, and there are no classes.  The features of the images are
        computed at the first call: a training validates on one split.

        Raises:
          UsageError: if there is a single image, which has no spread to compare.
        """
        pairs = [self.images_and_labels(batch) for batch in batches]
        if self.real_features is None:
            images = np.concatenate([x for x, _ in pairs])
            if len(images) < 2:
                raise UsageError("a GAN is validated by how its samples spread: give at least 2 validation images")
            self.real_features = self.classifier.features(images) if self.classifier else quality.pixels(images)
        latents = [self.prior().sample(len(x), seed=tf.constant([0, i])) for i, (x, _) in enumerate(pairs)]
        drawn = np.concatenate([self.compiled_decode(z, **told(y)) for z, (_, y) in zip(latents, pairs, strict=True)])
        if not self.classifier:
            return {"frechet": quality.frechet_distance(quality.pixels(drawn), self.real_features)}
        reading = self.classifier.read(drawn)
        found = {
            "frechet": quality.frechet_distance(reading.features, self.real_features),
            "rarest_class": float(quality.class_shares(reading.probabilities).min()),
        }
        if self.takes_labels:
            labels = np.concatenate([y for _, y in pairs])
            found["class_asked_for"] = quality.share_as_asked(reading.probabilities, labels)
        return found

    @property
    def measure(self):
        return "frechet"

    def score(self, row):
        return -row["val_frechet"]

    def warnings(self, rows):
        last = rows[-PERSISTENT:]
        if len(last) < PERSISTENT:
            return []
        found = []
        if self.has_verdict and min(row["accuracy"] for row in last) > WON:
            found.append(
                f"the discriminator has ranked more than {WON:.1%} of the pairs rightly for {PERSISTENT} epochs, the "
                "generator learns little: try config.label_smoothing, a lower config.discriminator_learning_rate, or "
                "config.r1_penalty, which does not go with batch norm"
            )
        shares = [row["val_rarest_class"] for row in last if "val_rarest_class" in row]  # by a judge alone
        if shares and (rarest := max(shares)) < LOST / self.num_classes:
            found.append(
                f"mode collapse: for {PERSISTENT} epochs at most {rarest:.1%} of the samples were of the rarest class, "
                f"and each of {self.num_classes} equally frequent classes has {1 / self.num_classes:.1%}; try "
                "config.loss=wasserstein_gp, or lower learning rates"
            )
        return found

    def call(self, z, training=False, y=None):
        """The images of latents: see `decode`."""
        return self.decode(z, y)

    def generate(self, z: tf.Tensor, training: bool = False, y: tf.Tensor | None = None) -> tf.Tensor:
        """The image of latents [..., D], and labels that broadcast -> [N, H, W, C] in [0, 1], leading axes folded."""
        logits = self.generator(*folded(z, self.context(y)), training=training)
        return tf.sigmoid(tf.reshape(logits, [-1, *self.image_shape]))

    def discriminate(self, x: tf.Tensor, training: bool = False, y: tf.Tensor | None = None) -> tf.Tensor:
        """The discriminator's logits of images [B, H, W, C], and labels [B] -> [B]; the higher, the more real."""
        return tf.squeeze(self.discriminator(*inputs(x, self.context(y)), training=training), axis=-1)

    def decode(self, z, y=None):
        return tf.reshape(self.generate(z, y=y), tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0))

    def draw_given(self, seeds, labels):
        images = self.decode(sample_each(self.prior(), seeds), labels)
        return {"images": images, "probabilities": images}


def build(config: ConfigDict, spec: DatasetSpec) -> GAN:
    """The GAN of `config` for images of `spec`; raises UsageError for a value out of range."""
    # A generator of grey levels is told from bits at a glance.
    require_fit(config, "model", binarization=["none"])
    if spec.values == "binary":
        raise UsageError(
            f"config.dataset={config.dataset} has pixels of 0 and 1 alone, which a generator of grey levels does not "
            "draw: give images of grey levels"
        )
    takes_labels = require_labels(config, spec.name, spec.num_classes) > 0
    require_choice(config, network=["mlp", "conv"], loss=LOSSES, discriminator_norm=["none", "batch", "spectral"])
    require_positive(config, "latent_size", "hidden_layers", "hidden_size", "channels", "critic_steps")
    require(config, "label_smoothing", 0 <= config.label_smoothing < 1, "0 (none) or a value below 1")
    require_finite(config, "gradient_penalty", "r1_penalty")
    if config.label_smoothing:
        require_fit(config, "label_smoothing", loss=losses.TARGETS)
    if config.loss == "wasserstein_gp":
        require(config, "gradient_penalty", config.gradient_penalty > 0, "more than 0, which loss=wasserstein_gp needs")
    for penalty in ("gradient_penalty", "r1_penalty"):
        if config[penalty]:
            # Gulrajani et al. (2017), section 4: it is of each image's own gradient, and batch norm mixes the images.
            require_fit(config, penalty, discriminator_norm=["none", "spectral"])
    if config.network == "mlp":
        generator = networks.mlp(config.hidden_layers, config.hidden_size, norm="batch")
        generator.add(networks.layers.Dense(math.prod(spec.image_shape)))
        discriminator = networks.mlp_discriminator(config.hidden_layers, config.hidden_size, config.discriminator_norm)
    else:
        sizes = spec.image_shape, config.channels, config.hidden_size
        generator = networks.dcgan_generator(*sizes)
        discriminator = networks.dcgan_discriminator(*sizes, config.discriminator_norm)
    if takes_labels:
        generator = networks.Conditional(generator)
        discriminator = networks.Projection(discriminator, config.hidden_size, config.discriminator_norm)
    return GAN(
        generator,
        discriminator,
        StandardNormal(config.latent_size),
        spec.image_shape,
        config.loss,
        critic_steps=config.critic_steps,
        label_smoothing=config.label_smoothing,
        gradient_penalty=config.gradient_penalty,
        r1_penalty=config.r1_penalty,
        num_classes=spec.num_classes,
        judge=spec.judge,
        takes_labels=takes_labels,
    )
