"""VAE with masked autoregressive flow prior (Papamakarios et al. 2017, arxiv.org/abs/1705.07057)

1. The flow is the prior of the latents of `vae`. The paper models the images themselves.
2. No batch norm stands between the steps.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", prior="maf")


def search() -> dict[str, str]:
    return {
        "prior_steps": "2..10",
        "prior_size": "64..512:log",
        "latent_size": "8..64:log",
        "learning_rate": "2e-4..1e-2:log",
    }
