"""Images of the user's own, once they are arrays: checked, brought to grey levels 0..255, and split.

A `UsageError` is mended by a flag or another path; a `Fault` lies in the values.
"""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.datasets.splits import Dataset, Split, cut
from keras_genmnist.errors import Fault, UsageError

SMALLEST, LARGEST = 8, 64
SPLIT_SEED = 3435
VALUES = "whole numbers from 0 to 255, or numbers from 0 to 1"
RESIZE = "--config.image_size=32 resizes them to 32 x 32"


class Part(NamedTuple):
    """The images of one split, as their source holds them or as `check` returns them.

    images: [N, H, W], [N, H, W, 1] or [N, H, W, 3] of any values that `check` accepts; uint8 [N, H, W, C] once checked.
    labels: [N] whole numbers or strings, or None; int64 [N] once checked.
    name: how messages call them, such as "x_train in mine.npz".
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str


class Arrays(NamedTuple):
    """Checked images, before the splits are made that their source lacks.

    train, validation, test: the parts; None where the source has no such split.
    class_names: of the labels 0, 1, ... in order; None where there are no labels, or their numbers are their names.
    in_order: whether the training images may be ordered by what they show, so that their last sixth is unlike the rest.
    sha256: the `digest` of the three parts.
    """

    train: Part
    validation: Part | None
    test: Part | None
    class_names: tuple[str, ...] | None
    in_order: bool
    sha256: str


def check(
    train: Part,
    validation: Part | None = None,
    test: Part | None = None,
    *,
    image_size: int = 0,
    invert: bool = False,
    in_order: bool = False,
) -> Arrays:
    """Brings images to uint8 [N, H, W, C] and labels to int64 0, 1, ..., or says in one line why that cannot be.

    The value of white is the same in all parts.  It is 1 where no value is above 1, the highest value where none is
    above 16 (scikit-learn's digits have 16; a warning says so), and 255 otherwise.  Colour images become grey if
    all their channels are equal.  The distinct labels, in order, become the classes 0, 1, ...

    Args:
      train, validation, test: what there is of them.
      image_size: the height and width that images are resized to, by averages over areas; 0 leaves them as they are.
      invert: whether to exchange black and white.
      in_order: whether the source is known to order images by what they show, as file names do.  Labels that never
        decrease show it too.
    Returns:
      The arrays, whose `sha256` is the same wherever the same pixels and labels come from.
    Raises:
      UsageError: if the images have a shape that is not accepted, or some parts are labelled and others not.
      Fault: if the values of the images or the labels make no sense.
    """
    require_image_size(image_size)
    parts = [part for part in (train, validation, test) if part is not None]
    images = _grey_levels([part._replace(images=_with_channels(part)) for part in parts])
    if image_size:
        images = [np.stack(resize(each, image_size, part.name)) for each, part in zip(images, parts, strict=True)]
    _require_one_shape(images, parts)
    if images[0].shape[-1] == 3 and all((each == each[..., :1]).all() for each in images):
        images = [each[..., :1] for each in images]
    if invert:
        images = [255 - each for each in images]
    labels, class_names = _classes(parts)
    if known := [each for each in labels if each is not None]:
        in_order = in_order or bool((np.diff(known[0]) >= 0).all())
        if max(each.max() for each in known) == 0:
            _warn(f"{train.name}: all images are of one class")
    brightness = images[0].mean() / 255
    if images[0].shape[-1] == 1 and brightness > 0.5:
        _warn(
            f"{train.name}: the mean pixel is {brightness:.2f} of white, so these look like dark drawings on a light "
            f"ground, and models learn light ones on a dark ground better: --config.invert={str(not invert).lower()}"
        )
    checked = (Part(image, label, part.name) for image, label, part in zip(images, labels, parts, strict=True))
    first, second, third = next(checked), validation and next(checked), test and next(checked)
    return Arrays(first, second, third, class_names, in_order, digest(first, second, third))


def splits(name: str, arrays: Arrays) -> Dataset:
    """Makes the splits that a source lacks.

    The test split is the last sixth of the training images, then the validation split the last sixth of what is left.
    Where there is a test split and the images are in no order, this is what MNIST has.  Otherwise the training images
    are put in a random order first, always the same one for the same number of images.

    Args:
      name: of the data set.
      arrays: from `check`, or from `datasets.files.read`.
    Raises:
      UsageError: if there are too few images.
      Fault: if every training pixel has the same value.
    """
    train, validation, test = arrays.train, arrays.validation, arrays.test
    if train.images.min() == train.images.max():
        raise Fault(f"{train.name}: every pixel is {train.images.min()} of 255, so there is nothing to learn")
    lacking = [split for split, part in (("test", test), ("validation", validation)) if part is None]
    needed = 10 + 2 * len(lacking)  # two images in every split that is scored
    for part in (validation, test):
        if part is not None and len(part.images) < 2:
            raise UsageError(
                f"{part.name}: 1 image is too few; at least 2 are needed, for the standard error of a score"
            )
    if lacking and len(train.images) < needed:
        raise UsageError(
            f"{train.name}: {len(train.images)} images are too few; at least {needed} are needed, of which "
            f"a sixth makes the {' and a sixth of the rest the '.join(lacking)} split"
        )
    if test is None or (validation is None and arrays.in_order):
        # RandomState, because NumPy keeps its permutations as they are for ever.
        train = _rows(train, np.random.RandomState(SPLIT_SEED).permutation(len(train.images)))
    if test is None:
        train, test = _without_last_sixth(train)
    if validation is None:
        train, validation = _without_last_sixth(train)
    parts = (train, validation, test)
    images = np.concatenate([part.images for part in parts])
    labels = [part.labels for part in parts if part.labels is not None]
    spec = DatasetSpec(
        name,
        images.shape[1:],
        num_classes=1 + max(int(each.max()) for each in labels) if labels else None,
        values="binary" if ((images == 0) | (images == 255)).all() else "grey",
        class_names=arrays.class_names,
    )
    ends = len(train.images), len(train.images) + len(validation.images)
    return cut(spec, images, np.concatenate(labels) if labels else None, *ends)


def digest(train: Part | Split, validation: Part | Split | None = None, test: Part | Split | None = None) -> str:
    """The sha256 of shapes, pixels and labels of some splits, in hexadecimal.

    Taken over the decoded arrays and not over files, so that the same images give the same digest whether they come as
    PNG, .npz or IDX, compressed or not, and resized or inverted ones give another.  It is the same on all machines:
    resizing is exact, and PNG, .npz and IDX lose nothing.  Only JPEG files depend on their decoder, Pillow's.

    Args:
      train, validation, test: uint8 images [N, H, W, C] and int64 labels [N] or None of each.
    """
    result = hashlib.sha256()
    for split in (train, validation, test):
        if split is None:
            result.update(b"no split;")
            continue
        result.update(f"{split.images.shape};".encode())
        result.update(np.ascontiguousarray(split.images).data)
        result.update(b"no labels;" if split.labels is None else split.labels.astype("<i8").tobytes())
    return result.hexdigest()


def size(shape: Sequence[int]) -> str:
    """A shape (H, W, C) in words."""
    return " x ".join(map(str, shape[: 2 if shape[2] == 1 else 3]))


def require_image_size(image_size: int) -> None:
    """Raises UsageError unless images can be resized so; 0 stands for leaving them as they are."""
    if image_size and not SMALLEST <= image_size <= LARGEST:
        raise UsageError(
            f"image_size is {image_size}; accepted: {SMALLEST} to {LARGEST}, or 0 to leave images as they are"
        )


def require_size(image: np.ndarray, name: str) -> None:
    """Raises UsageError unless models take images of the size of this one, [H, W, C]."""
    height, width = image.shape[:2]
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        raise UsageError(
            f"{name}: {height} x {width} pixels; accepted: {SMALLEST} x {SMALLEST} to {LARGEST} x {LARGEST}; {RESIZE}"
        )


def resize(images: Iterable[np.ndarray], size: int, name: str) -> list[np.ndarray]:
    """Resizes images to squares: each new pixel is the average over the area that it covers.

    Args:
      images: uint8 [H, W, C] each, with sizes of their own.
      size: the new height and width.
      name: how a warning calls them, if some are not square.
    Returns:
      uint8 [size, size, C] each.
    """
    result, oblong = [], None
    for image in images:
        height, width = image.shape[:2]
        if height != width:
            oblong = oblong or f"{height} x {width}"
        # Areas in units of 1 / size^2 are integers, and so exact in float64, whatever the order of the sums.
        planes = np.moveaxis(image, -1, 0).astype(np.float64)
        sums = overlaps(height, size) @ planes @ overlaps(width, size).T
        result.append(np.moveaxis(np.rint(sums / (height * width)), 0, -1).astype(np.uint8))
    if oblong:
        _warn(f"{name}: images of {oblong} lose their proportions as they become {size} x {size}")
    return result


@lru_cache(maxsize=256)
def overlaps(old: int, new: int) -> np.ndarray:
    """How much of new pixel i lies on old pixel j, in units of 1 / new of an old pixel.  float64 [new, old]."""
    starts, places = old * np.arange(new)[:, None], new * np.arange(old)
    return np.clip(np.minimum(starts + old, places + new) - np.maximum(starts, places), 0, None).astype(np.float64)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _with_channels(part: Part) -> np.ndarray:
    """The images as [N, H, W, C]."""
    shape = part.images.shape
    if 0 in shape[:1]:
        raise UsageError(f"{part.name}: there is none")
    if len(shape) > 2 and 0 in shape[1:3]:  # before there are values to look at
        require_size(part.images[0], part.name)
    if len(shape) == 3:
        return part.images[..., None]
    if len(shape) == 4 and shape[-1] in (1, 3):
        return part.images
    advice = ""
    if len(shape) == 4 and shape[1] in (1, 3):
        advice = ": np.moveaxis(images, 1, -1) puts the channels last"
    elif len(shape) == 4 and shape[-1] in (2, 4):
        advice = f": images[..., :{shape[-1] - 1}] leaves out transparency"
    elif len(shape) == 2:
        side = round(shape[1] ** 0.5)
        size = f"{side}, {side}" if side * side == shape[1] else "height, width"
        advice = f": images.reshape(-1, {size}) makes images of rows"
    raise UsageError(f"{part.name}: the shape is {shape}; accepted: [N, H, W], [N, H, W, 1] and [N, H, W, 3]{advice}")


def _grey_levels(parts: list[Part]) -> list[np.ndarray]:
    """The images of all parts as uint8 of the same shape, with white at 255."""
    for part in parts:
        kind = part.images.dtype.kind
        if kind not in "buif":
            raise Fault(f"{part.name}: the values are of type {part.images.dtype}; accepted: {VALUES}")
        if kind == "f" and not np.isfinite(part.images).all():
            image = int(np.argmax(~np.isfinite(part.images).all(axis=(1, 2, 3))))
            raise Fault(f"{part.name}: image {image} holds NaN or infinity; accepted: {VALUES}")
    bottom, top = min(float(part.images.min()) for part in parts), max(float(part.images.max()) for part in parts)
    found = f"{parts[0].name} holds values from {bottom:g} to {top:g}; accepted: {VALUES}"
    if bottom < 0 or top > 255:
        formula = f"(images + {-bottom:g}) / {top - bottom:g}" if bottom < 0 else f"images / {top:g}"
        raise Fault(f"{found}: {formula} brings them there")
    whole = all(part.images.dtype.kind != "f" or (part.images == np.rint(part.images)).all() for part in parts)
    if top <= 1 + 1e-6:  # what arithmetic in float32 may leave
        white = 1.0
    elif top > 16:
        white = 255.0
        _require_one_scale(parts)
        if top < 128:
            _warn(f"{parts[0].name}: the brightest pixel is {top:g} of 255: if that is white, divide the images by it")
    elif whole:
        white = top
        _warn(f"{parts[0].name}: no value is above {top:g}, so {top:g} is taken as white, and not 255")
    else:
        raise Fault(f"{found}: divide the images by the value of white")
    if white == 255 and all(part.images.dtype == np.uint8 for part in parts):
        return [part.images for part in parts]
    scaled = [np.multiply(part.images, 255 / white, dtype=np.float32) for part in parts]
    return [np.rint(np.minimum(each, 255)).astype(np.uint8) for each in scaled]


def _require_one_scale(parts: list[Part]) -> None:
    """Raises Fault if some images go to 1 and others to 255: whole parts of integers, or any image of floats."""
    for part in parts:
        axes = (1, 2, 3) if part.images.dtype.kind == "f" else None
        tops = np.atleast_1d(part.images.max(axis=axes))
        small = (tops > 0) & (tops <= 1)
        if small.any():
            which = f"image {int(np.argmax(small))} of {part.name}" if len(tops) > 1 else part.name
            raise Fault(f"{which} goes from 0 to 1 and other images to 255; accepted: one scale for all")


def _require_one_shape(images: list[np.ndarray], parts: list[Part]) -> None:
    """Raises UsageError unless the images of all parts have one shape, of an accepted size."""
    sizes = [" x ".join(str(side) for side in each.shape[1:]) for each in images]
    for size, part in zip(sizes, parts, strict=True):
        if size != sizes[0]:
            raise UsageError(
                f"the images of {parts[0].name} are {sizes[0]} and those of {part.name} {size}; "
                f"accepted: one size, and one number of channels; {RESIZE}"
            )
    require_size(images[0][0], parts[0].name)


def _classes(parts: list[Part]) -> tuple[Sequence[np.ndarray | None], tuple[str, ...] | None]:
    """The labels of all parts as int64 classes 0, 1, ..., and the names of these."""
    labelled = [part for part in parts if part.labels is not None]
    if not labelled:
        return [None] * len(parts), None
    if len(labelled) < len(parts):
        other = next(part for part in parts if part.labels is None)
        raise UsageError(f"{labelled[0].name} has labels and {other.name} has none: give labels to both or to neither")
    labels = [_one_label_an_image(part.labels, part) for part in parts if part.labels is not None]
    if len({each.dtype.kind for each in labels}) > 1:
        raise Fault(f"the labels of {parts[0].name} and its other splits are partly numbers and partly strings")
    values, classes = np.unique(np.concatenate(labels), return_inverse=True)
    names = [str(value) for value in values]
    if values.dtype.kind == "U" and all(name.isdecimal() for name in names):  # "10" after "9"
        order = sorted(range(len(names)), key=lambda place: int(names[place]))
        names = [names[place] for place in order]
        classes = np.argsort(order)[classes]
    ends = np.cumsum([len(each) for each in labels])
    numbered = names == [str(number) for number in range(len(names))]
    return np.split(classes.astype(np.int64), ends[:-1]), None if numbered else tuple(names)


def _one_label_an_image(labels: np.ndarray, part: Part) -> np.ndarray:
    """The labels of a part as strings [N] or as int64 [N] that are not negative."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        advice = ": np.argmax(labels, axis=1) makes numbers of one-hot rows" if labels.ndim == 2 else ""
        raise Fault(f"the labels of {part.name} have the shape {labels.shape}; accepted: one for each image{advice}")
    if len(labels) != len(part.images):
        raise Fault(
            f"{part.name}: there are {len(part.images)}, and {len(labels)} labels; accepted: a label for each image"
        )
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind in "OT" and all(isinstance(label, str) for label in labels):  # a column of pandas
        return np.array(labels.tolist())
    accepted = "accepted: strings, or whole numbers from 0"
    if labels.dtype.kind not in "buif":
        raise Fault(f"the labels of {part.name} are of type {labels.dtype}; {accepted}")
    whole = np.clip(np.nan_to_num(labels.astype(np.float64)), -1, 2**53).astype(np.int64)
    wrong = (whole != labels) | (whole < 0)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise Fault(f"the labels of {part.name} hold {labels[place]} for image {place}; {accepted}")
    return whole


def _rows(part: Part, rows: np.ndarray | slice) -> Part:
    return part._replace(images=part.images[rows], labels=None if part.labels is None else part.labels[rows])


def _without_last_sixth(part: Part) -> tuple[Part, Part]:
    end = len(part.images) - len(part.images) // 6
    return _rows(part, slice(None, end)), _rows(part, slice(end, None))
