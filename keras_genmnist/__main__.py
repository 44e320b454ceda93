"""`python -m keras_genmnist` is `genmnist`."""

from keras_genmnist.cli import main

main()
