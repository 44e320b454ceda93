"""`genmnist export --format=tflite|onnx`: the files, run by the interpreters that they are for."""

import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import cli, export, formats, models, runs, signatures
from keras_genmnist.errors import UsageError
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")  # its successor: another package
NAMES = ["vae", "vae_conv", "ladder", "pixelcnn"]


@pytest.fixture(scope="module")
def model():
    """An untrained model of a name, built once."""
    built = {}

    def of(name):
        if name not in built:
            built[name] = models.build(tiny.config(name))
            built[name].build_variables()
        return built[name]

    return of


def run_tflite(content, signature, **inputs):
    """What a signature of model.tflite gives."""
    return tf.lite.Interpreter(model_content=content).get_signature_runner(signature)(**inputs)


def run_onnx(content, **inputs):
    """What a file .onnx gives."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert {given.name for given in session.get_inputs()} == inputs.keys()
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))


@pytest.fixture
def tf2onnx():
    """Skips a test where the extra is not installed."""
    for name in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")


def arguments(model, digits):
    """Of each signature."""
    z = np.random.default_rng(0).normal(size=[3, getattr(model, "latent_size", 1)]).astype(np.float32)
    images = {"images": digits[:3]}
    return {"encode": images, "decode": {"z": z}, "elbo_at_mean": images, "log_likelihood": images}


def saved(model, name, given, digits):
    """What the SavedModel's signatures give for the same: `elbo_at_mean` by the equation, in float64."""
    own = signatures.of(model)
    if name == "log_likelihood":
        return {"log_likelihood": own["log_prob"](**given)["log_prob"]}
    if name == "decode":
        return own["decode_probabilities"](**given)
    posterior = own["encode"](images=tf.constant(digits[:3]))
    if name == "encode":
        return posterior
    x, p = digits[:3].astype(float), np.float64(own["decode_probabilities"](z=posterior["z"])["probabilities"])
    mean, log_variance = (np.float64(posterior[key]) for key in ("mean", "log_variance"))
    log_likelihood = np.sum(x * np.log(p) + (1 - x) * np.log1p(-p), axis=(1, 2, 3))
    kl = np.sum(mean**2 + np.exp(log_variance) - log_variance - 1, axis=1) / 2
    return {"elbo_at_mean": log_likelihood - kl}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Sums over 784 pixels are some hundred nats, in float32.
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tflite_computes_what_the_saved_model_does(name, model, digits):
    content, given = formats.tflite(model(name))["model.tflite"], arguments(model(name), digits)
    names = ["log_likelihood"] if name == "pixelcnn" else ["decode", "elbo_at_mean", "encode"]
    interpreter = tf.lite.Interpreter(model_content=content)
    assert sorted(interpreter.get_signature_list()) == names
    for signature in names:
        expected = saved(model(name), signature, given[signature], digits)
        if signature == "log_likelihood":  # of one image at a time
            rows = [run_tflite(content, signature, images=image[None]) for image in given[signature]["images"]]
            assert_equal({key: np.concatenate([row[key] for row in rows]) for key in rows[0]}, expected)
        else:
            assert_equal(run_tflite(content, signature, **given[signature]), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("tf2onnx")
@pytest.mark.parametrize("name", NAMES)
def test_onnx_computes_what_the_saved_model_does(name, model, digits):
    contents, given = formats.onnx(model(name)), arguments(model(name), digits)
    names = ["log_likelihood"] if name == "pixelcnn" else ["decode", "elbo_at_mean", "encode"]
    assert sorted(contents) == [f"{signature}.onnx" for signature in names]
    for signature in names:
        expected = saved(model(name), signature, given[signature], digits)
        assert_equal(run_onnx(contents[f"{signature}.onnx"], **given[signature]), expected)


def test_elbo_at_mean_is_the_elbo_without_noise(model, digits):
    # The oracle of the above; and it is not the ELBO of draws.
    own, given = signatures.portable(model("vae"))["elbo_at_mean"], {"images": tf.constant(digits[:3])}
    np.testing.assert_allclose(
        own(**given)["elbo_at_mean"], saved(model("vae"), "elbo_at_mean", given, digits)["elbo_at_mean"], rtol=1e-5
    )
    np.testing.assert_array_equal(own(**given)["elbo_at_mean"], own(**given)["elbo_at_mean"])


@pytest.mark.usefixtures("tf2onnx")
def test_labels_come_in_beside_images_and_latents(digits, labels):
    cvae = models.build(tiny.config("cvae", network="mlp", prior="normal"))
    cvae.build_variables()
    content = formats.onnx(cvae)["decode.onnx"]
    z, label = np.zeros([3, 2], np.float32), labels[:3].astype(np.int32)
    found = run_onnx(content, z=z, label=label)["probabilities"]
    expected = signatures.of(cvae)["decode_probabilities"](tf.constant(z), tf.constant(label))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-5) or label[0] == label[1]


