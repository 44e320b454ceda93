"""Which classifiers judge the samples of which data set, and how they come to be: `genmnist classifier`.

Those of MNIST ship with the package.  Others are trained by the user, once for each data set, and lie in the user's
cache, each data set's in a folder that is named by the digest of its images and labels: so none ever judges other data.
"""

import contextlib
import io
import math
import shlex
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from keras_genmnist import classifier, datasets, files, progress
from keras_genmnist.classifier import Classifier, Judge
from keras_genmnist.datasets import Dataset, Split
from keras_genmnist.datasets.splits import ahead
from keras_genmnist.errors import Fault, UsageError

MNIST = "mnist"  # the judge that a DatasetSpec names where it is one of those that ship with the package
SEED = 3435  # of judge 0; judge 1 has the next one
# The recipe was chosen by accuracy on the validation split of MNIST, of which it takes 25 passes over 50,000 images.
EPOCHS, FEWEST_STEPS, MOST_STEPS = 25, 2_500, 12_500
BATCH = 100
LEARNING_RATE = 1e-3
AVERAGING = 0.999  # of the weights, a step
SHIFT, ANGLE, STRETCH = 1 / 14, math.radians(12), 0.12  # share of the size, radians, share: largest of the distortions


def name(dataset: Dataset) -> str | None:
    """What the judges of a data set are called, if there are any: "mnist", or the digest of the data."""
    if dataset.spec.judge == MNIST:
        return MNIST
    if dataset.spec.num_classes is None:
        return None
    digest = _digest(dataset)
    return digest if _index(digest).exists() else None


def find(name: str | None) -> list[Judge]:
    """The judges of a name, as `name` gives it; none of None.

    Raises:
      Fault: if they are not in the user's cache, or the list of them is damaged.
    """
    if name is None:
        return []
    if name == MNIST:
        return classifier.JUDGES
    content, folder = _read(name), _index(name).parent
    otherwise = f", or delete {folder} and train it again by `{content['command']}`"
    shape, classes = tuple(content["image_shape"]), content["num_classes"]
    return [Judge(folder / own["file"], own["sha256"], shape, classes, otherwise) for own in content["judges"]]


def command(dataset: str, image_size: int = 0, invert: bool = False) -> str:
    """The command that trains the judges of a data set, by what `datasets.load` is given."""
    options = [f"--dataset={dataset}", *([f"--image_size={image_size}"] if image_size else []), *["--invert"] * invert]
    return shlex.join(["genmnist", "classifier", *options])


def make(dataset: Dataset, seeds: int, command: str) -> Path:
    """Trains the judges of a data set that are still missing, and puts each into the user's cache once it is done.

    Args:
      dataset: a labelled one.
      seeds: how many judges there should be.
      command: that does it again.
    Returns:
      The path of judges.json, which lists them: the file of each, its seed, the SHA-256 of its weights, and its
      accuracy on the validation and the test split.
    Raises:
      UsageError: if the data set cannot have judges of its own, or the cache cannot be written.
      Fault: if the list of those that are there is damaged.
    """
    spec = dataset.spec
    if spec.judge == MNIST:
        raise UsageError(f"{spec.name} is judged by the classifiers that ship with the package: there is none to train")
    if spec.num_classes is None:
        raise UsageError(
            f"{spec.name} has no labels to train a classifier by: its samples are compared by their pixels"
        )
    if len(np.unique(dataset.train.labels)) < 2:
        raise UsageError(f"all training images of {spec.name} are of one class: a classifier needs two")
    digest = _digest(dataset)
    index = _index(digest)
    content = {
        "dataset": spec.name,
        "data": digest,
        "image_shape": list(spec.image_shape),
        "num_classes": spec.num_classes,
        "command": command,
        "judges": _read(digest)["judges"] if index.exists() else [],
    }
    advice = "set XDG_CACHE_HOME to a folder you may write to"
    with contextlib.ExitStack() as stack:
        with files.writing(index.parent, advice):  # now: a judge takes minutes
            stack.enter_context(files.made(index.parent))
            stack.enter_context(files.beside(index.parent)).touch()
        for own in content["judges"]:
            print(_line(own, "is there already"), flush=True)
        for number in range(len(content["judges"]), seeds):
            start = time.time()
            network = train(dataset, SEED + number, f"judge {number + 1} of {seeds}")
            weights = packed(network)
            trained = Classifier(network)
            splits = {"validation": dataset.validation, "test": dataset.test}
            own = {
                "file": f"{number}.npz",
                "seed": SEED + number,
                "sha256": sha256(weights).hexdigest(),
                "accuracy": {name: accuracy(trained, split) for name, split in splits.items()},
                "seconds": round(time.time() - start, 1),
            }
            files.write(index.parent / own["file"], weights)
            content["judges"].append(own)
            files.write_json(index, content)  # last: what it lists is there
            print(_line(own, f"trained in {own['seconds']:.0f} s"), flush=True)
    return index


