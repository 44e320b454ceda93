import decimal
import itertools
from decimal import Decimal

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import distributions, flows, gap, networks
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.distributions import (
    Bernoulli,
    BernoulliDecoder,
    DiagonalMixture,
    DiscretizedLogistic,
    LogisticDecoder,
    PixelCNNDecoder,
    Posterior,
    StandardNormal,
)
from keras_genmnist.errors import UsageError
from keras_genmnist.models.vae import VAE

tfd = tfp.distributions


@pytest.fixture
def decoder():
    """Of 3 x 3 images from two latent dimensions."""
    return BernoulliDecoder(tf_keras.layers.Dense(9, bias_initializer="random_normal"), (3, 3, 1))


@pytest.fixture
def z():
    """[S, B, D] = [4, 5, 2]"""
    return tf.random.stateless_normal([4, 5, 2], seed=[1, 2])


def test_bernoulli_decoder_probabilities_sum_to_one(decoder, z):
    every = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 3, 3, 1)
    log_prob = decoder(z[0, :1]).log_prob(every)
    assert log_prob.shape == 512
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(log_prob)), 1, rtol=1e-5)  # 512 float32 terms


def test_bernoulli_decoder_log_prob_is_the_cross_entropy(decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    kernel, bias = (decoder(z), decoder.network.get_weights())[1]
    logits = z.numpy().astype(np.float64) @ kernel + bias
    pixels = x.reshape(5, 9)
    expected = (pixels * logits - np.log1p(np.exp(logits))).sum(axis=-1)
    np.testing.assert_allclose(decoder(z).log_prob(x), expected, rtol=1e-5)  # float32


def test_bernoulli_decoder_mean_is_the_sigmoid_of_the_logits_in_place(decoder, z):
    mean = decoder(z).mean()
    assert mean.shape == (4, 5, 3, 3, 1)
    expected = tf.sigmoid(decoder.network(tf.reshape(z, [-1, 2])))
    np.testing.assert_allclose(tf.reshape(mean, [-1, 9]), expected, rtol=1e-6)  # float32


def test_bernoulli_decoder_folds_draws_and_images_and_back(decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    whole = decoder(z).log_prob(x)
    assert whole.shape == (4, 5)
    for s, b in itertools.product(range(4), range(5)):
        # One row or twenty: a matrix product may round differently.
        np.testing.assert_allclose(whole[s, b], decoder(z[s, b]).log_prob(x[b]), rtol=1e-5)


def test_bernoulli_decoder_draws_where_uniform_numbers_are_below(decoder, z):
    uniform = tf.random.stateless_uniform([4, 5, 3, 3, 1], [3, 4])
    drawn = decoder.draw(z, uniform)
    np.testing.assert_array_equal(drawn["probabilities"], decoder(z).mean())
    np.testing.assert_array_equal(drawn["images"], uniform < decoder(z).mean())


EVERY_IMAGE = np.array(list(itertools.product([0.0, 1.0], repeat=9)), np.float32).reshape(-1, 1, 3, 3, 1)


def decoder_by_pixels(patch_size: int, orders: int) -> PixelCNNDecoder:
    """Of 3 x 3 images from two latent dimensions, its weights drawn at random."""
    network = tf_keras.Sequential([tf_keras.layers.Dense(18), tf_keras.layers.Reshape((3, 3, 2))])
    pixelcnn = GatedPixelCNN(2, 4, size=3, first_size=3, patch_size=patch_size)
    decoder = PixelCNNDecoder(network, pixelcnn, (3, 3, 1), orders)
    decoder(tf.zeros([1, 2])).log_prob(tf.zeros([1, 3, 3, 1]))
    generator = np.random.default_rng(0)
    for weight in decoder.weights:
        weight.assign(generator.normal(0, 0.7, weight.shape))
    return decoder


@pytest.fixture(params=[1, 2], ids=lambda size: f"patches of {size}")
def pixelcnn_decoder(request):
    return decoder_by_pixels(request.param, orders=1)


@pytest.mark.parametrize("patch_size, orders", [(1, 1), (2, 1), (1, 2), (2, 8)])
def test_pixelcnn_decoder_probabilities_sum_to_one_for_any_latents(patch_size, orders, z):
    given = decoder_by_pixels(patch_size, orders)(tf.tile(z[:1, :3], [512, 1, 1]))
    log_prob, each = given.log_prob(EVERY_IMAGE), [given.log_prob_in(k, EVERY_IMAGE) for k in range(orders)]
    assert log_prob.shape == (512, 3)
    for density in (log_prob, *each):
        np.testing.assert_allclose(tf.reduce_sum(tf.exp(density), axis=0), 1, atol=1e-5)
    assert np.ptp(log_prob, axis=1).max() > 1  # the latents matter
    np.testing.assert_allclose(log_prob, np.logaddexp.reduce(each, axis=0) - np.log(orders), rtol=1e-4, atol=1e-5)


def turned(images: np.ndarray, k: int) -> np.ndarray:
    """T_k of images [N, H, W, C]."""
    images = images[:, :: -1 if k & 2 else 1, :: -1 if k & 1 else 1]
    return images.transpose(0, 2, 1, 3) if k & 4 else images


def test_an_order_of_a_pixelcnn_decoder_turns_the_image_and_what_latents_tell_of_it(z):
    decoder, order = decoder_by_pixels(2, orders=8), np.arange(20).reshape(4, 5) % 8
    x = (np.random.default_rng(0).random([5, 3, 3, 1]) < 0.5).astype(np.float32)
    found = decoder(z).log_prob_in(tf.constant(order, tf.int32), x)
    pixelcnn = decoder.pixelcnn
    for s, b in itertools.product(range(4), range(5)):
        k = order[s, b]
        features = turned(decoder.network(z[s, b : b + 1]).numpy(), k)
        told = [pixelcnn.patches.split(tf.constant(features)), tf.one_hot([k], 8)[:, None, None]]
        alone = tf.reduce_sum(pixelcnn.log_prob(turned(x[b : b + 1], k), told))
        np.testing.assert_allclose(found[s, b], alone, rtol=1e-4)


def test_pixelcnn_decoder_draws_in_all_orders_with_the_probabilities_it_says(z):
    decoder, count = decoder_by_pixels(1, orders=4), 20_000
    every = tf.repeat(z[0, :1], count, axis=0)
    drawn = decoder.draw(every, tf.random.stateless_uniform([count, 3, 3, 1], [3, 4]))["images"].numpy()
    numbers = drawn.reshape(count, 9).astype(int) @ 2 ** np.arange(9)[::-1]
    expected = np.exp(decoder(tf.repeat(z[:1, :1], 512, axis=0)).log_prob(EVERY_IMAGE))[:, 0]
    found = np.bincount(numbers, minlength=512) / count
    assert np.abs(found - expected).sum() < 0.1
    first = np.exp(decoder(tf.repeat(z[:1, :1], 512, axis=0)).log_prob_in(0, EVERY_IMAGE))[:, 0]
    assert np.abs(first - expected).sum() > 0.3  # it would not do to draw in the first order alone
    likelier = decoder.draw(z[0], 0.5)  # in the first order
    np.testing.assert_array_equal(likelier["images"], likelier["probabilities"] > 0.5)


def test_pixelcnn_decoder_folds_draws_and_images_and_back(pixelcnn_decoder, z):
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 3, 1]).astype(np.float32)
    whole = pixelcnn_decoder(z).log_prob(x)
    assert whole.shape == (4, 5)
    for s, b in itertools.product(range(4), range(5)):
        np.testing.assert_allclose(whole[s, b], pixelcnn_decoder(z[s, b : b + 1]).log_prob(x[b]), rtol=1e-5)


