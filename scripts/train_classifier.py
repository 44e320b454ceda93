"""Trains keras_genmnist/classifier_NUMBER.npz, the weights of a judge that ships with the package.

Usage: python scripts/train_classifier.py NUMBER, in the root of the repository, with NUMBER 0, 1 or 2; then set its
line of JUDGES in keras_genmnist/classifier.py.  The judges differ in their seed alone.

On the 50,000 training images in grey levels.  The recipe was chosen by accuracy on the validation split.
"""

import argparse
import hashlib
import math
import time

import numpy as np
import tensorflow as tf
import tf_keras

from keras_genmnist import classifier, datasets

SEED = 3435  # of judge 0; judge 1 has the next one
EPOCHS = 25
BATCH = 100
LEARNING_RATE = 1e-3
SHIFT, ANGLE, STRETCH = 2.0, math.radians(12), 0.12  # pixels, radians, share: largest of the distortions


def distorted(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each image shifted, turned and stretched at random, black outside.  [B, 28, 28, 1] -> [B, 28, 28, 1]"""
    draws = tf.random.stateless_uniform([5, tf.shape(images)[0]], seed, -1.0, 1.0)
    angle, across, along = ANGLE * draws[0], 1 + STRETCH * draws[1], 1 + STRETCH * draws[2]
    a, b, c, d = across * tf.cos(angle), -across * tf.sin(angle), along * tf.sin(angle), along * tf.cos(angle)
    centre, zero = 13.5, tf.zeros_like(a)
    x, y = (centre + SHIFT * draw for draw in (draws[3], draws[4]))
    maps = tf.stack([a, b, x - centre * (a + b), c, d, y - centre * (c + d), zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=maps, output_shape=[28, 28], fill_value=0.0, interpolation="BILINEAR"
    )


def batches(split: datasets.Split, seed: int) -> tf.data.Dataset:
    """An epoch of distorted images [B, 28, 28, 1] and labels [B], another one each time."""
    rows = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).shuffle(len(split.images), seed=seed)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def batch(rows, draw):
        images, labels = rows
        return distorted(tf.cast(images, tf.float32) / 255, draw), labels

    return tf.data.Dataset.zip(rows.batch(BATCH), seeds).map(batch).prefetch(tf.data.AUTOTUNE)


def accuracy(trained: classifier.Classifier, split: datasets.Split) -> float:
    """Share of a split's images whose most probable digit is theirs."""
    found = trained.probabilities(split.images.astype(np.float32) / 255).argmax(axis=1)
    return (found == split.labels).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("number", type=int, choices=range(len(classifier.JUDGES)), help="of the judge")
    number = parser.parse_args().number
    path, seed = classifier.JUDGES[number].path, SEED + number
    start = time.time()
    tf.config.threading.set_inter_op_parallelism_threads(1)  # the default threading adds gradients in varying order
    tf_keras.utils.set_random_seed(seed)
    dataset = datasets.load("mnist")
    network = classifier.build()
    rate = tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * len(dataset.train.images) // BATCH)
    network.compile(
        # The average of the weights is what remains at the end of fit.
        tf_keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.999),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=50,
    )
    network.fit(batches(dataset.train, seed), epochs=EPOCHS, verbose=2)
    trained = classifier.Classifier(network)
    print(f"trained for {time.time() - start:.0f} seconds")
    for name in ("validation", "test"):
        print(f"{name} accuracy {accuracy(trained, getattr(dataset, name)):.2%}")
    np.savez(path, *network.get_weights())
    content = path.read_bytes()
    print(f"wrote {path}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
