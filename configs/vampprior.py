"""VAE with the mixture of its posteriors as prior (Tomczak & Welling 2018, arxiv.org/abs/1705.07120)

1. The networks are those of `vae_conv`, where the paper's are gated.
2. There are 250 pseudo-images and 32 latents, where the paper has 500 and 40.
3. The weights are averaged, and the KL has its full weight from the first step on.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # Each step encodes the pseudo-images too: with 250 of them, and more images a step, half of its time is theirs.
    return based_on("vae_conv", prior="vamp", prior_components=250, batch_size=125, epochs=75)