def test_pixelcnn_decoder_draws_with_the_probabilities_it_says(pixelcnn_decoder, z):
    uniform = tf.random.stateless_uniform([4, 5, 3, 3, 1], [3, 4])
    drawn = pixelcnn_decoder.draw(z, uniform)
    images, probabilities = drawn["images"].numpy(), drawn["probabilities"].numpy().astype(np.float64)
    np.testing.assert_array_equal(images, uniform < drawn["probabilities"])
    log_prob = np.log(np.where(images == 1, probabilities, 1 - probabilities)).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(pixelcnn_decoder(z).log_prob(images), log_prob, rtol=1e-4)
    likelier = pixelcnn_decoder.draw(z, 0.5)
    np.testing.assert_array_equal(likelier["images"], likelier["probabilities"] > 0.5)


def test_bernoulli_has_the_log_density_and_gradient_of_tfp():
    logits = tf.constant(np.random.default_rng(0).normal(0, 8, [200]), tf.float32)
    for x in (tf.zeros([200]), tf.ones([200])):
        own, other = (
            tfp.math.value_and_gradient(lambda logits, kind=kind, x=x: kind(logits).log_prob(x), logits)
            for kind in (Bernoulli, tfd.Bernoulli)
        )
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_bernoulli_decoder_is_finite_for_extreme_logits(z):
    decoder = BernoulliDecoder(
        tf_keras.layers.Dense(9, kernel_initializer=tf_keras.initializers.Constant(1e4)), (3, 3, 1)
    )
    for x in (tf.zeros([5, 3, 3, 1]), tf.ones([5, 3, 3, 1])):
        assert np.isfinite(decoder(z).log_prob(x)).all()


