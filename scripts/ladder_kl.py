"""Trains ladders with and without batch norm and warm-up, and draws the KL of each layer over the epochs.

After section 3.2 of Sonderby et al. (2016), arxiv.org/abs/1602.02282: which layers are used.  Run it in the root of the
repository: runs that are there already are used as they are.  Writes docs/ladder_kl.png.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from study import genmnist

from keras_genmnist.figures import save

EPOCHS, WARMUP = 20, 5
VARIANTS = {
    "neither": ("none", 0),
    "warm-up": ("none", WARMUP),
    "batch norm": ("batch", 0),
    "batch norm and warm-up": ("batch", WARMUP),
}


def rows(name: str, norm: str, warmup: int) -> list[dict]:
    """The metrics of the run, trained if need be."""
    workdir = f"runs/ladder_{name.replace(' ', '_')}"
    config = {"epochs": EPOCHS, "norm": norm, "warmup_epochs": warmup}
    genmnist("train", "--model=ladder", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in config.items()))
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    figure, axes = plt.subplots(1, len(VARIANTS), figsize=(13, 3.6), sharey=True, layout="constrained")
    for axis, (name, settings) in zip(axes, VARIANTS.items(), strict=True):
        epochs = rows(name, *settings)
        layers = [[row[f"val_kl_{number}"] for row in epochs] for number in range(1, 6)]
        axis.stackplot([row["epoch"] for row in epochs], layers, labels=[f"layer {number}" for number in range(1, 6)])
        axis.set_title(f"{name}\n-ELBO {-epochs[-1]['val_elbo']:.1f}", fontsize=10)
        axis.set(xlabel="epoch", xlim=(1, EPOCHS), ylim=(0, 40))
    axes[0].set_ylabel("KL (nats per image)")
    axes[0].legend(loc="upper right")
    figure.suptitle("KL of each layer of ladder on mnist, validation images", fontsize=11)
    save(figure, Path("docs/ladder_kl.png"))


if __name__ == "__main__":
    main()
