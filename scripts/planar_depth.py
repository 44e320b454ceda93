"""Draws -ELBO and NLL against the number of maps of planar posteriors, as results/planar_kK-binarized_mnist.json say.

After figure 4 of Rezende & Mohamed (2015), arxiv.org/abs/1505.05770.  Run it in the root of the repository, after
`make results`.  Writes docs/planar_depth.png.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from tables import read

from keras_genmnist.figures import save
from results import DEPTHS


def main() -> None:
    records = read()
    tests = [records[f"planar_k{depth}-binarized_mnist"]["test"] for depth in DEPTHS]
    figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
    draws = tests[0]["nll"]["num_draws"]
    for name, label, sign in (("elbo", "-ELBO", -1), ("nll", f"NLL, {draws:,} draws", 1)):
        means, errors = [sign * test[name]["mean"] for test in tests], [test[name]["se"] for test in tests]
        axis.errorbar(DEPTHS, means, errors, marker="o", capsize=3, label=label)
    axis.set(xlabel="planar maps K", ylabel="nats per image", xticks=DEPTHS)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle("Planar posteriors on binarized_mnist, test images, 40 epochs", fontsize=11)
    save(figure, Path("docs/planar_depth.png"))


if __name__ == "__main__":
    main()
