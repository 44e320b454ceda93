"""The images of a data set in three splits, and how they become batches.

A training batch is a pure function of (seed, step), so that a resumed run sees the bits of an uninterrupted one.  Whole
batches, not single images, move through tf.data, which doubles the speed on a CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_genmnist.datasets import binarization as binarizations
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError


class Split(NamedTuple):
    """The images of one split, in a fixed order.

    images: uint8 [N, H, W, C], grey levels 0..255.
    binary: uint8 [N, H, W, C], 0 or 1: the reference binarization of `images`.
    labels: int64 [N], or None where the data set has none.
    name: "train", "validation" or "test".
    """

    images: np.ndarray
    binary: np.ndarray
    labels: np.ndarray | None
    name: str = "train"

    def __repr__(self) -> str:
        return f"<{self.name} split: {len(self.images):,} images{'' if self.labels is None else ', labelled'}>"

    def scored(self, binarization: str) -> np.ndarray:
        """The images [N, H, W, C] that a model trained on images binarized so is scored on, in [0, 1]."""
        if binarization == "none":
            return self.images.astype(np.float32) / 255
        if binarization == "threshold":
            return binarizations.threshold(self.images)
        return self.binary

    def train_batches(
        self,
        *,
        binarization: str,
        batch_size: int,
        seed: int,
        first_step: int,
        last_step: int,
        labelled: bool = False,
        levelled: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Training batches number first_step .. last_step - 1, each a pure function of (seed, step).

        An epoch is len(self.images) // batch_size steps over a permutation of its own; images left over at its end
        differ from epoch to epoch.  `dynamic` draws new bits for each image in every epoch, `static` uses the reference
        binarization, `threshold` cuts at a half, `none` gives grey levels / 255.

        Args:
          binarization: one of BINARIZATIONS.
          batch_size: B, at most the number of images.
          seed: of the order and the bits.
          first_step, last_step: counted from the start of training.
          labelled: whether to give the labels too.
          levelled: whether to give the grey levels too, that `dynamic` draws bits from; of other bits, the bits.
          share: (number, of how many): the rows of each batch that a replica takes, of as many shares of B; no others
            are read.
        Returns:
          tf.data.Dataset of images, float32 [B, H, W, C] in [0, 1], or levelled of {"images", "levels"}, both of that
          shape; labelled, of pairs of either and int64 [B].
        Raises:
          UsageError: if there are no batches of this size.
        """
        require_batch(batch_size, self)
        batch = self._batch_of(binarization, batch_size, seed, labelled, levelled, share)
        steps = tf.data.Dataset.range(first_step, last_step)
        return ahead(steps.map(batch, num_parallel_calls=2, deterministic=True))

    def batches(
        self,
        batch_size: int,
        *,
        binarization: str = "dynamic",
        seed: int = 3435,
        labelled: bool = False,
        levelled: bool = False,
    ) -> tf.data.Dataset:
        """The split for `fit`, `evaluate` and `predict` of tf_keras.

        Of the training split, every iteration is another epoch as in `train_batches`: in an order of its own, and with
        bits of its own if they are dynamic.  Of the others, always the images that are scored, in order.

        Args:
          batch_size: B, at most the number of images; the last batch of a split that is scored may be smaller.
          binarization: one of BINARIZATIONS.
          seed: of the training split's orders and bits.
          labelled: whether to give the labels too.
          levelled: of the training split, as in `train_batches`.
        Returns:
          As `train_batches`.
        Raises:
          UsageError: if there are no batches of this size.
        """
        require_batch(batch_size, self)
        if self.name != "train":
            images = self.scored(binarization).astype(np.float32)
            rows = tf.data.Dataset.from_tensor_slices((images, self.labels) if labelled else images)
            return ahead(rows.batch(batch_size))
        batch = self._batch_of(binarization, batch_size, seed, labelled, levelled)
        steps_per_epoch = len(self.images) // batch_size
        epochs = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)  # one, another every time

        @tf.autograph.experimental.do_not_convert
        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            first = number % 2**31 * steps_per_epoch
            return tf.data.Dataset.range(first, first + steps_per_epoch)

        steps = epochs.flat_map(epoch).apply(tf.data.experimental.assert_cardinality(steps_per_epoch))
        return ahead(steps.map(batch, num_parallel_calls=2, deterministic=True))

    def _batch_of(
        self,
        binarization: str,
        batch_size: int,
        seed: int,
        labelled: bool,
        levelled: bool,
        share: tuple[int, int] = (0, 1),
    ) -> Callable:
        """The batch of each step, int64 []; see `train_batches`."""
        number, shares = share
        rows = batch_size // shares
        first = number * rows
        steps_per_epoch = len(self.images) // batch_size
        grey = binarization in ("dynamic", "none")
        source = tf.constant(self.images if grey else self.scored(binarization))

        @tf.autograph.experimental.do_not_convert
        def batch(step: tf.Tensor) -> tf.Tensor | dict | tuple:
            epoch, place = step // steps_per_epoch, step % steps_per_epoch
            position = place * batch_size + tf.range(first, first + rows, dtype=tf.int64)
            index = tf.random.experimental.index_shuffle(
                position, seed=tf.stack([tf.cast(seed, tf.int64), epoch]), max_index=len(self.images) - 1
            )
            images = levels = tf.gather(source, index)
            if binarization == "dynamic":
                # Negative, so that no model draws from the same words: its seeds, of the same steps, are not.
                images = binarizations.dynamic(images, tf.stack([tf.constant(-1 - seed, tf.int64), step]), first)
            images = tf.cast(images, tf.float32)
            if binarization == "none":
                images /= 255
            if levelled:
                images = {"images": images, "levels": tf.cast(levels, tf.float32) / 255 if grey else images}
            return (images, tf.gather(self.labels, index)) if labelled else images

        return batch


