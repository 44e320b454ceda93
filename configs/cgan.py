"""Class-conditional DCGAN with projection discriminator (Miyato & Koyama 2018, arxiv.org/abs/1802.05637)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("dcgan", class_conditional=True, epochs=40)
