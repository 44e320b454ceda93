"""Trains keras_genmnist/classifier_NUMBER.npz, the weights of a judge that ships with the package.

Usage: python scripts/train_classifier.py NUMBER, in the root of the repository, with NUMBER 0, 1 or 2; then set its
line of JUDGES in keras_genmnist/classifier.py.  The judges differ in their seed alone.  How they are trained,
keras_genmnist/judges.py says.
"""

import argparse
import hashlib
import time

from keras_genmnist import classifier, datasets, device, judges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("number", type=int, choices=range(len(classifier.JUDGES)), help="of the judge")
    number = parser.parse_args().number
    path, start = classifier.JUDGES[number].path, time.time()
    device.prepare()
    dataset = datasets.load("mnist")
    network = judges.train(dataset, judges.SEED + number, f"judge {number}")
    print(f"trained for {time.time() - start:.0f} seconds")
    trained = classifier.Classifier(network)
    for name in ("validation", "test"):
        print(f"{name} accuracy {judges.accuracy(trained, getattr(dataset, name)):.2%}")
    content = judges.packed(network)
    path.write_bytes(content)
    print(f"wrote {path}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
