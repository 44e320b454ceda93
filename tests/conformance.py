"""The laws that models obey: the test of a new latent variable model is `check(config, digits)`.

Of a model that takes labels it is `check(config, digits, labels)`, and what is given images or latents gets labels too.
"""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import bounds, export, models
from keras_genmnist import signatures as exported
from keras_genmnist.models.base import DecoderModel, GenerativeModel, told
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


def check(
    config: ConfigDict, digits: np.ndarray, labels: np.ndarray | None = None, steps: int = 30, rise: float = 20.0
) -> None:
    """Checks the model of `config`, which should be tiny.

    Args:
      config: what `models.build` takes.
      digits: binary images, float32 [B, 28, 28, 1], at least 3.
      labels: int64 [B], not all the same, of a model that takes labels.
      steps: training steps on them.
      rise: nats by which these steps must lift the ELBO.  An untrained model gives 784 log 2 = 543 nats or worse and a
        grey image of the mean pixel 206, so that any working gradient gains more than 20.
    """
    model = models.build(config)
    signatures = check_generative(model, config)
    check_decoder(model, signatures, model.encode(digits, **told(labels))["z"], labels)
    _latents_and_images_fit(model, signatures, digits, labels)
    _log_terms_are_rows_of_their_own(model, digits, labels)
    assert signatures.keys() >= SIGNATURES
    _elbos_of_a_signature_are_functions_of_seed_and_row(model, signatures, digits, labels)
    if labels is not None:
        _likelihood_is_a_mean_over_classes(model, digits, labels)
    _training_moves_every_variable_and_lifts_the_elbo(model, digits, labels, steps, rise)


def check_together(config: ConfigDict, images: np.ndarray) -> None:
    """Checks what depends on several pieces at once, where each of them conforms in another model."""
    model = models.build(config)
    signatures = exported.of(model)  # those that it does not call are not traced
    _draws_are_functions_of_their_seeds(model, signatures)
    _latents_and_images_fit(model, signatures, images, None)
    _log_terms_are_rows_of_their_own(model, images, None)
    _elbos_of_a_signature_are_functions_of_seed_and_row(model, signatures, images, None)
    _training_moves_every_variable_and_lifts_the_elbo(model, images, None, steps=30, rise=20.0)


def batch_of(images: np.ndarray, labels: np.ndarray | None):
    """What `train_step` and `test_step` take."""
    return images if labels is None else (images, labels)


def label_of(labels: np.ndarray | None) -> dict[str, tf.Tensor]:
    """The input `label` of signatures."""
    return {} if labels is None else {"label": tf.constant(labels, tf.int32)}


def check_generative(model: GenerativeModel, config: ConfigDict) -> dict:
    """Checks what every model has; `model` is that of `config`.

    Returns:
      Its signatures: tracing one takes seconds, and the other checks use them too.
    """
    signatures = exported.of(model)
    _same_config_builds_same_weights(model, config)
    _draws_are_functions_of_their_seeds(model, signatures)
    if model.takes_labels:
        _draws_are_of_the_class_asked_for(model, signatures)
    _every_signature_answers_its_warmup_request(signatures)
    return signatures


