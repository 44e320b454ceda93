"""The laws that models obey: the test of a new latent variable model is `check(config, digits)`."""

import numpy as np
import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import bounds, export, models
from keras_genmnist import signatures as exported
from keras_genmnist.models.base import DecoderModel, GenerativeModel
from keras_genmnist.signatures import CHUNK

SIGNATURES = {
    "sample_rows",
    "sample",
    "decode",
    "decode_probabilities",
    "encode",
    "encode_draw",
    "reconstruct",
    "interpolate",
    "elbo",
    "log_likelihood",
}


def check(config: ConfigDict, digits: np.ndarray, steps: int = 30, rise: float = 20.0) -> None:
    """Checks the model of `config`, which should be tiny.

    Args:
      config: what `models.build` takes.
      digits: binary images, float32 [B, 28, 28, 1], at least 3.
      steps: training steps on them.
      rise: nats by which these steps must lift the ELBO.  An untrained model gives 784 log 2 = 543 nats or worse and a
        grey image of the mean pixel 206, so that any working gradient gains more than 20.
    """
    model = models.build(config)
    signatures = check_generative(model, config)
    check_decoder(model, signatures, model.encode(digits)["z"])
    _latents_and_images_fit(model, signatures, digits)
    _log_terms_are_rows_of_their_own(model, digits)
    assert signatures.keys() >= SIGNATURES
    _elbos_of_a_signature_are_functions_of_seed_and_row(model, signatures, digits)
    _training_moves_every_variable_and_lifts_the_elbo(model, digits, steps, rise)


def check_generative(model: GenerativeModel, config: ConfigDict) -> dict:
    """Checks what every model has; `model` is that of `config`.

    Returns:
      Its signatures: tracing one takes seconds, and the other checks use them too.
    """
    signatures = exported.of(model)
    _same_config_builds_same_weights(model, config)
    _draws_are_functions_of_their_seeds(model, signatures)
    _every_signature_answers_its_warmup_request(signatures)
    return signatures


def check_decoder(model: DecoderModel, signatures: dict, z: np.ndarray) -> None:
    """Checks that a model decodes latents [N, D], N at least 3."""
    z1, z2 = tf.constant(z[:2]), tf.constant(z[1:3])
    path = signatures["interpolate"](z1, z2, tf.constant([0.0, 0.3, 1.0]))["probabilities"]
    assert path.shape == (2, 3, *model.image_shape)
    # The tolerance is that of a matrix product of other numbers of rows.
    for i, between in enumerate((z2, 0.3 * z1 + 0.7 * z2, z1)):
        np.testing.assert_allclose(path[:, i], signatures["decode"](between)["probabilities"], atol=1e-6)


