"""Training speed of the project beside the same work in PyTorch and JAX, on the CPU.

    python benchmarks/training.py [--rounds=5] [--draws=1] [--dataset=mnist] [--peer_python=.venv-bench/bin/python]

The work: a VAE 784-400-20-400-784 (one ReLU layer on each side), batch 100, Adam 1e-3, dynamic Bernoulli binarization
(new bits every epoch), in three ways:

  project  `genmnist train` as a user runs it: data pipeline, metrics, checkpoints, TFP layers
  torch    peers/torch_vae.py, PyTorch eager
  jax      peers/jax_vae.py, JAX with a whole epoch under lax.scan

With --draws=50 the objective is the IWAE bound of 50 draws, in the project and in JAX.

Each is a process of its own, and they take turns, so that a machine that slows down slows all of them.  Images/s is the
median of three epochs, the one that compiles not counted; the table has the median, minimum and maximum of the rounds.
The mean training bound of the last epoch (nats per image) shows that all three did the same work.  Run it on an idle
machine: other load slows the contestants unequally, PyTorch by up to ten times, and the ratios then mean nothing.

The peers need torch, jax, optax and numpy in an environment of their own; `make bench` makes it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant runs.", lower_bound=1)
_DATASET = flags.DEFINE_string("dataset", "mnist", "The dataset whose training images are used.")
_DRAWS = flags.DEFINE_integer("draws", 1, "Draws from the posterior an image; above 1, the IWAE bound.", lower_bound=1)
_PEER_PYTHON = flags.DEFINE_string("peer_python", ".venv-bench/bin/python", "The Python that has torch and jax.")

PEERS = Path(__file__).parent / "peers"
TARGET_SPEEDUP = {"torch": 2.0, "jax": 1.2}
TARGET_STARTUP_SECONDS = 15
TARGET_PEAK_BYTES = 1.5e9
CONFIG = {
    "hidden_layers": 1,
    "hidden_size": 400,
    "latent_size": 20,
    "batch_norm": False,
    "batch_size": 100,
    "learning_rate": 1e-3,
    "decay": "constant",
    "binarization": "dynamic",
    "epochs": 4,
}
# A peer or the project would otherwise use a GPU where there is one.
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


def run(command: list[str], log: Path) -> int:
    """Runs a command with its output in `log`; returns its peak memory in bytes.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        # wait4 and not getrusage(RUSAGE_CHILDREN), which is the maximum over all children so far.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def save_images(path: Path, log: Path) -> None:
    # In a process of its own: a child's peak memory starts at its parent's, so this one stays small.
    program = f"""
import numpy as np
from keras_genmnist import data
np.save({str(path)!r}, data.load({_DATASET.value!r}).train.images.reshape(-1, 784))
"""
    run([sys.executable, "-c", program], log)


def run_project(folder: Path, log: Path) -> dict:
    """One training by the project, in an empty folder."""
    changes = {**CONFIG, "dataset": _DATASET.value, "train_draws": _DRAWS.value}
    if _DRAWS.value > 1:
        changes |= {"bound": "iwae", "epochs": 2}
    overrides = [f"--config.{field}={value}" for field, value in changes.items()]
    command = [sys.executable, "-m", "keras_genmnist", "train", "--model=vae", f"--workdir={folder}", *overrides]
    peak_bytes = run(command, log)
    first, *counted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "images_per_second": statistics.median(row["images_per_second"] for row in counted),
        "elbo": counted[-1]["elbo" if _DRAWS.value == 1 else "iwae"],
        "peak_bytes": peak_bytes,
        "startup_seconds": first["startup_seconds"],
    }


def run_peer(name: str, images: Path, log: Path) -> dict:
    """One training by peers/NAME_vae.py."""
    peak_bytes = run([_PEER_PYTHON.value, str(PEERS / f"{name}_vae.py"), str(images), str(_DRAWS.value)], log)
    return {**json.loads(log.read_text().splitlines()[-1]), "peak_bytes": peak_bytes}


def available_peers() -> list[str]:
    """The peers whose libraries are installed; says which are not."""
    peers = []
    for name, imports in {"torch": "torch", "jax": "jax, optax"}.items():
        if name == "torch" and _DRAWS.value > 1:
            continue
        try:
            subprocess.run([_PEER_PYTHON.value, "-c", f"import numpy, {imports}"], check=True, capture_output=True)
            peers.append(name)
        except (OSError, subprocess.CalledProcessError):
            print(f"{name} is left out: {_PEER_PYTHON.value} cannot import numpy, {imports}")
    return peers


def print_table(results: dict[str, list[dict]]) -> None:
    """Prints each contestant's figures, then the project's beside their targets."""

    def values(name, figure):
        return [result[figure] for result in results[name]]

    def median(name, figure):
        return statistics.median(values(name, figure))

    print(f"\n{'':8} {'images/s':>9} {'min .. max':>18} {'bound':>9} {'peak memory':>12}")
    for name in results:
        rates = values(name, "images_per_second")
        span = f"{min(rates):,.0f} .. {max(rates):,.0f}"
        print(
            f"{name:8} {statistics.median(rates):9,.0f} {span:>18} {median(name, 'elbo'):9.2f} "
            f"{max(values(name, 'peak_bytes')) / 1e9:9.2f} GB"
        )
    print(f"\n{'project':24} {'measured':>10} {'target':>12}")
    for name, target in TARGET_SPEEDUP.items():
        if name in results:
            ratio = median("project", "images_per_second") / median(name, "images_per_second")
            print(f"{'images/s / ' + name:24} {ratio:9.2f}x {f'>= {target}x' if _DRAWS.value == 1 else '':>12}")
    startup = median("project", "startup_seconds")
    print(f"{'start to first step':24} {startup:8.1f} s {f'< {TARGET_STARTUP_SECONDS} s':>12}")
    peak_bytes = max(values("project", "peak_bytes"))
    print(f"{'peak memory':24} {peak_bytes / 1e9:7.2f} GB {f'< {TARGET_PEAK_BYTES / 1e9} GB':>12}")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    results = {name: [] for name in ["project", *available_peers()]}
    with tempfile.TemporaryDirectory() as folder:
        images, log = Path(folder, "images.npy"), Path(folder, "log")
        try:
            save_images(images, log)
            for number in range(1, _ROUNDS.value + 1):
                for name in results:
                    if name == "project":
                        result = run_project(Path(folder, f"round{number}"), log)
                    else:
                        result = run_peer(name, images, log)
                    results[name].append(result)
                    print(f"round {number}: {name:8} {result['images_per_second']:9,.0f} images/s", flush=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{log.read_text()}\n{' '.join(error.cmd)}\nfailed with exit code {error.returncode}")
    print_table(results)


if __name__ == "__main__":
    app.run(main)
