"""VAE with the mixture of its posteriors as prior (Tomczak & Welling 2018, arxiv.org/abs/1705.07120)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", prior="vamp")
