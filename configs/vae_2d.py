"""VAE with 2 latent dimensions, to draw maps of (Kingma & Welling 2014, figure 4, arxiv.org/abs/1312.6114)

1. Those of `vae`, but for the number of latents, and for 200 epochs.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", latent_size=2, epochs=200)
