"""Variational autoencoder, 2-layer MLPs (Kingma & Welling 2014, arxiv.org/abs/1312.6114)"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "vae",
            "network": "mlp",
            "hidden_layers": 2,
            "hidden_size": 500,
            "latent_size": 40,
            "batch_norm": False,
            "dataset": "mnist",
            "binarization": "dynamic",
            "batch_size": 100,
            "epochs": 200,
            "learning_rate": 1e-3,
            "decay": "cosine",
            "warmup_epochs": 0,
            "clip_norm": 0.0,
            "ema_decay": 0.0,
            "patience": 0,
            "jit_compile": True,
            "seed": 3435,
        }
    )