@pytest.fixture
def posterior():
    return Posterior(tf_keras.layers.Flatten(), latent_size=2)


def test_gaussian_posterior_is_the_normal_of_its_parameters(posterior):
    x = np.random.default_rng(0).normal(size=[5, 3, 3, 1]).astype(np.float32)
    q = posterior(x)
    assert (q.batch_shape, q.event_shape) == ((5,), (2,))
    kernel, bias = posterior.parameters.get_weights()
    mean, raw = np.split(x.reshape(5, 9).astype(np.float64) @ kernel + bias, 2, axis=-1)
    scale = np.log1p(np.exp(raw))
    np.testing.assert_allclose(q.mean(), mean, rtol=1e-4, atol=1e-6)  # float32 sums of nine terms that may cancel
    np.testing.assert_allclose(q.stddev(), scale, rtol=1e-5)  # float32
    z = np.random.default_rng(1).normal(size=[4, 5, 2])
    log_prob = (-0.5 * ((z - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z.astype(np.float32)), log_prob, rtol=1e-4)  # float32


def test_gaussian_posterior_draws_are_functions_of_the_seed(posterior):
    q = posterior(tf.ones([5, 3, 3, 1]))
    draws = q.sample(4, seed=tf.constant([1, 2]))
    assert draws.shape == (4, 5, 2)
    np.testing.assert_array_equal(draws, q.sample(4, seed=tf.constant([1, 2])))
    assert (draws != q.sample(4, seed=tf.constant([1, 3]))).numpy().all()
    assert len(np.unique(draws)) == 4 * 5 * 2


def test_StandardNormal_log_prob_is_the_formula():
    z = np.random.default_rng(0).normal(size=[4, 5, 3]).astype(np.float32)
    prior = StandardNormal(3)()
    assert prior.event_shape == 3
    expected = -0.5 * (z.astype(np.float64) ** 2 + np.log(2 * np.pi)).sum(axis=-1)
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-5)  # float32


