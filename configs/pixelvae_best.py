"""`pixelvae` in eight orders, trained for longer: the best density (Gulrajani et al. 2017, arxiv.org/abs/1611.05013)

1. The decoder draws the image as it is, reflected or transposed, and is told which: the density is the mixture of the
   eight orders.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # Eight orders learn more slowly than one, and less by heart: it takes more epochs.
    return based_on("pixelvae", pixelcnn_orders=8, epochs=160)
