"""Data sets that come through TensorFlow Datasets, which downloads each of them once."""

import contextlib
import io
import logging
import os
import string
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_genmnist import __version__, files
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.datasets.splits import Dataset, cut
from keras_genmnist.errors import Fault, UsageError

MNIST = DatasetSpec("mnist", (28, 28, 1), num_classes=10, judge="mnist")
GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CHARACTERS = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")  # lower case where it is another shape
SPECS = {
    spec.name: spec
    for spec in (
        MNIST,
        MNIST._replace(name="binarized_mnist", num_classes=None, values="binary"),
        MNIST._replace(name="fashion_mnist", judge=None, class_names=GARMENTS),
        MNIST._replace(name="kmnist", judge=None, class_names=KANA),
        MNIST._replace(name="emnist/letters", num_classes=26, judge=None, class_names=(*string.ascii_uppercase,)),
        MNIST._replace(name="emnist/balanced", num_classes=47, judge=None, class_names=CHARACTERS),
        MNIST._replace(name="omniglot", num_classes=None, judge=None),
    )
}


def load(name: str) -> Dataset:
    """Loads a data set, downloading it where it is not prepared yet.

    mnist, fashion_mnist, kmnist, emnist/letters, emnist/balanced: in the original order, the last sixth of the training
    images for validation.
    binarized_mnist: Larochelle's fixed binarization (Salakhutdinov & Murray 2008), 50,000 / 10,000 / 10,000, no labels.
    omniglot: the characters of 30 alphabets, the last sixth of them for validation, and of 20 others for the test
    (Lake et al. 2015), in white on black and 28 x 28, no labels.

    Args:
      name: one of SPECS.
    Raises:
      Fault: if the data set is damaged, or neither prepared nor downloadable.
    """
    found = _decoded(name)
    return cut(SPECS[name], found["images"], found.get("labels"), *map(int, found["starts"]))


def _decoded(name: str) -> dict[str, np.ndarray]:
    """As `_read`; of what was decoded before and has not changed since, from the user's cache: four seconds less."""
    path, prepared = files.cache() / "datasets" / f"{name.replace('/', '_')}.npz", _state(name)
    with contextlib.suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), np.load(path) as kept:
        if prepared and str(kept["prepared"]) == prepared:
            return {key: kept[key] for key in kept if key != "prepared"}
    found = _read(name)
    if prepared := _state(name):
        content, kept_now = io.BytesIO(), dict[str, Any](found, prepared=prepared)
        np.savez(content, **kept_now)
        with contextlib.suppress(UsageError, Fault):  # it does without
            files.write(path, content.getvalue())
    return found


def _state(name: str) -> str:
    """What tells a prepared data set, as this version decodes it, from that of another time; "" if there is none."""
    stored = [path for path in sorted((_folder() / name).rglob("*")) if path.is_file()]
    files_now = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in stored]
    return "\n".join([__version__, *files_now]) if files_now else ""


def _folder() -> Path:
    """Where TensorFlow Datasets keeps what it has prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def _read(name: str) -> dict[str, np.ndarray]:
    """`images`, uint8 [N, H, W, C], `labels`, int64 [N], if there are any, and where validation and test start."""
    labels = {}
    if name == "binarized_mnist":
        parts = [_rows(name, split)["image"] for split in ("train", "validation", "test")]
        images = 255 * np.concatenate(parts)
        starts = len(parts[0]), len(parts[0]) + len(parts[1])
    else:
        rows = [_in_original_order(_rows(name, split), split) for split in ("train", "test")]
        images = np.concatenate([own for own, _ in rows])
        test_start = len(rows[0][0])
        starts = test_start - test_start // 6, test_start
        if SPECS[name].num_classes is not None:
            labels["labels"] = np.concatenate([own for _, own in rows])
        if name == "emnist/letters":
            labels["labels"] -= 1  # they begin at 1
    return {"images": images, **labels, "starts": np.array(starts)}


def _upright(example: dict) -> dict:
    """EMNIST's images are stored with rows and columns exchanged."""
    return example | {"image": tf.transpose(example["image"], [1, 0, 2])}


def _small_and_white_on_black(example: dict) -> dict:
    """Omniglot's images are 105 x 105, in three equal channels, and black on white."""
    height, width, channels = MNIST.image_shape
    inverted = 255 - tf.cast(example["image"][..., :channels], tf.float32)
    image = tf.image.resize(inverted, [height, width], method="area")
    return {"image": tf.cast(tf.round(image), tf.uint8), "label": example["label"]}


PREPARED_BY = {
    "emnist/letters": _upright,
    "emnist/balanced": _upright,
    "omniglot": _small_and_white_on_black,
}


def _rows(name: str, split: str) -> dict[str, np.ndarray]:
    """`image`, uint8 [N, H, W, C], and `label`, int64 [N], if there is one, of a split, as they are stored."""
    # Imported here: a second of start-up that other data sets do not need.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    folder = _folder()
    ways_out = "set TFDS_DATA_DIR to a folder where it is prepared, or take mnist_5k, which comes with this package"

    def damaged(where: Path, reason: str) -> Fault:
        return Fault(f"{name} in {where} is damaged ({reason}): delete it, or {ways_out}")

    # tfds raises whatever its parsers, downloaders and readers raise.
    try:
        builder = tfds.builder(name)
    except Exception as error:
        raise damaged(folder / name, type(error).__name__) from error
    try:
        if not builder.data_path.exists():
            tfds.disable_progress_bar()
            print(f"downloading {name} into {builder.data_path} ...", flush=True)
            # Without a network, tfds' ten retries a file would take minutes and a warning each.
            downloader.MAX_RETRIES = 3
            logging.getLogger("urllib3").setLevel(logging.ERROR)
        with files.made(folder):
            try:
                builder.download_and_prepare()
            finally:
                for place in ("downloads", name.split("/")[0]):
                    _remove_empty_folders(folder / place)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Fault(
            f"{name} is not prepared in {folder} and downloading it failed "
            f"({reason.partition(' with url')[0]:.120}); {ways_out}"
        ) from error
    try:
        examples = builder.as_dataset(split=split)
        if name in PREPARED_BY:
            examples = examples.map(PREPARED_BY[name], num_parallel_calls=tf.data.AUTOTUNE)
        rows = next(examples.batch(2**20).as_numpy_iterator())
    except Exception as error:
        raise damaged(builder.data_path, type(error).__name__) from error
    expected = builder.info.splits[split].num_examples
    if len(rows["image"]) != expected:
        raise damaged(builder.data_path, f"{len(rows['image'])} images in {split}, not {expected}")
    return rows


def _remove_empty_folders(folder: Path) -> None:
    """Removes what tfds leaves of a download that failed."""
    for place in sorted(folder.glob("**/"), reverse=True):  # those inside first
        with contextlib.suppress(OSError):  # it holds something
            place.rmdir()


def _in_original_order(rows: dict[str, np.ndarray], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Undoes tfds' shuffle: it stores examples sorted by a hash of their index, salted with the split's name."""
    from tensorflow_datasets.core import hashing

    images, labels = rows["image"], rows["label"]
    hasher = hashing.Hasher(split)
    order = sorted(range(len(labels)), key=hasher.hash_key)
    result = np.empty_like(images), np.empty_like(labels)
    result[0][order], result[1][order] = images, labels
    return result
