"""Packs trained runs as the pretrained models of keras_genmnist/zoo/.

Usage: python scripts/make_zoo.py runs/results/mnist/vae_2d ..., in the root of the repository, after `make results`.
The name of a run's directory is that of the model.
"""

import sys
import tempfile
from pathlib import Path

from keras_genmnist import export, runs, zoo


def main() -> None:
    for workdir in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            run = zoo.rounded(runs.load(workdir), Path(folder))
            path = zoo.pack(run, export.export(run, Path(folder) / "exports"))
        print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
