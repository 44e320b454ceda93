import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import networks


@pytest.fixture
def digits_like():
    return tf.random.stateless_uniform([3, 28, 28, 1], seed=[1, 2])


@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (3, 7)])
def test_mlp_flattens_to_its_hidden_size(shape):
    network = networks.mlp(2, 5)
    features = network(tf.ones(shape))
    assert features.shape == (3, 5)
    inputs = int(np.prod(shape[1:]))
    assert network.count_params() == (inputs + 1) * 5 + (5 + 1) * 5


def test_mlp_is_relu_layers_in_numpy():
    network = networks.mlp(2, 5)
    x = np.random.default_rng(0).normal(size=[3, 7]).astype(np.float32)
    network(x)
    network.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in network.get_weights()])
    hidden = x.astype(np.float64)
    first, second = network.get_weights()[:2], network.get_weights()[2:]
    for kernel, bias in (first, second):
        hidden = np.maximum(hidden @ kernel + bias, 0)
    np.testing.assert_allclose(network(x), hidden, rtol=1e-4, atol=1e-5)  # float32 sums that may cancel
    assert (hidden > 0).any() and (hidden == 0).any()


def test_mlp_batch_norm_centres_what_goes_into_the_relu():
    network = networks.mlp(1, 5, norm="batch")
    x = 3 + tf.random.stateless_normal([1000, 7], seed=[1, 2])
    before_relu = x
    for layer in network.layers[:-1]:
        before_relu = layer(before_relu, training=True)
    # Exact but for batch norm's epsilon of 1e-3 on a variance of about 1, and float32.
    np.testing.assert_allclose(tf.reduce_mean(before_relu, axis=0), np.zeros(5), atol=1e-4)
    np.testing.assert_allclose(tf.math.reduce_std(before_relu, axis=0), np.ones(5), atol=0.01)
    assert not network.layers[1].use_bias  # batch norm has its own


def test_mlp_layer_norm_centres_what_goes_into_the_relu():
    network = networks.mlp(1, 50, norm="layer")
    x = 3 + tf.random.stateless_normal([10, 7], seed=[1, 2])
    before_relu = network.layers[2](network.layers[1](x))
    np.testing.assert_allclose(tf.reduce_mean(before_relu, axis=1), np.zeros(10), atol=1e-5)
    np.testing.assert_allclose(network(x, training=True), tf.nn.relu(before_relu), rtol=1e-6)
    assert not network.layers[1].use_bias  # layer norm has its own


def test_residual_block_starts_as_the_identity():
    x = tf.random.stateless_normal([2, 5, 5, 3], seed=[1, 2])
    np.testing.assert_array_equal(networks.ResidualBlock(3)(x), x)


def test_residual_block_adds_two_convolutions_once():
    block = networks.ResidualBlock(3)
    x = tf.random.stateless_normal([2, 5, 5, 3], seed=[1, 2])
    block(x)
    block.set_weights([np.random.default_rng(0).normal(size=w.shape) for w in block.get_weights()])
    first, first_bias, second, second_bias = block.get_weights()
    hidden = tf.nn.conv2d(tf.nn.elu(x), first, 1, "SAME") + first_bias
    expected = x + tf.nn.conv2d(tf.nn.elu(hidden), second, 1, "SAME") + second_bias
    np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-3)  # float32 sums of 27 terms of size 100


def influence(network, x):
    """Which outputs depend on which inputs: sum of |Jacobian|, [outputs, inputs], at random weights."""
    network(x)
    network.set_weights(
        [0.1 * np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(network.get_weights())]
    )
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.reshape(network(x), [1, -1])
    jacobian = tape.jacobian(outputs, x)
    return np.abs(tf.reshape(jacobian, [outputs.shape[1], -1]))


SHAPES = [(28, 28, 1), (8, 8, 1), (9, 17, 3), (31, 40, 1), (64, 64, 1)]


@pytest.mark.parametrize(
    "shape, sizes",
    [
        ((28, 28, 1), [(28, 28), (14, 14), (7, 7)]),
        ((8, 8, 1), [(8, 8), (4, 4), (2, 2)]),
        ((9, 17, 3), [(9, 17), (5, 9), (3, 5)]),
        ((64, 64, 3), [(64, 64), (32, 32), (16, 16), (8, 8)]),
        ((65, 8, 1), [(65, 8), (33, 4), (17, 2), (9, 1), (5, 1)]),
    ],
)
def test_halved_sizes_end_where_no_side_is_longer_than_8_and_after_two_at_least(shape, sizes):
    assert networks.halved_sizes(shape) == sizes


