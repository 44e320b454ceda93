"""VAE with planar flow posterior (Rezende & Mohamed 2015, arxiv.org/abs/1505.05770)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae", posterior="planar", flow_steps=10, epochs=250)  # the training time of vae


def search() -> dict[str, str]:
    return {
        "flow_steps": "2..20",
        "latent_size": "8..64:log",
        "norm": "none|batch",
        "learning_rate": "2e-4..1e-2:log",
    }
