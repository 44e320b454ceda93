"""VAE whose decoder is a small PixelCNN of its features (Gulrajani et al. 2017, arxiv.org/abs/1611.05013)

1. The latents are those of `vae_best`, with a flow as posterior and as prior, where the paper's are Gaussian.
2. The decoder's PixelCNN has 2 layers of 8 maps, so that it sees strokes and not digits. The paper's has more and
   wider layers.
3. 8 nats of KL cost nothing.
"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    # Two layers see 3 rows up and 3 columns to each side: strokes, while digits are left to the latents.
    return based_on(
        "vae_best",
        decoder="pixelcnn",
        pixelcnn_layers=2,
        pixelcnn_features=8,
        free_bits=8.0,
        epochs=40,
        jit_compile=False,  # by oneDNN 790 images/s of a core; XLA compiles for more than 10 minutes
    )
