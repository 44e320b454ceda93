"""Images of other sizes than MNIST's: every kind of network and decoder draws, scores and trains on them."""

import numpy as np
import pytest
import tf_keras

from keras_genmnist import models
from keras_genmnist.datasets.spec import DatasetSpec
from tests import tiny

eager = tiny.eager

SHAPE = (9, 13, 3)  # odd, not square, in colour
# One of each network, decoder and training step.
MODELS = {
    "vae": {},
    "vae_conv": {},
    "vampprior": {},
    "pixelvae": {"posterior": "gaussian", "prior": "normal"},
    "ladder": {},
    "ladder_conv": {},
    "pixelcnn": {"class_conditional": True, "orders": 4},  # eight transpose
    "gan": {},
    "dcgan": {},
    "vqvae": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_model_of_any_image_shape_trains_and_draws(name, eager):
    _trains_and_draws(tiny.config(name, **MODELS[name]), levels=2)


@pytest.mark.parametrize("name", ["vae", "vae_conv", "ladder", "ladder_conv", "vqvae"])
def test_model_of_grey_levels_of_any_image_shape_trains_and_draws(name, eager):
    _trains_and_draws(tiny.config(name, binarization="none", decoder="logistic"), levels=256)


def _trains_and_draws(config, levels):
    model = models.build(config, DatasetSpec("own", SHAPE, num_classes=3))
    model.compile(**{optimizer: tf_keras.optimizers.Adam(1e-3) for optimizer in model.optimized})
    images = (np.random.default_rng(0).integers(0, levels, [6, *SHAPE]) / (levels - 1)).astype(np.float32)
    before = [weight.numpy() for weight in model.trainable_weights]
    for _ in range(2):  # what starts at zero hides what is behind it for a step
        logs = model.train_step((images, np.arange(6) % 3) if model.takes_labels else images)
    assert all(np.isfinite(value) for value in logs.values())
    pairs = zip(model.trainable_weights, before, strict=True)
    assert [weight.name for weight, old in pairs if (weight.numpy() == old).all()] == []
    drawn = model.sample(2, 1)
    assert drawn["images"].shape == drawn["probabilities"].shape == (2, *SHAPE)
    if model.draws_bits or levels > 2:  # a GAN's images have no levels
        np.testing.assert_allclose((levels - 1) * drawn["images"] % 1 % (1 - 1e-4), 0, atol=1e-4)
