"""Sampling from a PixelCNN with its caches beside the naive loop, a pass of the network for each pixel.

    python benchmarks/sampling.py [--rounds=3]

100 images of configs/pixelcnn.py with weights as they start: the arithmetic is that of trained ones.  Both loops are
compiled once, and the same uniform numbers must give both the same bits.
"""

import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_genmnist import config as configs
from keras_genmnist import models

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often the cached loop is timed.", lower_bound=1)

NUM_SAMPLES = 100
TARGET_SECONDS, TARGET_RATIO = 3.0, 20.0


def naive(network, uniform: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    """What `network.sample` draws of uniform numbers [B, H, W]: [B, H, W, 1]."""
    batch, height, width = uniform.shape

    def draw(i, images):
        probability = tf.sigmoid(network(images, context)[..., 0])
        here = tf.reshape(tf.one_hot(i, height * width), [1, height, width])
        drawn = tf.cast(uniform < probability, tf.float32)
        return i + 1, images + (here * drawn)[..., None]

    start = (0, tf.zeros([batch, height, width, 1]))
    return tf.while_loop(lambda i, _: i < height * width, draw, start)[1]


def seconds(function, *arguments) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = function(*arguments).numpy()
    return time.perf_counter() - start, result


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    tf.config.threading.set_inter_op_parallelism_threads(1)  # as `genmnist sample` does
    model = models.build(configs.load("pixelcnn"))
    uniform = tf.random.stateless_uniform([NUM_SAMPLES, *model.image_shape], [1, 2])
    cached = tf.function(model.network.sample)
    seconds(cached, uniform, model.places)  # compiles
    times, images = zip(*(seconds(cached, uniform, model.places) for _ in range(_ROUNDS.value)), strict=True)
    slow, expected = seconds(tf.function(naive), model.network, uniform, model.places)
    np.testing.assert_array_equal(images[0], expected)
    fast = statistics.median(times)
    print(f"{NUM_SAMPLES} images of pixelcnn: {fast:.2f} s (asked {TARGET_SECONDS}) with caches, {slow:.1f} s naively")
    print(f"{slow / fast:.0f} times faster (asked {TARGET_RATIO:.0f}), the same bits")


if __name__ == "__main__":
    app.run(main)
