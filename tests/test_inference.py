import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import models
from keras_genmnist.errors import UsageError
from keras_genmnist.inference import ADAM_BETAS, GradientAscent, RefinedPosterior
from tests import tiny
from tests.oracles import ORACLE

tfd = tfp.distributions
SLOW = GradientAscent(steps=1500, optimizer="adam", learning_rate=0.003)


def refined(ascent=SLOW, full=False, shift=None):
    """The posterior of the oracle's model, from a random start or from the true one shifted."""
    vae = ORACLE.vae(0.0 if shift is None else shift)
    return RefinedPosterior(None if shift is None else vae.encoder, vae.decoder, vae.prior, 2, ascent, full)


@pytest.mark.parametrize(
    "ascent", [SLOW, SLOW._replace(optimizer="momentum", learning_rate=0.001)], ids=lambda ascent: ascent.optimizer
)
def test_svi_converges_to_log_px(ascent):
    x, truth = ORACLE.sample(4), ORACLE.vae().encoder
    start, end = refined(ascent._replace(steps=0)), refined(ascent)
    # The ELBO is log p(x) - KL(q || p(z | x)): exact where an estimate of the ELBO itself has 0.03 nats of noise.
    gaps = [tfd.kl_divergence(tf.function(piece)(x), truth(x)).numpy() for piece in (start, end)]
    assert (gaps[0] > 0.5).all()
    assert (gaps[1] < 0.01).all()


def test_refinement_never_lowers_the_elbo():
    x = ORACLE.sample(20)
    wild = refined(GradientAscent(steps=5, optimizer="momentum", learning_rate=50.0), shift=0.3)
    np.testing.assert_array_equal(wild.improves(x), np.zeros(20, bool))
    np.testing.assert_allclose(wild(x).mean(), ORACLE.vae(0.3).encoder(x).mean(), rtol=1e-6)
    mild = refined(GradientAscent(steps=20, optimizer="adam", learning_rate=0.03), shift=1.0)
    assert mild.improves(x).numpy().all()
    gained = mild._elbo(x, _parameters(mild(x)), mild._draws(1000, 5)) - ORACLE.elbo(x, 1.0, 1.0)
    assert (gained.numpy() > 0.3).all()


def _parameters(q):
    return [q.mean(), tf.math.log(q.stddev())]


def test_refinement_depends_on_the_image_alone():
    x = ORACLE.sample(5)
    piece = refined(GradientAscent(steps=10, optimizer="adam", learning_rate=0.1))
    whole, one = piece(x), piece(x[3:4])
    np.testing.assert_allclose(whole.mean()[3:4], one.mean(), rtol=1e-4)
    np.testing.assert_allclose(whole.stddev()[3:4], one.stddev(), rtol=1e-4)
    assert len(np.unique(whole.mean().numpy()[:, 0])) == 5


@pytest.mark.parametrize("name", ["svi", "semi_amortized"])
def test_ascent_is_on_the_decoder_that_learns(name):
    model = models.build(tiny.config(name))  # one whose statistics change after training would be another
    z = tf.random.stateless_normal([20, model.latent_size], seed=[1, 2])
    np.testing.assert_array_equal(model.decoder(z, training=True).mean(), model.decoder(z).mean())


def test_ascent_by_hand():
    # f(a) = -a^2 / 2 from 1: the gradient is -a.
    def slopes(values, t):
        return [-value for value in values]

    (found,) = GradientAscent(2, "momentum", 0.1).maximise(slopes, [tf.constant([1.0])])
    first = 1 - 0.1
    np.testing.assert_allclose(found, [first + 0.1 * (0.5 * -1 - first)], rtol=1e-6)
    optimizer, value = tf_keras.optimizers.Adam(0.1, *ADAM_BETAS, epsilon=1e-8), tf.Variable([1.0, -2.0])
    for _ in range(5):
        optimizer.apply_gradients([(tf.identity(value), value)])
    (found,) = GradientAscent(5, "adam", 0.1).maximise(slopes, [tf.constant([1.0, -2.0])])
    np.testing.assert_allclose(found, value, rtol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_the_gradient_of_the_start_goes_through_the_ascent_if_asked(full):
    # Two plain steps of rate r on f(a) = -h a^2 / 2 turn a into (1 - r h)^2 a: that factor is in the full gradient.
    x, shift = ORACLE.sample(1), tf.Variable(0.7)
    vae = ORACLE.vae()

    def start(x, training=False):
        return ORACLE.vae(shift).encoder(x)

    piece = RefinedPosterior(start, vae.decoder, vae.prior, 2, GradientAscent(1, "momentum", 0.05), full)
    with tf.GradientTape() as tape:
        mean = tf.reduce_sum(piece(x).mean(), axis=0)
    slopes = tape.jacobian(mean, shift)
    assert piece.improves(x).numpy().all()
    expected = 1 - 0.05 / ORACLE.posterior_variance if full else np.ones(2)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)