def test_StandardNormal_has_a_closed_form_kl_from_the_posterior(posterior):
    q = posterior(tf.random.stateless_normal([5, 3, 3, 1], seed=[1, 2]))
    mean, scale = q.mean().numpy().astype(np.float64), q.stddev().numpy().astype(np.float64)
    expected = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(axis=-1)  # Kingma & Welling (2014), appendix B
    kl = tfd.kl_divergence(q, StandardNormal(2)())
    np.testing.assert_allclose(kl, expected, rtol=1e-4)  # float32, of terms that cancel


@pytest.mark.parametrize("scale", [0.01, 0.03, 0.1, 1.0])
def test_DiagonalMixture_is_exact_at_small_scales(scale):
    generator = np.random.default_rng(0)
    means, spread, noise = (generator.normal(size=[50, 40]) for _ in range(3))
    scales = (scale * np.exp(0.2 * spread)).astype(np.float32)
    means = means.astype(np.float32)
    z = (means + scales * noise).astype(np.float32)  # a draw from each component

    def log_prob(family, dtype):
        loc, spread, points = (tf.Variable(values, dtype=dtype) for values in (means, scales, z))
        with tf.GradientTape() as tape:
            components = tfd.Independent(tfd.Normal(loc, spread), 1)
            values = family(tfd.Categorical(tf.zeros([50], dtype)), components).log_prob(points)
        return [values, *tape.gradient(values, [loc, spread, points])]

    ours, exact = log_prob(DiagonalMixture, tf.float32), log_prob(tfd.MixtureSameFamily, tf.float64)
    assert ours[0].dtype == tf.float32
    # float32 numbers of 150 nats are 1.5e-5 apart; those of a gradient are relative to its size.
    np.testing.assert_allclose(ours[0], exact[0], rtol=0, atol=5e-5)
    for own, true in zip(ours[1:], exact[1:], strict=True):
        np.testing.assert_allclose(own, true, rtol=0, atol=1e-6 * np.abs(true).max())


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)])
def test_DiagonalMixture_log_prob_is_that_of_tfp(shape):
    generator = np.random.default_rng(0)
    means, scales = generator.normal(size=[7, 3]), np.exp(generator.normal(size=[7, 3]))
    components = tfd.Independent(tfd.Normal(means.astype(np.float32), scales.astype(np.float32)), 1)
    weights = tfd.Categorical(generator.normal(size=7).astype(np.float32))
    z = generator.normal(size=shape).astype(np.float32)
    log_prob = DiagonalMixture(weights, components).log_prob(z)
    assert log_prob.shape == shape[:-1]
    np.testing.assert_allclose(log_prob, tfd.MixtureSameFamily(weights, components).log_prob(z), rtol=1e-4)  # float32


LEVELS = (np.arange(256) / 255).astype(np.float32)


def exact_log_prob(levels, location, scale):
    """Salimans et al. (2017), equation 2, with 60 digits: of levels 0..255, numbers of the same shape, nats."""
    found = []
    with decimal.localcontext(decimal.Context(prec=60)):
        for k, m, s in zip(levels, location, scale, strict=True):
            a, b = ((Decimal(2 * int(k) + side) / 510 - Decimal(float(m))) / Decimal(float(s)) for side in (1, -1))
            if b > 0:  # of both tails alike, the one whose distribution functions are not all 1
                a, b, left, right = -b, -a, k == 255, k == 0
            else:
                left, right = k == 0, k == 255
            below, above = (1 / (1 + (-edge).exp()) for edge in (b, a))
            found.append(float(((1 if right else above) - (0 if left else below)).ln()))
    return np.array(found)


def logistic(location, scale):
    """A pixel of each location and scale, which broadcast."""
    location, scale = np.broadcast_arrays(np.asarray(location, np.float32), np.asarray(scale, np.float32))
    return DiscretizedLogistic(
        tf.constant(location)[..., None, None, None], tf.constant(np.log(scale))[..., None, None, None]
    )


