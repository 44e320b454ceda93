"""Gated PixelCNN (van den Oord et al. 2016, arxiv.org/abs/1606.05328)"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "pixelcnn",
            "num_layers": 8,
            "features": 16,
            "first_kernel_size": 13,  # the paper's 7 would train 3 % faster
            "kernel_size": 3,
            "patch_size": 1,  # of the p x p pixels that are drawn at once; the kernels count such patches
            "attention_every": 0,  # layers; 0 for none
            "attention_heads": 1,
            "orders": 1,  # in which the pixels come, of 8 reflections and transposes; their mean is the model
            "soft_targets": False,  # the grey levels that bits are drawn from; needs binarization=dynamic
            "position_features": 8,  # learned for each position in the image
            "class_conditional": False,  # of the digit; needs a dataset with labels
            "dataset": "binarized_mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            "batch_size": 16,
            "epochs": 10,
            "learning_rate": 2e-3,
            "decay": "cosine",
            "clip_norm": 1.0,
            "ema_decay": 0.9995,
            "patience": 0,
            "jit_compile": False,  # 145 images/s of a core; XLA, slow at convolutions in a loop, 12
            "seed": 3435,
        }
    )
