"""Hierarchical VAE inferred bottom-up, the baseline of the ladder (Sonderby et al. 2016, arxiv.org/abs/1602.02282)

1. The hidden units are rectified, where those of the paper leak.
2. The weights are averaged.
3. There are 1,000 epochs. The paper has 2,000.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # As the paper; with free bits not tried.
    return based_on("ladder", inference="bottom_up", dropout=0.0, bottom_up_noise=0.0, free_bits=0.0)
