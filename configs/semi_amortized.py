"""VAE whose encoder gives the start of a gradient ascent (Kim et al. 2018, arxiv.org/abs/1802.02550)

1. The ascent has 20 steps of Adam, where the paper has gradient steps with momentum (`refine_optimizer=momentum`).
2. The encoder's gradient stops at the ascent, by `refine_gradient=first_order`. That of the paper goes through all
   steps, as with `full`.
3. The decoder is that of `vae` with layer norm. The paper's for images is a PixelCNN.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # As `svi`, but its steps need not go as far.
    return based_on("vae", inference="semi_amortized", norm="layer", batch_size=100, refine_learning_rate=0.05)
