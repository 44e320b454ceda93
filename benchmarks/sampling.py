"""Sampling from a PixelCNN with its caches beside the naive loop, a pass of the network for each place.

    python benchmarks/sampling.py [--rounds=3]

100 images of configs/pixelcnn.py with weights as they start, whose arithmetic is that of trained ones, of the same
without attention, and over pixels, in one order and without attention, as the papers have it.  The loops are compiled
once, and the same uniform numbers must give both the same bits.
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
TARGET_SECONDS, TARGET_RATIO, TARGET_RATIO_OF_PATCHES = 3.0, 20.0, 3.0
OF_PIXELS = {"patch_size": 1, "orders": 1, "attention_every": 0, "soft_targets": False, "num_layers": 8}
OF_PIXELS |= {"features": 16, "first_kernel_size": 13, "kernel_size": 3}


def naive(network, uniform: tf.Tensor, context) -> tf.Tensor:
    """The images that `network.draw` draws of uniform numbers [B, H, W, C]."""
    patches, (height, width) = network.patches, uniform.shape[1:3]
    numbers = patches.split(uniform)
    rows, columns = numbers.shape[1:3]

    def draw(i, places):
        drawn, _ = patches.draw(network(patches.join(places, height, width), context), numbers)
        here = tf.reshape(tf.one_hot(i, rows * columns), [1, rows, columns, 1])
        return i + 1, places + here * drawn

    places = tf.while_loop(lambda i, _: i < rows * columns, draw, (0, tf.zeros_like(numbers)))[1]
    return patches.join(places, height, width)


def seconds(function, *arguments) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = function(*arguments).numpy()
    return time.perf_counter() - start, result


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    tf.config.threading.set_inter_op_parallelism_threads(1)  # as `genmnist sample` does
    pixels = measured("pixels", **OF_PIXELS)
    for label, changes in {"patches": {}, "patches without attention": {"attention_every": 0}}.items():
        ratio = pixels / measured(label, **changes)
        print(f"{label} are {ratio:.1f} times faster than pixels (asked {TARGET_RATIO_OF_PATCHES})")


def measured(label: str, **changes) -> float:
    """Seconds of the cached loop, beside those of the naive one, for the config with these changes."""
    config = configs.based_on("pixelcnn", **changes)
    model, labels = models.build(config), None
    if config.orders > 1:
        model, labels = model.model, tf.range(NUM_SAMPLES) % config.orders
    uniform = tf.random.stateless_uniform([NUM_SAMPLES, *model.image_shape], [1, 2])
    context = model._context(labels)
    cached = tf.function(lambda *given: model.network.draw(*given)["images"], autograph=False)
    seconds(cached, uniform, context)  # compiles
    times, images = zip(*(seconds(cached, uniform, context) for _ in range(_ROUNDS.value)), strict=True)
    slow, expected = seconds(tf.function(naive, autograph=False), model.network, uniform, context)
    np.testing.assert_array_equal(images[0], expected)
    fast = statistics.median(times)
    print(f"{NUM_SAMPLES} images by {label}: {fast:.2f} s (asked {TARGET_SECONDS}) with caches, {slow:.1f} s naively")
    print(f"{slow / fast:.0f} times faster (asked {TARGET_RATIO:.0f}), the same bits")
    return fast


if __name__ == "__main__":
    app.run(main)
