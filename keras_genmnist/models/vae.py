"""Variational autoencoder.

Source: Kingma & Welling (2014), "Auto-Encoding Variational Bayes", arxiv.org/abs/1312.6114; Rezende et al. (2014),
"Stochastic Backpropagation and Approximate Inference in Deep Generative Models", arxiv.org/abs/1401.4082
"""

import tensorflow as tf
import tensorflow_probability as tfp
from ml_collections import ConfigDict

from keras_genmnist import distributions, flows, networks, patches, replicas
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.bounds import LogTerms, Objective
from keras_genmnist.config import (
    LARGEST,
    require,
    require_choice,
    require_fit,
    require_kernel,
    require_labels,
    require_likelihood,
    require_objective,
    require_positive,
)
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.inference import OPTIMIZERS, GradientAscent, RefinedPosterior
from keras_genmnist.models.base import LatentVariableModel
from keras_genmnist.symmetries import require_orders

tfd = tfp.distributions

POSTERIOR_FLOWS = {
    "gaussian": lambda c: None,
    "planar": lambda c: flows.PlanarFlow(c.flow_steps, c.latent_size),
    "radial": lambda c: flows.RadialFlow(c.flow_steps, c.latent_size),
    "sylvester": lambda c: flows.SylvesterFlow(c.flow_steps, c.latent_size, c.flow_columns, c.flow_reflections),
    "iaf": lambda c: flows.InverseAutoregressiveFlow(c.flow_steps, c.latent_size, c.flow_size),
}
PRIORS = {  # n: the number of classes, 0 for none
    "normal": lambda c, encoder, shape, n: (
        distributions.ConditionalNormal(n, c.latent_size) if n else distributions.StandardNormal(c.latent_size)
    ),
    "mixture": lambda c, encoder, shape, n: distributions.MixturePrior(c.prior_components, c.latent_size, n),
    "vamp": lambda c, encoder, shape, n: distributions.VampPrior(encoder, c.prior_components, c.latent_size, shape, n),
    "maf": lambda c, encoder, shape, n: distributions.FlowPrior(
        flows.MaskedAutoregressiveFlow(c.prior_steps, c.latent_size, c.prior_size, n), c.latent_size
    ),
    "realnvp": lambda c, encoder, shape, n: distributions.FlowPrior(
        flows.RealNVP(c.prior_steps, c.latent_size, c.prior_size, n), c.latent_size
    ),
}
DECODERS = {
    "bernoulli": lambda c, network, shape: distributions.BernoulliDecoder(network, shape),
    "logistic": lambda c, network, shape: distributions.LogisticDecoder(network, shape),
    "pixelcnn": lambda c, network, shape: distributions.PixelCNNDecoder(
        network,
        GatedPixelCNN(
            c.pixelcnn_layers,
            c.pixelcnn_features,
            c.pixelcnn_kernel,
            c.pixelcnn_first_kernel,
            shape[-1],
            c.pixelcnn_patch_size,
        ),
        shape,
        c.pixelcnn_orders,
    ),
}


class VAE(LatentVariableModel):
    """One layer of latents: any posterior, prior and decoder; the KL in closed form where TFP knows it."""

    has_posterior = True

    def log_terms(self, x, num_samples, seed, training=False, hold=None, y=None):
        encoder, decoder, prior = self.pieces(y)
        posterior, prior = encoder(x, training=training), prior()
        if hold:
            z = hold(distributions.draws_of(posterior, num_samples, seed))
            mean, scale = tf.stop_gradient(posterior.mean()), tf.stop_gradient(posterior.stddev())
            log_posterior = tfd.Independent(tfd.Normal(mean, scale), 1).log_prob(z)
            kl = None  # its gradient has the score
        else:
            z, log_posterior = distributions.sample_and_log_prob(posterior, num_samples, seed)
            kl = distributions.exact_kl(posterior, prior)
        log_likelihood = _log_likelihood(decoder(z, training=training), x, training)
        return LogTerms(log_likelihood, prior.log_prob(z), log_posterior, None if kl is None else kl[None])

    def log_terms_at(self, x, noise, y=None):
        encoder, decoder, prior = self.pieces(y)
        posterior, prior = encoder(x), prior()
        z, kl = distributions.point_of(posterior, noise), distributions.exact_kl(posterior, prior)
        densities = _log_likelihood(decoder(z), x), prior.log_prob(z), posterior.log_prob(z)
        return LogTerms(*densities, None if kl is None else kl[None])

    def noise_of(self, x, z, y=None):
        encoder, _, _ = self.pieces(y)
        posterior = encoder(x)
        if distributions.base_of(posterior) is not posterior:
            return None
        return (z - posterior.mean()) / posterior.stddev()


