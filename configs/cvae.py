"""Class-conditional VAE: encoder, decoder and prior are told the digit (Kingma et al. 2014, arxiv.org/abs/1406.5298)

1. All images have labels, where the paper's subject is that few have.
2. The prior is a RealNVP that is told the digit. In the paper it knows nothing of the digit.
3. The networks are convolutional.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # With a Gaussian as the prior of each class, many samples are of none.
    return based_on(
        "vae_conv",
        class_conditional=True,
        prior="realnvp",
        latent_size=16,
        epochs=80,
    )
