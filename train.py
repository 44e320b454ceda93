"""`python train.py --model=NAME` is `genmnist train --model=NAME`."""

import sys

from keras_genmnist.cli import main

sys.argv.insert(1, "train")
main()
