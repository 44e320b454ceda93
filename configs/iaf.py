"""VAE with inverse autoregressive flow posterior (Kingma et al. 2016, arxiv.org/abs/1606.04934)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", posterior="iaf")


def search() -> dict[str, str]:
    return {
        "flow_steps": "2..8",
        "flow_size": "80..640:log",
        "latent_size": "8..64:log",
        "norm": "none|batch",
        "learning_rate": "2e-4..1e-2:log",
    }
