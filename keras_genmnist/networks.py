"""Deterministic networks: image or latent in, features or logits out, for images of any height and width."""

import math

import tensorflow as tf
import tf_keras
from tf_keras import layers

from keras_genmnist import precision, replicas

NORMS = ("none", "batch", "layer")  # of fully connected layers
COARSEST = 8  # the longest side of the grid between convolutions and fully connected layers


@precision.network
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
    by = batch_norm(scale=False) if norm == "batch" else layers.LayerNormalization(scale=False)
    return [layers.Dense(units, use_bias=False), by]


def batch_norm(scale: bool = True) -> layers.Layer:
    """Batch norm, by the statistics of the whole batch."""
    if replicas.several():
        return BatchNormOfReplicas(momentum=0.9, scale=scale, synchronized=True)
    return layers.BatchNormalization(momentum=0.9, scale=scale)


class BatchNormOfReplicas(layers.BatchNormalization):
    """Batch norm by the statistics of the rows of all replicas: the numbers of one that has them all.

    In float32, whatever it is given.  What tf_keras has for this takes the variance as a difference of large numbers,
    and one of 4 axes learns another variance than on one device, where TensorFlow's own operation estimates that of all
    images there are.
    """

    def call(self, x, training=False):
        if not training:
            return super().call(x, training=False)
        given, x = x.dtype, tf.cast(x, tf.float32)
        axes = list(range(len(x.shape) - 1))
        mean = replicas.mean(tf.reduce_mean(x, axes))
        variance = learned = replicas.mean(tf.reduce_mean((x - mean) ** 2, axes))
        if len(x.shape) == 4:
            count = replicas.total(tf.cast(tf.size(x) // x.shape[-1], tf.float32))
            learned *= count / (count - 1)
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, learned)):
            moving.assign(moving - (moving - now) * (1 - self.momentum))
        normalised = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(normalised, given)


class Conditional(tf_keras.Model):
    """A network told a context, beside what its first fully connected layer sees: values [N, ...], context [N, F]."""

    def __init__(self, network: tf_keras.Sequential):
        """
        Args:
          network: not built yet.
        """
        super().__init__()
        dense = [isinstance(layer, layers.Dense) for layer in network.layers]
        first = dense.index(True) if any(dense) else len(dense)
        self.before, self.after = (
            tf_keras.Sequential(part) for part in (network.layers[:first], network.layers[first:])
        )

    def call(self, values, context, training=False):
        seen = self.before(values, training=training)
        return self.after(tf.concat([seen, tf.cast(context, seen.dtype)], axis=-1), training=training)


def inputs(values: tf.Tensor, context: tf.Tensor | None) -> list[tf.Tensor]:
    """What a network takes: the values alone, or of a `Conditional` one the context too."""
    return [values] if context is None else [values, context]


def folded(values: tf.Tensor, context: tf.Tensor | None = None) -> list[tf.Tensor]:
    """The `inputs` with all leading axes, as draws and images, folded into one.

    Args:
      values: [..., D].
      context: broadcasts to [..., F], or None.
    Returns:
      [N, D] and, with a context, [N, F].
    """
    if context is not None:
        context = tf.broadcast_to(context, tf.concat([tf.shape(values)[:-1], [context.shape[-1]]], axis=0))
        context = tf.reshape(context, [-1, context.shape[-1]])
    return inputs(tf.reshape(values, [-1, values.shape[-1]]), context)


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


