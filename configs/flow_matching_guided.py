"""Flow matching told the class, with classifier-free guidance (Ho & Salimans 2022, arxiv.org/abs/2207.12598)

1. It is `flow_matching`, where the paper has diffusion.
2. The class of a sample is drawn at random unless one is asked for.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("flow_matching", class_conditional=True, guidance=1.25)
