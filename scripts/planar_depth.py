"""Trains planar posteriors of 0 to 80 maps on binarized_mnist and draws -ELBO against their number.

After figure 4 of Rezende & Mohamed (2015), arxiv.org/abs/1505.05770.  Run it in the root of the repository: what is
already in runs/ and results/ is used as it is.  Writes results/planar_kK-binarized_mnist.json, docs/planar_depth.png.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from study import genmnist

from keras_genmnist.figures import save

DEPTHS = (0, 10, 40, 80)
EPOCHS = 40
DRAWS = 200


def measured(depth: int) -> dict:
    """The record of the run with `depth` maps, trained and evaluated if need be."""
    workdir = f"runs/planar_k{depth}"
    path = Path(f"results/planar_k{depth}-binarized_mnist.json")
    if not path.exists():
        model = [f"--config.flow_steps={depth}"] if depth else ["--config.posterior=gaussian"]
        config = ["--config.dataset=binarized_mnist", f"--config.epochs={EPOCHS}", *model]
        genmnist("train", "--model=planar", f"--workdir={workdir}", *config)
        genmnist("evaluate", f"--workdir={workdir}", f"--num_draws={DRAWS}", "--results")
    return json.loads(path.read_text())


def main() -> None:
    tests = [measured(depth)["test"] for depth in DEPTHS]
    figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, label, sign in (("elbo", "-ELBO", -1), ("nll", f"NLL, {DRAWS} draws", 1)):
        means, errors = [sign * test[name]["mean"] for test in tests], [test[name]["se"] for test in tests]
        axis.errorbar(DEPTHS, means, errors, marker="o", capsize=3, label=label)
    axis.set(xlabel="planar maps K", ylabel="nats per image", xticks=DEPTHS)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(f"Planar posteriors on binarized_mnist, test images, {EPOCHS} epochs", fontsize=11)
    save(figure, Path("docs/planar_depth.png"))


if __name__ == "__main__":
    main()