def halved_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width of an image before and after each strided convolution, the image's own first.

    Both are halved, rounded up, until neither exceeds COARSEST, and twice at least: 28 x 28, 14 x 14, 7 x 7.
    """
    height, width, _ = image_shape
    sizes = [(height, width)]
    while len(sizes) < 3 or max(sizes[-1]) > COARSEST:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        sizes.append((height, width))
    return sizes


@precision.network
def conv_encoder(
    image_shape: tuple[int, int, int], channels: int, hidden_size: int, norm: str = "none"
) -> tf_keras.Sequential:
    """Residual convolutional encoder, [N, H, W, C] -> [N, hidden_size].

    Halves the image by strided convolutions, with a residual block at each of the `halved_sizes`.

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many after each further halving.
      hidden_size: units of the fully connected layer at the end.
      norm: of these, of NORMS.
    """
    network = [*_halvings(image_shape, channels), layers.Flatten(), *_dense(hidden_size, norm), layers.ELU()]
    return tf_keras.Sequential(network, name="conv_encoder")


def _halvings(image_shape: tuple[int, int, int], channels: int) -> list[layers.Layer]:
    """Strided convolutions and residual blocks to the coarsest of the `halved_sizes`; see `conv_encoder`."""
    network = []
    for level in range(len(halved_sizes(image_shape)) - 1):
        maps = channels * 2**level
        kernel_size = 5 if level == 0 else 3
        network += [layers.Conv2D(maps, kernel_size, strides=2, padding="same"), ResidualBlock(maps), layers.ELU()]
    return network


@precision.network
def conv_decoder(
    image_shape: tuple[int, int, int], channels: int, hidden_size: int, norm: str = "none", outputs: int | None = None
) -> tf_keras.Sequential:
    """Deconvolutional decoder, [N, D] -> [N, H, W, outputs].

    Source: the generator of Radford et al. (2016), figure 1, arxiv.org/abs/1511.06434, for images of any size.

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many at each coarser of the `halved_sizes`.
      hidden_size: units of the fully connected layer at the start.
      norm: of these, of NORMS.
      outputs: numbers for each pixel; C by default, for the logits of its channels.
    """
    *finer, coarsest = halved_sizes(image_shape)
    maps = channels * 2 ** (len(finer) - 1)
    network = [*_dense(hidden_size, norm), layers.ELU(), layers.Dense(math.prod(coarsest) * maps)]
    network += [layers.Reshape((*coarsest, maps)), layers.ELU(), *_doublings(image_shape, channels, outputs)]
    return tf_keras.Sequential(network, name="conv_decoder")


def _doublings(image_shape: tuple[int, int, int], channels: int, outputs: int | None = None) -> list[layers.Layer]:
    """Deconvolutions from the coarsest of the `halved_sizes` to the image's own; see `conv_decoder`."""
    finer, network = halved_sizes(image_shape)[:-1], []
    for level in range(len(finer) - 1, 0, -1):
        deconvolution = layers.Conv2DTranspose(channels * 2 ** (level - 1), 4, strides=2, padding="same")
        network += [deconvolution, *_cropped(finer[level]), layers.ELU()]
    last = layers.Conv2DTranspose(outputs or image_shape[-1], 4, strides=2, padding="same")
    return [*network, last, *_cropped(finer[0]), _whole()]


@precision.network
def grid_encoder(
    image_shape: tuple[int, int, int], channels: int, num_blocks: int, outputs: int
) -> tf_keras.Sequential:
    """As `conv_encoder`, but with residual blocks at the coarsest size: [N, H, W, C] -> [N, R, S, outputs].

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many after each further halving.
      num_blocks: residual blocks at the coarsest size, (R, S).
      outputs: numbers for each place of it.
    """
    network = _halvings(image_shape, channels)
    maps = channels * 2 ** (len(halved_sizes(image_shape)) - 2)
    network += [*(ResidualBlock(maps) for _ in range(num_blocks)), layers.ELU(), layers.Dense(outputs), _whole()]
    return tf_keras.Sequential(network, name="grid_encoder")


@precision.network
def grid_decoder(image_shape: tuple[int, int, int], channels: int, num_blocks: int, inputs: int) -> tf_keras.Sequential:
    """As `conv_decoder`, but of a grid of vectors: [N, R S inputs], its places row by row -> [N, H, W, C].

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many at each coarser of the `halved_sizes`.
      num_blocks: residual blocks at the coarsest size, (R, S).
      inputs: numbers for each place of it.
    """
    sizes = halved_sizes(image_shape)
    maps = channels * 2 ** (len(sizes) - 2)
    network = [layers.Reshape((*sizes[-1], inputs)), layers.Conv2D(maps, 3, padding="same")]
    network += [*(ResidualBlock(maps) for _ in range(num_blocks)), layers.ELU(), *_doublings(image_shape, channels)]
    return tf_keras.Sequential(network, name="grid_decoder")


def _whole() -> layers.Layer:
    """What makes 32 bits of the 16 of the layers before it."""
    return layers.Activation("linear", dtype="float32")


