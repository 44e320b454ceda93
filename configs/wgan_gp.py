"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arxiv.org/abs/1704.00028)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on(
        "dcgan",
        loss="wasserstein_gp",
        discriminator_norm="none",
        critic_steps=5,
        gradient_penalty=10.0,
        batch_size=50,  # small, as the generator has only a step in five
        epochs=20,
    )
