"""Trains ladders with and without batch norm and warm-up, and draws how each layer is used over the epochs.

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
# Of metrics.jsonl: label of an axis, and its top, without what the first epochs reach.
QUANTITIES = {"kl": ("KL (nats per image)", 40), "active_units": ("active units", 80)}


def rows(name: str, norm: str, warmup: int) -> list[dict]:
    """The metrics of the run, trained if need be."""
    workdir = f"runs/ladder_{name.replace(' ', '_')}"
    config = {
        "epochs": EPOCHS,
        "norm": norm,
        "warmup_epochs": warmup,
        "dropout": 0.0,
        "bottom_up_noise": 0.0,
        "free_bits": 0.0,
    }
    genmnist("train", "--model=ladder", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in config.items()))
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    figure, axes = plt.subplots(
        len(QUANTITIES), len(VARIANTS), figsize=(13, 6), sharex=True, sharey="row", layout="constrained"
    )
    for column, (name, settings) in zip(axes.T, VARIANTS.items(), strict=True):
        epochs = rows(name, *settings)
        for axis, quantity in zip(column, QUANTITIES, strict=True):
            layers = [[row[f"val_{quantity}_{number}"] for row in epochs] for number in range(1, 6)]
            labels = [f"layer {number}" for number in range(1, 6)]
            axis.stackplot([row["epoch"] for row in epochs], layers, labels=labels)
        column[0].set_title(f"{name}\n-ELBO {-epochs[-1]['val_elbo']:.1f}", fontsize=10)
        column[-1].set(xlabel="epoch", xlim=(1, EPOCHS))
    for axis, (label, top) in zip(axes[:, 0], QUANTITIES.values(), strict=True):
        axis.set(ylabel=label, ylim=(0, top))
    axes[0, 0].legend(loc="upper right")
    figure.suptitle("Layers of ladder on mnist, validation images", fontsize=11)
    save(figure, Path("docs/ladder_kl.png"))


if __name__ == "__main__":
    main()
