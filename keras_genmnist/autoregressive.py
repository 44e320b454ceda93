"""Gated PixelCNN: a network whose output at a pixel sees only the pixels before it, row by row, and draws from it.

Source: van den Oord et al. (2016), "Conditional Image Generation with PixelCNN Decoders", section 2,
arxiv.org/abs/1606.05328
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from keras_genmnist import precision
from keras_genmnist.codes import Codes
from keras_genmnist.patches import Patches


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
        return self._step(self.horizontal(left), left, above)

    def step_of_place(self, window: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
        """`step` where W' is 1: by a product of matrices, which is faster there than a convolution is.

        Args:
          window: as `left` of `step`.
          above: [B, 1, 1, 2 features].
        """
        kernel, bias = (tf.cast(weight, window.dtype) for weight in (self.horizontal.kernel, self.horizontal.bias))
        seen = tf.tensordot(window, kernel, 3) + bias
        return self._step(seen[:, None, None], window, above)

    def _step(self, seen: tf.Tensor, left: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
        output = self.mix(gate(seen + above))
        # Not left[:, :, self.reach :], here and in `call`: its gradient is 20 times as slow, a fifth of a training.
        return output if self.first else output + tf.slice(left, [0, 0, self.reach, 0], [-1, -1, -1, -1])

    @staticmethod
    def add(values: tf.Tensor, context: Sequence[tf.Tensor]) -> tf.Tensor:
        """values [B, R, W, 2 features] with each part of the context, [B or 1, R or 1, W or 1, 2 features], added."""
        for part in context:  # one after the other: their sum would be as large as the values
            values += part
        return values

    def call(self, vertical, horizontal, own=(), across=()):
        seen = self.add(self.see_rows(tf.pad(vertical, [[0, 0], [self.reach, 0], [0, 0], [0, 0]])), own)
        rows_above = tf.slice(seen, [0, 0, 0, 0], [-1, seen.shape[1] - 1, -1, -1])
        above = self.add(self.link(tf.pad(rows_above, [[0, 0], [1, 0], [0, 0], [0, 0]])), across)
        left = tf.pad(horizontal, [[0, 0], [0, 0], [self.reach, 0], [0, 0]])
        return gate(seen), self.step(left[:, :, :-1] if self.first else left, above)


def gate(values: tf.Tensor) -> tf.Tensor:
    """tanh(a) sigmoid(b) of the two halves a, b of the last axis.  [..., 2 C] -> [..., C]"""
    a, b = tf.split(values, 2, axis=-1)
    return tf.tanh(a) * tf.sigmoid(b)


Context = tf.Tensor | Sequence[tf.Tensor] | None


class CausalAttention(layers.Layer):
    """What each place takes from all places up to its own, added to what it has.

    Source: Chen et al. (2018), "PixelSNAIL", section 2, arxiv.org/abs/1712.09763; Vaswani et al. (2017), section 3.2
    """

    def __init__(self, features: int, heads: int):
        """
        Args:
          features: maps of the input, a multiple of `heads`.
          heads: which look at the places before, each in its own way.
        """
        super().__init__()
        self.features, self.heads = features, heads
        self.project = layers.Dense(3 * features, use_bias=False)
        self.mix = layers.Dense(features)

    def split(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Queries, keys and values of places [B, N, F], each [B, heads, N, F / heads]."""
        # Numbers of places as known, here and in `attend`, not -1: a loop over places holds what has its shape.
        shape = tf.concat([tf.shape(values)[:2], [3, self.heads, self.features // self.heads]], axis=0)
        return tf.unstack(tf.transpose(tf.reshape(self.project(values), shape), [2, 0, 3, 1, 4]), num=3)

    def attend(self, queries: tf.Tensor, parts: list, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """What M queries find.

        Args:
          queries: of `split`.
          parts: pairs of keys and values, which are as good as joined.
          bias: added to the scores, [M, N].
        Returns:
          [B, M, F].
        """
        queries /= math.sqrt(self.features // self.heads)
        scores = [tf.matmul(queries, keys, transpose_b=True) for keys, _ in parts]
        weights = tf.nn.softmax(tf.cast(tf.concat(scores, axis=-1), tf.float32) + bias)
        weights = tf.cast(weights, self.compute_dtype)
        weights = tf.split(weights, [tf.shape(keys)[2] for keys, _ in parts], axis=-1) if len(parts) > 1 else [weights]
        found = tf.add_n([tf.matmul(share, values) for share, (_, values) in zip(weights, parts, strict=True)])
        found = tf.transpose(found, [0, 2, 1, 3])
        return self.mix(tf.reshape(found, tf.concat([tf.shape(found)[:2], [self.features]], axis=0)))

    def nothing(self, batch: tf.Tensor) -> list[tf.Tensor]:
        """The keys and values of no places."""
        return 2 * [tf.zeros([batch, self.heads, 0, self.features // self.heads], self.compute_dtype)]

    def call(self, maps):
        """[B, R, S, F] -> [B, R, S, F]"""
        rows, columns = maps.shape[1:3]
        count = rows * columns
        queries, *others = self.split(tf.reshape(maps, [-1, count, self.features]))
        later = np.triu(np.full([count, count], -1e9, np.float32), k=1)
        return maps + tf.reshape(self.attend(queries, [others], later), tf.shape(maps))


class Conditionals(tf_keras.Model):
    """What binary pixels are, each given the pixels before it and a context.

    A network goes from place to place, and a place is a pixel, or a patch of pixels that are drawn at once: "before"
    is by places, row by row, and within a patch by pixels.  The channels of one place do not see each other: given what
    is before it, they are independent.  Or a place is one of K codes, and what is said of images below holds of codes
    [B, R, S, 1], but for `log_prob_known` and `probabilities`, which are of pixels.

    A subclass defines `call` and `draw`.

    patches: how an image is a grid of places.
    """

    patches: Patches | Codes

    def call(self, x: tf.Tensor, context: Context = None) -> tf.Tensor:
        """
        Args:
          x: binary images [B, H, W, C].
          context: of each place, [B or 1, R or 1, S or 1, F]; several that count as one of all their features; or None.
        Returns:
          logits [B, R, S, L] of each place given those before it: of pixels [B, H, W, C], and of patches what
          Patches says.
        """
        raise NotImplementedError

    def log_prob(self, x: tf.Tensor, context: Context = None, targets: tf.Tensor | None = None) -> tf.Tensor:
        """log p of each place given those before it.

        Args:
          x: binary images [B, H, W, C].
          context: as in `call`.
          targets: the probabilities [B, H, W, C] that the pixels were drawn with, independently: what is returned is
            then the mean over what each place could have been.  By default the pixels themselves.
        Returns:
          [B, R, S, C], nats.
        """
        return self.patches.log_prob(self(x, context), x if targets is None else targets)

    def log_prob_known(self, x: tf.Tensor, uniform: tf.Tensor, context: Context = None) -> tf.Tensor:
        """log p of the pixels of x that `uniform` says are known, as of `draw`: [B, R, S, C], nats."""
        return self.patches.log_prob_known(self(x, context), uniform)

    def probabilities(self, x: tf.Tensor, context: Context = None) -> tf.Tensor:
        """The probability that each pixel of x is 1, given those before it.  [B, H, W, C] -> [B, H, W, C]"""
        leading_to_x = tf.where(x > 0.5, 0.0, 1 - 2.0**-24)  # the numbers that `draw` draws it of
        probabilities = self.patches.draw(self(x, context), self.patches.split(leading_to_x, outside=2.0))[1]
        return self.patches.join(probabilities, *x.shape[1:3])

    def draw(self, uniform: tf.Tensor, context: Context = None) -> dict[str, tf.Tensor]:
        """Draws images: a pixel is 1 where its uniform number is below its probability.

        Args:
          uniform: [B, H, W, C], in [0, 1); below 0 where a pixel is known to be 1, 1 or more where it is known to be 0.
            What is known further down does not count, but in the same patch it does.
          context: as in `call`.
        Returns:
          images, 0 or 1, and the probabilities that their pixels were drawn with, [B, H, W, C].
        """
        raise NotImplementedError


class GatedPixelCNN(Conditionals):
    """Conditionals by gated layers, and by attention where there is any.

    Source: figure 2 and section 2.3; of attention, see CausalAttention
    """

    @precision.network
    def __init__(
        self,
        num_layers: int,
        features: int,
        size: int,
        first_size: int,
        channels: int = 1,
        patch_size: int = 1,
        attention_every: int = 0,
        attention_heads: int = 1,
        num_codes: int = 0,
    ):
        """
        Args:
          num_layers: gated layers, the first included.
          features: feature maps of each stack.
          size: of the kernels, odd, in places; see GatedLayer.
          first_size: of the first layer's.
          channels: C, of the image.
          patch_size: p, of places of p x p pixels.
          attention_every: after how many layers each comes one of attention; 0 for none.
          attention_heads: of these layers.
          num_codes: K, of places that are a code each; 0 for places of pixels.
        """
        super().__init__(autocast=False)  # 16 bits do not hold all codes
        self.patches = Codes(num_codes) if num_codes else Patches(patch_size, channels)
        maps = self.patches.maps
        sizes = [first_size] + (num_layers - 1) * [size]
        inputs = [maps] + (num_layers - 1) * [features]
        self.gated = [
            GatedLayer(maps, features, reached, first=number == 0)
            for number, (maps, reached) in enumerate(zip(inputs, sizes, strict=True))
        ]
        self.contexts = [layers.Dense(4 * features, use_bias=False) for _ in sizes]
        outputs = layers.Dense(self.patches.num_logits)
        self.head = tf_keras.Sequential([layers.ReLU(), layers.Dense(features), layers.ReLU(), outputs])
        count = num_layers // attention_every if attention_every else 0
        self.attention = [CausalAttention(features, attention_heads) for _ in range(count)]
        self.attention_every = attention_every

    def _attention_after(self, number: int) -> CausalAttention | None:
        """The layer of attention that comes after the gated one of this number, from 0, if there is one."""
        if not self.attention_every or (number + 1) % self.attention_every:
            return None
        return self.attention[number // self.attention_every]

    def call(self, x, context=None):
        vertical = horizontal = self._seen(self.patches.split(x))
        for number, (layer, (own, across)) in enumerate(zip(self.gated, self._contexts(context), strict=True)):
            vertical, horizontal = layer(vertical, horizontal, own, across)
            if attention := self._attention_after(number):
                horizontal = attention(horizontal)
        return self._logits(horizontal)

    def _seen(self, places: tf.Tensor) -> tf.Tensor:
        """What the first layer sees of places."""
        return tf.cast(self.patches.seen(places), self.compute_dtype)

    def _logits(self, horizontal: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.head(horizontal), tf.float32)

    def _contexts(self, context: Context) -> list:
        """What the context adds before the gates of the vertical and of the horizontal stack, for each layer."""
        if context is None:
            return len(self.gated) * [([], [])]
        if isinstance(context, tf.Tensor | tf.Variable):
            context = tf.cast(context, self.compute_dtype)
            return [[[half] for half in tf.split(project(context), 2, axis=-1)] for project in self.contexts]
        context = [tf.cast(part, self.compute_dtype) for part in context]
        sizes, added = [part.shape[-1] for part in context], []
        for project in self.contexts:
            if not project.built:
                with tf.name_scope(project.name):  # as a call has it: in a .h5 file of weights no name stands twice
                    project.build([None, sum(sizes)])
            kernels = tf.split(tf.cast(project.kernel, self.compute_dtype), sizes)
            parts = [tf.tensordot(part, kernel, 1) for part, kernel in zip(context, kernels, strict=True)]
            added.append(list(zip(*(tf.split(part, 2, axis=-1) for part in parts), strict=True)))
        return added

    def draw(self, uniform, context=None):
        return draw([self], [context], uniform, lambda logits: logits[0])


def draw(
    networks: Sequence[GatedPixelCNN],
    contexts: Sequence[Context],
    uniform: tf.Tensor,
    joined: Callable[[list[tf.Tensor]], tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Draws images place by place by networks that all see what is drawn.

    The vertical stack is computed a row at a time and the horizontal one a place at a time, both from the few rows and
    places that their kernels reach, and attention from the keys and values of all places before: about the arithmetic
    of one pass.

    Args:
      networks: of the same kind of places.
      contexts: of each.
      uniform: as of Conditionals.draw.
      joined: the logits to draw from, of those of each network.
    Returns:
      As Conditionals.draw.
    """
    patches, (height, width) = networks[0].patches, uniform.shape[1:3]
    uniform = patches.split(uniform, outside=2.0)
    num_rows, num_columns, num_pixels = uniform.shape[1:]
    caches = [_Cache(*pair) for pair in zip(networks, contexts, strict=True)]

    def draw_row(i, images, rows):
        aboves = [cache.above(i, own) for cache, own in zip(caches, rows, strict=True)]
        own_uniform = uniform[:, i]
        batch = tf.shape(own_uniform)[0]  # not that outside of the loop, of which nothing is known inside

        def draw_place(j, row, places):
            logits, places = zip(
                *(cache.step(j, *own) for cache, *own in zip(caches, aboves, rows, places, strict=True)), strict=True
            )
            pixels, probabilities = patches.draw(joined(list(logits)), own_uniform[:, None, j, None])
            places = [cache.see(pixels, own) for cache, own in zip(caches, places, strict=True)]
            drawn = tf.stack([pixels, probabilities], axis=-1)
            return j + 1, row + tf.one_hot(j, num_columns)[:, None, None] * drawn, places

        start = [cache.no_places(batch) for cache in caches]
        state = (0, tf.zeros([batch, 1, num_columns, num_pixels, 2]), start)
        drawn, places = tf.while_loop(lambda j, *_: j < num_columns, draw_place, state, _growing(state))[1:]
        rows = [cache.add_row(i, drawn[..., 0], *own) for cache, *own in zip(caches, rows, places, strict=True)]
        return i + 1, images + tf.one_hot(i, num_rows)[:, None, None, None] * drawn, rows

    batch = tf.shape(uniform)[0]
    start = [cache.no_rows(batch, num_columns) for cache in caches]
    state = (0, tf.zeros([batch, num_rows, num_columns, num_pixels, 2]), start)
    found = tf.while_loop(lambda i, *_: i < num_rows, draw_row, state, _growing(state))[1]
    names = ("images", "probabilities")
    parts = zip(names, tf.unstack(found, axis=-1), strict=True)
    return {name: patches.join(part, height, width) for name, part in parts}


class _Rows(NamedTuple):
    """What a network keeps of the rows above, of each layer.

    inputs: of the vertical stack, [B, reach, S, C].
    seen: by its last row, before the gate, [B, 1, S, 2 features].
    before: the keys and values of each layer of attention, [B, heads, N, F].
    """

    inputs: list[tf.Tensor]
    seen: list[tf.Tensor]
    before: list[list[tf.Tensor]]


class _Places(NamedTuple):
    """What it keeps of the places to the left.

    inputs: of each layer's horizontal stack, [B, 1, reach, C].
    before: as of _Rows.
    """

    inputs: list[tf.Tensor]
    before: list[list[tf.Tensor]]


class _Cache:
    """The arithmetic of a network, place by place."""

    def __init__(self, network: GatedPixelCNN, context: Context):
        self.network, self.contexts = network, network._contexts(context)

    def no_rows(self, batch: tf.Tensor, num_columns: int) -> _Rows:
        zeros, gated = functools.partial(tf.zeros, dtype=self.network.compute_dtype), self.network.gated
        return _Rows(
            [zeros([batch, layer.reach, num_columns, layer.inputs]) for layer in gated],
            [zeros([batch, 1, num_columns, layer.link.units]) for layer in gated],
            self._no_keys(batch),
        )

    def no_places(self, batch: tf.Tensor) -> _Places:
        dtype, gated = self.network.compute_dtype, self.network.gated
        inputs = [tf.zeros([batch, 1, layer.reach, layer.inputs], dtype) for layer in gated]
        return _Places(inputs, self._no_keys(batch))

    def _no_keys(self, batch: tf.Tensor) -> list[list[tf.Tensor]]:
        return [layer.nothing(batch) for layer in self.network.attention]

    def _contexts_of_row(self, i: tf.Tensor) -> list:
        return [[[_slice(part, i, axis=1) for part in parts] for parts in pair] for pair in self.contexts]

    def above(self, i: tf.Tensor, rows: _Rows) -> list[tf.Tensor]:
        """What the horizontal stack of each layer is told in row i, [B, 1, S, 2 features]."""
        parts = zip(self.network.gated, rows.seen, self._contexts_of_row(i), strict=True)
        return [layer.add(layer.link(seen), across) for layer, seen, (_, across) in parts]

    def step(self, j: tf.Tensor, above: list[tf.Tensor], rows: _Rows, places: _Places) -> tuple[tf.Tensor, _Places]:
        """The logits of place j of a row, and what is kept; `see` is to follow."""
        horizontal, inputs, before = None, [], []
        for number, (layer, cached, seen) in enumerate(zip(self.network.gated, places.inputs, above, strict=True)):
            window = cached if layer.first else tf.concat([cached, horizontal], axis=2)
            horizontal = layer.step_of_place(window, _slice(seen, j, axis=2))
            inputs.append(window[:, :, 1:])
            if attention := self.network._attention_after(number):
                queries, *here = attention.split(horizontal[:, 0])
                own = len(before)
                before.append(_appended(places.before[own], here))
                horizontal += attention.attend(queries, [rows.before[own], before[own]])[:, None]
        return self.network._logits(horizontal), _Places(inputs, before)

    def see(self, pixels: tf.Tensor, places: _Places) -> _Places:
        """What is kept, once a place's pixels are drawn, [B, 1, 1, p p C]."""
        first = tf.concat([places.inputs[0], self.network._seen(pixels)], axis=2)
        return places._replace(inputs=[first, *places.inputs[1:]])

    def add_row(self, i: tf.Tensor, pixels: tf.Tensor, rows: _Rows, places: _Places) -> _Rows:
        """What is kept, once row i is drawn, [B, 1, S, p p C]."""
        vertical, inputs, seen = self.network._seen(pixels), [], []
        for layer, cached, (own, _) in zip(self.network.gated, rows.inputs, self._contexts_of_row(i), strict=True):
            window = tf.concat([cached, vertical], axis=1)
            seen.append(layer.add(layer.see_rows(window), own))
            inputs.append(window[:, 1:])
            vertical = gate(seen[-1])
        before = [_appended(*pair) for pair in zip(rows.before, places.before, strict=True)]
        return _Rows(inputs, seen, before)


def _appended(before: list[tf.Tensor], here: list[tf.Tensor]) -> list[tf.Tensor]:
    """Keys and values of the places before and of these."""
    return [tf.concat(pair, axis=2) for pair in zip(before, here, strict=True)]


def _growing(state: tuple) -> tuple:
    """The shapes of a loop's state, whose keys and values [B, heads, N, F] are of ever more places."""
    fixed = tf.nest.map_structure(lambda value: tf.convert_to_tensor(value).shape, state)
    keys = functools.partial(
        tf.nest.map_structure, lambda cache: tf.TensorShape([*cache.shape[:2], None, cache.shape[3]])
    )
    return (
        *fixed[:-1],
        [own._replace(before=keys(kept.before)) for own, kept in zip(fixed[-1], state[-1], strict=True)],
    )


def _slice(values: tf.Tensor, index: tf.Tensor, axis: int) -> tf.Tensor:
    """values[index : index + 1] along the axis, or all of it where it is one alone."""
    return values if values.shape[axis] == 1 else tf.gather(values, [index], axis=axis)
