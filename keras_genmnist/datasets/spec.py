"""What a data set is: the shape and the values of its images, their classes, and three splits."""

from typing import NamedTuple

import numpy as np

from keras_genmnist.datasets.binarization import threshold


class DatasetSpec(NamedTuple):
    """What models, figures and exports need to know of a data set.

    name: as given to `load`.
    image_shape: (H, W, C).
    num_classes: of the labels, which are 0 to num_classes - 1; None where there are no labels.
    values: "binary" or "grey", what the pixels of the images are.
    judge: which classifier scores samples; None where none is at hand.
    class_names: of the classes, in order; None where they are only numbered.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None = None
    values: str = "grey"
    judge: str | None = None
    class_names: tuple[str, ...] | None = None


class Split(NamedTuple):
    """The images of one split, in a fixed order.

    images: uint8 [N, H, W, C], grey levels 0..255.
    binary: uint8 [N, H, W, C], 0 or 1: the reference binarization of `images`.
    labels: int64 [N], or None where the data set has none.
    """

    images: np.ndarray
    binary: np.ndarray
    labels: np.ndarray | None

    def scored(self, binarization: str) -> np.ndarray:
        """The images [N, H, W, C] that a model trained on images binarized so is scored on, in [0, 1]."""
        if binarization == "none":
            return self.images.astype(np.float32) / 255
        if binarization == "threshold":
            return threshold(self.images)
        return self.binary


class Dataset(NamedTuple):
    """A data set: what it is, and its three splits."""

    spec: DatasetSpec
    train: Split
    validation: Split
    test: Split

    @property
    def name(self) -> str:
        return self.spec.name
