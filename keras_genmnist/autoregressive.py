"""Gated PixelCNN: a network whose output at a pixel sees only the pixels before it, row by row, and draws from it.

Source: van den Oord et al. (2016), "Conditional Image Generation with PixelCNN Decoders", section 2,
arxiv.org/abs/1606.05328
"""

import tensorflow as tf
import tf_keras
from tf_keras import layers


class GatedLayer(layers.Layer):
    """A vertical stack, of the rows above, and a horizontal stack, of the pixels to the left: no blind spot.

    Source: figure 2 and equations 2 to 4
    """

    def __init__(self, inputs: int, features: int, size: int, first: bool):
        """
        Args:
          inputs: maps of the input: the image's channels, or the features of the layer before.
          features: feature maps of each stack.
          size: odd; the kernels reach size // 2 rows up and size // 2 pixels to each side.
          first: whether the input is the image, of which a pixel must not see its own place (mask A).
        """
        super().__init__()
        self.reach, self.first, self.inputs = size // 2, first, inputs
        self.vertical = layers.Conv2D(2 * features, (self.reach + 1, size))
        self.horizontal = layers.Conv2D(2 * features, (1, self.reach if first else self.reach + 1))
        self.link = layers.Dense(2 * features)
        self.mix = layers.Dense(features)

    def see_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """What each pixel sees of its own row and of `reach` rows above.

        Args:
          rows: [B, R, W, C], the first `reach` of them only looked at.
        Returns:
          [B, R - reach, W, 2 features], before the gate.
        """
        return self.vertical(tf.pad(rows, [[0, 0], [0, 0], [self.reach, self.reach], [0, 0]]))

    def step(self, left: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
        """The horizontal stack.

        Args:
          left: its input, [B, R, W, C], the first `reach` columns only looked at; ends one column earlier where the
            layer is the first.
          above: what `link` makes of the row above, and the context, [B, R, W', 2 features].
        Returns:
          [B, R, W', features].
        """
        output = self.mix(gate(self.horizontal(left) + above))
        return output if self.first else output + left[:, :, self.reach :]

    @staticmethod
    def add(values: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """values [B, R, W, 2 features] with the context [B, R or 1, W or 1, 2 features] added, if there is one."""
        return values if context is None else values + context

    def call(self, vertical, horizontal, own=None, across=None):
        seen = self.add(self.see_rows(tf.pad(vertical, [[0, 0], [self.reach, 0], [0, 0], [0, 0]])), own)
        above = self.add(self.link(tf.pad(seen, [[0, 0], [1, 0], [0, 0], [0, 0]])[:, :-1]), across)
        left = tf.pad(horizontal, [[0, 0], [0, 0], [self.reach, 0], [0, 0]])
        return gate(seen), self.step(left[:, :, :-1] if self.first else left, above)


def gate(values: tf.Tensor) -> tf.Tensor:
    """tanh(a) sigmoid(b) of the two halves a, b of the last axis.  [..., 2 C] -> [..., C]"""
    a, b = tf.split(values, 2, axis=-1)
    return tf.tanh(a) * tf.sigmoid(b)


class GatedPixelCNN(tf_keras.Model):
    """Logits of binary pixels, each of the pixels before it and of a context.

    The channels of one pixel do not see each other: given what is before it, they are independent.

    Source: figure 2 and section 2.3
    """

    def __init__(self, num_layers: int, features: int, size: int, first_size: int, channels: int = 1):
        """
        Args:
          num_layers: gated layers, the first included.
          features: feature maps of each stack.
          size: of the kernels, odd; see GatedLayer.
          first_size: of the first layer's.
          channels: C, of the image.
        """
        super().__init__()
        self.channels = channels
        sizes = [first_size] + (num_layers - 1) * [size]
        inputs = [channels] + (num_layers - 1) * [features]
        self.gated = [
            GatedLayer(maps, features, reached, first=number == 0)
            for number, (maps, reached) in enumerate(zip(inputs, sizes, strict=True))
        ]
        self.contexts = [layers.Dense(4 * features, use_bias=False) for _ in sizes]
        self.head = tf_keras.Sequential([layers.ReLU(), layers.Dense(features), layers.ReLU(), layers.Dense(channels)])

    def call(self, x: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """
        Args:
          x: binary images [B, H, W, C].
          context: [B, H or 1, W or 1, F], or None.
        Returns:
          logits [B, H, W, C] of each pixel given those before it.
        """
        vertical = horizontal = signed(x)
        for layer, (own, across) in zip(self.gated, self._contexts(context), strict=True):
            vertical, horizontal = layer(vertical, horizontal, own, across)
        return self.head(horizontal)

    def _contexts(self, context: tf.Tensor | None) -> list:
        """What the context adds before the gates of the vertical and of the horizontal stack, for each layer."""
        if context is None:
            return len(self.gated) * [(None, None)]
        return [tf.split(project(context), 2, axis=-1) for project in self.contexts]

    def sample(self, uniform: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Draws images: a pixel is 1 where its uniform number is below its probability.

        The vertical stack is computed a row at a time and the horizontal one a pixel at a time, both from the few rows
        and pixels that their kernels reach: about the arithmetic of one pass, and memory that does not grow with it.

        Args:
          uniform: [B, H, W, C], in [0, 1).
          context: as in `call`.
        Returns:
          [B, H, W, C], 0 or 1.
        """
        height, width = uniform.shape[1:3]
        contexts = self._contexts(context)
        batch = tf.shape(uniform)[0]
        rows = [tf.zeros([batch, layer.reach, width, layer.inputs]) for layer in self.gated]
        seen = [tf.zeros([batch, 1, width, layer.link.units]) for layer in self.gated]

        def draw_row(i, images, rows, seen):
            here = [[None if part is None else _slice(part, i, axis=1) for part in pair] for pair in contexts]
            above = [
                layer.add(layer.link(last), across)
                for layer, last, (_, across) in zip(self.gated, seen, here, strict=True)
            ]
            drawn = self._draw_row(uniform[:, i], above)
            vertical, new_rows, new_seen = signed(drawn), [], []
            for layer, cached, (own, _) in zip(self.gated, rows, here, strict=True):
                window = tf.concat([cached, vertical], axis=1)
                new_seen.append(layer.add(layer.see_rows(window), own))
                new_rows.append(window[:, 1:])
                vertical = gate(new_seen[-1])
            return i + 1, images + tf.one_hot(i, height)[:, None, None] * drawn, new_rows, new_seen

        state = (0, tf.zeros([batch, height, width, self.channels]), rows, seen)
        return tf.while_loop(lambda i, *_: i < height, draw_row, state)[1]

    def _draw_row(self, uniform: tf.Tensor, above: list[tf.Tensor]) -> tf.Tensor:
        """One row, [B, 1, W, C], of uniform numbers [B, W, C] and what the layers see of the rows above."""
        batch, width = tf.shape(uniform)[0], uniform.shape[1]
        left = [tf.zeros([batch, 1, layer.reach, layer.inputs]) for layer in self.gated]

        def draw_pixel(j, row, left):
            horizontal, new_left = None, []
            for layer, cached, seen in zip(self.gated, left, above, strict=True):
                window = cached if layer.first else tf.concat([cached, horizontal], axis=2)
                horizontal = layer.step(window, _slice(seen, j, axis=2))
                new_left.append(window[:, :, 1:])
            probability = tf.sigmoid(self.head(horizontal))
            pixel = tf.cast(uniform[:, None, j, None] < probability, tf.float32)
            new_left[0] = tf.concat([new_left[0], signed(pixel)], axis=2)
            return j + 1, row + tf.one_hot(j, width)[:, None] * pixel, new_left

        state = (0, tf.zeros([batch, 1, width, self.channels]), left)
        return tf.while_loop(lambda j, *_: j < width, draw_pixel, state)[1]


def signed(pixels: tf.Tensor) -> tf.Tensor:
    """0 and 1 as -1 and 1: the zeros around the image are neither."""
    return 2 * pixels - 1


def _slice(values: tf.Tensor, index: tf.Tensor, axis: int) -> tf.Tensor:
    """values[index : index + 1] along the axis, or all of it where it is one alone."""
    return values if values.shape[axis] == 1 else tf.gather(values, [index], axis=axis)
