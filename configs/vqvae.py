"""VQ-VAE with a gated PixelCNN over its codes (van den Oord et al. 2017, arxiv.org/abs/1711.00937)

1. The codebook is a running mean, as in the paper's appendix, and codes that are hardly used begin anew.
2. The encoder's loss has the rate, -log p(z), too. With `rate_weight=0` it learns from the reconstruction alone, as
   in the paper.
3. The prior is trained together with the encoder and the decoder, not after them.
4. There are 16 codes, where the paper has 512.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "vqvae",
            "decoder": "bernoulli",  # or logistic, of grey levels
            "num_codes": 16,
            "code_size": 8,
            "channels": 16,  # feature maps at half the image's size; twice as many after each further halving
            "num_blocks": 2,  # residual ones at the coarsest size
            "commitment": 0.25,
            # Of -log p(z) in the encoder's loss; 0 as van den Oord et al.  At 1 the ELBO falls once it is warm: -95.5,
            # -96.1 and -97.5 after epochs 3 to 5, where at half the weight it goes on rising.
            "rate_weight": 0.5,
            "warmup_epochs": 4,  # over which that weight rises
            "restart_steps": 4000,  # in the first of which dead codes begin anew
            "memory": 0.99,  # of the codebook's means
            "prior_layers": 4,
            "prior_features": 32,
            "prior_kernel": 3,
            "position_features": 8,  # learned for each place of the grid
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            "batch_size": 50,
            "epochs": 22,
            "learning_rate": 2e-3,
            "prior_learning_rate": 3e-3,
            "decay": "cosine",
            "clip_norm": 0.0,
            "ema_decay": 0.999,
            "patience": 0,
            "jit_compile": False,  # 460 images/s of a core
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )
