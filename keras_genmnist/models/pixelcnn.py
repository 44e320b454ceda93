"""Gated PixelCNN.

Source: van den Oord et al. (2016), "Pixel Recurrent Neural Networks", arxiv.org/abs/1601.06759; van den Oord et al.
(2016), "Conditional Image Generation with PixelCNN Decoders", arxiv.org/abs/1606.05328
"""

import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.config import require, require_choice, require_positive
from keras_genmnist.data import IMAGE_SHAPE
from keras_genmnist.models.base import TractableModel, capped, with_png


class PixelCNN(TractableModel):
    """p(x) = prod{ p(x[i] | x[0], ..., x[i-1]) : pixels i, row by row }, known exactly."""

    def __init__(self, network: GatedPixelCNN, image_shape: tuple[int, int, int]):
        """
        Args:
          network: images [B, H, W, 1] -> logits [B, H, W, 1], each of the pixels before it.
          image_shape: (H, W, 1).
        """
        super().__init__(image_shape)
        self.network = network

    def log_prob(self, x):
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(x, self.network(x))
        return -tf.reduce_sum(cross_entropy, axis=[1, 2, 3])

    def draw(self, seeds):
        images = self.network.sample(self._uniform(seeds))
        return {"images": images, "probabilities": tf.sigmoid(self.network(images))}

    def complete(self, images: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws the pixels that are not known, each given those before it: pixels known further down do not count.

        Args:
          images: [N, H, W, 1], binary.
          mask: [N, H, W, 1], 1 where `images` is known, else 0.
          seeds: int32 [N, 2].
        Returns:
          As `draw`.
        """
        # A known pixel's uniform number is below every probability, or above.
        known = tf.where(images > 0.5, -1.0, 2.0)
        uniform = tf.where(mask > 0.5, known, self._uniform(seeds)[..., None])
        drawn = self.network.sample(tf.squeeze(uniform, axis=-1))
        return {"images": drawn, "probabilities": tf.sigmoid(self.network(drawn))}

    def _uniform(self, seeds: tf.Tensor) -> tf.Tensor:
        """Of each seed, int32 [N, 2], uniform numbers [N, H, W]."""
        shape = self.image_shape[:2]
        return tf.map_fn(
            lambda seed: tf.random.stateless_uniform(shape, seed), seeds, fn_output_signature=tf.TensorSpec(shape)
        )

    def signatures(self):
        batch = tf.TensorSpec([None, *self.image_shape], tf.float32)

        @tf.function(input_signature=[batch, batch, tf.TensorSpec([], tf.int32)])
        def complete(images, mask, seed):
            tf.debugging.assert_equal(tf.shape(mask), tf.shape(images), "images and mask must agree in shape")
            count = capped(tf.shape(images)[0], tf.shape(images)[0])
            seeds = tf.stack([tf.fill([count], seed), tf.range(count)], axis=1)
            return with_png(self.complete(self.checked(images), self.checked(mask), seeds))

        return super().signatures() | {"complete": complete}


def build(config: ConfigDict) -> PixelCNN:
    """The PixelCNN of `config`; raises UsageError for a value out of range."""
    require_choice(config, binarization=["dynamic", "static"])  # its pixels are bits
    require_positive(config, "num_layers", "features")
    for field in ("kernel_size", "first_kernel_size"):
        require(config, field, config[field] >= 3 and config[field] % 2 == 1, "an odd number, 3 or more")
    network = GatedPixelCNN(config.num_layers, config.features, config.kernel_size, config.first_kernel_size)
    return PixelCNN(network, IMAGE_SHAPE)
