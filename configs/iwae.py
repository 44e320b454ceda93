"""Importance weighted autoencoder (Burda et al. 2016, arxiv.org/abs/1509.00519; DReG: arxiv.org/abs/1810.04152)

1. The networks are those of `vae`: 500 ReLUs with batch norm and 40 latents, where the paper has 200 tanh units and
   50 latents.
2. The gradient of the posterior is DReG (Tucker et al. 2018), and the weights are averaged.
3. There are 220 epochs, where the paper has 3,280.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", bound="iwae", train_draws=5, gradient="dreg", learning_rate=3e-3, epochs=220)