@pytest.mark.parametrize("shape", SHAPES)
def test_conv_encoder_sees_every_pixel(shape):
    network = networks.conv_encoder(shape, channels=2, hidden_size=2)
    x = tf.random.stateless_uniform([3, *shape], seed=[1, 2])
    assert network(x).shape == (3, 2)
    assert (influence(network, x[:1]) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_conv_decoder_reaches_every_pixel_from_every_latent(shape):
    network = networks.conv_decoder(shape, channels=2, hidden_size=5)
    z = tf.random.stateless_normal([3, 4], seed=[1, 2])
    assert network(z).shape == (3, *shape)
    assert (influence(network, z[:1]) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_dcgan_generator_draws_images_of_the_shape(shape):
    network = networks.dcgan_generator(shape, channels=2, hidden_size=4)
    assert network(tf.random.stateless_normal([3, 4], [1, 2])).shape == (3, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_dcgan_discriminator_sees_every_pixel(shape):
    network = networks.dcgan_discriminator(shape, channels=2, hidden_size=4, norm="none")
    x = tf.random.stateless_uniform([3, *shape], seed=[1, 2])
    assert network(x).shape == (3, 1)
    assert (influence(network, x[:1]) > 0).all()


def test_conv_networks_treat_images_separately(digits_like):
    network = networks.conv_encoder(digits_like.shape[1:], channels=2, hidden_size=5)
    # One row or three: a matrix product may round differently.
    np.testing.assert_allclose(network(digits_like)[:1], network(digits_like[:1]), rtol=1e-4, atol=1e-6)


def test_conditional_network_sees_the_context_beside_its_first_dense_layer():
    plain = networks.conv_encoder((8, 8, 1), 2, 5)
    network = networks.Conditional(networks.conv_encoder((8, 8, 1), 2, 5))
    x, context = tf.random.stateless_uniform([3, 8, 8, 1], seed=[1, 2]), tf.one_hot([0, 1, 1], 2)
    plain(x), network(x, context)
    kernel, features = network.after.layers[0].kernel, network.before(x)
    assert kernel.shape[0] == features.shape[1] + 2  # the context is told once, not at every pixel
    assert network.count_params() == plain.count_params() + 2 * 5
    hidden = features @ kernel[:-2] + tf.gather(kernel[-2:], [0, 1, 1])
    np.testing.assert_allclose(network(x, context), tf.nn.elu(hidden), atol=1e-5)


def test_context_is_folded_with_the_values_it_belongs_to():
    z = tf.reshape(tf.range(24.0), [2, 3, 4])
    values, context = networks.folded(z, tf.one_hot([0, 1, 1], 2))
    assert values.shape == (6, 4)
    np.testing.assert_array_equal(context, tf.one_hot([0, 1, 1, 0, 1, 1], 2))
    (alone,) = networks.folded(z)
    np.testing.assert_array_equal(alone, values)


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 6, 3), (2, 3, 1)])
def test_u_net_sees_the_whole_image_and_knows_where_it_is(shape):
    network = networks.UNet(shape, features=4, num_blocks=1, hidden_size=8, outputs=2)
    x = tf.zeros([1, *shape])
    start = network(x)
    assert start.shape == (1, *shape[:2], 2)
    assert len(np.unique(start)) > shape[0] * shape[1]  # of an image that is the same everywhere
    generator = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        corner = network(x)[0, 0, 0, 0]
    assert (tape.gradient(corner, x).numpy() != 0).all()


def test_u_net_starts_without_its_branches(digits_like):
    network = networks.UNet((28, 28, 1), features=4, num_blocks=2, hidden_size=8, outputs=1)
    start = network(digits_like).numpy()
    for branch in (*network.down, *network.up):
        for block in branch.layers:
            block.first.kernel.assign(100 * block.first.kernel)
    network.whole.layers[2].kernel.assign(100 * network.whole.layers[2].kernel)
    np.testing.assert_array_equal(network(digits_like), start)


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 6, 3)])
def test_u_net_hears_a_context_everywhere_and_is_the_same_without(shape):
    told = networks.UNet(shape, features=4, num_blocks=1, hidden_size=8, outputs=2, takes_context=True)
    context = tf.constant([[0.5, -0.5, 1.0], [0.0, 2.0, 1.0]])
    x = tf.zeros([2, *shape])
    first, second = told(x, context)
    assert (first != second).numpy().all()  # from the start, though the residual branches are silent
    # What the context adds comes last: a checkpoint of a network without fits the others.
    untold = networks.UNet(shape, features=4, num_blocks=1, hidden_size=8, outputs=2)
    untold(x)
    own = [weight.shape for weight in untold.weights]
    assert [weight.shape for weight in told.weights][: len(own)] == own and len(told.weights) > len(own)
    for ours, theirs in zip(untold.weights, told.weights, strict=False):
        ours.assign(theirs)
    for part in (told.hear, *told.tell):
        part.set_weights([np.zeros_like(value) for value in part.get_weights()])
    np.testing.assert_array_equal(told(x, context), untold(x))
    levels = len(told.halve)
    for part in told.tell:  # each is heard
        part.bias.assign(part.bias + 1)
        assert (told(x, context) != untold(x)).numpy().all()
        part.bias.assign(part.bias - 1)
    assert len(told.tell) == 2 * levels
