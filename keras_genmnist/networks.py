"""Deterministic networks: image or latent in, features or logits out."""

import tf_keras
from tf_keras import layers

NORMS = ("none", "batch", "layer")  # of fully connected layers


def mlp(hidden_layers: int, hidden_size: int, norm: str = "none") -> tf_keras.Sequential:
    """Fully connected ReLU layers, [N, ...] -> [N, hidden_size].

    Args:
      hidden_layers: how many.
      hidden_size: units of each.
      norm: of NORMS, before each ReLU: by the batch (Ioffe & Szegedy 2015, arxiv.org/abs/1502.03167), or by the layer
        (Ba et al. 2016, arxiv.org/abs/1607.06450), the same in training and after.
    """
    network = [layers.Flatten()]
    for _ in range(hidden_layers):
        network += [*_dense(hidden_size, norm), layers.ReLU()]
    return tf_keras.Sequential(network, name="mlp")


def _dense(units: int, norm: str) -> list[layers.Layer]:
    """A fully connected layer, and its norm."""
    if norm == "none":
        return [layers.Dense(units)]
    # No scale: the next layer's weights scale as well.
    if norm == "batch":
        by = layers.BatchNormalization(momentum=0.9, scale=False)
    else:
        by = layers.LayerNormalization(scale=False)
    return [layers.Dense(units, use_bias=False), by]


class ResidualBlock(layers.Layer):
    """x + conv(elu(conv(elu(x)))), 3x3, on [N, H, W, C].

    Source: He et al. (2016), figure 1b, arxiv.org/abs/1603.05027, with ELU in place of batch norm and ReLU.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = layers.Conv2D(channels, 3, padding="same")
        # Zero: the block starts as the identity, so depth costs nothing at the start of training.
        self.second = layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros")

    def call(self, x):
        return x + self.second(tf_keras.activations.elu(self.first(tf_keras.activations.elu(x))))


def conv_encoder(channels: int, hidden_size: int, norm: str = "none") -> tf_keras.Sequential:
    """Residual convolutional encoder, [N, 28, 28, 1] -> [N, hidden_size].

    Halves the image twice by strided convolutions, with a residual block at each size.

    Args:
      channels: feature maps at 14 x 14; twice as many at 7 x 7.
      hidden_size: units of the fully connected layer at the end.
      norm: of these, of NORMS.
    """
    network = [layers.Conv2D(channels, 5, strides=2, padding="same"), ResidualBlock(channels)]
    network += [layers.ELU(), layers.Conv2D(2 * channels, 3, strides=2, padding="same"), ResidualBlock(2 * channels)]
    network += [layers.ELU(), layers.Flatten(), *_dense(hidden_size, norm), layers.ELU()]
    return tf_keras.Sequential(network, name="conv_encoder")


def conv_decoder(channels: int, hidden_size: int, norm: str = "none", outputs: int = 1) -> tf_keras.Sequential:
    """Deconvolutional decoder, [N, D] -> [N, 28, 28, outputs].

    Source: the generator of Radford et al. (2016), figure 1, arxiv.org/abs/1511.06434, for 28 x 28 images.

    Args:
      channels: feature maps at 14 x 14; twice as many at 7 x 7.
      hidden_size: units of the fully connected layer at the start.
      norm: of these, of NORMS.
      outputs: 1 for logits of the pixels.
    """
    network = [*_dense(hidden_size, norm), layers.ELU(), layers.Dense(7 * 7 * 2 * channels)]
    network += [layers.Reshape((7, 7, 2 * channels)), layers.ELU()]
    network += [layers.Conv2DTranspose(channels, 4, strides=2, padding="same"), layers.ELU()]
    network += [layers.Conv2DTranspose(outputs, 4, strides=2, padding="same")]
    return tf_keras.Sequential(network, name="conv_decoder")


def mlp_discriminator(hidden_layers: int, hidden_size: int, norm: str) -> tf_keras.Sequential:
    """Fully connected leaky ReLU layers, images [N, H, W, C] -> logits [N, 1].

    Args:
      hidden_layers: how many.
      hidden_size: units of each.
      norm: none, batch or spectral.
    """
    network = tf_keras.Sequential([layers.Flatten()], name="mlp_discriminator")
    for _ in range(hidden_layers):
        _add(network, layers.Dense(hidden_size, use_bias=norm != "batch"), norm)
    network.add(_spectral(layers.Dense(1), norm))
    return network


def dcgan_generator(channels: int, hidden_size: int) -> tf_keras.Sequential:
    """Strided deconvolutions with batch norm and ReLU, [N, D] -> logits [N, 28, 28, 1].

    Args:
      channels: feature maps at 14 x 14; twice as many at 7 x 7.
      hidden_size: units of the fully connected layer at the start.
    Source: Radford et al. (2016), section 3, arxiv.org/abs/1511.06434; for 28 x 28 images as Chen et al. (2016),
      appendix C.1, arxiv.org/abs/1606.03657
    """

    def norm():
        return [layers.BatchNormalization(momentum=0.9), layers.ReLU()]

    network = [layers.Dense(hidden_size, use_bias=False), *norm()]
    network += [layers.Dense(7 * 7 * 2 * channels, use_bias=False), layers.Reshape((7, 7, 2 * channels)), *norm()]
    network += [layers.Conv2DTranspose(channels, 4, strides=2, padding="same", use_bias=False), *norm()]
    network += [layers.Conv2DTranspose(1, 4, strides=2, padding="same")]
    return tf_keras.Sequential(network, name="dcgan_generator")


def dcgan_discriminator(channels: int, hidden_size: int, norm: str) -> tf_keras.Sequential:
    """Strided convolutions with leaky ReLU, images [N, 28, 28, 1] -> logits [N, 1].

    Args:
      channels: feature maps at 14 x 14; twice as many at 7 x 7.
      hidden_size: units of the fully connected layer at the end: what sees the whole image.
      norm: none, batch (not after the first convolution, as the papers) or spectral.
    Source: as of `dcgan_generator`
    """
    network = tf_keras.Sequential(name="dcgan_discriminator")
    _add(network, layers.Conv2D(channels, 4, strides=2, padding="same"), "none" if norm == "batch" else norm)
    _add(network, layers.Conv2D(2 * channels, 4, strides=2, padding="same", use_bias=norm != "batch"), norm)
    network.add(layers.Flatten())
    _add(network, layers.Dense(hidden_size, use_bias=norm != "batch"), norm)
    network.add(_spectral(layers.Dense(1), norm))
    return network


def _add(network: tf_keras.Sequential, layer: layers.Layer, norm: str) -> None:
    """Appends the layer, its norm, and a leaky ReLU."""
    network.add(_spectral(layer, norm))
    if norm == "batch":
        network.add(layers.BatchNormalization(momentum=0.9))
    network.add(layers.LeakyReLU(0.2))


def _spectral(layer: layers.Layer, norm: str) -> layers.Layer:
    return SpectralNormalization(layer) if norm == "spectral" else layer


class SpectralNormalization(layers.SpectralNormalization):
    """A layer whose kernel is divided by its largest singular value at each call in training.

    Source: Miyato et al. (2018), algorithm 1, arxiv.org/abs/1802.05957
    """

    @property
    def input_spec(self):
        return None

    @input_spec.setter
    def input_spec(self, spec):
        pass  # tf_keras 2.21 sets one of Keras 3 here, and then refuses it
