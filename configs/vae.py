"""Variational autoencoder, 2-layer MLPs (Kingma & Welling 2014, arxiv.org/abs/1312.6114)

1. There are two hidden layers of 500 ReLUs with batch norm, and 40 latents. The paper has one hidden layer of 500
   tanh units.
2. Adam with a cosine decay takes batches of 250, where the paper has Adagrad and batches of 100.
3. The weights are averaged.
4. The scale of the posterior is the softplus of the encoder's output, where the paper's encoder gives the log
   variance.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "vae",
            # Networks: mlp, conv
            "network": "mlp",
            "hidden_layers": 2,
            "hidden_size": 500,
            "encoder_channels": 16,
            "decoder_channels": 32,
            # Of the fully connected layers: none, batch, layer.
            # Validation ELBO after 20 epochs: -96.5 with batch, -96.9 with none.  With none the training ELBO is 0.9
            # above it by then, with batch it is not: the noise of its statistics keeps long trainings from overfitting.
            "norm": "batch",
            "latent_size": 40,
            # Posterior: gaussian, planar, radial, sylvester, iaf
            "posterior": "gaussian",
            "flow_steps": 4,
            "flow_size": 320,  # hidden units of an IAF step's network
            "flow_columns": 16,  # M of a Sylvester step
            "flow_reflections": 8,  # H of a Sylvester step
            # Inference: amortized, semi_amortized, svi; the last two take refine_steps of gradient ascent on the ELBO
            # of each image
            "inference": "amortized",
            "refine_steps": 20,
            "refine_optimizer": "adam",  # adam, momentum
            "refine_learning_rate": 0.1,
            "refine_gradient": "first_order",  # first_order, full
            # Prior: normal, mixture, vamp, maf, realnvp
            "prior": "normal",
            "prior_components": 500,  # of mixture and vamp
            "prior_steps": 4,  # of maf and realnvp
            "prior_size": 256,  # hidden units of a step's network
            # Decoder: bernoulli, pixelcnn, logistic (of grey levels)
            "decoder": "bernoulli",
            "pixelcnn_layers": 3,
            "pixelcnn_features": 16,  # of its maps, and of what the latents tell each pixel
            "pixelcnn_kernel": 3,
            "pixelcnn_first_kernel": 5,
            "pixelcnn_patch_size": 1,  # of the p x p pixels that are drawn at once; kernels count such patches
            "pixelcnn_orders": 1,  # reflections and transposes in which it draws, 1, 2, 4 or 8
            "class_conditional": False,  # told the digit; needs a dataset with labels
            # Objective: elbo, iwae; gradient standard, stl, dreg
            "bound": "elbo",
            "train_draws": 1,
            "gradient": "standard",
            "free_bits": 0.0,
            "beta": 1.0,  # what a nat of KL costs in training; the ELBO that is reported is the true one
            "capacity": 0.0,  # nats that the KL is drawn to, at beta for each that it is off; 0 for none
            "dataset": "mnist",
            "image_size": 0,  # of images of your own: the height and width that they are resized to; 0 for none
            "invert": False,  # of images of your own: exchanges black and white
            "binarization": "dynamic",
            # Batch norm likes more than 100: the same ELBO an epoch at 1.5 times the images/s.  The rate grows with it.
            "batch_size": 250,
            "epochs": 300,
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "decay": "cosine",
            "warmup_epochs": 0,  # over which the KL's weight, or the capacity, rises from 0
            "clip_norm": 0.0,
            # Batch norm's statistics are those of 20 batches: without averages the ELBO is 0.06 nats below that by the
            # statistics of 200.
            "ema_decay": 0.999,
            "patience": 0,
            "jit_compile": True,
            "precision": "float32",  # of the networks in training: or mixed_bfloat16, mixed_float16
            "seed": 3435,
        }
    )


def search() -> dict[str, str]:
    return {
        "latent_size": "8..64:log",
        "hidden_size": "100..800:log",
        "norm": "none|batch|layer",
        "learning_rate": "2e-4..1e-2:log",
        "batch_size": "50..500:log",
    }
