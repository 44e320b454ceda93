"""Data sets: what they are, where they come from, and how they become batches."""

from pathlib import Path

import numpy as np

from keras_genmnist.datasets import binarization, tfds
from keras_genmnist.datasets.spec import Dataset, DatasetSpec, Split
from keras_genmnist.errors import UsageError

MNIST_5K = tfds.MNIST._replace(name="mnist_5k")
SPECS = {**tfds.SPECS, MNIST_5K.name: MNIST_5K}


def names() -> list[str]:
    """The names that `load` accepts."""
    return list(SPECS)


def spec(name: str) -> DatasetSpec:
    """What a data set is, without loading it.

    Raises:
      UsageError: if the name is unknown.
    """
    if name not in SPECS:
        raise UsageError(f"unknown dataset {name!r}; accepted: {', '.join(SPECS)}")
    return SPECS[name]


def load(name: str) -> Dataset:
    """Loads a data set by its name: one of `datasets.tfds`, or mnist_5k.

    mnist_5k: 5,000 digits inside this package, stratified 4,000 / 500 / 500.

    Raises:
      UsageError: if the name is unknown.
      Fault: if the data set is damaged, or neither prepared nor downloadable.
    """
    if spec(name) is not MNIST_5K:
        return tfds.load(name)
    with np.load(Path(__file__).parent.parent / "mnist_5k.npz") as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    binary = binarization.reference(images)
    cuts = (slice(0, 4_000), slice(4_000, 4_500), slice(4_500, None))
    return Dataset(MNIST_5K, *(Split(images[cut], binary[cut], labels[cut]) for cut in cuts))
