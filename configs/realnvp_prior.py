"""VAE with RealNVP prior (Dinh et al. 2017, arxiv.org/abs/1605.08803)

1. The flow is the prior of the latents of `vae`. The paper models the images themselves, by convolutions at several
   scales.
2. The couplings move the two halves of the latents in turn, and no batch norm stands between them.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", prior="realnvp", prior_steps=8)


def search() -> dict[str, str]:
    return {
        "prior_steps": "2..12",
        "prior_size": "64..512:log",
        "latent_size": "8..64:log",
        "learning_rate": "2e-4..1e-2:log",
    }
