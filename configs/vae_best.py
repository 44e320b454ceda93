"""The best found with one layer of latents: convolutional VAE with RealNVP prior, weights averaged"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae_conv", prior="realnvp", prior_steps=8, ema_decay=0.999)
