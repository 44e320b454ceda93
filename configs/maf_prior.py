"""VAE with masked autoregressive flow prior (Papamakarios et al. 2017, arxiv.org/abs/1705.07057)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", prior="maf")
