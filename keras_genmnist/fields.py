"""What each field of a config means, in a line: what `genmnist train --model=NAME --help` says of it.

docs/models.md says more.
"""

from ml_collections import ConfigDict

MEANINGS = {
    "model": "The file in keras_genmnist/models that builds it.",
    # Data
    "dataset": "The name of a data set, or the path of images of your own.",
    "image_size": "Height and width that images of your own are resized to; 0 leaves them as they are.",
    "invert": "Whether black and white of images of your own are exchanged.",
    "binarization": "dynamic (bits drawn anew in each epoch), static, threshold, or none for grey levels.",
    "class_conditional": "Whether the model is told the labels.",
    # Training
    "batch_size": "Images in a training step.",
    "epochs": "Passes over the training images.",
    "optimizer": "adam, or muon for matrices and adam for the rest.",
    "learning_rate": "Of the optimizer.",
    "weight_decay": "What all weights but biases and scales shrink by in a step, times the learning rate; 0 for none.",
    "decay": "Of the learning rate: constant or cosine.",
    "warmup_epochs": "Epochs over which the weight of the KL, or the capacity, rises from 0.",
    "clip_norm": "The gradient is scaled down to this norm; 0 leaves it alone.",
    "ema_decay": "Of the running average of the weights, which is then scored; 0 for none.",
    "patience": "Training ends after so many epochs without a better validation score; 0 never ends it.",
    "jit_compile": "Whether XLA compiles the training step.",
    "precision": "What the networks compute in while they train: float32, mixed_float16 or mixed_bfloat16.",
    "seed": "Of the weights, the order of the images and all draws.",
    # Networks
    "network": "mlp or conv.",
    "hidden_layers": "Fully connected layers of a network.",
    "hidden_size": "Units of a fully connected layer.",
    "encoder_channels": "With network=conv, feature maps of the encoder at half the image's size; then twice as many.",
    "decoder_channels": "With network=conv, feature maps of the decoder at half the image's size; then twice as many.",
    "channels": "Feature maps at half the image's size; then twice as many.",
    "norm": "Of the fully connected layers: none, batch or layer.",
    "dropout": "Share of features dropped between the networks on the way up, in training.",
    "features": "Feature maps; a U-Net has them at half the image's size.",
    "num_blocks": "Residual blocks: of a U-Net at each size, of a VQ-VAE on the grid of codes.",
    "num_layers": "Of a ladder, layers of latents; of a PixelCNN, layers of its network.",
    "latent_size": "Latent dimensions; of a ladder, those of the lowest layer.",
    # Posterior, prior and decoder
    "posterior": "gaussian, planar, radial, sylvester or iaf.",
    "flow_steps": "Maps of the posterior's flow.",
    "flow_size": "Hidden units of the network in a step of posterior=iaf.",
    "flow_columns": "Columns M of a map of posterior=sylvester.",
    "flow_reflections": "Householder reflections H of a map of posterior=sylvester.",
    "inference": "amortized, semi_amortized or svi; of a ladder, ladder or bottom_up.",
    "refine_steps": "Gradient steps that refine each image's posterior.",
    "refine_optimizer": "Of the refinement: adam or momentum.",
    "refine_learning_rate": "Of the refinement.",
    "refine_gradient": "Of the encoder: first_order, or full through all steps of the refinement.",
    "bottom_up_noise": "Standard deviation, in units of the prior's, of noise on what the image says on the way up.",
    "prior": "normal, mixture, vamp, maf or realnvp.",
    "prior_components": "Gaussians of prior=mixture, pseudo-images of prior=vamp.",
    "prior_steps": "Steps of prior=maf and prior=realnvp.",
    "prior_size": "Hidden units of the network in a step of prior=maf and prior=realnvp.",
    "decoder": "bernoulli, logistic (of grey levels) or, of a VAE with one layer of latents, pixelcnn.",
    "pixelcnn_layers": "Layers of decoder=pixelcnn.",
    "pixelcnn_features": "Feature maps of decoder=pixelcnn, and numbers that the latents tell each pixel.",
    "pixelcnn_kernel": "Width of the kernels of decoder=pixelcnn after the first layer.",
    "pixelcnn_first_kernel": "Width of the kernel of the first layer of decoder=pixelcnn.",
    "pixelcnn_patch_size": "Of the p x p pixels that decoder=pixelcnn draws at once; its kernels count such patches.",
    "pixelcnn_orders": "Reflections and transposes in which decoder=pixelcnn draws: 1, 2, 4 or 8.",
    # Objective
    "bound": "elbo or iwae.",
    "train_draws": "Draws from the posterior for each image of a training step.",
    "gradient": "Of the posterior: standard, stl (with bound=elbo) or dreg (with bound=iwae).",
    "free_bits": "Nats of KL that cost nothing; of a ladder, for each latent above the lowest layer.",
    "beta": "What a nat of KL costs in training.",
    "capacity": "The KL that training aims at, in nats; 0 for none.",
    # PixelCNN
    "patch_size": "p of the patches of p x p pixels that are drawn at once.",
    "orders": "Orders of the patches that are averaged over: 1, 2, 4 or 8.",
    "soft_targets": "Whether training aims at the grey levels that bits are drawn from.",
    "augmented": "Share of the training images that are moved a little, which the network is told.",
    "first_kernel_size": "Width of the first layer's kernel, in patches.",
    "kernel_size": "Width of the other kernels, in patches.",
    "attention_every": "Layers after which each place looks at all before it; 0 for never.",
    "attention_heads": "Heads of the attention.",
    "position_features": "Numbers that are learned for each place of the grid.",
    # Diffusion and flow matching
    "levels": "Levels of grey of which the network gives the probabilities; 0 for velocities in their place.",
    "sampling_steps": "Steps in which an image is drawn.",
    "solver": "euler or heun: how an image is drawn.",
    "times": "What the time is drawn from in training: uniform or logit_normal.",
    "label_dropout": "Share of images in training whose label a class-conditional model is not told.",
    "guidance": "How plain a class-conditional model draws the classes; 1 draws from p(x | y).",
    # VQ-VAE
    "num_codes": "Vectors of the codebook.",
    "code_size": "Numbers in a vector of the codebook.",
    "memory": "Share of a code's running mean that a training step keeps.",
    "restart_steps": "First steps, in which a code that is hardly used begins anew.",
    "commitment": "Weight of the squared distance between the encoder's vectors and their codes.",
    "rate_weight": "Weight of -log p(z) in the encoder's loss.",
    "prior_layers": "Layers of the PixelCNN over the codes.",
    "prior_features": "Feature maps of the PixelCNN over the codes.",
    "prior_kernel": "Width of the kernels of the PixelCNN over the codes.",
    "prior_learning_rate": "Of the Adam that trains the PixelCNN over the codes.",
    # GAN
    "loss": "minimax, non_saturating, least_squares, hinge or wasserstein_gp.",
    "critic_steps": "Steps of the discriminator for each step of the generator.",
    "discriminator_norm": "none, batch or spectral.",
    "label_smoothing": "The discriminator's target for real images is 1 less this.",
    "gradient_penalty": "Weight of the penalty of wasserstein_gp.",
    "r1_penalty": "Weight of the discriminator's squared gradient at real images.",
    "generator_learning_rate": "Of the generator's Adam.",
    "generator_beta_1": "Of the generator's Adam.",
    "discriminator_learning_rate": "Of the discriminator's Adam.",
    "discriminator_beta_1": "Of the discriminator's Adam.",
}


def described(config: ConfigDict) -> list[tuple[str, object, str]]:
    """The fields of a config with their values and meanings, like beside like.

    What a config of the user's own adds comes last, with no meaning.
    """
    known = [field for field in MEANINGS if field in config]
    return [(field, config[field], MEANINGS.get(field, "")) for field in dict.fromkeys([*known, *config])]