def check_decoder(model: DecoderModel, signatures: dict, z: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Checks that a model decodes latents [N, D], N at least 3, of these labels."""
    z1, z2 = tf.constant(z[:2]), tf.constant(z[1:3])
    label = label_of(None if labels is None else labels[:2])
    path = signatures["interpolate"](z1, z2, tf.constant([0.0, 0.3, 1.0]), **label)["probabilities"]
    assert path.shape == (2, 3, *model.image_shape)
    # The tolerance is that of a matrix product of other numbers of rows.
    for i, between in enumerate((z2, 0.3 * z1 + 0.7 * z2, z1)):
        np.testing.assert_allclose(path[:, i], signatures["decode"](between, **label)["probabilities"], atol=1e-6)
    if label:
        other = (label["label"] + 1) % model.num_classes
        changed = signatures["decode"](z1, label=other)["probabilities"]
        assert (changed != signatures["decode"](z1, **label)["probabilities"]).numpy().any(axis=(1, 2, 3)).all()
        beyond = model.num_classes
        for wrong, message in (([0, beyond], f"label is .*, not {beyond}"), ([0], "a label for each row")):
            for arguments in ((z1,), (z1, z2, tf.constant([0.5]))):
                signature = signatures["decode" if len(arguments) == 1 else "interpolate"]
                with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                    signature(*arguments, label=tf.constant(wrong))
        # From one class to another, the ends are those of the two.
        ends = model.interpolate(z1, z2, tf.constant([0.0, 1.0]), label["label"], other)
        np.testing.assert_allclose(ends[:, 0], model.decode(z2, other), atol=1e-6)
        np.testing.assert_allclose(ends[:, 1], model.decode(z1, label["label"]), atol=1e-6)


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


def _draws_are_of_the_class_asked_for(model, signatures):
    seeds = tf.constant([[5, 0], [6, 0], [9, 0]])
    draw = tf.function(model.draw_given, autograph=False)
    labels = model.random_labels(seeds)
    rows = signatures["sample_rows"](seed=seeds[:, 0])
    given, others = draw(seeds, labels), draw(seeds, (labels + 1) % model.num_classes)
    first = draw(seeds[:1], labels[:1])
    for name in ("images", "probabilities"):
        np.testing.assert_allclose(given[name], rows[name], atol=1e-6)
        np.testing.assert_allclose(first[name][0], given[name][0], atol=1e-6)
        assert (given["probabilities"] != others["probabilities"]).numpy().any(axis=(1, 2, 3)).all()
    assert set(np.unique(model.random_labels(tf.stack([tf.range(300), tf.range(300)], axis=1)))) == set(
        range(model.num_classes)
    )
    chosen = signatures["sample_class"](label=tf.constant(1), num_samples=tf.constant(2), seed=tf.constant(7))
    expected = draw(tf.constant([[7, 0], [7, 1]]), tf.constant([1, 1]))
    np.testing.assert_allclose(chosen["probabilities"], expected["probabilities"], atol=1e-6)
    wrong = {"label": tf.constant(model.num_classes), "num_samples": tf.constant(2), "seed": tf.constant(7)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"out of range: give 0 to {model.num_classes - 1}"):
        signatures["sample_class"](**wrong)


def _likelihood_is_a_mean_over_classes(model, digits, labels):
    x = digits[:2]
    # Traced: a class after the other takes as long in Python.
    log_likelihood = tf.function(lambda *y: model.log_likelihood(x, *y, num_draws=3, seed=1), autograph=False)
    given = [log_likelihood(tf.fill([2], label)) for label in range(model.num_classes)]
    expected = np.logaddexp.reduce(given, axis=0) - np.log(model.num_classes)
    np.testing.assert_allclose(log_likelihood(), expected, rtol=1e-5)
    assert (np.ptp(given, axis=0) > 0).all()
    with pytest.raises(ValueError, match="give labels"):
        model.encode(x)


def _latents_and_images_fit(model, signatures, digits, labels):
    encoding = model.encode(digits, **told(labels))
    assert encoding.keys() == {"mean", "log_variance", "z"}
    assert all(value.shape == (len(digits), model.latent_size) for value in encoding.values())
    assert signatures["reconstruct"](digits, **label_of(labels))["probabilities"].shape == digits.shape
    _encoded_draws_are_functions_of_their_seeds(model, signatures["encode_draw"], digits, labels)


def _encoded_draws_are_functions_of_their_seeds(model, draw, digits, labels):
    same, label = np.tile(digits[:1], [3, 1, 1, 1]), None if labels is None else np.tile(labels[:1], 3)
    drawn = draw(same, tf.constant([7, 8, 7]), **label_of(label))["z"].numpy()
    centre = model.encode(same, **told(label))["z"].numpy()
    np.testing.assert_allclose(drawn[0], drawn[2], atol=1e-5)
    assert (drawn[0] != drawn[1]).all()
    assert (drawn[0] != centre[0]).all()
    alone = draw(same[:1], tf.constant([8]), **label_of(None if label is None else label[:1]))
    np.testing.assert_allclose(alone["z"][0], drawn[1], atol=1e-5)


def _elbos_of_a_signature_are_functions_of_seed_and_row(model, signatures, digits, labels):
    same, label = np.tile(digits[:1], [CHUNK + 2, 1, 1, 1]), None if labels is None else np.tile(labels[:1], CHUNK + 2)

    def elbo(images, seed):
        return signatures["elbo"](images, seed, **label_of(None if label is None else label[: len(images)]))

    ours, other = (elbo(same, tf.constant(seed))["elbo"].numpy() for seed in (7, 8))
    assert len(np.unique(ours)) > len(same) / 2  # a few of them may agree in all digits of float32
    assert (ours != other).mean() > 0.5
    np.testing.assert_allclose(elbo(same[:2], tf.constant(7))["elbo"], ours[:2], atol=1e-3)  # of hundreds of nats
    expected = model.log_terms(same[:2], 1, tf.constant([[7, 0], [7, 1]]), **told(None if label is None else label[:2]))
    np.testing.assert_allclose(bounds.elbo(expected), ours[:2], atol=1e-3)


def _log_terms_are_rows_of_their_own(model, digits, labels):
    seed, given = tf.constant([1, 2]), told(labels)
    terms = model.log_terms(digits, 5, seed, **given)
    same = model.log_terms(digits, 5, seed, **given)
    others = model.log_terms(digits, 5, tf.constant([1, 3]), **given)
    changed = model.log_terms(np.concatenate([1 - digits[:1], digits[1:]]), 5, seed, **given)
    if labels is not None:
        other = np.concatenate([(labels[:1] + 1) % model.num_classes, labels[1:]])
        told_another = model.log_terms(digits, 5, seed, y=other)
        for name in ("log_likelihood", "log_posterior"):
            moved = (getattr(told_another, name) != getattr(terms, name)).numpy()
            assert moved[:, 0].all() and not moved[:, 1:].any(), name
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


def _training_moves_every_variable_and_lifts_the_elbo(model, digits, labels, steps, rise):
    model.compile(tf_keras.optimizers.Adam(1e-2))  # it moves what has a gradient, and nothing else

    def elbo() -> float:
        model.reset_metrics()
        return float(model.test_step(batch_of(digits, labels))["elbo"])

    before, weights = elbo(), [variable.numpy() for variable in model.trainable_variables]
    assert weights
    model.optimizer.build(model.trainable_variables)  # else it makes its own in the first call, which traces it twice
    train_step = tf.function(model.train_step, autograph=model.autograph)
    # More than one, because a residual branch that starts at zero passes nothing back in the first.
    for _ in range(steps):
        train_step(batch_of(digits, labels))
    for variable, old in zip(model.trainable_variables, weights, strict=True):
        assert np.isfinite(variable).all(), f"the gradient of {variable.name} is not finite"
        assert (variable.numpy() != old).any(), f"{variable.name} has no gradient"
    after = elbo()
    assert after > before + rise, f"{steps} steps took the ELBO from {before:.1f} to {after:.1f}"
