"""Ladder VAE, five layers of latents (Sonderby et al. 2016, arxiv.org/abs/1602.02282)

1. Of the images' features, 10 % are dropped between the networks on the way up, and noise is added to the upper
   layers' Gaussians.
2. 0.25 nats of KL cost nothing for each latent above the lowest layer.
3. The hidden units are rectified, where those of the paper leak.
4. The weights are averaged.
5. There are 1,000 epochs. The paper has 2,000.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "ladder",
            # Inference: ladder, bottom_up
            "inference": "ladder",
            "num_layers": 5,
            # Latents and hidden units of the lowest layer; each layer above has half as many: 64, 32, 16, 8, 4.
            "latent_size": 64,
            "hidden_size": 512,
            "hidden_layers": 2,
            # Networks: mlp, conv
            "network": "mlp",
            "encoder_channels": 16,
            "decoder_channels": 32,
            "norm": "batch",
            # Decoder: bernoulli, logistic (of grey levels)
            "decoder": "bernoulli",
            "class_conditional": False,  # told the digit; needs a dataset with labels
            # Against learning training images by heart.  Dropout between the networks on the way up: NLL 82.91, without
            # 83.00.  Noise in the bottom-up Gaussians above the lowest layer, in scales of the prior, with this
            # warm-up: 82.72.
            "dropout": 0.1,
            "bottom_up_noise": 0.5,
            # Objective: elbo, iwae
            "bound": "elbo",
            "train_draws": 1,
            # Of each latent above the lowest layer: 8, 4, 2, 1 nats.  After 20 epochs the ELBO is -92.0, without -93.0.
            "free_bits": 0.25,
            "beta": 1.0,  # as in vae
            "capacity": 0.0,
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            "batch_size": 250,
            "epochs": 1000,  # 87 minutes of a core
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "decay": "cosine",
            "warmup_epochs": 200,  # after 400 epochs, hvae has by 100 an NLL of 82.81, by 40 of 82.91
            "clip_norm": 0.0,
            "ema_decay": 0.999,
            "patience": 0,
            "jit_compile": False,  # 6,590 images/s of a core, by XLA 6,540, and 25 seconds to compile
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )


def search() -> dict[str, str]:
    return {
        "dropout": "0..0.4",
        "bottom_up_noise": "0..1",
        "free_bits": "0..0.5",
        "learning_rate": "5e-4..1e-2:log",
    }
