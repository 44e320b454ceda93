"""VAE with residual encoder and deconvolutional decoder (Radford et al. 2016, arxiv.org/abs/1511.06434)

1. The paper's networks are those of a GAN. Its generator is the decoder here, with ELU and without batch norm.
2. The encoder has residual blocks, which the paper has not.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on(
        "vae",
        network="conv",
        hidden_size=256,
        norm="none",
        latent_size=32,
        batch_size=100,
        epochs=100,
        learning_rate=1e-3,
        jit_compile=False,  # convolutions by oneDNN: 5,600 images/s of two cores, by XLA 300
    )


def search() -> dict[str, str]:
    return {
        "latent_size": "8..64:log",
        "hidden_size": "64..512:log",
        "encoder_channels": "8..32",
        "decoder_channels": "16..64",
        "norm": "none|batch",
        "learning_rate": "2e-4..5e-3:log",
    }
