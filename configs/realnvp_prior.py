"""VAE with RealNVP prior (Dinh et al. 2017, arxiv.org/abs/1605.08803)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", prior="realnvp", prior_steps=8)
