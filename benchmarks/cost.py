"""What a training costs by how much work it is: a figure, and the share of the processor's arithmetic that it uses.

    python benchmarks/cost.py [--out=docs/cost.png] [--dataset=mnist_5k] [--epochs=3] [--quick]

One core trains `vae` (784-400-20-400-784) with other batches and latents, the same with the IWAE bound of more and more
draws, and `pixelcnn` without attention by pixels and by patches, each by `genmnist train` in a process of its own.
Images/s is the best of the epochs but the first, which compiles; memory is the highest of the process.  Run it where a
core is idle.

The share is that of the products of matrices, whose number follows from the sizes of the layers, in what one core
reaches with two matrices of 2,048 x 2,048 in float32.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from matplotlib.ticker import LogLocator

_OUT = flags.DEFINE_string("out", "docs/cost.png", "The figure's file.")
_DATASET = flags.DEFINE_string("dataset", "mnist_5k", "Whose training images are used.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Of each training; the first is not counted.", lower_bound=2)
_QUICK = flags.DEFINE_boolean("quick", False, "Two points of each: whether it works, not what it costs.")

VAE = {"hidden_layers": 1, "hidden_size": 400, "latent_size": 20, "norm": "none", "batch_size": 100}
IWAE = VAE | {"bound": "iwae"}
# Title -> model, its fields, the field that varies, and its values.
SERIES = {
    "batch size": ("vae", VAE, "batch_size", [10, 30, 100, 300, 1000]),
    "latent size": ("vae", VAE, "latent_size", [2, 8, 32, 128, 512]),
    "draws of the IWAE bound": ("vae", IWAE, "train_draws", [1, 2, 5, 10, 20, 50]),
    "patch size": ("pixelcnn", {"attention_every": 0, "epochs": 2}, "patch_size", [1, 2]),
}


def train(model: str, fields: dict) -> tuple[float, float]:
    """Images/s, and the peak memory in bytes."""
    given = [f"--config.{field}={value}" for field, value in fields.items()]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "keras_genmnist", "train", f"--model={model}", f"--workdir={folder}/run"]
        subprocess.run(command + given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, *counted = map(json.loads, Path(folder, "run", "metrics.jsonl").read_text().splitlines())
    return max(row["images_per_second"] for row in counted), counted[-1]["peak_memory_bytes"]


def product_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a product of two matrices of this size."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    matrix = tf.random.normal([size, size])
    multiply = tf.function(lambda: tf.linalg.matmul(matrix, matrix), autograph=False)
    multiply().numpy()
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        multiply().numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def operations(latents: int = VAE["latent_size"], hidden: int = VAE["hidden_size"], pixels: int = 784) -> int:
    """Floating-point operations of the products of a training step of `vae`, for an image.

    Each layer has one product forward, and two backward: for its weights, and for its input but that of the image.
    """
    layers = [(pixels, hidden), (hidden, 2 * latents), (latents, hidden), (hidden, pixels)]
    return 2 * (3 * sum(inputs * outputs for inputs, outputs in layers) - pixels * hidden)


def draw(series: dict[str, tuple[str, list[int], list[float], list[float]]]) -> plt.Figure:
    """Images/s and memory.

    Args:
      series: by the name of what varies: the model, its values, and the images/s and the bytes of memory of each.
    """
    figure, axes = plt.subplots(1, len(series), figsize=(4 * len(series), 3.6), layout="constrained")
    for axis, (title, (model, values, rates, peaks)) in zip(axes, series.items(), strict=True):
        axis.loglog(values, rates, "o-", label="images/s (left)")
        axis.set(xlabel=title, title=model, xticks=values, xticklabels=map(str, values))
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6) if max(rates) < 10 * min(rates) else (1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        right = axis.twinx()
        right.plot(values, [peak / 1e6 for peak in peaks], "s--", color="C1")
        right.set_ylim(0, 1.2 * max(peaks) / 1e6)
        right.yaxis.set_major_formatter("{x:,.0f}")
        axis.plot([], [], "s--", color="C1", label="MB of memory (right)")
        axis.legend(loc="lower center")
    return figure


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    series = {}
    for title, (model, fields, field, values) in SERIES.items():
        values = values[:2] if _QUICK.value else values
        common = {"epochs": _EPOCHS.value} | fields | {"dataset": _DATASET.value}
        found = []
        for value in values:
            found.append(train(model, common | {field: value}))
            rate, peak = found[-1]
            print(f"{model}, {title} {value}: {rate:,.0f} images/s, {peak / 1e6:,.0f} MB", flush=True)
        series[title] = (model, values, *zip(*found, strict=True))
    _, _, rates, _ = series["batch size"]
    used, reached = max(rates) * operations(), product_rate()
    print(
        f"products of vae at its fastest batch: {used / 1e9:.0f} of {reached / 1e9:.0f} GFLOP/s, {used / reached:.0%}"
    )
    Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    draw(series).savefig(_OUT.value, dpi=110)


if __name__ == "__main__":
    app.run(main)
