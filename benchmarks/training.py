"""Training speed of the project beside the same work in PyTorch and JAX, on the CPU.

    python benchmarks/training.py [--work=vae] [--rounds=5] [--dataset=mnist] [--peer_python=.venv-bench/bin/python]

The work:

  vae    784-400-20-400-784 (one ReLU layer on each side), batch 100, Adam 1e-3, dynamic Bernoulli binarization (new
         bits every epoch); PyTorch eager, and JAX with a whole epoch under lax.scan
  iwae   the same with the IWAE bound of 50 draws, which trains faster without XLA; JAX
  dcgan, vae_conv, pixelvae, pixelcnn
         their configs without the average of the weights; PyTorch, eager and by torch.compile, channels last

The project runs as `genmnist train`, as a user runs it: data pipeline, metrics, checkpoints, TFP layers.

Each is a process of its own, and they take turns, so that a machine that slows down slows all of them.  Images/s is the
median of the epochs, the one that compiles not counted; the table has the median, minimum and maximum of the rounds.
The mean training objective of the last epoch shows that all did the same work.  Run it on an idle machine: other load
slows the contestants unequally, PyTorch by up to ten times, and the ratios then mean nothing.

The peers need torch, jax, optax and numpy in an environment of their own; `make bench` makes it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant runs.", lower_bound=1)
_DATASET = flags.DEFINE_string("dataset", "mnist", "The dataset whose training images are used.")
_PEER_PYTHON = flags.DEFINE_string("peer_python", ".venv-bench/bin/python", "The Python that has torch and jax.")

PEERS = Path(__file__).parent / "peers"
TARGET_STARTUP_SECONDS = 15
TARGET_PEAK_BYTES = 1.5e9


class Work(NamedTuple):
    """A training.

    model: of the project.
    config: changes to its config.
    objective: its column of metrics.jsonl.
    peers: name -> (its script and what that takes after the images' path; images/s asked of the project relative to
      it, 0 for none).
    """

    model: str
    config: dict
    objective: str
    peers: dict[str, tuple[list[str], float]]


VAE = {
    "hidden_layers": 1,
    "hidden_size": 400,
    "latent_size": 20,
    "norm": "none",
    "batch_size": 100,
    "learning_rate": 1e-3,
    "decay": "constant",
    "ema_decay": 0.0,
    "binarization": "dynamic",
    "epochs": 4,
}


def torch_peers(*script: str, eager: float, compiled: float) -> dict[str, tuple[list[str], float]]:
    """A script of PyTorch both ways, and the ratios asked."""
    return {"torch": ([*script, "eager"], eager), "torch compiled": ([*script, "compile"], compiled)}


WORKS = {
    "vae": Work(
        "vae", VAE, "elbo", {"torch": (["torch_vae.py", "mlp", "eager"], 2.0), "jax": (["jax_vae.py", "1"], 1.2)}
    ),
    "iwae": Work(
        "vae",
        VAE | {"bound": "iwae", "train_draws": 50, "epochs": 2, "jit_compile": False},
        "iwae",
        {"jax": (["jax_vae.py", "50"], 1.1)},
    ),
    "dcgan": Work(
        "dcgan",
        {"ema_decay": 0.0, "epochs": 3},
        "discriminator_loss",
        torch_peers("torch_dcgan.py", eager=1.2, compiled=1.2),
    ),
    "vae_conv": Work(
        "vae_conv",
        {"ema_decay": 0.0, "decay": "constant", "epochs": 3},
        "elbo",
        torch_peers("torch_vae.py", "conv", eager=1.2, compiled=1.2),
    ),
    "pixelvae": Work(
        "pixelvae",
        {"ema_decay": 0.0, "decay": "constant", "epochs": 3},
        "elbo",
        torch_peers("torch_pixelvae.py", eager=1.2, compiled=1.2),
    ),
    "pixelcnn": Work(
        "pixelcnn",
        {"ema_decay": 0.0, "epochs": 3, "optimizer": "adam"},
        "nll",
        torch_peers("torch_pixelcnn.py", eager=1.5, compiled=1.2),
    ),
}
_WORK = flags.DEFINE_enum("work", "vae", list(WORKS), "What is trained.")
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
from keras_genmnist import datasets
np.save({str(path)!r}, datasets.load({_DATASET.value!r}).train.images.reshape(-1, 784))
"""
    run([sys.executable, "-c", program], log)


