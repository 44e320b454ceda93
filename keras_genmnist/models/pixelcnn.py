"""Gated PixelCNN.

Source: van den Oord et al. (2016), "Pixel Recurrent Neural Networks", arxiv.org/abs/1601.06759; van den Oord et al.
(2016), "Conditional Image Generation with PixelCNN Decoders", arxiv.org/abs/1606.05328
"""

import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.config import require, require_fit, require_kernel, require_labels, require_positive
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.models.base import TractableModel


class PixelCNN(TractableModel):
    """p(x) = prod{ p(x[i] | x[0], ..., x[i-1]) : pixels i, row by row }, known exactly.

    With classes y, p(x) = (1/C) sum{ p(x | y) : y }, and training maximises log p(x | y) of the labels.
    """

    pixel_by_pixel = True

    def __init__(
        self,
        network: GatedPixelCNN,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        position_features: int = 0,
    ):
        """
        Args:
          network: images [B, H, W, C], context -> logits [B, H, W, C], each of the pixels before it.
          image_shape: (H, W, C).
          num_classes: C; 0 for none.
          position_features: P, learned for each pixel's position, which convolutions do not know; 0 for none.
        """
        super().__init__(image_shape)
        self.network, self.num_classes, self.takes_labels = network, num_classes, num_classes > 0
        self.positions = None
        if position_features:
            start = tf_keras.initializers.RandomNormal(stddev=0.1)
            self.positions = self.add_weight("positions", [1, *image_shape[:2], position_features], initializer=start)

    def _lookup_dependency(self, name, *args):
        # What checkpoints of earlier versions call it.
        return super()._lookup_dependency("positions" if name == "places" else name, *args)

    def _context(self, labels: tf.Tensor | None) -> tf.Tensor | None:
        """What the network is told of the position and the class: [B, 1, 1, C], [1, H, W, P] or [B, H, W, P + C]."""
        if labels is None:
            return self.positions
        classes = tf.one_hot(labels, self.num_classes)[:, None, None]
        if self.positions is None:
            return classes
        everywhere = tf.tile(classes, [1, *self.image_shape[:2], 1])
        return tf.concat([tf.repeat(self.positions, tf.shape(labels)[0], axis=0), everywhere], axis=-1)

    def _log_probs(self, x: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """log p(x[i] | x[0], ..., x[i-1], y), [B, H, W, C], nats."""
        return -tf.nn.sigmoid_cross_entropy_with_logits(x, self.network(x, self._context(labels)))

    def _log_prob_by_class(self, x: tf.Tensor, mask: tf.Tensor | float = 1.0) -> tf.Tensor:
        """log p(x | y) of the pixels where mask is 1, for each class, [C, B], nats."""

        def of_class(label):
            log_probs = self._log_probs(x, tf.fill(tf.shape(x)[:1], label))
            return tf.reduce_sum(mask * log_probs, axis=[1, 2, 3])

        # One class after the other: ten at once would take ten times the memory.
        classes = tf.range(self.num_classes)
        return tf.map_fn(of_class, classes, fn_output_signature=tf.float32, parallel_iterations=1)

    def log_likelihood(self, x, y=None):
        if self.takes_labels and y is None:
            return tf.reduce_logsumexp(self._log_prob_by_class(x), axis=0) - tf.math.log(float(self.num_classes))
        return tf.reduce_sum(self._log_probs(x, y), axis=[1, 2, 3])

    def call(self, x, training=False):
        """The probability that each pixel is 1, given those before it.  [B, H, W, C] -> [B, H, W, C]"""
        return tf.exp(self._log_probs(tf.ones_like(x)))

    def draw_given(self, seeds, labels):
        return self._drawn(self._uniform(seeds), labels)

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
            labels = tf.map_fn(
                lambda row: tf.random.stateless_categorical(row[0][None], 1, row[1], tf.int32)[0, 0],
                (tf.transpose(self._log_prob_by_class(images, mask)), seeds),
                fn_output_signature=tf.int32,
            )
        # A known pixel's uniform number is below every probability, or above.
        known = tf.where(images > 0.5, -1.0, 2.0)
        drawn = self._drawn(tf.where(mask > 0.5, known, self._uniform(seeds)), labels)
        return drawn | {"probabilities": tf.where(mask > 0.5, images, drawn["probabilities"])}

    def _drawn(self, uniform: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        context = self._context(labels)
        images = self.network.sample(uniform, context)
        return {"images": images, "probabilities": tf.sigmoid(self.network(images, context))}

    def _uniform(self, seeds: tf.Tensor) -> tf.Tensor:
        """Of each seed, int32 [N, 2], uniform numbers [N, H, W, C]."""
        return tf.map_fn(
            lambda seed: tf.random.stateless_uniform(self.image_shape, tf.random.split(seed, 2)[1]),
            seeds,
            fn_output_signature=tf.TensorSpec(self.image_shape),
        )


def build(config: ConfigDict, spec: DatasetSpec) -> PixelCNN:
    """The PixelCNN of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_fit(config, "model", binarization=["dynamic", "static", "threshold"])  # its pixels are bits
    require_positive(config, "num_layers", "features")
    require_kernel(config, "kernel_size", "first_kernel_size")
    require(config, "position_features", 0 <= config.position_features <= 10_000, "0 to 10000")
    num_classes = require_labels(config, spec.name, spec.num_classes)
    sizes = config.kernel_size, config.first_kernel_size
    network = GatedPixelCNN(config.num_layers, config.features, *sizes, spec.image_shape[-1])
    return PixelCNN(network, spec.image_shape, num_classes, config.position_features)
