"""VAE whose encoder gives the start of a gradient ascent (Kim et al. 2018, arxiv.org/abs/1802.02550)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # As `svi`, but its steps need not go as far.
    return based_on("vae", inference="semi_amortized", norm="layer", batch_size=100, refine_learning_rate=0.05)
