import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from keras_genmnist import flows

tfd = tfp.distributions

FEATURES = np.random.default_rng(1).normal(size=[3, 5]).astype(np.float32)


def shaken(flow, *inputs, scale=0.4):
    """The bijector of `flow`, with its variables far from their start."""
    flow(*inputs)
    assert flow.trainable_variables
    generator = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        # Multiplied where not zero: a masked weight stays masked.
        noise = generator.normal(0, scale, variable.shape)
        masked = np.any(variable.numpy()) & (variable.numpy() == 0) & (len(variable.shape) == 2)
        variable.assign(np.where(masked, 0, noise))
    return flow(*inputs)


def bijectors(size):
    """Every flow for `size` latents, three images in its batch where it has one."""
    features = tf.constant(FEATURES)
    return {
        "planar": lambda: shaken(flows.PlanarFlow(3, size), features),
        "radial": lambda: shaken(flows.RadialFlow(3, size), features),
        "sylvester": lambda: shaken(flows.SylvesterFlow(2, size, size, 2), features),
        "sylvester_narrow": lambda: shaken(flows.SylvesterFlow(2, size, 1, 3), features),
        "iaf": lambda: shaken(flows.InverseAutoregressiveFlow(2, size, 7, context_size=4), features),
        "maf": lambda: shaken(flows.MaskedAutoregressiveFlow(2, size, 7)),
        "realnvp": lambda: shaken(flows.RealNVP(3, size, 7)),
    }


NAMES = sorted(bijectors(2))


def points(size):
    return tf.constant(np.random.default_rng(2).normal(size=[4, 3, size]), tf.float32)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_flow_inverts(name, size):
    bijector, z = bijectors(size)[name](), points(size)
    y = tf.identity(bijector.forward(z))  # another tensor: tfb remembers the inverse of its own
    assert np.abs(y - z).max() > 0.1
    # Roots and exponentials of several steps in float32.
    np.testing.assert_allclose(bijector.inverse(y), z, atol=5e-4)
    inverse_log_det = bijector.inverse_log_det_jacobian(tf.identity(y), event_ndims=1)
    np.testing.assert_allclose(inverse_log_det, -bijector.forward_log_det_jacobian(z, event_ndims=1), atol=5e-3)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_flow_log_det_is_that_of_the_autodiff_jacobian(name, size):
    bijector, z = bijectors(size)[name](), points(size)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        y = tf.unstack(bijector.forward(z), axis=-1)
    jacobian = tf.stack([tape.gradient(component, z) for component in y], axis=-2)
    expected = np.linalg.slogdet(jacobian.numpy().astype(np.float64)).logabsdet
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(z, event_ndims=1), expected, atol=5e-4)  # float32


@pytest.mark.parametrize("name", NAMES)
def test_flow_density_integrates_to_one(name):
    bijector = bijectors(2)[name]()
    axis = np.linspace(-12, 12, 121, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    base = tfd.MultivariateNormalDiag(tf.zeros([3 if bijector.experimental_batch_shape(1) == [3] else 1, 2]))
    density = tfd.TransformedDistribution(base, bijector).prob(tf.constant(grid))
    total = density.numpy().astype(np.float64).sum(axis=0) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(total, 1, atol=0.01)  # what the grid's step and its edges miss


@pytest.mark.parametrize("reverse", [False, True])
def test_autoregressive_network_sees_the_latents_before_and_no_others(reverse):
    made = flows._made(4, 16, reverse, context_size=3)
    z, context = tf.random.stateless_normal([6, 4], [1, 2]), tf.random.stateless_normal([6, 3], [3, 4])
    for output, parameter in itertools.product(range(4), range(2)):
        with tf.GradientTape() as tape:
            tape.watch([z, context])
            value = made(z, conditional_input=context)[:, output, parameter]
        of_z, of_context = tape.gradient(value, [z, context])
        before = range(output + 1, 4) if reverse else range(output)
        seen = [i for i in range(4) if (of_z[:, i] != 0).numpy().any()]
        assert seen == list(before)
        assert (of_context != 0).numpy().all()


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_posterior_flow_starts_as_the_identity(name):
    make = {"planar": flows.PlanarFlow, "radial": flows.RadialFlow}
    flow = make[name](4, 5) if name in make else flows.SylvesterFlow(4, 5, 3, 2)
    bijector, z = flow(tf.constant(FEATURES)), points(5)
    np.testing.assert_array_equal(bijector.forward(z), z)
    np.testing.assert_array_equal(bijector.forward_log_det_jacobian(z, event_ndims=1), tf.zeros([4, 3]))


def test_realnvp_starts_as_the_identity():
    bijector, z = flows.RealNVP(4, 5, 7)(), points(5)
    np.testing.assert_array_equal(bijector.forward(z), z)


def test_iaf_is_the_gate_of_the_paper():
    flow = flows.InverseAutoregressiveFlow(1, 3, 7, context_size=4)
    bijector, z = shaken(flow, tf.constant(FEATURES)), points(3)
    m, s = tf.unstack(flow.mades[0](z, conditional_input=flow.context(FEATURES)), axis=-1)
    gate = tf.sigmoid(s + flows.GATE_BIAS)
    np.testing.assert_allclose(bijector.forward(z), gate * z + (1 - gate) * m, rtol=1e-4, atol=1e-5)  # float32
    log_det = tf.reduce_sum(tf.math.log(gate), axis=-1)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(z, event_ndims=1), log_det, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 32])
