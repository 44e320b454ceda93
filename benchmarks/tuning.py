"""How much faster two workers of one core each finish a study than one.

    python benchmarks/tuning.py [--rounds=3] [--trials=40] [--epochs=10] [--dataset=mnist_5k]

The same work both times: `genmnist tune` of configs/vae.py over learning rates, which cost nothing, without pruning.
Each study is timed from its command to its end, start-up, table and figures included.  One worker is held to one core,
two to two; they take turns, and the table has the median of the rounds.  Run it on an idle machine of two cores or
more.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each study is timed.", lower_bound=1)
_TRIALS = flags.DEFINE_integer("trials", 40, "Of a study.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Of a trial.", lower_bound=1)
_DATASET = flags.DEFINE_string("dataset", "mnist_5k", "The dataset whose training images are used.")

TARGET = 1.7


def seconds(workers: int, folder: str) -> float:
    """How long a study takes with so many workers, each on a core of its own."""
    command = [sys.executable, "-m", "keras_genmnist", "tune", "--model=vae", f"--config.dataset={_DATASET.value}"]
    command += ["--search=learning_rate:1e-3..3e-3:log", "--pruner=none", f"--workdir={folder}/{workers}"]
    command += [f"--trials={_TRIALS.value}", f"--epochs={_EPOCHS.value}", f"--jobs={workers}", "--threads=1"]
    cores = sorted(os.sched_getaffinity(0))[:workers]
    start = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return time.perf_counter() - start


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two workers need two cores, and there is one")
    times = {1: [], 2: []}
    for number in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory() as folder:
            for workers, taken in times.items():
                taken.append(seconds(workers, folder))
        print(f"round {number + 1}: " + ", ".join(f"{w} workers {t[-1]:.1f} s" for w, t in times.items()), flush=True)
    one, two = (statistics.median(taken) for taken in times.values())
    for workers, taken in ((1, one), (2, two)):
        print(
            f"{workers} worker{'s' * (workers > 1)}: {taken:.1f} s, {3600 * _TRIALS.value / taken:.0f} trials an hour"
        )
    print(f"two are {one / two:.2f} times as fast as one; the target is {TARGET}")
    sys.exit(one / two < TARGET)


if __name__ == "__main__":
    app.run(main)