def _cropped(size: tuple[int, int]) -> list[layers.Layer]:
    """What takes away the last row or column that doubling a size rounded up has added; nothing where it has not."""
    odd = tuple(length % 2 for length in size)
    return [layers.Cropping2D([(0, extra) for extra in odd])] if any(odd) else []


class UNet(tf_keras.Model):
    """Residual convolutions at half an image's size and coarser, and a view of the whole: [N, H, W, C] -> [N, H, W, O].

    On the way down, strided convolutions halve the image to each of the `halved_sizes`, and learned features say where
    each position is; at the coarsest, a fully connected layer sees all of them.  The way up doubles it again, and adds
    what the way down had found at each size.  Told a context, [N, F], a hidden layer makes of it what scales and shifts
    each feature, before the residual blocks of each size on either way.

    Source: Ronneberger et al. (2015), figure 1, arxiv.org/abs/1505.04597, with sums in place of concatenations; for the
      context Perez et al. (2018), section 2.1, arxiv.org/abs/1709.07871
    """

    @precision.network
    def __init__(
        self,
        image_shape: tuple[int, int, int],
        features: int,
        num_blocks: int,
        hidden_size: int,
        outputs: int,
        takes_context: bool = False,
    ):
        """
        Args:
          image_shape: (H, W, C) of the image; the input may have other channels.
          features: feature maps at half the image's size; twice as many after each further halving.
          num_blocks: residual blocks at each size, on the way down and on the way up.
          hidden_size: units of the fully connected layer.
          outputs: O.
          takes_context: whether it is told a context.
        """
        super().__init__(name="u_net")
        sizes = halved_sizes(image_shape)
        maps = [outputs, *(features * 2**level for level in range(len(sizes) - 1))]
        self.halve, self.positions, self.down, self.up, self.double = [], [], [], [], []
        for level, (size, number) in enumerate(zip(sizes[1:], maps[1:], strict=True)):
            self.halve.append(layers.Conv2D(number, 3 if level else 5, strides=2, padding="same"))
            start = tf_keras.initializers.RandomNormal(stddev=0.1)
            self.positions.append(self.add_weight(f"positions_{level}", [1, *size, number], initializer=start))
            down, up = (tf_keras.Sequential([ResidualBlock(number) for _ in range(num_blocks)]) for _ in range(2))
            double = layers.Conv2DTranspose(maps[level], 2, strides=2)
            self.down.append(down)
            self.up.append(up)
            self.double.append(tf_keras.Sequential([layers.ELU(), double, *_cropped(sizes[level])]))
        coarsest = (*sizes[-1], maps[-1])
        # Zero, as in a residual block.
        every = layers.Dense(math.prod(coarsest), kernel_initializer="zeros")
        whole = [layers.ELU(), layers.Flatten(), layers.Dense(hidden_size), layers.ELU(), every]
        self.whole = tf_keras.Sequential([*whole, layers.Reshape(coarsest)])
        if takes_context:
            self.hear = layers.Dense(hidden_size, "elu")
            self.tell = [layers.Dense(2 * number) for number in (*maps[1:], *maps[:0:-1])]

    def call(self, x, context=None):
        levels = len(self.halve)
        # Of each size on the way down, and then of each on the way up.
        told = [None] * 2 * levels
        if context is not None:
            hidden = self.hear(context)
            told = [tell(hidden) for tell in self.tell]
        found = []
        for halve, positions, down, own in zip(self.halve, self.positions, self.down, told[:levels], strict=True):
            x = down(_modulated(halve(tf_keras.activations.elu(x) if found else x) + positions, own))
            found.append(x)
        x = self.whole(x)
        for above, up, double, own in zip(found[::-1], self.up[::-1], self.double[::-1], told[levels:], strict=True):
            x = double(up(_modulated(x + above, own)))
        return tf.cast(x, tf.float32)


def _modulated(x: tf.Tensor, told: tf.Tensor | None) -> tf.Tensor:
    """x [N, H, W, C], scaled and shifted by what is told of each feature, [N, 2 C]; or as it is."""
    if told is None:
        return x
    scale, shift = tf.split(told[:, None, None, :], 2, axis=-1)
    return x * (1 + scale) + shift


@precision.network
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
    network.add(_spectral(layers.Dense(1, dtype="float32"), norm))
    return network


