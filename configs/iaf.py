"""VAE with inverse autoregressive flow posterior (Kingma et al. 2016, arxiv.org/abs/1606.04934)

1. Encoder and decoder are fully connected, where the paper's are residual and convolutional.
2. There are 4 steps, with 320 hidden units each.
3. Where there are more than 4 steps, their gates start nearer to the identity: see the equation.
"""

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
