"""VAE with planar flow posterior (Rezende & Mohamed 2015, arxiv.org/abs/1505.05770)

1. The encoder and the decoder are those of `vae`, with ReLU and batch norm, where the paper has maxout units.
2. There are 10 maps. The paper goes up to 80, and docs/results.md has that study.
3. u = 0 gives the identity, because m(0) = 0: see the equation of `Planar`.
4. The weight of the KL does not rise from a small one in the course of training; `warmup_epochs` would have it so.
"""

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