@pytest.fixture
def stubbed(monkeypatch):
    """A conversion that takes no time."""
    monkeypatch.setitem(formats.FORMATS, "tflite", lambda model: {"model.tflite": b"converted"})


def test_format_is_written_beside_the_saved_model_and_numbered(run, tmp_path, stubbed):
    (tmp_path / "vae" / "1").mkdir(parents=True)
    for number in ("1", "2"):
        version = export.export(run, tmp_path, "tflite")
        assert version == tmp_path / "vae_tflite" / number
        assert (version / "model.tflite").read_bytes() == b"converted"
        record = json.loads((version / "genmnist.json").read_text())
        assert (record["model"], record["format"], record["config"]) == ("vae", "tflite", run.config.to_dict())
        assert sorted(path.name for path in version.iterdir()) == ["genmnist.json", "model.tflite"]
    assert sorted(path.name for path in (tmp_path / "vae_tflite").iterdir()) == ["1", "2"]
    assert [path.name for path in (tmp_path / "vae").iterdir()] == ["1"]


def test_conversion_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def refuse(model):
        raise UsageError("not this one")

    monkeypatch.setitem(formats.FORMATS, "tflite", refuse)
    with pytest.raises(UsageError, match="not this one"):
        export.export(run, tmp_path, "tflite")
    assert list(tmp_path.iterdir()) == []


def test_format_that_is_none_is_told_with_those_there_are(run, tmp_path):
    with pytest.raises(UsageError, match=r"^no format 'pickle': give savedmodel, tflite, onnx$"):
        export.export(run, tmp_path, "pickle")


@pytest.mark.usefixtures("tf2onnx")
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_model_that_only_draws_is_refused(format):
    model = models.build(tiny.config("masked_diffusion"))
    with pytest.raises(UsageError, match=f"^--format={format} has no place for random numbers.*format=savedmodel$"):
        formats.FORMATS[format](model)


def test_onnx_without_its_converter_says_how_to_get_it(monkeypatch, model):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    with pytest.raises(UsageError, match=r"pip install 'keras_genmnist\[onnx\]', or '\.\[onnx\]' in a clone$"):
        formats.onnx(model("vae"))


class WithGamma(tf.Module):
    """A model with an operation that neither format has."""

    autograph, takes_labels, has_encoder, has_latents = False, False, False, False
    likelihood, image_shape, weights = "exact", (4, 4, 1), ()

    def log_likelihood(self, x):
        return tf.math.igamma(1.0, tf.reduce_sum(x, axis=[1, 2, 3]))


@pytest.mark.usefixtures("tf2onnx")
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_operation_that_a_format_has_not_is_named(format, capfd):
    with pytest.raises(UsageError, match=f"^--format={format} cannot express this model's Igamma: give"):
        formats.FORMATS[format](WithGamma())
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("tf2onnx")
def test_signature_that_a_format_cannot_express_is_left_out_and_told(model, monkeypatch, capsys):
    monkeypatch.setattr(formats, "HANDLERS", {})
    assert sorted(formats.onnx(model("vae"))) == ["decode.onnx", "encode.onnx"]
    line = "the export is without elbo_at_mean: --format=onnx cannot express this model's"
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.usefixtures("tf2onnx")
def test_file_that_computes_something_else_is_refused(monkeypatch, model):
    def wrong(ctx, node, name, args):
        node.type = "Neg"

    monkeypatch.setattr(formats, "HANDLERS", {"Sigmoid": wrong})
    with pytest.raises(UsageError, match="cannot express what this model computes: give --format=savedmodel"):
        formats._onnx(signatures.portable(model("vae"))["decode"])


def test_command_line_takes_the_format(run, tmp_path, monkeypatch, capsys, stubbed):
    monkeypatch.chdir(tmp_path)
    cli.VERBS["export"]([f"--workdir={run.workdir}", "--format=tflite"])
    assert capsys.readouterr().out == "wrote exports/vae_tflite/1\n"
    assert runs.load(run.workdir).title == "vae"
    with pytest.raises(UsageError, match=r"savedmodel.*tflite.*onnx"):
        cli.VERBS["export"]([f"--workdir={run.workdir}", "--format=pickle"])