@pytest.mark.parametrize("location", [-30.0, -0.1, 0.0, 0.3, 0.5019, 1.0, 7.0])
@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.3, 50.0])
def test_discretized_logistic_is_exact_and_sums_to_one(location, scale):
    own = logistic(location, scale).log_prob(LEVELS[:, None, None, None]).numpy()
    given = np.float32(location), np.exp(np.log(np.float32(scale)).astype(np.float64))
    exact = exact_log_prob(range(256), *([value] * 256 for value in given))
    # Of float32, in which the distance from the mean, in scales, has a relative error of a few times 6e-8.
    np.testing.assert_allclose(own, exact, rtol=3e-6, atol=3e-6 * (1 + abs(location)) / scale)
    assert np.exp(own.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


def test_discretized_logistic_is_that_of_tfp():
    location, scale = np.float32([0.2, 0.9]), np.float32([0.05, 0.2])
    theirs = tfd.QuantizedDistribution(tfd.Logistic(255 * location - 0.5, 255 * scale), low=0.0, high=255.0).log_prob(
        np.arange(256, dtype=np.float32)[:, None]
    )
    own = logistic(location, scale).log_prob(LEVELS[:, None, None, None, None])
    np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=1e-3)  # TFP's is a difference of float32 logarithms


def test_discretized_logistic_has_finite_gradients_everywhere():
    location = tf.Variable(np.float32([-1e6, -3.0, 0.0, 0.5, 1.0, 3.0, 1e6])[:, None, None, None, None])
    log_scale = tf.Variable(np.log(np.float32([1e-6, 1e-3, 0.1, 1e6]))[:, None, None, None])
    with tf.GradientTape() as tape:
        log_prob = DiscretizedLogistic(location, log_scale).log_prob(LEVELS[:, None, None, None, None, None])
    assert log_prob.shape == (256, 7, 4)
    assert np.isfinite(log_prob).all() and (log_prob.numpy() <= 0).all()
    assert all(np.isfinite(slope).all() for slope in tape.gradient(log_prob, [location, log_scale]))