def _log_likelihood(given: tfd.Distribution, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """log p(x | z) of draws z [S, B, D]: [S, B], nats.

    Where p(x | z) is a mean over K orders of the pixels, the order is one more latent: draw s of an image has the order
    s mod K, in training (s + b) mod K for row b of the batch.
    """
    orders = getattr(given, "orders", 1)
    if orders == 1:
        return given.log_prob(x)
    draws, count = tf.unstack(given.batch_shape)
    first = replicas.rows(tf.range, count) if training else 0
    return given.log_prob_in((tf.range(draws)[:, None] + first) % orders, x)


def build(config: ConfigDict, spec: DatasetSpec) -> VAE:
    """The VAE of `config` for images of `spec`; raises UsageError for a value out of range."""
    require_choice(config, network=["mlp", "conv"], posterior=POSTERIOR_FLOWS, prior=PRIORS)
    require_choice(config, norm=networks.NORMS, decoder=DECODERS)
    require_likelihood(config, spec.values)
    num_classes = require_labels(config, spec.name, spec.num_classes)
    require_choice(config, bound=["elbo", "iwae"], gradient=["standard", "stl", "dreg"])
    require_positive(config, "latent_size", "hidden_size", "hidden_layers", "encoder_channels", "decoder_channels")
    require_positive(config, "flow_steps", "flow_size", "flow_columns", "flow_reflections")
    require_positive(config, "prior_steps", "prior_size", "prior_components", "train_draws")
    require_choice(config, inference=["amortized", "semi_amortized", "svi"], refine_optimizer=OPTIMIZERS)
    require_choice(config, refine_gradient=["first_order", "full"])
    require(config, "refine_steps", 0 <= config.refine_steps <= 1000, "0 to 1000")
    require(config, "refine_learning_rate", 0 < config.refine_learning_rate <= LARGEST, "a value above 0, finite")
    if config.inference != "amortized":
        # The gradient ascent is on the ELBO, with all of the KL.
        require_fit(config, "inference", posterior=["gaussian"], class_conditional=[False], beta=[1.0], capacity=[0.0])
        require_fit(config, "inference", free_bits=[0.0], warmup_epochs=[0])
    if config.inference == "svi":
        require_positive(config, "refine_steps")  # its start knows nothing of the image
        require_fit(config, "inference", prior=[name for name in PRIORS if name != "vamp"])  # that needs an encoder
    require_positive(config, "pixelcnn_layers", "pixelcnn_features")
    require_kernel(config, "pixelcnn_kernel", "pixelcnn_first_kernel")
    require_choice(config, pixelcnn_patch_size=patches.SIZES)
    require_orders(config, "pixelcnn_orders", spec.image_shape)
    require_objective(config)
    if config.gradient != "standard":
        require_fit(config, "gradient", posterior=["gaussian"])
    if config.precision == "mixed_float16":
        require_fit(config, "precision", gradient=["standard"])  # the others take gradients twice, and lose the scale
    if config.gradient == "dreg":
        require_fit(config, "gradient", bound=["iwae"])
    if config.capacity:
        require_fit(config, "capacity", gradient=["standard"])  # as below: the sign of KL - C multiplies the score
    if config.gradient == "stl":
        # The score that it leaves out has expectation 0 only where nothing that depends on the draws multiplies it: the
        # weights of the IWAE bound do, and so does whether the KL of the draws is above the free bits.
        require_fit(config, "gradient", bound=["elbo"], free_bits=[0.0])
    if config.posterior == "sylvester":
        require(config, "flow_columns", config.flow_columns <= config.latent_size, "at most latent_size")
    if config.prior == "vamp":
        accepted = f"{num_classes} or more, one for each class"
        require(config, "prior_components", config.prior_components >= num_classes, accepted)
    if config.prior == "realnvp":
        require(config, "latent_size", config.latent_size >= 2, "2 or more, which prior=realnvp needs")
    shape = spec.image_shape
    outputs = config.pixelcnn_features if config.decoder == "pixelcnn" else shape[-1]
    if config.network == "mlp":
        encoder, decoder = (networks.mlp(config.hidden_layers, config.hidden_size, config.norm) for _ in range(2))
        decoder.add(networks.layers.Dense(shape[0] * shape[1] * outputs))
        decoder.add(networks.layers.Reshape((*shape[:2], outputs)))
    else:
        encoder = networks.conv_encoder(shape, config.encoder_channels, config.hidden_size, config.norm)
        decoder = networks.conv_decoder(shape, config.decoder_channels, config.hidden_size, config.norm, outputs)
    if num_classes:
        encoder, decoder = networks.Conditional(encoder), networks.Conditional(decoder)
    posterior = distributions.Posterior(encoder, config.latent_size, POSTERIOR_FLOWS[config.posterior](config))
    piece = DECODERS[config.decoder](config, decoder, shape)
    prior = PRIORS[config.prior](config, posterior, shape, num_classes)
    if config.inference != "amortized":
        ascent = GradientAscent(config.refine_steps, config.refine_optimizer, config.refine_learning_rate)
        start = posterior if config.inference == "semi_amortized" else None
        posterior = RefinedPosterior(start, piece, prior, config.latent_size, ascent, config.refine_gradient == "full")
    return VAE(
        posterior,
        piece,
        prior,
        shape,
        Objective(config.bound, config.train_draws, config.gradient, config.free_bits, config.beta, config.capacity),
        num_classes=num_classes,
    )
