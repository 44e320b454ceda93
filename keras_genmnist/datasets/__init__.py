"""Data sets: what they are, where they come from, and how they become batches."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_genmnist.config import suggest
from keras_genmnist.datasets import arrays, files, tfds
from keras_genmnist.datasets.arrays import Part, digest
from keras_genmnist.datasets.spec import DatasetSpec, spec_of
from keras_genmnist.datasets.splits import Dataset, Split, cut, eval_batches
from keras_genmnist.errors import UsageError
from keras_genmnist.files import write

__all__ = [
    "Dataset",
    "DatasetSpec",
    "Split",
    "digest",
    "eval_batches",
    "from_arrays",
    "load",
    "names",
    "read",
    "save",
    "spec",
    "spec_in",
]

MNIST_5K, MNIST_60K = (tfds.MNIST._replace(name=name) for name in ("mnist_5k", "mnist_60k"))
FIRST = (tfds.SPECS["mnist"], tfds.SPECS["binarized_mnist"], MNIST_5K, MNIST_60K)
SPECS = {spec.name: spec for spec in FIRST} | tfds.SPECS


def names() -> list[str]:
    """The names that `load` accepts, beside paths."""
    return list(SPECS)


def spec(name: str) -> DatasetSpec | None:
    """What a data set is, where its name says so; None for images of the user's own, which have to be loaded."""
    return SPECS.get(name)


def spec_in(record: dict) -> DatasetSpec:
    """What images the record of an export, its genmnist.json, is of; those of earlier versions only name the data set.

    Raises:
      KeyError: if the record does not say.
    """
    return spec_of(record["data"]["spec"]) if record.get("data") else SPECS[record["dataset"]]