def _same_config_builds_same_weights(model, config):
    for ours, theirs in zip(model.weights, models.build(config).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _draws_are_functions_of_their_seeds(model, signatures):
    def sample(number, seed):
        return signatures["sample"](num_samples=tf.constant(number), seed=tf.constant(seed))

    def draw(seeds):
        return signatures["sample_rows"](seed=tf.constant(seeds))

    ours, again, other = (sample(3, seed) for seed in (7, 7, 8))
    first = sample(2, 7)
    seeds = [5, 6, 9]
    rows, reverse = draw(seeds), draw(seeds[::-1])
    for name in ("images", "probabilities"):
        values = ours[name].numpy()
        assert values.shape == (3, *model.image_shape)
        assert values.min() >= 0 and values.max() <= 1
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
        for several in (values, rows[name]):
            for i in range(3):
                assert not np.array_equal(several[i], several[i - 1])
        # Rounding of a matrix product may depend on the number of rows: a few units in the last place.
        np.testing.assert_allclose(first[name], values[:2], atol=1e-6)
        np.testing.assert_allclose(reverse[name], rows[name][::-1], atol=1e-6)
    for i, seed in enumerate(seeds):
        alone = draw([seed])
        for name in ("images", "probabilities"):
            np.testing.assert_allclose(alone[name][0], rows[name][i], atol=1e-6)


def _latents_and_images_fit(model, signatures, digits):
    encoding = model.encode(digits)
    assert encoding.keys() == {"mean", "log_variance", "z"}
    assert all(value.shape == (len(digits), model.latent_size) for value in encoding.values())
    assert signatures["reconstruct"](digits)["probabilities"].shape == digits.shape
    _encoded_draws_are_functions_of_their_seeds(model, signatures["encode_draw"], digits)


def _encoded_draws_are_functions_of_their_seeds(model, draw, digits):
    same = np.tile(digits[:1], [3, 1, 1, 1])
    drawn, centre = draw(same, tf.constant([7, 8, 7]))["z"].numpy(), model.encode(same)["z"].numpy()
    np.testing.assert_allclose(drawn[0], drawn[2], atol=1e-5)
    assert (drawn[0] != drawn[1]).all()
    assert (drawn[0] != centre[0]).all()
    np.testing.assert_allclose(draw(same[:1], tf.constant([8]))["z"][0], drawn[1], atol=1e-5)


def _elbos_of_a_signature_are_functions_of_seed_and_row(model, signatures, digits):
    elbo = signatures["elbo"]
    same = np.tile(digits[:1], [CHUNK + 2, 1, 1, 1])
    ours, other = (elbo(same, tf.constant(seed))["elbo"].numpy() for seed in (7, 8))
    assert len(np.unique(ours)) > len(same) / 2  # a few of them may agree in all digits of float32
    assert (ours != other).mean() > 0.5
    np.testing.assert_allclose(elbo(same[:2], tf.constant(7))["elbo"], ours[:2], atol=1e-3)  # of hundreds of nats
    expected = model.log_terms(same[:2], 1, tf.constant([[7, 0], [7, 1]]))
    np.testing.assert_allclose(bounds.elbo(expected), ours[:2], atol=1e-3)


def _log_terms_are_rows_of_their_own(model, digits):
    seed = tf.constant([1, 2])
    terms = model.log_terms(digits, 5, seed)
    same = model.log_terms(digits, 5, seed)
    others = model.log_terms(digits, 5, tf.constant([1, 3]))
    changed = model.log_terms(np.concatenate([1 - digits[:1], digits[1:]]), 5, seed)
    for name in ("log_likelihood", "log_prior", "log_posterior"):
        values = getattr(terms, name).numpy()
        assert values.shape == (5, len(digits)), name
        assert np.isfinite(values).all(), name
        np.testing.assert_array_equal(values, getattr(same, name))
        assert (values != getattr(others, name).numpy()).all(), f"{name} does not depend on the seed"
        assert len(np.unique(values[:, 0])) == 5, f"{name} does not depend on the draw"
        np.testing.assert_array_equal(values[:, 1:], getattr(changed, name)[:, 1:])
    assert (terms.log_likelihood != changed.log_likelihood)[:, 0].numpy().all()
    if terms.layer_kl is not None:
        assert terms.layer_kl.shape == (len(model.layer_sizes), len(digits))
    assert bounds.kl(terms).shape == bounds.elbo(terms).shape == bounds.iwae_bound(terms).shape == (len(digits),)


def _every_signature_answers_its_warmup_request(signatures):
    for name, function in signatures.items():
        request = export.warmup_request("model", name, function).predict_log.request
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        for key, value in function(**inputs).items():
            assert value.dtype == tf.string or np.isfinite(value).all(), f"{name}/{key}"


def _training_moves_every_variable_and_lifts_the_elbo(model, digits, steps, rise):
    model.compile(tf_keras.optimizers.Adam(1e-2))  # it moves what has a gradient, and nothing else

    def elbo() -> float:
        model.reset_metrics()
        return float(model.test_step(digits)["elbo"])

    before, weights = elbo(), [variable.numpy() for variable in model.trainable_variables]
    assert weights
    train_step = tf.function(model.train_step, autograph=model.autograph)
    # More than one, because a residual branch that starts at zero passes nothing back in the first.
    for _ in range(steps):
        train_step(digits)
    for variable, old in zip(model.trainable_variables, weights, strict=True):
        assert np.isfinite(variable).all(), f"the gradient of {variable.name} is not finite"
        assert (variable.numpy() != old).any(), f"{variable.name} has no gradient"
    after = elbo()
    assert after > before + rise, f"{steps} steps took the ELBO from {before:.1f} to {after:.1f}"
