"""VAE without encoder: each image's posterior by gradient ascent (Hoffman et al. 2013, arxiv.org/abs/1206.7051)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", inference="svi")
