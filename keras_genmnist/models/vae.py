"""Variational autoencoder.

Source: Kingma & Welling (2014), "Auto-Encoding Variational Bayes", arxiv.org/abs/1312.6114; Rezende et al. (2014),
"Stochastic Backpropagation and Approximate Inference in Deep Generative Models", arxiv.org/abs/1401.4082
"""

import tensorflow_probability as tfp
from ml_collections import ConfigDict

from keras_genmnist import networks
from keras_genmnist.bounds import LogTerms
from keras_genmnist.config import require_choice, require_positive
from keras_genmnist.data import IMAGE_SHAPE
from keras_genmnist.distributions import BernoulliDecoder, GaussianPosterior, standard_normal
from keras_genmnist.models.base import LatentVariableModel


class VAE(LatentVariableModel):
    """Diagonal Gaussian posterior, Bernoulli decoder, spherical normal prior, KL in closed form."""

    def log_terms(self, x, num_samples, seed, training=False):
        posterior = self.encoder(x, training=training)
        z = posterior.sample(num_samples, seed=seed)
        log_likelihood = self.decoder(z, training=training).log_prob(x)
        exact_kl = tfp.distributions.kl_divergence(posterior, self.prior)
        return LogTerms(log_likelihood, self.prior.log_prob(z), posterior.log_prob(z), exact_kl)


def build(config: ConfigDict) -> VAE:
    """The VAE of `config`; raises UsageError for a value out of range."""
    require_choice(config, network=["mlp", "conv"])
    require_positive(config, "latent_size", "hidden_size")
    if config.network == "mlp":
        require_positive(config, "hidden_layers")
        encoder, decoder = (networks.mlp(config.hidden_layers, config.hidden_size, config.batch_norm) for _ in range(2))
        decoder.add(networks.layers.Dense(IMAGE_SHAPE[0] * IMAGE_SHAPE[1]))
    else:
        require_positive(config, "encoder_channels", "decoder_channels")
        encoder = networks.conv_encoder(config.encoder_channels, config.hidden_size)
        decoder = networks.conv_decoder(config.decoder_channels, config.hidden_size)
    return VAE(
        GaussianPosterior(encoder, config.latent_size),
        BernoulliDecoder(decoder, IMAGE_SHAPE),
        standard_normal(config.latent_size),
        IMAGE_SHAPE,
    )