def run_project(work: Work, folder: Path, log: Path) -> dict:
    """One training by the project, in an empty folder."""
    changes = {**work.config, "dataset": _DATASET.value}
    overrides = [f"--config.{field}={value}" for field, value in changes.items()]
    command = [sys.executable, "-m", "keras_genmnist", "train", f"--model={work.model}", f"--workdir={folder}"]
    peak_bytes = run([*command, *overrides], log)
    first, *counted = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "images_per_second": statistics.median(row["images_per_second"] for row in counted),
        "objective": counted[-1][work.objective],
        "peak_bytes": peak_bytes,
        "startup_seconds": first["startup_seconds"],
    }


def run_peer(arguments: list[str], images: Path, log: Path) -> dict:
    """One training by a script of peers/."""
    script, *rest = arguments
    peak_bytes = run([_PEER_PYTHON.value, str(PEERS / script), str(images), *rest], log)
    return {**json.loads(log.read_text().splitlines()[-1]), "peak_bytes": peak_bytes}


def available(peers: dict) -> list[str]:
    """The peers whose libraries are installed; says which are not."""
    found = []
    for name in peers:
        imports = {"torch": "torch", "jax": "jax, optax"}[name.split()[0]]
        try:
            subprocess.run([_PEER_PYTHON.value, "-c", f"import numpy, {imports}"], check=True, capture_output=True)
            found.append(name)
        except (OSError, subprocess.CalledProcessError):
            print(f"{name} is left out: {_PEER_PYTHON.value} cannot import numpy, {imports}")
    return found


def print_table(work: Work, results: dict[str, list[dict]]) -> None:
    """Prints each contestant's figures, then the project's beside their targets."""

    def values(name, figure):
        return [result[figure] for result in results[name]]

    def median(name, figure):
        return statistics.median(values(name, figure))

    print(f"\n{'':14} {'images/s':>9} {'min .. max':>18} {'objective':>9} {'peak memory':>12}")
    for name in results:
        rates = values(name, "images_per_second")
        span = f"{min(rates):,.0f} .. {max(rates):,.0f}"
        print(
            f"{name:14} {statistics.median(rates):9,.0f} {span:>18} {median(name, 'objective'):9.2f} "
            f"{max(values(name, 'peak_bytes')) / 1e9:9.2f} GB"
        )
    print(f"\n{'project':25} {'measured':>10} {'target':>12}")
    for name, (_, target) in work.peers.items():
        if name in results:
            ratio = median("project", "images_per_second") / median(name, "images_per_second")
            print(f"{'images/s / ' + name:25} {ratio:9.2f}x {f'>= {target}x' if target else '':>12}")
    startup = median("project", "startup_seconds")
    print(f"{'start to first step':25} {startup:8.1f} s {f'< {TARGET_STARTUP_SECONDS} s':>12}")
    peak_bytes = max(values("project", "peak_bytes"))
    print(f"{'peak memory':25} {peak_bytes / 1e9:7.2f} GB {f'< {TARGET_PEAK_BYTES / 1e9} GB':>12}")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    work = WORKS[_WORK.value]
    results = {name: [] for name in ["project", *available(work.peers)]}
    with tempfile.TemporaryDirectory() as folder:
        images, log = Path(folder, "images.npy"), Path(folder, "log")
        try:
            save_images(images, log)
            for number in range(1, _ROUNDS.value + 1):
                for name in results:
                    if name == "project":
                        result = run_project(work, Path(folder, f"round{number}"), log)
                    else:
                        result = run_peer(work.peers[name][0], images, log)
                    results[name].append(result)
                    print(f"round {number}: {name:14} {result['images_per_second']:9,.0f} images/s", flush=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{log.read_text()}\n{' '.join(error.cmd)}\nfailed with exit code {error.returncode}")
    print_table(work, results)


if __name__ == "__main__":
    app.run(main)
