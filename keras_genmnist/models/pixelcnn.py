"""Gated PixelCNN.

Source: van den Oord et al. (2016), "Pixel Recurrent Neural Networks", arxiv.org/abs/1601.06759; van den Oord et al.
(2016), "Conditional Image Generation with PixelCNN Decoders", arxiv.org/abs/1606.05328
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import augmentation, patches
from keras_genmnist.autoregressive import Conditionals, Context, GatedPixelCNN
from keras_genmnist.averaging import AveragedConditionals
from keras_genmnist.config import require, require_choice, require_fit, require_kernel, require_labels, require_positive
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.distributions import categorical_each
from keras_genmnist.errors import UsageError
from keras_genmnist.models.base import MadeModel, TractableModel, require_classes, require_images, require_pixels
from keras_genmnist.orders import Orders
from keras_genmnist.symmetries import require_orders


class PixelCNN(TractableModel):
    """p(x) = prod{ p(x[i] | x[0], ..., x[i-1]) : places i, row by row }, known exactly; a place is a pixel or a patch.

    With classes y, p(x) = (1/C) sum{ p(x | y) : y }, and training maximises log p(x | y) of the labels.
    """

    pixel_by_pixel = True

    def __init__(
        self,
        network: Conditionals,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        position_features: int = 0,
        takes_levels: bool = False,
        augmented: float = 0.0,
    ):
        """
        Args:
          network: of images [B, H, W, C] and a context.
          image_shape: (H, W, C).
          num_classes: C; 0 for none.
          position_features: P, learned for each place's position, which convolutions do not know; 0 for none.
          takes_levels: whether the grey levels that the bits were drawn from are what training aims at.
          augmented: the share of the training images that are moved, which the network is told; see augmentation.py.
        """
        super().__init__(image_shape)
        self.network, self.num_classes, self.takes_labels = network, num_classes, num_classes > 0
        self.takes_levels, self.augmented = takes_levels, augmented
        self.grid = tuple(-(-side // network.patches.size) for side in image_shape[:2])
        self.positions = None
        if position_features:
            start = tf_keras.initializers.RandomNormal(stddev=0.1)
            self.positions = self.add_weight("positions", [1, *self.grid, position_features], initializer=start)

    def _lookup_dependency(self, name, *args):
        # What checkpoints of earlier versions call it.
        return super()._lookup_dependency("positions" if name == "places" else name, *args)

    def _context(self, labels: tf.Tensor | None, is_moved: tf.Tensor | None = None) -> Context:
        """What the network is told of the position, [1, R, S, P], the class, [B, 1, 1, C], and a move, [B, 1, 1, 1]."""
        parts = [] if self.positions is None else [self.positions]
        if labels is not None:
            require_classes(tf.convert_to_tensor(labels), self.num_classes)
            parts.append(tf.one_hot(labels, self.num_classes)[:, None, None])
        if self.augmented:
            is_moved = [0.0] if is_moved is None else tf.cast(is_moved, tf.float32)
            parts.append(tf.reshape(is_moved, [-1, 1, 1, 1]))
        return parts if len(parts) > 1 else parts[0] if parts else None

    def log_likelihood(self, x, y=None):
        require_images(x, self.image_shape)
        require_pixels(x)
        if self.takes_labels and y is None:
            by_class = self._by_class(lambda labels: self.log_likelihood(x, labels), tf.shape(x)[0])
            return tf.reduce_logsumexp(by_class, axis=0) - tf.math.log(float(self.num_classes))
        return self.expected_log_likelihood(x, x, y)

    def expected_log_likelihood(self, x, levels, y=None):
        return tf.reduce_sum(self.network.log_prob(x, self._context(y), levels), axis=[1, 2, 3])

    def objective(self, x, y, levels, seed):
        if not self.augmented or levels is None:
            return super().objective(x, y, levels, seed)
        x, levels, is_moved = augmentation.moved(x, levels, self.augmented, seed)
        return tf.reduce_sum(self.network.log_prob(x, self._context(y, is_moved), levels), axis=[1, 2, 3])

    def _by_class(self, log_prob: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
        """What `log_prob` makes of the labels of a batch, int32 [B], if all are of one class: of each, [C, B], nats."""

        def of_class(label):
            return log_prob(tf.fill([batch], label))

        # One class after the other: ten at once would take ten times the memory.
        classes = tf.range(self.num_classes)
        return tf.map_fn(of_class, classes, fn_output_signature=tf.float32, parallel_iterations=1)

    def call(self, x, training=False):
        """The probability that each pixel is 1, given those before it; with classes, the mean of what each says.

        [B, H, W, C] -> [B, H, W, C]
        """
        if self.takes_labels:
            return tf.reduce_mean(self._by_class(lambda labels: self.probabilities(x, labels), tf.shape(x)[0]), axis=0)
        return self.probabilities(x, None)

    def probabilities(self, x: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        """The probability that each pixel is 1, given those before it and the labels.  [B, H, W, C] -> [B, H, W, C]"""
        return self.network.probabilities(x, self._context(labels))

    def draw_given(self, seeds, labels):
        return self.network.draw(self._uniform(seeds), self._context(labels))

    def complete(self, images: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws the pixels that are not known, each given those before it: pixels known further down do not count.

        With classes, one is drawn first, given the known pixels: exactly where these are the first ones.

        Args:
          images: [N, H, W, C], binary.
          mask: [N, H, W, C], 1 where `images` is known, else 0.
          seeds: int32 [N, 2].
        Returns:
          As `draw`; the probabilities of known pixels are the pixels.
        """
        labels = None
        if self.takes_labels:
            by_class = self._by_class(lambda labels: self.log_prob_known(images, mask, labels), tf.shape(images)[0])
            labels = categorical_each(by_class, seeds)
        return self.complete_given(images, mask, seeds, labels)

    def complete_given(
        self, images: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor, labels: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """As `complete`, of images of these labels, int32 [N]."""
        drawn = self.network.draw(_known(images, mask, self._uniform(seeds)), self._context(labels))
        return drawn | {"probabilities": tf.where(mask > 0.5, images, drawn["probabilities"])}

    def log_prob_known(self, images: tf.Tensor, mask: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log p of the known pixels given the labels and the pixels before them, [N], nats; see `complete`."""
        log_prob = self.network.log_prob_known(images, _known(images, mask, 0.5), self._context(labels))
        return tf.reduce_sum(log_prob, axis=[1, 2, 3])

    def averaged(self, others: Sequence["PixelCNN"], shares: Sequence[float]) -> "AveragedPixelCNN":
        """The average of this and others, place by place.

        Args:
          others: of the same images and labels.
          shares: one of each, of this first.
        Raises:
          UsageError: if another has patches of another size, or patches reach beyond the image: of these no pattern of
            pixels inside has a probability of its own.
        """
        models = [self, *others]
        if len({model.network.patches.size for model in models}) > 1:
            raise UsageError("the models have other places: give those of one config.patch_size")
        if any(side % self.network.patches.size for side in self.image_shape[:2]):
            raise UsageError(
                f"config.patch_size={self.network.patches.size} does not divide images of {self.image_shape[0]} x "
                f"{self.image_shape[1]}, so that there is no average of places: leave out --average=places"
            )
        return AveragedPixelCNN(models, shares)

    def _uniform(self, seeds: tf.Tensor) -> tf.Tensor:
        """Of each seed, int32 [N, 2], uniform numbers [N, H, W, C]."""
        return tf.map_fn(
            lambda seed: tf.random.stateless_uniform(self.image_shape, tf.random.split(seed, 2)[1]),
            seeds,
            fn_output_signature=tf.TensorSpec(self.image_shape),
        )


class AveragedPixelCNN(MadeModel, PixelCNN):
    """Whose p(x[i] | x[0], ..., x[i-1]) is the average of those of trained ones."""

    def __init__(self, models: Sequence[PixelCNN], shares: Sequence[float]):
        """
        Args:
          models: of the same images, places and labels.
          shares: one of each.
        """
        first = models[0]
        super().__init__(
            AveragedConditionals([m.network for m in models], shares), first.image_shape, first.num_classes
        )
        self.models = list(models)

    def _context(self, labels):
        return [model._context(labels) for model in self.models]

    def by_component(self, x: tf.Tensor, num_draws: int = 0, seed: tf.Tensor | None = None, y: tf.Tensor | None = None):
        """log p_m of each place of images [B, H, W, C], given those before it: [M, B, places], nats.

        Args:
          x: the images.
          num_draws, seed: what a mixture's estimates take; not used here.
          y: labels, int32 [B], or None.
        """
        found = self.network.by_network(x, self._context(y))
        return tf.reshape(found, [len(self.models), tf.shape(x)[0], -1])


def _known(images: tf.Tensor, mask: tf.Tensor, otherwise: tf.Tensor | float) -> tf.Tensor:
    """Uniform numbers by which GatedPixelCNN.draw draws the pixels of images that mask says are known."""
    return tf.where(mask > 0.5, tf.where(images > 0.5, -1.0, 2.0), otherwise)


def build(config: ConfigDict, spec: DatasetSpec) -> PixelCNN:
    """The PixelCNN of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_fit(config, "model", binarization=["dynamic", "static", "threshold"])  # its pixels are bits
    require_positive(config, "num_layers", "features")
    require_kernel(config, "kernel_size", "first_kernel_size")
    require(config, "position_features", 0 <= config.position_features <= 10_000, "0 to 10000")
    num_classes = require_labels(config, spec.name, spec.num_classes)
    require_choice(config, patch_size=patches.SIZES)
    require(config, "attention_every", 0 <= config.attention_every <= config.num_layers, "0 (none) to num_layers")
    divides = config.attention_heads > 0 and config.features % config.attention_heads == 0
    require(config, "attention_heads", divides, f"a divisor of config.features={config.features}")
    require_orders(config, "orders", spec.image_shape)
    if config.soft_targets:
        require_fit(config, "soft_targets", binarization=["dynamic"])  # else no pixel is drawn anew
    require(config, "augmented", 0 <= config.augmented <= 1, "0 to 1")
    if config.augmented:
        require_fit(config, "augmented", soft_targets=[True])  # bits of moved images are drawn of their grey levels
    network = GatedPixelCNN(
        config.num_layers,
        config.features,
        config.kernel_size,
        config.first_kernel_size,
        spec.image_shape[-1],
        config.patch_size,
        config.attention_every,
        config.attention_heads,
    )
    several = config.orders > 1
    labels = config.orders * max(num_classes, 1) if several else num_classes
    model = PixelCNN(network, spec.image_shape, labels, config.position_features, config.soft_targets, config.augmented)
    return Orders(model, config.orders, num_classes) if several else model