def test_an_ascent_that_diverges_has_the_gradient_of_its_start():
    # Of three images the second starts so wide that its steps run away.
    x, wide = ORACLE.sample(3), tf.constant([[1.0], [30.0], [1.2]])

    def slopes(rows, full):
        shift = tf.Variable(tf.fill([3, 2], 0.7))
        with tf.GradientTape() as tape:
            vae = ORACLE.vae(tf.gather(shift, rows), tf.gather(wide, rows))
            piece = RefinedPosterior(vae.encoder, vae.decoder, vae.prior, 2, GradientAscent(5, "momentum", 0.05), full)
            total = tf.reduce_sum(piece(x[rows]).mean())
        assert piece.improves(x[rows]).numpy().tolist() == [row != 1 for row in rows]
        return tf.convert_to_tensor(tape.gradient(total, shift)).numpy()

    found = slopes([0, 1, 2], full=True)
    np.testing.assert_array_equal(found[1], slopes([1], full=False)[1])
    np.testing.assert_allclose(found[[0, 2]], slopes([0, 2], full=True)[[0, 2]], rtol=1e-5)


def trained_in_vain(digits, gradient, optimizer="momentum", rate=1e6):
    """The weights of a semi-amortized VAE after a step of training whose refinement gains nothing for any image."""
    options = {"refine_gradient": gradient, "refine_optimizer": optimizer, "refine_learning_rate": rate}
    model = models.build(tiny.config("semi_amortized", refine_steps=5, **options))
    model.compile(tf_keras.optimizers.SGD(1e-3))
    model.train_step(digits)
    assert not model.encoder.improves(digits).numpy().any()
    return model.get_weights()


@pytest.fixture(scope="module")
def unrefined(digits):
    """The weights where no gradient goes through the refinement, whatever its optimizer and rate."""
    return trained_in_vain(digits, "first_order")


@pytest.mark.parametrize("rate", [50.0, 1e6, 1e30])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_diverging_refinement_trains_as_if_there_were_none(optimizer, rate, digits, unrefined):
    for ours, theirs in zip(trained_in_vain(digits, "full", optimizer, rate), unrefined, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_semi_amortized_without_steps_is_the_vae(digits):
    vae, semi = (
        models.build(tiny.config("vae", inference=inference, refine_steps=0))
        for inference in ("amortized", "semi_amortized")
    )
    for model in (vae, semi):
        model.compile(tf_keras.optimizers.SGD(1e-3), seed=5)
        model.train_step(digits)
    for ours, theirs in zip(vae.weights, semi.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    seed = tf.constant([1, 2])
    for a, b in zip(vae.log_terms(digits, 3, seed), semi.log_terms(digits, 3, seed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_semi_amortized_trains_its_encoder(digits):
    for gradient in ("first_order", "full"):
        model = models.build(tiny.config("semi_amortized", refine_gradient=gradient))
        model.compile(tf_keras.optimizers.SGD(1e-3))
        encoder = model.encoder.amortized.trainable_variables
        before = [variable.numpy() for variable in encoder]
        model.train_step(digits)
        assert all((variable.numpy() != old).any() for variable, old in zip(encoder, before, strict=True))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps_but_for_the_full_gradient(digits):
    def keeps_every_step(gradient):
        model = models.build(tiny.config("semi_amortized", refine_gradient=gradient))
        model.compile(tf_keras.optimizers.SGD(1e-3))
        graph = tf.function(model.train_step).get_concrete_function(tf.constant(digits)).graph.as_graph_def()
        ops = {
            node.op
            for part in (graph, *graph.library.function)
            for node in (getattr(part, "node_def", None) or part.node)
        }
        return "TensorListPushBack" in ops  # a loop's stack of what its gradient will need

    assert keeps_every_step("full")
    assert not keeps_every_step("first_order")


def test_a_refinement_that_diverges_is_reported(digits):
    model = models.build(tiny.config("semi_amortized", refine_optimizer="momentum", refine_learning_rate=1e6))
    model.compile("adam")
    found = model.validate([digits])
    assert found["improved"] == 0.0
    (warning,) = model.warnings([{"val_improved": found["improved"]}])
    assert "100% of the images" in warning and "refine_learning_rate" in warning
    assert model.warnings([{"val_improved": 0.9}]) == []
    assert models.build(tiny.config("vae")).warnings([{"val_elbo": -100.0}]) == []


@pytest.mark.parametrize(
    "changes, accepted",
    [
        ({"inference": "amortised"}, "amortized, semi_amortized, svi"),
        ({"refine_optimizer": "sgd"}, "adam, momentum"),
        ({"refine_gradient": "second"}, "first_order, full"),
        ({"refine_steps": -1}, "0 to 1000"),
        ({"refine_steps": 0, "inference": "svi"}, "1 or more"),
        *(({"refine_learning_rate": rate}, "above 0, finite") for rate in (0.0, float("nan"), float("inf"), 1e39)),
        ({"posterior": "iaf", "inference": "semi_amortized"}, "gaussian"),
        ({"prior": "vamp", "inference": "svi"}, "normal, mixture, maf, realnvp"),
    ],
)
def test_refinement_refuses_a_value_out_of_range(changes, accepted):
    with pytest.raises(UsageError) as refused:
        models.build(tiny.config("vae", **changes))
    field = next(iter(changes))
    assert field in str(refused.value) and str(changes[field]) in str(refused.value)
    assert accepted in str(refused.value)