def test_iaf_of_many_steps_starts_with_a_scale(steps):
    tf_keras.utils.set_random_seed(0)  # of the masked networks' weights: they move the scale a little
    z = tf.random.stateless_normal([1000, 4, 2], [1, 2])
    moved = flows.InverseAutoregressiveFlow(steps, 2, 32, context_size=16)(tf.eye(4)).forward(z)
    assert 0.5 < tf.math.reduce_std(moved) < 1


@pytest.mark.parametrize("flow", [flows.MaskedAutoregressiveFlow, flows.RealNVP])
def test_prior_flow_moves_every_latent_and_mixes_them(flow):
    bijector, z = shaken(flow(2, 4, 7)), points(4)
    assert (np.abs(bijector.forward(z) - z).max(axis=(0, 1)) > 0.01).all()


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_flow_is_finite_whatever_its_parameters(name, size):
    generator = np.random.default_rng(3)

    def normal(*shape):
        return tf.constant(size * generator.normal(size=shape), tf.float32)

    bijector = {
        "planar": lambda: flows.Planar(normal(3, 5), normal(3, 5), normal(3)),
        "radial": lambda: flows.Radial(normal(3, 5), normal(3), normal(3)),
        "sylvester": lambda: flows.Sylvester(normal(3, 2, 5), normal(3, 4, 4), normal(3, 4, 4), normal(3, 4)),
    }[name]()
    z = points(5)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y, log_det = bijector.forward(z), bijector.forward_log_det_jacobian(z, event_ndims=1)
        total = tf.reduce_sum(y) + tf.reduce_sum(log_det)
    for value in (y, log_det, tape.gradient(total, z)):
        assert np.isfinite(value).all()


def test_planar_flow_keeps_wu_above_minus_one():
    u, w = (tf.constant(np.random.default_rng(k).normal(0, 9, [100, 4]), tf.float32) for k in range(2))
    planar = flows.Planar(u, w, tf.zeros([100]))
    wu = tf.reduce_sum(planar.u * w, axis=-1).numpy()
    assert (tf.reduce_sum(u * w, axis=-1) < -1).numpy().any()
    assert (wu > -1).all()


def test_planar_maps_together_move_as_far_at_a_step_however_many_they_are():
    features = tf.nn.relu(tf.random.stateless_normal([50, 500], seed=[1, 2]))
    z = tf.random.stateless_normal([50, 40], seed=[3, 4])

    def distance(steps: int) -> float:
        tf_keras.utils.set_random_seed(1)
        flow = flows.PlanarFlow(steps, 40)
        flow(features)
        signs = np.sign(np.random.default_rng(0).normal(size=flow.directions.kernel.shape))
        flow.directions.kernel.assign_add(2e-3 * signs)  # a step of Adam
        return float(tf.reduce_mean(tf.norm(flow(features).forward(z) - z, axis=-1)))

    # Undivided by the root of the number of maps, the ratio would be above 2.
    assert distance(80) < 1.4 * distance(10)
