"""Masked diffusion, in any order of the pixels (Hoogeboom et al. 2022, arxiv.org/abs/2110.02037)

1. The pixels of each step are chosen by a density of steps in place of the paper's dynamic programme.
2. The U-Net is small: 32 maps at half the image's size and 2 residual blocks at each size.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "masked_diffusion",
            "features": 32,  # at half the image's size; twice as many at a quarter of it
            "num_blocks": 2,
            "hidden_size": 256,
            "sampling_steps": 98,
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            "batch_size": 32,
            "epochs": 25,
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "decay": "cosine",
            "clip_norm": 1.0,
            "ema_decay": 0.9995,
            "patience": 0,
            "jit_compile": False,  # 740 images/s of a core
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )
