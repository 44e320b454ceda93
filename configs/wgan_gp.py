"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arxiv.org/abs/1704.00028)

1. Adam has learning rates of 5e-4, a beta_1 of 0.5 and a beta_2 of 0.999, where the paper has 1e-4, 0 and 0.9.
2. The learning rates decay, and the generator's weights are averaged.
"""

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
