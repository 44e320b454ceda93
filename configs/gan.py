"""Generative adversarial network, multi-layer perceptrons (Goodfellow et al. 2014, arxiv.org/abs/1406.2661)

1. The discriminator has an R1 penalty (Mescheder et al. 2018), and no maxout units and no dropout.
2. Both networks are trained by Adam, and the generator's weights are averaged.
3. The generator has batch norm.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "gan",
            # Networks: mlp, conv
            "network": "mlp",
            "hidden_layers": 2,
            "hidden_size": 512,
            "channels": 32,
            "latent_size": 32,
            # none, batch, spectral
            "discriminator_norm": "none",
            # Loss: minimax, non_saturating, least_squares, hinge, wasserstein_gp
            "loss": "non_saturating",
            "class_conditional": False,  # told the digit; needs a dataset with labels
            "critic_steps": 1,
            "label_smoothing": 0.0,
            "gradient_penalty": 0.0,
            "r1_penalty": 0.3,  # without it the discriminator wins in the first epoch
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "none",
            "batch_size": 100,
            "epochs": 120,
            # Radford et al. (2016), section 3, but for the rates: at their 2e-4 the Frechet distance on validation
            # images was 8.2 after 8 epochs, at 1e-3, falling, 3.1 after 12.
            "generator_learning_rate": 1e-3,
            "generator_beta_1": 0.5,
            "discriminator_learning_rate": 1e-3,
            "discriminator_beta_1": 0.5,
            "decay": "cosine",
            "clip_norm": 0.0,
            "ema_decay": 0.999,
            "patience": 0,
            "jit_compile": True,
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )


def search() -> dict[str, str]:
    return {
        "latent_size": "16..128:log",
        "discriminator_norm": "none|spectral",
        "r1_penalty": "0.03..3:log",
        "generator_learning_rate": "1e-4..4e-3:log",
        "discriminator_learning_rate": "1e-4..4e-3:log",
    }
