"""Cost of a training step with each posterior, relative to the plain VAE on the same networks.

    python benchmarks/posteriors.py [--rounds=7]

The networks, batch and compilation of configs/vae.py; planar and radial with 10 steps, Sylvester and IAF as shipped.
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

CHANGES = {
    "gaussian": {},
    "planar": {"flow_steps": 10},
    "radial": {"flow_steps": 10},
    "sylvester": {},
    "iaf": {},
}
TARGETS = {"planar": 1.5, "iaf": 2.0}


def prepare(posterior: str, folder: Path):
    """A training of that posterior, and its data."""
    config = configs.based_on("vae", posterior=posterior, dataset="mnist_5k", **CHANGES[posterior])
    training = Training(Run(folder / posterior, "vae", config, "", ""))
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
    times = {posterior: [] for posterior in CHANGES}
    with tempfile.TemporaryDirectory() as folder:
        prepared = {posterior: prepare(posterior, Path(folder)) for posterior in CHANGES}
        for number in range(_ROUNDS.value + 1):
            for posterior, (training, chunks) in prepared.items():
                spent = milliseconds(training, chunks)
                if number:  # the first compiles
                    times[posterior].append(spent)
    plain = statistics.median(times["gaussian"])
    print(f"{'posterior':12} {'ms a step':>10} {'relative':>9} {'target':>9}")
    for posterior, values in times.items():
        target = f"<= {TARGETS[posterior]}" if posterior in TARGETS else ""
        print(f"{posterior:12} {statistics.median(values):10.2f} {statistics.median(values) / plain:8.2f}x {target:>9}")


if __name__ == "__main__":
    app.run(main)
