"""VAE with inverse autoregressive flow posterior (Kingma et al. 2016, arxiv.org/abs/1606.04934)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", posterior="iaf")
