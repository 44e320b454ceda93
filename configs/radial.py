"""VAE with radial flow posterior (Rezende & Mohamed 2015, arxiv.org/abs/1505.05770)

1. Those of `planar`, but for the study of depth.
2. b = 0 gives the identity: see the equation of `Radial`.
"""

from ml_collections import ConfigDict

from keras_genmnist import config


def get_config() -> ConfigDict:
    return config.based_on("vae", posterior="radial", flow_steps=10, epochs=250)  # the training time of vae


def search() -> dict[str, str]:
    return config.search("planar")
