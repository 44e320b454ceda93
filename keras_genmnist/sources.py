"""What a verb works on: a run or an export, and images for it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import datasets, files, runs, signatures, versions
from keras_genmnist.datasets import DatasetSpec, Split, arrays, binarization, spec_in
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.runs import Run


class Source(NamedTuple):
    """What draws images and scores them: the signatures of a run or of an export.

    signatures: by name.
    label: what to call it.
    spec: of the images that it learned from.
    config: that it was trained with.
    bound_draws: as of `signatures.bound_draws`.
    owner: the object that keeps the signatures alive.
    """

    signatures: dict[str, Callable[..., dict[str, tf.Tensor]]]
    label: str
    spec: DatasetSpec
    config: ConfigDict
    bound_draws: int | None
    owner: object


def of_run(run: Run, num_steps: int | None = None) -> Source:
    """A trained run.

    Args:
      run: the run.
      num_steps: in which images are drawn, of a model that draws in steps.
    Raises:
      UsageError: if num_steps means nothing for the model, or is out of range.
    """
    model = runs.load_model(run)
    if num_steps is not None:
        if not hasattr(model, "sampling_steps"):
            raise UsageError(
                f"--num_steps={num_steps} means nothing for {run.name}: leave it out, or give a masked_diffusion or a "
                "flow_matching"
            )
        if not 1 <= num_steps <= model.most_steps:
            raise UsageError(f"--num_steps={num_steps} is out of range: give 1 to {model.most_steps}")
        model.sampling_steps = num_steps
    label = f"{run.name} on {run.spec.name}"
    return Source(signatures.of(model), label, run.spec, run.config, signatures.bound_draws(model), model)


def of_export(path: Path) -> Source:
    """An export.

    Args:
      path: exports/NAME for its newest version, or exports/NAME/VERSION.
    Raises:
      UsageError: if no SavedModel is there.
      Fault: if it cannot be read.
    """
    found = {number: version for number, version in versions.directories(path).items() if _is_model(version)}
    newest = found[max(found)] if found else path
    if not _is_model(newest):
        raise UsageError(f"no SavedModel in {path}: give exports/NAME or exports/NAME/VERSION of `genmnist export`")
    try:
        record = files.parse_json((newest / "assets.extra" / "genmnist.json").read_text())
        label, config = f"{record['model']} on {record['dataset']}", ConfigDict(record["config"])
        spec = spec_in(record)
        with files.literal(newest) as literal:  # last: it takes the longest
            loaded = tf.saved_model.load(literal)
        own = {"sample": loaded.signatures["sample"], **loaded.signatures}  # without it, it is none of ours
        return Source(own, label, spec, config, record.get("bound_draws"), loaded)
    except (OSError, tf.errors.OpError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Fault(f"the export {newest} is damaged ({type(error).__name__}): export it again") from error


def _is_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").exists()


def images_of(name: str, spec: DatasetSpec, config: ConfigDict, label: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Images for a model: the test split of a data set with a name, or all that is at a path.

    They become what the model's own are: resized, if those are square, and from a path inverted by its config.  Those
    that it takes as bits are binarized as test images are: by the reference draw, or at a half.

    Args:
      name: of the data set, or the path.
      spec, config: the model's.
      label: what to call the model.
    Returns:
      [N, H, W, C] in [0, 1], and their labels [N], numbers or names, if they have any.
    Raises:
      UsageError: if there are none, or they have another shape than the model's.
      Fault: if they are damaged.
    """
    height, width, _ = spec.image_shape
    side = height if height == width else 0
    if named := datasets.spec(name):
        split, names = datasets.load(name).test, named.class_names
        if side and split.images.shape[1:3] != (side, side):
            images = np.stack(arrays.resize(split.images, side, name))
            split = Split(images, binarization.reference(images), split.labels, "test")
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*models learn light ones")  # these are not to be learned
            found = datasets.read(name, image_size=side, invert=config.invert)
        parts = [part for part in (found.train, found.validation, found.test) if part is not None]
        images, names = np.concatenate([part.images for part in parts]), found.class_names
        labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
        split = Split(images, binarization.reference(images), labels, "test")
    shape = split.images.shape[1:]
    if shape[:2] == spec.image_shape[:2] and shape != spec.image_shape:
        kinds = {1: "grey", 3: "coloured"}
        raise UsageError(
            f"the images of {name} are {kinds[shape[2]]}, and {label} is of {kinds[spec.image_shape[2]]} images: "
            "give such ones"
        )
    if shape != spec.image_shape:
        raise UsageError(
            f"the images of {name} are {arrays.size(shape)}, and {label} is of images of "
            f"{arrays.size(spec.image_shape)}: give images of that size"
        )
    labels = split.labels if names is None or split.labels is None else np.array(names)[split.labels]
    return split.scored(config.binarization), labels