def train(dataset: Dataset, seed: int, label: str) -> tf_keras.Sequential:
    """A classifier trained on the distorted grey levels of the training split.

    Args:
      dataset: a labelled one.
      seed: of the first weights, of the order, and of the distortions.
      label: what a progress bar calls it.
    """
    tf_keras.utils.set_random_seed(seed)
    network = classifier.build(dataset.spec.image_shape, dataset.spec.num_classes)
    steps_per_epoch = -(-len(dataset.train.images) // BATCH)
    steps = min(max(EPOCHS * steps_per_epoch, FEWEST_STEPS), MOST_STEPS)
    epochs = -(-steps // steps_per_epoch)
    network.compile(
        # The average of the weights is what remains at the end of fit.
        tf_keras.optimizers.Adam(
            tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps_per_epoch),
            use_ema=True,
            ema_momentum=AVERAGING,
        ),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=min(50, steps_per_epoch),
    )
    ticker = progress.Ticker()
    with progress.bar(total=epochs, desc=label, unit="epoch") as bar:

        def on_epoch_end(epoch, logs):
            bar.update()
            ticker.tell(f"{label}: {epoch + 1} of {epochs} epochs")

        watch = tf_keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
        network.fit(batches(dataset.train, seed), epochs=epochs, verbose=0, callbacks=[watch])
    return network


def batches(split: Split, seed: int) -> tf.data.Dataset:
    """An epoch of distorted images [B, H, W, C] and labels [B], another one each time."""
    rows = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).shuffle(len(split.images), seed=seed)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def batch(rows, draw):
        images, labels = rows
        return distorted(tf.cast(images, tf.float32) / 255, draw), labels

    return ahead(tf.data.Dataset.zip(rows.batch(BATCH), seeds).map(batch))


def distorted(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each image shifted, turned and stretched at random, black outside.  [B, H, W, C] -> [B, H, W, C]"""
    height, width = images.shape[1:3]
    draws = tf.random.stateless_uniform([5, tf.shape(images)[0]], seed, -1.0, 1.0)
    angle, across, along = ANGLE * draws[0], 1 + STRETCH * draws[1], 1 + STRETCH * draws[2]
    a, b, c, d = across * tf.cos(angle), -across * tf.sin(angle), along * tf.sin(angle), along * tf.cos(angle)
    middle, centre, zero = (width - 1) / 2, (height - 1) / 2, tf.zeros_like(a)
    x, y = middle + SHIFT * width * draws[3], centre + SHIFT * height * draws[4]
    # The ratios are exactly 1 where images are square: so the judges of MNIST can be trained again bit for bit.
    x -= middle * (a + b * (centre / middle))
    y -= centre * (c * (middle / centre) + d)
    maps = tf.stack([a, b, x, c, d, y, zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=maps, output_shape=[height, width], fill_value=0.0, interpolation="BILINEAR"
    )


def accuracy(trained: Classifier, split: Split) -> float:
    """Share of a split's images whose most probable class is theirs."""
    found = trained.probabilities(split.images.astype(np.float32) / 255).argmax(axis=1)
    return float((found == split.labels).mean())


def packed(network: tf_keras.Sequential) -> bytes:
    """The weights as a .npz file holds them."""
    buffer = io.BytesIO()
    np.savez(buffer, *network.get_weights())
    return buffer.getvalue()


def _digest(dataset: Dataset) -> str:
    return datasets.digest(dataset.train, dataset.validation, dataset.test)


def _index(digest: str) -> Path:
    """The list of the judges of the data of a digest."""
    return files.cache() / "classifiers" / digest / "judges.json"


def _read(digest: str) -> dict:
    """What the list of judges says."""
    index = _index(digest)
    try:
        content = files.parse_json(index.read_text())
        for own in content["judges"]:
            own["file"], own["seed"], own["sha256"], own["accuracy"]["validation"], own["accuracy"]["test"]
        content["image_shape"], content["num_classes"], content["command"]
    except OSError as error:
        raise Fault(
            f"cannot read {index}, the classifiers that the samples are judged by: {error.strerror}; train them by "
            "`genmnist classifier --dataset=...`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(f"{index} is damaged: delete {index.parent}, and train the classifiers again") from error
    return content


def _line(own: dict, state: str) -> str:
    """What is known of a judge, in a line."""
    validation, test = own["accuracy"]["validation"], own["accuracy"]["test"]
    return (
        f"classifier of seed {own['seed']} {state}: right about {validation:.2%} of the validation images and "
        f"{test:.2%} of the test images, SHA-256 {own['sha256']}"
    )