def load(name: str, *, image_size: int = 0, invert: bool = False) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `names`: those of `datasets.tfds`; mnist_5k, the 5,000 digits inside this package, stratified
        4,000 / 500 / 500; mnist_60k, which is mnist with its validation images among the training images; or a path
        that `datasets.files.read` takes, of a .npz file, a folder or IDX files.
      image_size: of a path: the height and width that images are resized to; 0 leaves them as they are.
      invert: of a path: whether to exchange black and white.
    Raises:
      UsageError: if the name is unknown, what is at the path cannot be read, or the other two are given for a name.
      Fault: if the data set is damaged, or neither prepared nor downloadable.
    """
    if name not in SPECS:
        return arrays.splits(_stem(name), read(name, image_size=image_size, invert=invert))
    require_as_it_is(name, image_size, invert)
    if name == MNIST_60K.name:
        return _with_validation(tfds.load("mnist"))._replace(spec=MNIST_60K)
    if name != MNIST_5K.name:
        return tfds.load(name)
    with np.load(Path(__file__).parent.parent / "mnist_5k.npz") as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    return cut(MNIST_5K, images, labels, 4_000, 4_500)


def _with_validation(dataset: Dataset) -> Dataset:
    """The data set with its validation images among the training images, at their end."""
    train, more = dataset.train, dataset.validation
    images, binary = (np.concatenate(pair) for pair in ((train.images, more.images), (train.binary, more.binary)))
    labels = None if train.labels is None or more.labels is None else np.concatenate([train.labels, more.labels])
    return dataset._replace(train=train._replace(images=images, binary=binary, labels=labels))


def read(path: str, *, image_size: int = 0, invert: bool = False) -> arrays.Arrays:
    """The images at a path, before the splits are made that it lacks; arguments and errors as those of `load`."""
    if not os.path.exists(os.path.expanduser(path)):
        raise UsageError(unknown(path))
    return files.read(Path(path), image_size, invert)


def require_as_it_is(name: str, image_size: int, invert: bool) -> None:
    """Raises UsageError where a data set that has a name is to be resized or inverted."""
    for field, value in (("image_size", image_size), ("invert", invert)):
        if value and name in SPECS:
            raise UsageError(f"{field}={value} is for images of your own, by their path: leave it out for {name}")


def unknown(name: str) -> str:
    """What to say of a name that is neither a data set's nor a path."""
    near = suggest(name, names())
    if near == "." and (os.sep in name or Path(name).suffix):
        place = "" if os.path.isabs(os.path.expanduser(name)) else f" in {os.getcwd()}"
        return f"no file or folder {name!r}{place}: give the path of images, or a data set's name: {', '.join(SPECS)}"
    return (
        f"unknown dataset {name!r}{near} Accepted: {', '.join(SPECS)}, or the path of a .npz file, "
        "of a folder of PNG or JPEG files, or of IDX files"
    )


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    validation: tuple[np.ndarray, np.ndarray | None] | None = None,
    test: tuple[np.ndarray, np.ndarray | None] | None = None,
    name: str = "arrays",
    image_size: int = 0,
    invert: bool = False,
) -> Dataset:
    """A data set of arrays.

    >>> import numpy as np
    >>> import keras_genmnist as gm
    >>> drawn = np.random.default_rng(1).integers(0, 256, [60, 12, 12], np.uint8)
    >>> data = gm.datasets.from_arrays(drawn, np.arange(60) % 3)
    >>> data.spec.image_shape, data.spec.num_classes
    ((12, 12, 1), 3)
    >>> [len(split.images) for split in (data.train, data.validation, data.test)]
    [42, 8, 10]

    Args:
      images: of the training split: [N, H, W], [N, H, W, 1] or [N, H, W, 3], of whole numbers from 0 to 255 or of
        numbers from 0 to 1.
      labels: [N], whole numbers or strings.
      validation, test: images and labels (or None) of the other splits; each is made of the training images if it is
        not given, as `datasets.arrays.splits` explains.
      name: what figures and results call the data set, without a dot or a slash.
      image_size: the height and width that images are resized to; 0 leaves them as they are.
      invert: whether to exchange black and white.
    Raises:
      UsageError: if the images have a shape that is not accepted, there are too few, or the name is not accepted.
      Fault: if the values make no sense.
    """
    if isinstance(images, str | Path):
        raise UsageError(
            f"images={str(images)!r} is no array: gm.datasets.load({str(images)!r}) reads a file or a folder"
        )
    if _stem(f"{name}.npz") != name:  # the copy that a run keeps is called so, and names the data set again
        raise UsageError(f"name={name!r} is not accepted: give a name of a character or more, without a dot or a slash")
    parts = (
        _part(images, labels, "train"),
        None if validation is None else _part(*validation, "validation"),
        None if test is None else _part(*test, "test"),
    )
    return arrays.splits(name, arrays.check(*parts, image_size=image_size, invert=invert))


def _part(images: np.ndarray, labels: np.ndarray | None, split: str) -> Part:
    return Part(np.asarray(images), None if labels is None else np.asarray(labels), f"the {split} images")


def save(dataset: Dataset, path: Path) -> None:
    """Writes a data set as a .npz file that `load` reads: the same images and splits, and classes of the same names.

    `load` numbers the classes anew, as it does those of any file: in the order of their names, and without those that
    no image is of.  It draws the reference bits anew too, by an image's place among all images: those of a part of a
    data set differ from those in the whole.

    Raises:
      UsageError: if the path cannot be written.
    """
    content = io.BytesIO()
    found: dict[str, Any] = {}  # arrays; NumPy's types would have one of them be allow_pickle
    for part in named(dataset):
        found[f"x_{part.name}"] = part.images
        if part.labels is not None:
            found[f"y_{part.name}"] = part.labels
    np.savez_compressed(content, **found)
    write(path, content.getvalue())


def named(dataset: Dataset) -> list[Part]:
    """The three splits, each image labelled by the name of its class where it has one: as `arrays.check` takes them."""
    names = dataset.spec.class_names
    return [
        Part(
            split.images,
            split.labels if names is None or split.labels is None else np.array(names)[split.labels],
            split.name,
        )
        for split in (dataset.train, dataset.validation, dataset.test)
    ]


def _stem(path: str) -> str:
    """What a data set is called by its path."""
    name = Path(os.path.abspath(os.path.expanduser(path))).name
    return name.split(".")[0] or name
