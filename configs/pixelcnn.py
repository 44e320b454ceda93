"""Gated PixelCNN (van den Oord et al. 2016, arxiv.org/abs/1606.05328) over patches, in eight orders

1. The network goes from patch to patch of 2 x 2 pixels, and a patch is one of its 16 patterns.
2. p(x) is the mean over eight orders of the patches, which one network is told.
3. Every second layer is followed by attention, and 8 features are learned for each place.
4. Training aims at the grey levels that bits are drawn from.
5. There are 4 layers of 48 maps, Muon moves the weights, which are averaged. docs/models.md gives
   the fields that make the network of the paper.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "pixelcnn",
            "num_layers": 4,
            "features": 48,
            "patch_size": 2,  # of the p x p pixels that are drawn at once; kernels count such patches
            "first_kernel_size": 7,
            "kernel_size": 5,  # in the same time, 8 layers of 3 see 0.7 of the images and were behind
            "attention_every": 2,  # layers; 0 for none
            "attention_heads": 1,
            "position_features": 8,  # learned for each position in the image
            "orders": 8,  # in which the pixels come, reflections and transposes; 8 need square images
            "soft_targets": True,  # the grey levels that bits are drawn from; needs binarization=dynamic
            "augmented": 0.0,  # share of the training images that are moved a little, which the network is told
            "class_conditional": False,  # of the digit; needs a dataset with labels
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            "batch_size": 16,
            "epochs": 20,
            "optimizer": "muon",  # after 3 epochs a validation NLL of 82.77 in one order, by adam 83.98
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "decay": "cosine",
            "clip_norm": 1.0,
            "ema_decay": 0.9995,
            "patience": 0,
            "jit_compile": False,  # 310 images/s of a core; XLA is slow at convolutions in a loop
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )


def search() -> dict[str, str]:
    return {
        "num_layers": "2..8",
        "kernel_size": "3|5|7",
        "attention_every": "0|2",
        "position_features": "0..16",
        "learning_rate": "5e-4..8e-3:log",
    }
