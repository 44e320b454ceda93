"""VAE with planar flow posterior (Rezende & Mohamed 2015, arxiv.org/abs/1505.05770)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", posterior="planar", flow_steps=10, epochs=250)  # the training time of vae