def require_batch(batch_size: int, split: Split) -> None:
    """Raises UsageError unless there are batches of this size of the split; whole ones, where it is trained on."""
    most = len(split.images)
    if batch_size < 1 or (split.name == "train" and batch_size > most):
        accepted = f"1 to {most}, the number of its images" if split.name == "train" else "1 or more"
        raise UsageError(f"batch_size={batch_size} is out of range for the {split.name} split: give {accepted}")


class Dataset(NamedTuple):
    """A data set: what it is, and its three splits."""

    spec: DatasetSpec
    train: Split
    validation: Split
    test: Split

    def __repr__(self) -> str:
        height, width, channels = self.spec.image_shape
        counts = [f"{len(split.images):,} {split.name}" for split in (self.train, self.validation, self.test)]
        size, classes = f"{height} x {width}{' in colour' if channels > 1 else ''}", self.spec.num_classes
        labels = f", {classes} classes" if classes else ""
        return f"<data set {self.name}: {', '.join(counts)} images of {size}{labels}>"

    @property
    def name(self) -> str:
        return self.spec.name


def cut(
    spec: DatasetSpec, images: np.ndarray, labels: np.ndarray | None, validation_start: int, test_start: int
) -> Dataset:
    """The data set whose splits follow one another in `images`, uint8 [N, H, W, C], and `labels`, int64 [N]."""
    binary = binarizations.reference(images)
    ends = {"train": (0, validation_start), "validation": (validation_start, test_start), "test": (test_start, None)}
    cuts = {name: slice(*end) for name, end in ends.items()}
    return Dataset(
        spec,
        *(Split(images[c], binary[c], None if labels is None else labels[c], name) for name, c in cuts.items()),
    )


def eval_batches(images: np.ndarray, batch_size: int, labels: np.ndarray | None = None) -> list:
    """Every image once, in order, as float32 [B, H, W, C], or with labels as pairs; the last batch may be smaller."""
    cuts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
    batches = [images[cut].astype(np.float32) for cut in cuts]
    return batches if labels is None else list(zip(batches, (labels[cut] for cut in cuts), strict=True))


def ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, computed two ahead.

    Not as many ahead as tf.data finds best: the thread that looks for it sleeps for ever longer, and the end of a
    training waits for it, up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)
