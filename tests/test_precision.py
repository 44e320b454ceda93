"""Mixed precision: networks of 16 bits in training, and 32 for all that is said of an image."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import config as configs
from keras_genmnist import evaluate, export, models, precision, runs, training
from keras_genmnist.autoregressive import GatedPixelCNN
from keras_genmnist.datasets.spec import DatasetSpec
from keras_genmnist.errors import UsageError
from tests import tiny

# 9 x 9, so that what doubling a rounded size adds is cut off; several of these options in one model.
SPEC = DatasetSpec("patterns", (9, 9, 1), 3)
MODELS = {
    "vae": {"norm": "batch", "posterior": "iaf", "prior": "realnvp", "class_conditional": True},
    "vae_conv": {"norm": "layer", "prior": "vamp", "latent_size": 3},
    "pixelvae": {"prior": "maf"},
    "ladder": {"dropout": 0.3, "bottom_up_noise": 0.1},
    "pixelcnn": {"attention_every": 1, "attention_heads": 2, "features": 4, "patch_size": 2, "position_features": 2},
    "gan": {"loss": "wasserstein_gp", "gradient_penalty": 1.0, "discriminator_norm": "none"},
    "masked_diffusion": {},
    "flow_matching": {"class_conditional": True},
    "vqvae": {"rate_weight": 0.5, "num_codes": 300, "position_features": 2},
}
OTHERS = {
    "dcgan": {"discriminator_norm": "spectral"},
    "cgan": {"discriminator_norm": "spectral"},
    "hvae": {"norm": "batch"},
    "semi_amortized": {},
    "planar": {},
    "sylvester": {},
    "vae_best": {},
}
# What has to have the digits and the range of float32.
WHOLE = {"Exp", "Log", "Log1p", "Softplus", "Softmax", "LogSoftmax", "Expm1", "Rsqrt", "Sqrt", "Cumsum", "Erfinv"}
WHOLE |= {"SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits", "ArgMin", "AssignVariableOp"}
PRODUCTS = {"Conv2D", "MatMul", "_FusedMatMul", "BatchMatMulV2", "Conv2DBackpropInput"}


def built(name: str, policy: str, **changes) -> models.GenerativeModel:
    """A tiny model, ready to be trained by the policy."""
    config = tiny.config(name, precision=policy, batch_size=12, **changes)
    model = models.build(config, SPEC)
    optimizers = {o: precision.optimizer(tf_keras.optimizers.Adam(1e-2), policy) for o in model.optimized}
    model.compile(**optimizers, seed=1)
    for optimizer, variables in model.optimized.items():
        optimizers[optimizer].build(variables)
    return model


def batch_for(model: models.GenerativeModel):
    shapes = np.zeros([12, *SPEC.image_shape], np.float32)
    for number, image in enumerate(shapes):
        image[number % 3 : 4 + number % 4, 2 : 5 + number % 3] = 1
    return (shapes, np.arange(12) % 3) if model.takes_labels else shapes


def nodes(function) -> list[tuple[str, set[int]]]:
    """The operations of a traced function and of those that it calls, each with the types that it names."""
    graph = function.graph.as_graph_def()
    found = [*graph.node, *(node for own in graph.library.function for node in own.node_def)]
    return [(node.op, {node.attr[name].type for name in ("T", "dtype") if name in node.attr}) for node in found]


def assert_near(name: str, **changes) -> None:
    half = tf.bfloat16.as_datatype_enum
    logs = {}
    for policy in ("float32", "mixed_bfloat16"):
        model = built(name, policy, **changes)
        step, batch = (
            tf.function(model.train_step, autograph=False),
            tf.nest.map_structure(tf.constant, batch_for(model)),
        )
        ops = nodes(step.get_concrete_function(batch))
        of_half = {op for op, types in ops if half in types}
        assert bool(of_half & PRODUCTS) == (policy == "mixed_bfloat16")
        assert not of_half & WHOLE
        assert {weight.dtype for weight in model.weights} == {tf.float32}
        rows = []
        for _ in range(2):
            model.reset_metrics()
            rows.append({key: float(value) for key, value in step(batch).items()})
        logs[policy] = rows
    for own, expected in zip(*logs.values(), strict=True):
        assert all(map(math.isfinite, own.values()))
        loss = {key: value for key, value in expected.items() if key not in ("accuracy", "perplexity")}
        # 8 bits of each number, and sums of many; after one step, of which the optimizer takes the signs.
        assert {key: own[key] for key in loss} == pytest.approx(loss, rel=0.03, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_step_in_16_bits_is_near_that_in_32(name):
    assert_near(name, **MODELS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_step_of_other_models_in_16_bits_is_near_that_in_32(name):
    assert_near(name, **OTHERS[name])


def test_every_model_is_tried():
    tried = {configs.load(name).model for name in MODELS}
    assert tried == set(models.names()) - {"average", "mixture"}  # which are made of trained ones


@pytest.mark.parametrize("options", [{}, {"patch_size": 2}, {"num_codes": 5}])
def test_pixels_drawn_in_16_bits_have_the_probabilities_of_one_pass(options):
    with precision.of_networks("mixed_bfloat16"):
        network = GatedPixelCNN(2, 8, 3, 5, attention_every=1, attention_heads=2, **options)
    places = tf.random.stateless_normal([1, 6, 6, 3], [0, 1])
    context = [
        tf.random.stateless_normal([4, 1, 1, 2], [0, 2]),
        places[:, ::2, ::2] if "patch_size" in options else places,
    ]
    network(tf.zeros([4, 6, 6, 1]), context)
    generator = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(generator.normal(0, 0.6, weight.shape))  # so that what is before a pixel matters
    uniform = tf.random.stateless_uniform([4, 6, 6, 1], [0, 3])
    drawn = tf.function(network.draw, autograph=False)(uniform, context)
    assert {part.dtype for part in drawn.values()} == {tf.float32}
    if "num_codes" in options:
        expected = tf.exp(network.log_prob(drawn["images"], context))
    else:
        expected = network.probabilities(drawn["images"], context)
    assert np.std(expected) > 0.1
    # Sums of a hundred numbers of 8 bits, in another order: a few are far apart, as the logits are large.
    assert np.abs(drawn["probabilities"] - expected).mean() < 0.02


def test_gradients_below_float16_are_those_of_a_multiple_of_the_loss():
    x = tf.Variable(1.0)
    plain = tf_keras.optimizers.Adam()
    scaled = precision.optimizer(tf_keras.optimizers.Adam(), "mixed_float16")

    def of(*optimizers):
        with tf.GradientTape() as tape:
            loss = 1e-3 * tf.cast(tf.cast(x, tf.float16) * tf.constant(1e-6, tf.float16), tf.float32) * 1e-3
        return precision.gradients(tape, loss, {"a": [x]}, *optimizers)["a"][0].numpy()

    assert of(plain) == of() == 0
    assert of(plain, scaled) == pytest.approx(1e-12, rel=0.1)
    assert precision.optimizer(plain, "mixed_bfloat16") is precision.optimizer(plain, "float32") is plain


def test_float16_trains_and_leaves_out_a_step_that_overflows():
    model = built("vae", "mixed_float16", norm="none")
    x = batch_for(model)
    before = [weight.numpy() for weight in model.trainable_variables]
    scale = float(model.optimizer.loss_scale)
    model.optimizer._loss_scale.current_loss_scale.assign(2.0**40)  # no float16
    model.train_step(x)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert float(model.optimizer.loss_scale) == 2.0**39
    model.optimizer._loss_scale.current_loss_scale.assign(scale)
    first = float(model.train_step(x)["elbo"])
    model.reset_metrics()
    for _ in range(20):
        model.train_step(x)
    assert float(model.averages["elbo"].result()) > first + 5


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_run_in_16_bits_resumes_exactly_and_is_scored_and_exported_in_32(policy, tmp_path):
    def begun(name):
        run = tiny.begin_small(tmp_path / name, "vae", norm="batch", precision=policy)
        run.config.update({"epochs": 2, "latent_size": 3})
        runs.record(run)
        return run

    run, other = begun("run"), begun("other")
    tiny.train(run)
    training.train(other, 0.0, enough=lambda rows: len(rows) == 1)
    tiny.train(runs.load(other.workdir))
    assert tiny.variables(run.checkpoints) == tiny.variables(other.checkpoints)

    model = runs.load_model(run)
    assert {layer.compute_dtype for layer in model.submodules if isinstance(layer, tf_keras.layers.Layer)} == {
        "float32"
    }
    whole = models.build(tiny.config("vae", norm="batch", latent_size=3), runs.load(run.workdir).spec)
    for weight, value in zip(whole.weights, model.weights, strict=True):
        weight.assign(value)
    x = (np.random.default_rng(0).random([5, 8, 8, 1]) > 0.5).astype(np.float32)
    np.testing.assert_array_equal(model.log_likelihood(x, num_draws=3), whole.log_likelihood(x, num_draws=3))
    assert evaluate.draw(model, 3)["images"].dtype == np.float32

    signatures = tf.saved_model.load(str(export.export(run, tmp_path / "exports"))).signatures
    for signature in signatures.values():
        for output in signature.structured_outputs.values():
            assert output.dtype in (tf.float32, tf.int32, tf.int64, tf.string)


def test_unknown_precision_and_what_it_does_not_go_with_are_one_line():
    with pytest.raises(UsageError, match=r"^config\.precision='mixed_bfloat32' is not known; did you mean mixed_bfl"):
        models.build(tiny.config("vae", precision="mixed_bfloat32"))
    with pytest.raises(UsageError, match=r"config\.gradient='stl' does not go with config\.precision='mixed_float16'"):
        models.build(tiny.config("vae", precision="mixed_float16", gradient="stl"))
