"""The best with one layer of latents: IAF posterior, RealNVP prior (after Xu et al. 2019, arxiv.org/abs/1905.13452)

1. The posterior is an inverse autoregressive flow of 2 steps as well, where the paper has either a flow as posterior
   or one as prior.
2. There are 32 latents, where the paper has 40.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on("vae_conv", posterior="iaf", flow_steps=2, prior="realnvp", prior_steps=8, ema_decay=0.999)
