"""VAE with Householder Sylvester flow posterior (van den Berg et al. 2018, arxiv.org/abs/1803.05649)

1. Encoder and decoder are fully connected, where the paper's are gated convolutions.
2. There are 4 maps, each with 16 columns and 8 Householder reflections.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", posterior="sylvester", epochs=150)  # 2.3 times the step of vae
