"""The gated PixelCNN: what each pixel sees, and drawing from it with and without caches."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist.autoregressive import GatedPixelCNN

SHAPE = (6, 5)


def randomised(network: GatedPixelCNN, context=None) -> GatedPixelCNN:
    """The network with weights large enough that every path through it counts."""
    network(tf.zeros([1, *SHAPE, network.patches.channels]), context)
    generator = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    return network


@pytest.fixture(params=[(1, 3), (3, 3), (2, 5)], ids=lambda sizes: f"{sizes[0]} layers of {sizes[1]}")
def network(request):
    layers, size = request.param
    return randomised(GatedPixelCNN(layers, features=16, size=size, first_size=7))


def jacobian(network, x, context=None) -> np.ndarray:
    """d logits / d x as a matrix, pixels in raster order and the channels of each side by side."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = network(x, context)
    return tf.reshape(tape.jacobian(logits, x), [tf.size(x)] * 2).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_sees_exactly_the_pixels_before_it(channels):
    # Reach 3 + 2 + 2 + 2: more than the image has rows and columns.
    network = randomised(GatedPixelCNN(4, features=16, size=5, first_size=7, channels=channels))
    slopes = jacobian(network, tf.random.stateless_uniform([1, *SHAPE, channels], seed=[1, 2])) != 0
    before = np.tri(SHAPE[0] * SHAPE[1], k=-1, dtype=bool)
    np.testing.assert_array_equal(slopes, np.kron(before, np.ones([channels, channels], bool)))


def test_pixel_never_sees_itself_or_a_later_one(network):
    slopes = jacobian(network, tf.random.stateless_uniform([1, *SHAPE, 1], seed=[1, 2]))
    np.testing.assert_array_equal(np.triu(slopes), np.zeros_like(slopes))
    assert (slopes != 0).sum() > SHAPE[0] * SHAPE[1]


