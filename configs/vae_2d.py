"""VAE with 2 latent dimensions, to draw maps of (Kingma & Welling 2014, figure 4, arxiv.org/abs/1312.6114)"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "vae",
            "network": "mlp",
            "hidden_layers": 2,
            "hidden_size": 500,
            "latent_size": 2,
            "batch_norm": True,
            "dataset": "mnist",
            "binarization": "dynamic",
            "batch_size": 250,
            "epochs": 50,
            "learning_rate": 2e-3,
            "decay": "cosine",
            "warmup_epochs": 0,
            "clip_norm": 0.0,
            "ema_decay": 0.0,
            "patience": 0,
            "jit_compile": True,
            "seed": 3435,
        }
    )
