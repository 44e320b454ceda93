"""Ladder VAE with convolutions next to the image (Sonderby et al. 2016, arxiv.org/abs/1602.02282)

1. The networks next to the image are convolutional. All of the paper's are fully connected.
2. The others are those of `ladder` with half as many hidden units. There are 100 epochs with a warm-up of 10, and
   batches of 100.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on(
        "ladder",
        network="conv",
        hidden_size=256,
        batch_size=100,
        epochs=100,
        warmup_epochs=10,
        jit_compile=False,  # an epoch of mnist_5k in 17 s on half a core, by XLA not in 150
    )