@precision.network
def dcgan_generator(image_shape: tuple[int, int, int], channels: int, hidden_size: int) -> tf_keras.Sequential:
    """Strided deconvolutions with batch norm and ReLU, [N, D] -> logits [N, H, W, C].

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many at each coarser of the `halved_sizes`.
      hidden_size: units of the fully connected layer at the start.
    Source: Radford et al. (2016), section 3, arxiv.org/abs/1511.06434; for 28 x 28 images as Chen et al. (2016),
      appendix C.1, arxiv.org/abs/1606.03657
    """

    def norm():
        return [batch_norm(), layers.ReLU()]

    *finer, coarsest = halved_sizes(image_shape)
    maps = channels * 2 ** (len(finer) - 1)
    network = [layers.Dense(hidden_size, use_bias=False), *norm()]
    network += [layers.Dense(math.prod(coarsest) * maps, use_bias=False), layers.Reshape((*coarsest, maps)), *norm()]
    for size in finer[:0:-1]:
        maps //= 2
        network += [
            layers.Conv2DTranspose(maps, 4, strides=2, padding="same", use_bias=False),
            *_cropped(size),
            *norm(),
        ]
    network += [layers.Conv2DTranspose(image_shape[-1], 4, strides=2, padding="same"), *_cropped(finer[0]), _whole()]
    return tf_keras.Sequential(network, name="dcgan_generator")


@precision.network
def dcgan_discriminator(
    image_shape: tuple[int, int, int], channels: int, hidden_size: int, norm: str
) -> tf_keras.Sequential:
    """Strided convolutions with leaky ReLU, images [N, H, W, C] -> logits [N, 1].

    Args:
      image_shape: (H, W, C).
      channels: feature maps at half the image's size; twice as many after each further halving.
      hidden_size: units of the fully connected layer at the end: what sees the whole image.
      norm: none, batch (not after the first convolution, as the papers) or spectral.
    Source: as of `dcgan_generator`
    """
    network = tf_keras.Sequential(name="dcgan_discriminator")
    _add(network, layers.Conv2D(channels, 4, strides=2, padding="same"), "none" if norm == "batch" else norm)
    for level in range(1, len(halved_sizes(image_shape)) - 1):
        convolution = layers.Conv2D(channels * 2**level, 4, strides=2, padding="same", use_bias=norm != "batch")
        _add(network, convolution, norm)
    network.add(layers.Flatten())
    _add(network, layers.Dense(hidden_size, use_bias=norm != "batch"), norm)
    network.add(_spectral(layers.Dense(1, dtype="float32"), norm))
    return network


class Projection(tf_keras.Model):
    """A discriminator told the class: images [N, H, W, C], one-hot classes [N, K] -> logits [N, 1].

    D(x, y) = psi(phi(x)) + <V y, phi(x)>, with phi all layers but the last, psi the last, and V a matrix.

    Source: Miyato & Koyama (2018), "cGANs with Projection Discriminator", section 3, arxiv.org/abs/1802.05637
    """

    def __init__(self, discriminator: tf_keras.Sequential, hidden_size: int, norm: str):
        """
        Args:
          discriminator: images -> logits, not built yet.
          hidden_size: of the features phi(x).
          norm: of V: where it is spectral; else none.
        """
        super().__init__()
        self.phi = tf_keras.Sequential(discriminator.layers[:-1])
        self.psi = tf_keras.Sequential(discriminator.layers[-1:])
        self.classes = tf_keras.Sequential([_spectral(layers.Dense(hidden_size, use_bias=False), norm)])

    def call(self, x, context, training=False):
        features = tf.cast(self.phi(x, training=training), tf.float32)
        projected = tf.reduce_sum(self.classes(context, training=training) * features, axis=-1, keepdims=True)
        return self.psi(features, training=training) + projected


def _add(network: tf_keras.Sequential, layer: layers.Layer, norm: str) -> None:
    """Appends the layer, its norm, and a leaky ReLU."""
    network.add(_spectral(layer, norm))
    if norm == "batch":
        network.add(batch_norm())
    network.add(layers.LeakyReLU(0.2))


def _spectral(layer: layers.Layer, norm: str) -> layers.Layer:
    # In float32, for it writes the kernel: by 16 bits the weight itself would be rounded.
    return SpectralNormalization(layer, dtype="float32") if norm == "spectral" else layer


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
