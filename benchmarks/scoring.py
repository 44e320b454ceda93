"""The importance-weighted likelihood of `vae` beside the same work in JAX, on the CPU.

    python benchmarks/scoring.py [--rounds=3] [--images=1000] [--draws=1000] [--peer_python=.venv-bench/bin/python]

Both score the same test images by networks of the same sizes with weights as they start: the encoder once a call, and
50 draws of 100 images a call through the decoder.  The project does it as `genmnist evaluate` does, with the ELBO, its
terms and the tails of the weights.  The two take turns; what is compiled is not counted.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from keras_genmnist import config as configs
from keras_genmnist import datasets, likelihood, models

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each contestant runs.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 1000, "How many test images are scored.", lower_bound=100)
_DRAWS = flags.DEFINE_integer("draws", 1000, "Of each image, a multiple of 50.", lower_bound=50)

_PEER_PYTHON = flags.DEFINE_string("peer_python", ".venv-bench/bin/python", "The Python that has jax.")

PEER = Path(__file__).parent / "peers" / "jax_iw.py"
TARGET = 1.1


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    tf.config.threading.set_inter_op_parallelism_threads(1)  # as `genmnist evaluate` does
    model = models.build(configs.load("vae"))
    images = datasets.load("mnist").test.binary[: _IMAGES.value]
    likelihood.weighted(model, images[:100], 50, "compiled")
    rates = {"project": [], "jax": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        np.save(path, images.reshape(-1, 784))
        command = [_PEER_PYTHON.value, str(PEER), str(path), str(_DRAWS.value)]
        for _ in range(_ROUNDS.value):
            start = time.perf_counter()
            own = likelihood.weighted(model, images, _DRAWS.value, "project").scores["nll"]["mean"]
            rates["project"].append(len(images) / (time.perf_counter() - start))
            ended = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(f"{ended.stderr}\n{' '.join(command)}\nfailed with exit code {ended.returncode}")
            found = json.loads(ended.stdout.splitlines()[-1])
            rates["jax"].append(found["images_per_second"])
            print(f"NLL with weights as they start: {own:.1f}, by JAX {found['objective']:.1f}", flush=True)
    project, jax = (statistics.median(rates[name]) for name in ("project", "jax"))
    print(f"{project:.0f} images/s, by JAX {jax:.0f}: {project / jax:.2f} times as many (asked {TARGET})")


if __name__ == "__main__":
    app.run(main)
