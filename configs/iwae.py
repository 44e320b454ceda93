"""Importance weighted autoencoder (Burda et al. 2016, arxiv.org/abs/1509.00519; DReG: arxiv.org/abs/1810.04152)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on(
        "vae", bound="iwae", train_draws=5, gradient="dreg", ema_decay=0.999, learning_rate=3e-3, epochs=220
    )
