"""The best tractable density: `pixelcnn`, deeper and wider (van den Oord et al. 2016, arxiv.org/abs/1606.05328)

1. There are 6 layers of 64 maps, and a layer of attention after every second one.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("pixelcnn", num_layers=6, features=64, epochs=36)
