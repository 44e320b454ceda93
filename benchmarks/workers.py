"""Training speed of two worker processes of one core each beside that of one, on the CPU.

    python benchmarks/workers.py [--models=vae_conv,pixelcnn,vae] [--batch_size=256] [--rounds=3] [--epochs=3]
        [--dataset=mnist_5k] [--quick]

Both train the same batches to the same weights, by `genmnist train` as a user runs it; two share each batch.  Without
XLA in either, which does not compile what workers exchange.  They take turns, so that a machine that slows down slows
both.  Images/s is the median of the epochs but the first, which compiles; the table has the median of the rounds.

Beside the images/s it has what each worker sends for a step at least: in a ring of N, 2 (N - 1) / N of 4 bytes for each
trainable weight.  Run it on a machine with two idle cores.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

_MODELS = flags.DEFINE_list("models", ["vae_conv", "pixelcnn", "vae"], "Configs, by name.")
_BATCH = flags.DEFINE_integer("batch_size", 256, "Of all workers together.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each is trained.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Of each training; the first is not counted.", lower_bound=2)
_DATASET = flags.DEFINE_string("dataset", "mnist_5k", "Whose training images are used.")
_QUICK = flags.DEFINE_boolean("quick", False, "Tiny models: whether it works, not how fast it is.")

TARGET = 1.7  # times the images/s of one, of what does not count as small
SMALL = ("vae",)  # so little work in a step that what is exchanged weighs
TINY = {
    "hidden_size": 8,
    "encoder_channels": 1,
    "decoder_channels": 1,
    "num_layers": 2,
    "features": 4,
    "latent_size": 2,
}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def train(model: str, cores: list[int], folder: Path) -> tuple[float, int]:
    """Trains a model by one worker on each of these cores.

    Returns:
      Images/s, and the number of trainable weights.
    """
    from keras_genmnist import config as configs

    fields = {
        "dataset": _DATASET.value,
        "batch_size": _BATCH.value,
        "epochs": _EPOCHS.value,
        "jit_compile": False,
    } | (TINY if _QUICK.value else {})
    given = [f"--config.{field}={value}" for field, value in fields.items() if field in configs.load(model)]
    addresses = ",".join(f"localhost:{port}" for port in _free_ports(len(cores)))
    command = [sys.executable, "-m", "keras_genmnist", "train", f"--model={model}", f"--workdir={folder}", *given]
    processes = [
        subprocess.Popen(
            command + ([f"--workers={addresses}", f"--index={index}"] if len(cores) > 1 else []),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda core=core: os.sched_setaffinity(0, [core]),
        )
        for index, core in enumerate(cores)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command)} has failed")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = said[0].split(" parameters")[0].split()[-1].replace(",", "")
    return statistics.median(row["images_per_second"] for row in rows[1:]), int(weights)


def main(_):
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("this needs two cores")
    print(f"batch {_BATCH.value}, {_DATASET.value}, {_ROUNDS.value} rounds of {_EPOCHS.value} epochs")
    print("| model | weights | MB a step | one core, images/s | two workers, images/s | times |")
    print("|---|---|---|---|---|---|")
    failed = []
    for model in _MODELS.value:
        speeds = {1: [], 2: []}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(_ROUNDS.value):
                for count in speeds:
                    speed, weights = train(model, cores[:count], Path(folder) / f"{number}-{count}")
                    speeds[count].append(speed)
        one, two = (statistics.median(found) for found in speeds.values())
        print(
            f"| {model} | {weights:,} | {4e-6 * weights:.2f} | {one:,.0f} | {two:,.0f} | {two / one:.2f} |", flush=True
        )
        if two < TARGET * one and model not in SMALL:
            failed.append(model)
    if failed and not _QUICK.value:
        raise SystemExit(f"two workers were less than {TARGET} times as fast as one for {', '.join(failed)}")


if __name__ == "__main__":
    app.run(main)
