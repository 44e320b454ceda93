"""Cost of a training step with each posterior, relative to the plain VAE on the same networks and batch.

    python benchmarks/posteriors.py [--rounds=7]

The networks, batch and compilation of configs/vae.py; planar and radial with 10 steps, Sylvester and IAF as shipped.
Stochastic variational inference takes 20 steps up for each image, with a batch of 100.
The posteriors take turns in one process; each figure is the median over the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import app, flags

from keras_genmnist import config as configs
from keras_genmnist.runs import Run
from keras_genmnist.training import Training

_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each posterior is timed.", lower_bound=1)

SMALL = "gaussian, batch 100"
CHANGES = {
    "gaussian": {},
    "planar": {"posterior": "planar", "flow_steps": 10},
    "radial": {"posterior": "radial", "flow_steps": 10},
    "sylvester": {"posterior": "sylvester"},
    "iaf": {"posterior": "iaf"},
    SMALL: {"batch_size": 100},
    "svi, batch 100": {"batch_size": 100, "inference": "svi", "refine_steps": 20},
}
TARGETS = {"planar": 1.5, "iaf": 2.0, "svi, batch 100": 25.0}


def prepare(name: str, folder: Path):
    """A training with those CHANGES, and its data."""
    config = configs.based_on("vae", dataset="mnist_5k", **CHANGES[name])
    training = Training(Run(folder / name, "vae", config, "", ""))
    return training, training.chunks()


def milliseconds(training: Training, chunks: Iterator[tf.Tensor]) -> float:
    """Time of a step: an epoch's, its data included, over the number of steps."""
    start = time.perf_counter()
    training.train_epoch(chunks, on_steps=lambda num_steps: None, stopped=lambda: False)
    return (time.perf_counter() - start) / training.steps_per_epoch * 1000


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    tf.config.threading.set_inter_op_parallelism_threads(1)  # as `genmnist train` does
    times = {name: [] for name in CHANGES}
    with tempfile.TemporaryDirectory() as folder:
        prepared = {name: prepare(name, Path(folder)) for name in CHANGES}
        for number in range(_ROUNDS.value + 1):
            for name, (training, chunks) in prepared.items():
                spent = milliseconds(training, chunks)
                if number:  # the first compiles
                    times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'posterior':20} {'ms a step':>10} {'relative':>9} {'target':>9}")
    for name, spent in medians.items():
        plain = medians[SMALL if name.endswith("batch 100") else "gaussian"]
        target = f"<= {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:20} {spent:10.2f} {spent / plain:8.2f}x {target:>9}")


if __name__ == "__main__":
    app.run(main)
