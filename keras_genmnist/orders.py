"""Several orders of the pixels: a model of p(x | label) that sees each image reflected and transposed, told how."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_genmnist import replicas
from keras_genmnist.distributions import categorical_each
from keras_genmnist.models.base import MadeModel, TractableModel, require_classes, require_images, require_pixels
from keras_genmnist.symmetries import restored, transformed


class Orders(TractableModel):
    """p(x) = (1/K) sum{ p(T_k x | k) : k = 0..K-1 }, exact, since each T_k only permutes pixels.

    With classes y, p(x | y) is this, and p(x) its mean over them.  Training and validation see each image by one T_k,
    drawn anew for each step in training.

    Source: Uria et al. (2014), section 4, arxiv.org/abs/1310.1757; Jain et al. (2020), section 3.3,
    arxiv.org/abs/2006.12486
    """

    def __init__(self, model: TractableModel, orders: int, num_classes: int = 0):
        """
        Args:
          model: of p(T_k x | k C + y) for K C labels, where C is 1 without classes; draws and completes as PixelCNN.
          orders: K, of symmetries.COUNTS.
          num_classes: C; 0 for none.
        """
        super().__init__(model.image_shape)
        self.model, self.orders, self.num_classes = model, orders, num_classes
        self.takes_labels, self.takes_levels = num_classes > 0, model.takes_levels
        self.pixel_by_pixel, self.average = model.pixel_by_pixel, model.average

    def _labels(self, order: tf.Tensor, y: tf.Tensor | None) -> tf.Tensor:
        """What the model is told, int32 [B]."""
        if y is not None:
            require_classes(tf.convert_to_tensor(y), self.num_classes)
        return order if y is None else order * self.num_classes + tf.cast(y, tf.int32)

    def _log_likelihood_in(self, order: tf.Tensor, x: tf.Tensor, y: tf.Tensor | None) -> tf.Tensor:
        """log p(T_k x | k, y), [B], nats, of each image's own order k, int32 [B]."""
        return self.model.log_likelihood(transformed(x, order, self.orders), self._labels(order, y))

    def log_likelihood_by_order(self, x: tf.Tensor, y: tf.Tensor | None = None) -> tf.Tensor:
        """log p(T_k x | k), or log p(T_k x | k, y), of images and of labels as in `log_likelihood`: [K, B], nats."""

        def of_label(label):
            order, own = (tf.fill([tf.shape(x)[0]], part) for part in (label // classes, label % classes))
            return self._log_likelihood_in(order, x, own if mixed else y)

        mixed = self.takes_labels and y is None
        classes = self.num_classes if mixed else 1
        # One after the other: eight at once would take eight times the memory.
        labels = tf.range(self.orders * classes)
        found = tf.map_fn(of_label, labels, fn_output_signature=tf.float32, parallel_iterations=1)
        found = tf.reshape(found, [self.orders, classes, -1])
        return tf.reduce_logsumexp(found, axis=1) - tf.math.log(float(classes))

    def log_likelihood(self, x, y=None):
        require_images(x, self.image_shape)
        require_pixels(x)
        return tf.reduce_logsumexp(self.log_likelihood_by_order(x, y), axis=0) - tf.math.log(float(self.orders))

    def averaged(self, others: Sequence["Orders"], shares: Sequence[float]) -> "AveragedOrders":
        """The average of this and others of as many orders, place by place in each; see PixelCNN.averaged."""
        return AveragedOrders(self.model.averaged([other.model for other in others], shares), self.orders)

    def build_variables(self):
        self.model.build_variables()

    def call(self, x, training=False):
        """The probability that each pixel is 1, given those before it: the mean of what the orders and classes say.

        [B, H, W, C] -> [B, H, W, C]
        """

        def of_label(total, label):
            order = tf.fill([tf.shape(x)[0]], label // max(self.num_classes, 1))
            found = self.model.probabilities(transformed(x, order, self.orders), tf.zeros_like(order) + label)
            return total + restored(found, order, self.orders)

        labels = tf.range(self.orders * max(self.num_classes, 1))
        return tf.foldl(of_label, labels, tf.zeros_like(x)) / tf.cast(tf.size(labels), tf.float32)

    def objective(self, x, y, levels, seed):
        order = replicas.rows(
            lambda count: tf.random.stateless_uniform([count], seed, 0, self.orders, tf.int32), tf.shape(x)[0]
        )
        x, levels = (None if images is None else transformed(images, order, self.orders) for images in (x, levels))
        return self.model.objective(x, self._labels(order, y), levels, seed)

    def test_step(self, batch):
        x, y = self.images_and_labels(batch)
        # All orders of each image would take K times as long; the order of a row is the same in every epoch.
        return self._record(self._log_likelihood_in(tf.range(tf.shape(x)[0]) % self.orders, x, y))

    def draw_given(self, seeds, labels):
        order = categorical_each(tf.zeros([self.orders, tf.shape(seeds)[0]]), _other(seeds))
        return self._upright(self.model.draw_given(seeds, self._labels(order, labels)), order)

    def _upright(self, drawn: dict[str, tf.Tensor], order: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: restored(images, order, self.orders) for name, images in drawn.items()}

    def complete(self, images: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws the pixels that are not known, in one of the orders in which the known ones come as early as they can.

        Of these orders, and of the classes if there are any, one is drawn given the known pixels: exactly where these
        are the first ones.  Otherwise as PixelCNN.complete.
        """
        classes, count = max(self.num_classes, 1), tf.shape(images)[0]
        places = tf.range(math.prod(self.image_shape), dtype=tf.int64)

        def of_label(label):
            order = tf.fill([count], label // classes)
            x, known = (transformed(values, order, self.orders) for values in (images, mask))
            late = tf.reduce_sum(places * tf.cast(tf.reshape(known, [count, -1]), tf.int64), axis=1)
            return late, self.model.log_prob_known(x, known, tf.fill([count], label))

        labels, types = tf.range(self.orders * classes), (tf.int64, tf.float32)
        late, log_prob = tf.map_fn(of_label, labels, fn_output_signature=types, parallel_iterations=1)
        earliest = late == tf.reduce_min(late, axis=0)
        label = categorical_each(tf.where(earliest, log_prob, -np.inf), _other(seeds))
        order = label // classes
        x, known = (transformed(values, order, self.orders) for values in (images, mask))
        return self._upright(self.model.complete_given(x, known, seeds, label), order)


class AveragedOrders(MadeModel, Orders):
    """Of an average."""

    def by_component(self, x: tf.Tensor, num_draws: int = 0, seed: tf.Tensor | None = None) -> tf.Tensor:
        """As of AveragedPixelCNN, the images in each of the orders in turn."""
        order = tf.range(tf.shape(x)[0]) % self.orders
        return self.model.by_component(transformed(x, order, self.orders), y=self._labels(order, None))


def _other(seeds: tf.Tensor) -> tf.Tensor:
    """Seeds [N, 2] of other words than the model and the classes are drawn from."""
    return tf.map_fn(lambda seed: tf.random.split(seed, 2)[0], seeds)
