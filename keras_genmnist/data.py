"""MNIST as tf.data of images [B, 28, 28, 1]: splits, binarization, order.

Every batch is a pure function of (seed, step), so a resumed run sees the bits of an uninterrupted one.  Whole batches,
not single images, move through tf.data, which doubles the speed on a CPU.
"""

import logging
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_genmnist.datasets.spec import Dataset, DatasetSpec, Split
from keras_genmnist.errors import Fault, UsageError

DATASETS = ("mnist", "binarized_mnist", "mnist_5k")
BINARIZATIONS = ("dynamic", "static", "none")
REFERENCE_SEED = 3435


MNIST = DatasetSpec("mnist", (28, 28, 1), num_classes=10, judge="mnist")
SPECS = {
    "mnist": MNIST,
    "binarized_mnist": MNIST._replace(name="binarized_mnist", num_classes=None, values="binary"),
    "mnist_5k": MNIST._replace(name="mnist_5k"),
}


def spec(name: str) -> DatasetSpec:
    """What the data set `name` is."""
    return SPECS[name]

    @property
    def has_grey_levels(self) -> bool:
        """Whether its images are grey: those of binarized_mnist are 0 and 255 alone."""
        return self.name != "binarized_mnist"


def load(name: str) -> Dataset:
    """Loads a dataset.

    mnist: train = the first 50,000 training images in the original order, validation = the last 10,000, test = 10,000.
    binarized_mnist: Larochelle's fixed binarization (Salakhutdinov & Murray 2008), 50,000 / 10,000 / 10,000, no labels.
    mnist_5k: 5,000 digits inside this package, stratified 4,000 / 500 / 500.

    Args:
      name: one of DATASETS.
    Raises:
      UsageError: if the name is unknown.
      Fault: if the dataset is damaged, or neither prepared nor downloadable.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown dataset {name!r}; accepted: {', '.join(DATASETS)}")
    if name == "mnist_5k":
        with np.load(Path(__file__).parent / "mnist_5k.npz") as file:
            images, labels = file["images"], file["labels"].astype(np.int64)
        return _split(name, images, labels, 4_000, 4_500)
    if name == "binarized_mnist":
        rows = [_tfds_rows(name, split) for split in ("train", "validation", "test")]
        return _split(name, 255 * np.concatenate([r["image"] for r in rows]), None, 50_000, 60_000)
    splits = [_in_original_order(_tfds_rows(name, split), split) for split in ("train", "test")]
    images, labels = (np.concatenate([s[key] for s in splits]) for key in ("image", "label"))
    return _split(name, images, labels, 50_000, 60_000)


def binarization_label(dataset: str, binarization: str) -> str:
    """How training images become binary, for the records: binarized_mnist is "fixed" whatever the config says."""
    return "fixed" if dataset == "binarized_mnist" else binarization


def _split(name, images, labels, train_end, validation_end) -> Dataset:
    binary = reference_binarization(images)
    cuts = (slice(0, train_end), slice(train_end, validation_end), slice(validation_end, None))
    return Dataset(SPECS[name], *(Split(images[c], binary[c], None if labels is None else labels[c]) for c in cuts))


def _tfds_rows(name: str, split: str) -> dict[str, np.ndarray]:
    # Imported here: a second of start-up that mnist_5k does not need.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    ways_out = "set TFDS_DATA_DIR to a folder where it is prepared, or use --config.dataset=mnist_5k"

    def damaged(where: str, reason: str) -> Fault:
        return Fault(f"{name} in {where} is damaged ({reason}): delete it, or {ways_out}")

    # tfds raises whatever its parsers, downloaders and readers raise.
    try:
        builder = tfds.builder(name)
    except Exception as error:
        raise damaged(os.path.join(folder, name), type(error).__name__) from error
    try:
        if not builder.data_path.exists():
            tfds.disable_progress_bar()
            print(f"downloading {name} into {builder.data_path} ...", flush=True)
            # Without a network, tfds' ten retries a file would take minutes and a warning each.
            downloader.MAX_RETRIES = 3
            logging.getLogger("urllib3").setLevel(logging.ERROR)
        builder.download_and_prepare()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Fault(
            f"{name} is not prepared in {folder} and downloading it failed ({reason:.120}); {ways_out}"
        ) from error
    try:
        rows = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except Exception as error:
        raise damaged(builder.data_path, type(error).__name__) from error
    expected = builder.info.splits[split].num_examples
    if len(rows["image"]) != expected:
        raise damaged(builder.data_path, f"{len(rows['image'])} images in {split}, not {expected}")
    return rows


def _in_original_order(rows: dict[str, np.ndarray], split: str) -> dict[str, np.ndarray]:
    """Undoes tfds' shuffle: it stores examples sorted by a hash of their index, salted with the split's name."""
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher(split)
    order = sorted(range(len(rows["label"])), key=hasher.hash_key)
    result = {}
    for key in ("image", "label"):
        result[key] = np.empty_like(rows[key])
        result[key][order] = rows[key]
    return result


def reference_binarization(images: np.ndarray) -> np.ndarray:
    """The one binarization that validation and test are always scored on.

    Bit-identical to torch.manual_seed(3435) followed by torch.bernoulli(x / 255) image after image: PyTorch's CPU
    generator is the same Mersenne twister, and its float32 uniform is the low 24 bits of a draw over 2^24.

    Args:
      images: uint8 [N, ...], grey levels 0..255.
    Returns:
      uint8 [N, ...], 0 or 1.
    """
    generator = np.random.RandomState(REFERENCE_SEED)
    binary = np.empty_like(images)
    for start in range(0, len(images), 1000):  # in pieces: 70,000 images at once would hold 220 MB of draws
        piece = images[start : start + 1000]
        bits = generator.randint(0, 2**32, size=piece.shape, dtype=np.uint32) & (2**24 - 1)
        binary[start : start + 1000] = bits.astype(np.float32) / np.float32(2**24) < piece.astype(np.float32) / 255
    return binary


def train_batches(
    split: Split,
    *,
    binarization: str,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    labelled: bool = False,
) -> tf.data.Dataset:
    """Training batches number first_step .. last_step - 1, each a pure function of (seed, step).

    An epoch is len(split.images) // batch_size steps over a permutation of its own; images left over at its end differ
    from epoch to epoch.  `dynamic` draws new bits for each image in every epoch, `static` uses the reference
    binarization, `none` gives grey levels / 255.

    Args:
      split: the training split.
      binarization: one of BINARIZATIONS.
      batch_size: B, at most the number of images.
      seed: of the order and the bits.
      first_step, last_step: counted from the start of training.
      labelled: whether to give the labels too.
    Returns:
      tf.data.Dataset of float32 [B, 28, 28, 1] in [0, 1]; labelled, of pairs of them and int64 [B].
    """
    steps_per_epoch = len(split.images) // batch_size
    source = tf.constant(split.binary if binarization == "static" else split.images)

    def batch(step):
        epoch, place = step // steps_per_epoch, step % steps_per_epoch
        position = place * batch_size + tf.range(batch_size, dtype=tf.int64)
        index = tf.random.experimental.index_shuffle(
            position, seed=tf.stack([tf.cast(seed, tf.int64), epoch]), max_index=len(split.images) - 1
        )
        images = tf.gather(source, index)
        if binarization == "dynamic":
            # Negative, so that no model draws from the same words: its seeds, of the same steps, are not.
            images = _bernoulli(images, seed=tf.stack([tf.constant(-1 - seed, tf.int64), step]))
        images = tf.cast(images, tf.float32)
        if binarization == "none":
            images /= 255
        return (images, tf.gather(split.labels, index)) if labelled else images

    steps = tf.data.Dataset.range(first_step, last_step)
    return steps.map(batch, num_parallel_calls=2, deterministic=True).prefetch(tf.data.AUTOTUNE)


def _bernoulli(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws pixels that are 1 with probability images / 255, exact at 0 and 255 and within 2^-16 between.

    Integers, because 784 float uniforms an image cost as much as a decoder.

    Args:
      images: uint8 [B, 28, 28, 1].
      seed: int64 [2].
    Returns:
      bool [B, 28, 28, 1].
    """
    shape = tf.shape(images)
    words = tf.random.stateless_uniform([(tf.size(images) + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32)
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[: tf.size(images)]  # one too many where their number is odd
    bits = tf.reshape(bits, shape)
    return 255 * tf.cast(bits, tf.int32) < 65536 * tf.cast(images, tf.int32)


def eval_batches(images: np.ndarray, batch_size: int, labels: np.ndarray | None = None) -> list:
    """Every image once, in order, as float32 [B, 28, 28, 1], or with labels as pairs; the last batch may be smaller."""
    cuts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
    batches = [images[cut].astype(np.float32) for cut in cuts]
    return batches if labels is None else list(zip(batches, (labels[cut] for cut in cuts), strict=True))