# Patches that cut the image, attention after every layer or the last, and both.
KINDS = {
    "patches": {"patch_size": 2},
    "attention": {"attention_every": 1, "attention_heads": 2},
    "both": {"patch_size": 2, "attention_every": 2},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_place_sees_the_places_before_it_and_with_attention_all_of_them(options):
    network = randomised(GatedPixelCNN(2, features=16, size=3, first_size=3, **options))
    x = tf.random.stateless_uniform([1, *SHAPE, 1], seed=[1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = network(x)
    slopes = tape.jacobian(logits, x).numpy()[0, :, :, :, 0, :, :, 0]  # [R, S, L, H, W]
    rows, columns = slopes.shape[:2]
    size = options.get("patch_size", 1)
    order = np.arange(rows * columns).reshape(rows, columns)
    of_pixel = order.repeat(size, axis=0).repeat(size, axis=1)[: SHAPE[0], : SHAPE[1]]
    sees = (slopes != 0).any(axis=2)
    before = of_pixel < order[..., None, None]
    assert not (sees & ~before).any()
    if "attention_every" in options:
        # A key knows what is before its place: the last place of the row above is left to the kernels.
        missed = np.argwhere(before & ~sees)
        assert len(missed) < 0.05 * before.sum()
        assert all(
            of_pixel[h, w] // columns == i - 1 and of_pixel[h, w] % columns == columns - 1 for i, _, h, w in missed
        )


def naive_sample(network, uniform, context=None) -> np.ndarray:
    """One full pass a place."""
    x, patches = np.zeros_like(uniform), network.patches
    numbers = patches.split(tf.constant(uniform), outside=2.0)
    for i, j in np.ndindex(*numbers.shape[1:3]):
        drawn = np.zeros(numbers.shape, np.float32)
        drawn[:, i, j] = patches.draw(network(x, context)[:, i, j], numbers[:, i, j])[0]
        x += patches.join(tf.constant(drawn), *SHAPE).numpy()
    return x


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_cached_sampling_of_patches_and_attention_draws_the_bits_of_naive_sampling(options):
    contexts = [tf.random.stateless_normal(shape, seed=[5, 6]) for shape in ([20, 1, 1, 2], [1, 6, 5, 3])]
    if "patch_size" in options:
        contexts[1] = contexts[1][:, :3, :3]
    network = GatedPixelCNN(3, features=16, size=3, first_size=5, **options)
    randomised(network, [contexts[0][:1], contexts[1]])
    uniform = np.random.default_rng(1).random([20, *SHAPE, 1]).astype(np.float32)
    drawn = tf.function(network.draw)(tf.constant(uniform), contexts)
    images = drawn["images"].numpy()
    np.testing.assert_array_equal(images, naive_sample(network, uniform, contexts))
    np.testing.assert_allclose(drawn["probabilities"], network.probabilities(images, contexts), atol=1e-5)
    assert len(np.unique(images.reshape(20, -1), axis=0)) > 10


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_sampling_is_traced_for_any_number_of_images(options):
    network = randomised(GatedPixelCNN(3, features=16, size=3, first_size=5, **options))
    any_number = [tf.TensorSpec([None, *SHAPE, 1])]
    traced = tf.function(network.draw, any_number, autograph=False).get_concrete_function()  # raises where it is not
    assert {name: shape[1:] for name, shape in traced.output_shapes.items()} == dict.fromkeys(
        ("images", "probabilities"), tf.TensorShape([*SHAPE, 1])
    )


def test_context_in_parts_counts_as_one_of_all_their_features():
    parts = [tf.random.stateless_normal(shape, seed=[5, 6]) for shape in ([2, 1, 1, 4], [1, *SHAPE, 3])]
    whole = tf.concat([tf.broadcast_to(part, [2, *SHAPE, part.shape[-1]]) for part in parts], axis=-1)
    network = randomised(GatedPixelCNN(2, features=16, size=3, first_size=5), whole)
    x = tf.random.stateless_uniform([2, *SHAPE, 1], seed=[1, 2])
    np.testing.assert_allclose(network(x, parts), network(x, whole), atol=1e-4)


CONTEXTS = {"none": None, "vector": [20, 1, 1, 4], "map": [20, *SHAPE, 4]}


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_cached_sampling_draws_the_bits_of_naive_sampling(kind, channels):
    context = CONTEXTS[kind] and tf.random.stateless_normal(CONTEXTS[kind], seed=[5, 6])
    network = GatedPixelCNN(3, features=16, size=3, first_size=5, channels=channels)
    randomised(network, None if context is None else context[:1])
    uniform = np.random.default_rng(1).random([20, *SHAPE, channels]).astype(np.float32)
    expected = naive_sample(network, uniform, context)
    for draw in (network.draw, tf.function(network.draw)):
        np.testing.assert_array_equal(draw(tf.constant(uniform), context)["images"], expected)
    assert 0.1 < expected.mean() < 0.9
    assert len(np.unique(expected.reshape(20, -1), axis=0)) == 20


def test_context_reaches_every_pixel():
    context = tf.random.stateless_normal([1, 1, 1, 4], seed=[5, 6])
    network = randomised(GatedPixelCNN(2, features=16, size=3, first_size=5), context)
    x = tf.zeros([1, *SHAPE, 1])
    assert (network(x, context) != network(x, -context)).numpy().all()
    assert (network(x, context) != network(x)).numpy().all()


def test_map_of_context_is_used_at_its_place():
    context = np.zeros([1, *SHAPE, 4], np.float32)
    context[0, 4, 2] = 1
    network = randomised(GatedPixelCNN(1, features=16, size=3, first_size=3), tf.constant(context))
    x = tf.zeros([1, *SHAPE, 1])
    changed = (network(x, tf.constant(context)) != network(x, tf.zeros_like(context))).numpy()[0, ..., 0]
    assert changed[4, 2]  # across
    assert changed[5, 2]  # through the row above
    assert changed.sum() == 2


@pytest.mark.slow
def test_sampling_arithmetic_is_that_of_a_pass_or_two():
    """Multiplications of the compiled graphs, from the kernels' shapes and how often each runs."""
    network = GatedPixelCNN(6, features=8, size=3, first_size=7)
    uniform = tf.random.stateless_uniform([2, 14, 14, 1], seed=[1, 2])
    network(uniform)
    calls = {"seen": 0, "left": 0}
    see_rows, step = type(network.gated[1]).see_rows, type(network.gated[1]).step_of_place

    class Counted(type(network.gated[1])):
        def see_rows(self, rows):
            calls["seen"] += (rows.shape[1] - self.reach) * rows.shape[2]
            return see_rows(self, rows)

        def step_of_place(self, window, above):
            calls["left"] += above.shape[1] * above.shape[2]
            return step(self, window, above)

    for layer in network.gated:
        layer.__class__ = Counted
    tf.config.run_functions_eagerly(True)
    network.draw(uniform)
    tf.config.run_functions_eagerly(False)
    # As many places as one pass has: 196 in each of six layers.
    assert calls == {"seen": 6 * 196, "left": 6 * 196}


def test_network_overfits_one_image():
    network = GatedPixelCNN(3, features=8, size=3, first_size=5)
    x = tf.cast(tf.random.stateless_uniform([1, *SHAPE, 1], seed=[1, 2]) < 0.5, tf.float32)
    optimizer = tf_keras.optimizers.Adam(1e-2)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x, network(x)))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, network.trainable_variables), network.trainable_variables, strict=True)
        )
        return loss

    network(x)
    variables = [w for layer in (*network.gated, network.head) for w in layer.trainable_variables]
    assert len(network.trainable_variables) == len(variables)  # no context was ever seen: no weights for it
    optimizer.build(network.trainable_variables)
    for _ in range(300):
        loss = step()
    assert loss < 0.1 * SHAPE[0] * SHAPE[1] * np.log(2)


def test_no_gradient_is_that_of_a_strided_slice():
    # TensorFlow's is slow: it took a fifth of a training.
    network = GatedPixelCNN(2, features=4, size=3, first_size=3, attention_every=2)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(x))
        return tape.gradient(loss, network.trainable_variables)

    graph = gradients.get_concrete_function(tf.zeros([1, *SHAPE, 1])).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert "Conv2DBackpropInput" in kinds and "StridedSliceGrad" not in kinds