def test_discretized_logistic_draws_its_levels_with_their_probabilities():
    # Of evenly spaced uniform numbers, as many are at or below a level as its distribution function says.
    uniform = ((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
    for location, scale in ((0.4, 0.02), (-0.05, 0.1), (1.2, 0.3)):
        drawn = logistic(location, scale).quantile(uniform[:, None, None, None]).numpy().ravel()
        np.testing.assert_array_equal(np.unique(drawn), np.intersect1d(LEVELS, drawn))  # the very numbers
        log_prob = logistic(location, scale).log_prob(LEVELS[:, None, None, None]).numpy()
        shares = np.bincount(np.rint(255 * drawn).astype(int), minlength=256) / len(uniform)
        np.testing.assert_allclose(shares, np.exp(log_prob), atol=2.1 / 2**16)
    assert set(logistic([-3e4, 3e4], 0.1).quantile(0.0).numpy().ravel()) == {0}  # of which the logit is -infinity


@pytest.mark.parametrize("location", [-1e5, -0.3, 0.0, 0.2, 1.0, 1.4, 1e5])
@pytest.mark.parametrize("scale", [1e-3, 0.03, 0.5])
def test_discretized_logistic_mean_is_the_mean_level(location, scale):
    own = logistic(location, scale)
    mean = (np.exp(own.log_prob(LEVELS[:, None, None, None]).numpy().astype(np.float64)) * LEVELS).sum()
    assert 0 <= own.mean().numpy().item() <= 1
    assert own.mean().numpy().item() == pytest.approx(mean, abs=0.51 / 255)  # half a level, where the scale is less
    if scale > 1 / 255:
        assert own.mean().numpy().item() == pytest.approx(mean, abs=2e-4)


@pytest.fixture
def logistic_decoder():
    """Of 3 x 4 images in colour from two latent dimensions, the scale of each channel its own."""
    decoder = LogisticDecoder(tf_keras.layers.Dense(36, bias_initializer="random_normal"), (3, 4, 3))
    decoder(tf.zeros([1, 2]))
    decoder.log_scale.assign([-1.0, -2.0, -3.0])
    return decoder


def test_logistic_decoder_adds_up_pixels_and_channels(logistic_decoder, z):
    levels = np.random.default_rng(0).integers(0, 256, [5, 3, 4, 3])
    levels[0, 0, 0] = [0, 255, 7]
    own = logistic_decoder(z).log_prob((levels / 255).astype(np.float32))
    assert own.shape == (4, 5)
    location = logistic_decoder.network(tf.reshape(z, [-1, 2])).numpy().reshape(4, 5, 36)
    scale = np.broadcast_to(np.exp(logistic_decoder.log_scale.numpy()), [12, 3]).ravel()
    for s, b in ((0, 0), (3, 4)):
        np.testing.assert_allclose(own[s, b], exact_log_prob(levels[b].ravel(), location[s, b], scale).sum(), rtol=1e-5)


def test_logistic_decoder_draws_levels_and_their_mean_image(logistic_decoder, z):
    uniform = tf.random.stateless_uniform([4, 5, 3, 4, 3], [3, 4])
    drawn = logistic_decoder.draw(z, uniform)
    np.testing.assert_array_equal(drawn["probabilities"], logistic_decoder(z).mean())
    assert drawn["images"].shape == drawn["probabilities"].shape == (4, 5, 3, 4, 3)
    np.testing.assert_array_equal(drawn["images"], LEVELS[np.rint(255 * drawn["images"].numpy()).astype(int)])
    # The mean of 4,000 draws of an image.
    many = tf.random.stateless_uniform([4000, 1, 3, 4, 3], [5, 6])
    images = logistic_decoder.draw(tf.tile(z[:1, :1], [4000, 1, 1]), many)["images"].numpy()
    error = images.std(axis=0) / np.sqrt(4000)
    assert (np.abs(images.mean(axis=0) - drawn["probabilities"][0, :1]) < 5 * error + 1e-3).all()


def priors_of_classes():
    """Priors of 2 latents given one of 3 classes, by name; their variables are drawn at random."""
    shape, network = (3, 3, 1), networks.Conditional(networks.mlp(1, 4))
    posterior = distributions.Posterior(network, 2)
    found = {
        "normal": distributions.ConditionalNormal(3, 2),
        "mixture": distributions.MixturePrior(4, 2, num_classes=3),
        "vamp": distributions.VampPrior(posterior, 7, 2, shape, num_classes=3),
        "maf": distributions.FlowPrior(flows.MaskedAutoregressiveFlow(2, 2, 8, context_size=3), 2),
        "realnvp": distributions.FlowPrior(flows.RealNVP(3, 2, 8, context_size=3), 2),
    }
    posterior(tf.zeros([1, *shape]), context=tf.zeros([1, 3]))
    generator = np.random.default_rng(0)
    for prior in found.values():
        for variable in prior.trainable_variables:
            value = generator.normal(0, 1.0, variable.shape)
            variable.assign(variable.constraint(value) if variable.constraint else value)  # of masked weights
    return found


@pytest.mark.parametrize("name", ["normal", "mixture", "vamp", "maf", "realnvp"])
def test_prior_of_classes_draws_as_its_densities_say(name):
    prior = priors_of_classes()[name]
    own, other = (prior(tf.one_hot(labels, 3)) for labels in ([0, 1, 2], [1, 2, 0]))
    rows = tf.one_hot(tf.repeat([0, 1, 2], 1000), 3)
    seeds = tf.stack([tf.fill([3000], 7), tf.range(3000)], axis=1)
    sample = tf.function(lambda rows, seeds: distributions.sample_each(prior(rows), seeds), reduce_retracing=True)
    each = sample(rows, seeds)
    for z in (own.sample(1000, seed=tf.constant([1, 2])), tf.transpose(tf.reshape(each, [3, 1000, 2]), [1, 0, 2])):
        assert z.shape == (1000, 3, 2)
        # With r = q / (p + q), draws from p have the mean of r that draws from q have of 1 - r, whatever p and q are.
        shares = []
        for points, sign in ((z, 1), (tf.roll(z, -1, axis=1), -1)):
            log_ratio = other.log_prob(points) - own.log_prob(points)
            assert log_ratio.shape == (1000, 3)
            shares.append(tf.sigmoid(sign * log_ratio).numpy().astype(np.float64))
        assert (shares[0].mean(axis=0) < 0.497).all()  # the class matters
        difference = shares[0].mean(axis=0) - shares[1].mean(axis=0)
        error = np.sqrt((shares[0].var(axis=0) + shares[1].var(axis=0)) / 1000)
        np.testing.assert_array_less(np.abs(difference), 4 * error)
    some = [5, 2345]
    alone = sample(tf.gather(rows, some), tf.gather(seeds, some))
    np.testing.assert_allclose(alone, tf.gather(each, some), rtol=1e-5)


def test_prior_of_classes_is_of_the_pseudo_images_of_the_class():
    prior = priors_of_classes()["vamp"]
    z = tf.constant([[0.3, -0.2]])
    posterior = prior.encoder(tf.clip_by_value(prior.pseudo_images[1::3], 0, 1), context=tf.one_hot([1, 1], 3))
    expected = tf.reduce_logsumexp(posterior.log_prob(z)) - np.log(2)  # of 7 the second and the fifth
    np.testing.assert_allclose(prior(tf.one_hot([1], 3)).log_prob(z)[0], expected, rtol=1e-5)


GIVEN = tf.constant([[1.0, -2.0], [0.5, 3.0]])
CORRELATED = tf.constant([[0.5, 0.0], [0.4, 2.0]])


@pytest.mark.parametrize(
    ("posterior", "stddev"),
    [
        (lambda x: tfd.Independent(tfd.Normal(GIVEN, 0.5), 1), [0.5, 0.5]),
        (lambda x: tfd.MultivariateNormalDiag(GIVEN, [0.5, 2.0]), [0.5, 2.0]),
        (lambda x: tfd.MultivariateNormalTriL(GIVEN, CORRELATED), [0.5, np.sqrt(0.4**2 + 4)]),
    ],
)
def test_code_of_any_gaussian_is_its_mean_and_variance(posterior, stddev):
    model = VAE(posterior, BernoulliDecoder(tf_keras.layers.Dense(9), (3, 3, 1)), StandardNormal(2), (3, 3, 1))
    noise = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    code = model.encode(tf.zeros([2, 3, 3, 1]), noise)
    np.testing.assert_allclose(code["mean"], GIVEN)
    np.testing.assert_allclose(code["log_variance"], np.tile(2 * np.log(stddev), [2, 1]), rtol=1e-6)
    scale = CORRELATED if isinstance(posterior(0), tfd.MultivariateNormalTriL) else tf.linalg.diag(stddev)
    np.testing.assert_allclose(code["z"], GIVEN + tf.transpose(tf.cast(scale, tf.float32)), rtol=1e-6)


def test_posterior_that_is_no_gaussian_has_no_code():
    laplace = tfd.Independent(tfd.Laplace(GIVEN, 1.0), 1)
    decoder = BernoulliDecoder(tf_keras.layers.Dense(9), (3, 3, 1))
    model = VAE(lambda x, training=False: laplace, decoder, StandardNormal(2), (3, 3, 1))
    x = tf.zeros([2, 3, 3, 1])
    assert np.isfinite(model.log_terms(x, 3, seed=tf.constant([0, 0])).log_posterior).all()
    for use in (lambda: model.encode(x), lambda: gap.amortized(model, x), lambda: model.log_terms_at(x, tf.zeros([1]))):
        with pytest.raises(UsageError, match=r"^[^\n]*this is a Laplace: have the encoder return tfd.Independent\("):
            use()
