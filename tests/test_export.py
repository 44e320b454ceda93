import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_genmnist import export, files, models, runs, signatures
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.signatures import CHUNK, MAX_SAMPLES
from tests import tiny

# Loads an export in a process without this package, TFP and Keras, as a server would, and calls every signature with
# the arguments in inputs.npz ("signature/argument"); writes "signature/output" to outputs.npz.  Then asks for 3 million
# digits and writes the bytes by which that raised the process's peak memory.
CONSUMER = """
import resource
import sys
for module in ("keras_genmnist", "tensorflow_probability", "tf_keras"):
    sys.modules[module] = None  # importing it raises
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
signatures = tf.saved_model.load(folder).signatures
given = np.load(inputs)
results = {}
for name, function in signatures.items():
    arguments = {key.split("/")[1]: tf.constant(given[key]) for key in given if key.split("/")[0] == name}
    results |= {f"{name}/{key}": value.numpy() for key, value in function(**arguments).items()}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(5):  # what a graph leaves unordered may happen to run in the right order
    try:
        signatures["sample"](num_samples=tf.constant(3 * 10**6), seed=tf.constant(1))
    except tf.errors.InvalidArgumentError:
        rise = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
np.savez(outputs, **results, rise=rise)
"""


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def inputs(digits):
    """Arguments of every signature."""
    z1, z2 = np.random.default_rng(0).normal(size=[2, 3, 2]).astype(np.float32)
    seeds = np.array([4, 5, 6], np.int32)
    return {
        "serving_default": {"seed": seeds},
        "sample_rows": {"seed": seeds},
        "sample": {"num_samples": np.int32(4), "seed": np.int32(7)},
        "decode": {"z": z1},
        "decode_probabilities": {"z": z1},
        "encode": {"images": digits},
        "encode_draw": {"images": digits, "seed": np.arange(len(digits), dtype=np.int32)},
        "reconstruct": {"images": digits},
        "interpolate": {"z1": z1, "z2": z2, "alphas": np.array([0, 0.25, 1], np.float32)},
        "elbo": {"images": digits, "seed": np.int32(8)},
        "log_likelihood": {"images": digits, "num_draws": np.int32(3), "seed": np.int32(8)},
    }


@pytest.fixture(scope="module")
def expected(run, inputs):
    """What the run's own signatures give."""
    own = signatures.of(runs.load_model(run))
    own["serving_default"] = own["sample_rows"]
    return {
        name: {key: value.numpy() for key, value in own[name](**arguments).items()}
        for name, arguments in inputs.items()
    }


def test_export_has_the_documented_outputs(expected):
    assert {name: set(outputs) for name, outputs in expected.items()} == {
        "serving_default": {"images", "probabilities", "png_bytes"},
        "sample_rows": {"images", "probabilities", "png_bytes"},
        "sample": {"images", "probabilities", "png_bytes"},
        "decode": {"probabilities", "png_bytes"},
        "decode_probabilities": {"probabilities"},
        "encode": {"mean", "log_variance", "z"},
        "encode_draw": {"mean", "log_variance", "z"},
        "reconstruct": {"probabilities", "png_bytes"},
        "interpolate": {"probabilities", "png_bytes"},
        "elbo": {"elbo", "kl", "reconstruction"},
        "log_likelihood": {"log_likelihood", "bound", "ess"},
    }


@pytest.fixture(scope="module")
def outputs_elsewhere(exported, inputs, tmp_path_factory):
    """What a process without the package writes."""
    folder = tmp_path_factory.mktemp("elsewhere")
    np.savez(
        folder / "inputs.npz", **{f"{n}/{key}": value for n, given in inputs.items() for key, value in given.items()}
    )
    command = [sys.executable, "-c", CONSUMER, exported, "inputs.npz", "outputs.npz"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with np.load(folder / "outputs.npz", allow_pickle=True) as outputs:  # PNG files are byte strings, Python objects
        return dict(outputs)


@pytest.mark.slow
def test_export_equals_the_run_in_a_process_without_the_package(outputs_elsewhere, expected):
    names = {f"{name}/{key}" for name, values in expected.items() for key in values}
    assert outputs_elsewhere.keys() == names | {"rise"}
    for full in names:
        name, key = full.split("/")
        np.testing.assert_array_equal(outputs_elsewhere[full], expected[name][key], err_msg=full)


def test_export_refuses_too_many_samples_before_it_allocates(outputs_elsewhere):
    # Seeds and generator keys of 3 million digits would be hundreds of MB.
    assert outputs_elsewhere["rise"] < 100e6


@pytest.fixture(scope="module")
def session_call(exported):
    """Calls a signature in a graph and a Session, as TensorFlow Serving does."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported))

    def call(name, arguments):
        signature = meta.signature_def[name]
        feeds = {signature.inputs[key].name: value for key, value in arguments.items()}
        return session.run({key: output.name for key, output in signature.outputs.items()}, feeds)

    yield call
    session.close()


def test_export_equals_the_run_in_a_session(session_call, inputs, expected):
    for name, arguments in inputs.items():
        outputs = session_call(name, arguments)
        assert outputs.keys() == expected[name].keys()
        for key, value in outputs.items():
            np.testing.assert_array_equal(value, expected[name][key], err_msg=f"{name}/{key}")


def test_export_serves_sample_rows_by_default(expected):
    for key, value in expected["serving_default"].items():
        np.testing.assert_array_equal(value, expected["sample_rows"][key])


def test_export_sample_rows_of_three_equal_three_single_calls(loaded, expected):
    function = loaded.signatures["sample_rows"]
    whole = expected["sample_rows"]
    for row, seed in enumerate([4, 5, 6]):
        single = {key: value.numpy() for key, value in function(seed=tf.constant([seed])).items()}
        np.testing.assert_array_equal(single["images"][0], whole["images"][row])
        # One row or three: a matrix product may round differently, by a few units in the last place.
        np.testing.assert_allclose(single["probabilities"][0], whole["probabilities"][row], atol=1e-6)
    assert len(np.unique(whole["images"].reshape(3, -1), axis=0)) == 3


def test_export_sample_depends_on_the_seed_alone(loaded):
    function = loaded.signatures["sample"]

    def sample(num_samples, seed):
        return function(num_samples=tf.constant(num_samples), seed=tf.constant(seed))["images"].numpy()

    np.testing.assert_array_equal(sample(5, 1), sample(5, 1))
    np.testing.assert_array_equal(sample(5, 1)[:2], sample(2, 1))
    assert not np.array_equal(sample(5, 1), sample(5, 2))
    assert np.unique(sample(5, 1)).tolist() == [0, 1]


def test_export_png_bytes_show_the_probabilities(expected):
    for name, outputs in expected.items():
        if "png_bytes" in outputs:
            files, probabilities = outputs["png_bytes"], outputs["probabilities"]
            assert files.shape == probabilities.shape[:-3], name
            first = (0,) * files.ndim
            # One of 255 levels: half a level off at most, and one for how the half is rounded.
            np.testing.assert_allclose(tf.io.decode_png(files[first]) / 255, probabilities[first], atol=1 / 255)


def test_export_interpolates_from_z2_to_z1(inputs, expected, loaded):
    path, given = expected["interpolate"]["probabilities"], inputs["interpolate"]
    for place, z in ((0, "z2"), (2, "z1")):
        decoded = loaded.signatures["decode"](z=tf.constant(given[z]))["probabilities"]
        np.testing.assert_allclose(path[:, place], decoded, atol=1e-6)  # other numbers of rows: rounding


def test_export_elbo_is_its_terms(expected):
    outputs = expected["elbo"]
    np.testing.assert_allclose(outputs["elbo"], outputs["reconstruction"] - outputs["kl"], rtol=1e-6)  # float32


OUT_OF_RANGE = f"num_samples is out of range: give 1 to {MAX_SAMPLES}"


@pytest.mark.parametrize("num_samples", [-1, 0, MAX_SAMPLES + 1])
def test_export_caps_num_samples(loaded, session_call, num_samples):
    arguments = {"num_samples": np.int32(num_samples), "seed": np.int32(1)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=OUT_OF_RANGE):
        loaded.signatures["sample"](**{key: tf.constant(value) for key, value in arguments.items()})
    with pytest.raises(tf.errors.InvalidArgumentError, match=OUT_OF_RANGE):
        session_call("sample", arguments)


@pytest.mark.parametrize("rows", [0, MAX_SAMPLES + 1])
def test_export_caps_sample_rows(loaded, rows):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"seeds is out of range: give 1 to {MAX_SAMPLES}"):
        loaded.signatures["sample_rows"](seed=tf.zeros([rows], tf.int32))


@pytest.mark.parametrize("signature", ["decode", "decode_probabilities"])
@pytest.mark.parametrize("rows", [0, MAX_SAMPLES + 1])
def test_export_caps_decoded_rows(loaded, rows, signature):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"rows of z is out of range: give 1 to {MAX_SAMPLES}"):
        loaded.signatures[signature](z=tf.zeros([rows, 2]))


def test_export_caps_interpolated_images(loaded):
    z = tf.zeros([2, 2])
    interpolate = loaded.signatures["interpolate"]
    assert interpolate(z1=z, z2=z, alphas=tf.zeros([3]))["png_bytes"].shape == [2, 3]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"alphas is out of range: give 1 to {MAX_SAMPLES}"):
        interpolate(z1=z, z2=z, alphas=tf.zeros([MAX_SAMPLES // 2 + 1]))
    for z1, z2, alphas in ((1, MAX_SAMPLES + 1, 1), (MAX_SAMPLES + 1, 1, 1), (641, 641, 6_700_417)):  # 2^32 + 1
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"alphas is out of range: give 1 to {MAX_SAMPLES}"):
            interpolate(z1=tf.zeros([z1, 2]), z2=tf.zeros([z2, 2]), alphas=tf.zeros([alphas]))


def test_export_interpolates_between_pairs_of_its_latents_alone(loaded):
    interpolate, z, alphas = loaded.signatures["interpolate"], tf.zeros([3, 2]), tf.zeros([4])
    assert interpolate(z1=z, z2=z[:1], alphas=alphas)["probabilities"].shape[:2] == [3, 4]
    with pytest.raises(tf.errors.InvalidArgumentError, match="give as many rows of z1 as of z2, or one"):
        interpolate(z1=z, z2=z[:2], alphas=alphas)
    for wrong in ({"z1": z[:, :1]}, {"z2": z[0]}, {"alphas": alphas[:, None]}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with expected shape"):
            interpolate(**{"z1": z, "z2": z, "alphas": alphas} | wrong)


@pytest.mark.parametrize("rows", [0, MAX_SAMPLES + 1])
def test_export_caps_reconstructed_images(loaded, rows):
    message = f"number of images is out of range: give 1 to {MAX_SAMPLES}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.signatures["reconstruct"](images=tf.zeros([rows, 28, 28, 1]))


@pytest.mark.parametrize("signature", ["encode", "encode_draw", "elbo"])
def test_export_takes_any_number_of_images(loaded, inputs, digits, signature):
    number = 2 * CHUNK + 3
    arguments = {"images": np.tile(digits, [number // len(digits) + 1, 1, 1, 1])[:number]}
    if "seed" in inputs[signature]:
        arguments["seed"] = np.arange(number, dtype=np.int32) if signature == "encode_draw" else np.int32(5)
    arguments = {key: tf.constant(value) for key, value in arguments.items()}
    whole = loaded.signatures[signature](**arguments)
    part = loaded.signatures[signature](**{key: value[:3] if value.ndim else value for key, value in arguments.items()})
    for key, values in whole.items():
        assert values.shape[0] == number
        # Rounding of a matrix product may depend on the number of rows: a few units in the last place.
        np.testing.assert_allclose(part[key], values[:3], rtol=1e-5, atol=1e-5)
    repeated = whole["elbo" if signature == "elbo" else "z"].numpy()
    distinct = len(np.unique(repeated.reshape(number, -1), axis=0))
    assert distinct <= len(digits) if signature == "encode" else distinct > number / 2  # each row has its own draw


def test_export_takes_no_images(loaded):
    for name, rows in (("encode", {}), ("elbo", {"seed": tf.constant(1)})):
        outputs = loaded.signatures[name](images=tf.zeros([0, 28, 28, 1]), **rows)
        assert {len(values) for values in outputs.values()} == {0}


def test_export_draws_as_many_as_it_promises(loaded):
    outputs = loaded.signatures["sample_rows"](seed=tf.range(MAX_SAMPLES))
    assert outputs["png_bytes"].shape == MAX_SAMPLES


FLOATS = [("decode_probabilities", "z")]
FLOATS += [(n, a) for n, a in (("decode", "z"), ("encode", "images"), ("reconstruct", "images"), ("elbo", "images"))]
FLOATS += [("interpolate", argument) for argument in ("z1", "z2", "alphas")]


@pytest.mark.parametrize(("signature", "argument"), FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_export_refuses_numbers_that_are_not_finite(loaded, session_call, inputs, signature, argument, value):
    arguments = {key: np.copy(given) for key, given in inputs[signature].items()}
    arguments[argument].flat[-1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{argument} must be finite"):
        loaded.signatures[signature](**{key: tf.constant(given) for key, given in arguments.items()})
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{argument} must be finite"):
        session_call(signature, arguments)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")  # its successor is another package
def test_export_decodes_in_tflite(exported, expected, inputs):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported), signature_keys=["decode_probabilities"])
    decode = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner("decode_probabilities")
    z, probabilities = inputs["decode_probabilities"]["z"], expected["decode_probabilities"]["probabilities"]
    np.testing.assert_array_equal(probabilities, expected["decode"]["probabilities"])
    for rows in (1, 3):  # of any number
        np.testing.assert_allclose(decode(z=z[:rows])["probabilities"], probabilities[:rows], atol=1e-5)


def test_export_compiles_nothing_with_xla(exported):
    # TensorFlow Serving has XLA switched off on CPUs and would refuse such a function.
    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    assert functions
    nodes = [node for function in functions for node in function.node_def]
    compiled = [part for part in (*functions, *nodes) if part.attr["_XlaMustCompile"].b]
    assert compiled == []


def test_export_says_what_it_is(exported, run):
    record = json.loads((exported / "assets.extra" / "genmnist.json").read_text())
    assert [record[key] for key in ("model", "dataset", "binarization")] == ["vae", "mnist_5k", "dynamic"]
    assert record["config"] == run.config.to_dict()


@pytest.fixture(scope="module")
def warmup_requests(exported):
    """The requests of the export's warm-up file, by signature."""
    records = tf.data.TFRecordDataset(str(exported / "assets.extra" / "tf_serving_warmup_requests"))
    requests = [PredictionLog.FromString(record).predict_log.request for record in records.as_numpy_iterator()]
    assert {request.model_spec.name for request in requests} == {"vae"}
    by_signature = {request.model_spec.signature_name: request for request in requests}
    assert len(by_signature) == len(requests)
    return by_signature


def test_export_has_a_warmup_request_for_every_signature(warmup_requests, loaded):
    assert warmup_requests.keys() == loaded.signatures.keys()


def test_export_answers_its_warmup_requests(warmup_requests, session_call):
    # In a Session, as TensorFlow Serving plays them: it refuses a model of which one fails.
    for name, request in warmup_requests.items():
        outputs = session_call(name, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        for key, value in outputs.items():
            assert len(value) == 1, f"{name}/{key}"
            assert value.dtype == object or np.isfinite(value).all(), f"{name}/{key}"


def test_warmup_requests_have_the_inputs_of_their_signatures(warmup_requests, loaded):
    for name, request in warmup_requests.items():
        _, specs = loaded.signatures[name].structured_input_signature
        assert request.inputs.keys() == specs.keys(), name
        for key, value in request.inputs.items():
            array = tf.make_ndarray(value)
            assert array.dtype == specs[key].dtype.as_numpy_dtype, f"{name}/{key}"
            assert specs[key].shape.is_compatible_with(array.shape), f"{name}/{key}"


def test_warmup_requests_are_for_a_class_that_there_is():
    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int32)])
    def decode(z, label=None):
        return {}

    request = export.warmup_request("cvae", "decode", decode).predict_log.request
    given = {name: tf.make_ndarray(value).tolist() for name, value in request.inputs.items()}
    assert given == {"z": [[1.0, 1.0]], "label": [0]}  # of one class, the only label


def test_export_of_a_plane_has_the_posterior_means_of_test_images(exported, loaded, mnist_5k):
    record = json.loads((exported / "assets.extra" / "latent_means.json").read_text())
    assert record["labels"] == mnist_5k.test.labels.tolist()
    encoded = loaded.signatures["encode"](images=tf.constant(mnist_5k.test.binary, tf.float32))["z"].numpy()
    # Three decimals, and rounding of a batch of another size.
    np.testing.assert_allclose(record["means"], encoded, atol=0.0005 + 1e-5)


def test_export_says_how_likely_the_first_test_images_are(exported, loaded, mnist_5k):
    record = json.loads((exported / "assets.extra" / "log_likelihoods.json").read_text())
    measure, x = loaded.signatures["log_likelihood"], tf.constant(mnist_5k.test.binary[: export.NUM_SCORED], tf.float32)
    values = measure(images=x, num_draws=tf.constant(record["num_draws"]), seed=tf.constant(0))["log_likelihood"]
    np.testing.assert_allclose(record["log_likelihoods"], np.sort(values), atol=0.02)


def test_export_without_its_dataset_leaves_that_out_and_says_so(tmp_path, monkeypatch, capsys):
    def load(run):
        raise Fault("mnist_5k is damaged")

    stub_save(monkeypatch)
    monkeypatch.setattr(runs, "load_data", load)
    model = models.build(tiny.config("vae", latent_size=3))
    monkeypatch.setattr(runs, "load_model", lambda run: model)
    path = export.export(tiny.begin(tmp_path / "vae", "vae", latent_size=3), tmp_path / "exports")
    assert not (path / "assets.extra" / "log_likelihoods.json").exists()
    assert "the export does not say how likely test images are" in capsys.readouterr().err


def latent_means(run, out):
    """The content of latent_means.json, or None where there is no such file."""
    path = export.export(run, out) / "assets.extra" / "latent_means.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_latent_means_are_of_the_first_2000_images(run, tmp_path, monkeypatch, mnist_5k):
    stub_save(monkeypatch)
    longer = mnist_5k.test._replace(
        binary=np.tile(mnist_5k.test.binary, [5, 1, 1, 1]), labels=np.tile(mnist_5k.test.labels, 5)
    )
    monkeypatch.setattr(runs, "load_data", lambda run: mnist_5k._replace(test=longer))
    record = latent_means(run, tmp_path)
    assert len(record["means"]) == len(record["labels"]) == 2000
    assert record["labels"] == longer.labels[:2000].tolist()


def test_latent_means_have_no_labels_where_the_dataset_has_none(run, tmp_path, monkeypatch, mnist_5k):
    stub_save(monkeypatch)
    unlabelled = mnist_5k._replace(test=mnist_5k.test._replace(labels=None))
    monkeypatch.setattr(runs, "load_data", lambda run: unlabelled)
    record = latent_means(run, tmp_path)
    assert record["labels"] is None
    assert len(record["means"]) == 500


@pytest.mark.parametrize(("name", "latent_size"), [("vae", 3), ("dcgan", 2)])
def test_export_has_latent_means_only_of_a_plane_with_an_encoder(name, latent_size, tmp_path, monkeypatch):
    stub_save(monkeypatch)
    model = models.build(tiny.config(name, latent_size=latent_size))
    monkeypatch.setattr(runs, "load_model", lambda run: model)
    if name == "dcgan":
        monkeypatch.setattr(runs, "load_data", lambda run: pytest.fail("loads data that it does not need"))
    assert latent_means(tiny.begin(tmp_path / name, name, latent_size=latent_size), tmp_path / "exports") is None


def test_export_without_its_dataset_is_a_fault_that_leaves_nothing(run, tmp_path, monkeypatch):
    def load(run):
        raise Fault(f"{run.config.dataset} is damaged")

    monkeypatch.setattr(runs, "load_data", load)
    with pytest.raises(Fault, match="mnist_5k is damaged"):
        export.export(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_holds_the_scored_weights(run, exported):
    def values(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
        tensors = [reader.get_tensor(name) for name in names if not name.startswith("raw/")]
        return sorted((tensor.shape, tensor.tobytes()) for tensor in tensors if tensor.dtype == np.float32)

    scored = values(tf.train.latest_checkpoint(str(run.best)))
    assert len(scored) >= 8  # kernels and biases of two layers in each of two networks
    assert values(exported / "variables" / "variables") == scored


def stub_save(monkeypatch):
    """Replaces the seconds that writing a SavedModel takes, and those of scoring images."""

    def save(module, path, signatures):
        tf.io.gfile.makedirs(path)
        tf.io.gfile.GFile(f"{path}/saved_model.pb", "w").close()

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(export, "_log_likelihoods", lambda measure, images, num_draws: {})


def test_export_versions_count_up(run, tmp_path, monkeypatch):
    stub_save(monkeypatch)
    assert export.export(run, tmp_path) == tmp_path / "vae" / "1"
    assert export.export(run, tmp_path) == tmp_path / "vae" / "2"
    for name in ("9", "0010", "notes", ".writing-1", "\u00b2", "\u0663\u0663"):
        (tmp_path / "vae" / name).mkdir()
    (tmp_path / "vae" / "11").write_text("")  # a file has the name
    assert export.export(run, tmp_path) == tmp_path / "vae" / "12"


FAILURES = [
    (PermissionError(13, "Permission denied"), UsageError, "Permission denied; give an --out"),
    (tf.errors.PermissionDeniedError(None, None, "not here"), UsageError, "not here; give an --out"),
    (OSError(28, "No space left on device"), Fault, "No space left on device; make room"),
    (tf.errors.ResourceExhaustedError(None, None, "x: No space left on device [Op]"), Fault, "No .* device; make room"),
]


@pytest.mark.parametrize(
    ("error", "kind", "message"), FAILURES, ids=["system", "tensorflow", "full", "full-tensorflow"]
)
def test_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch, error, kind, message):
    def save(module, path, signatures):
        tf.io.gfile.makedirs(path)
        tf.io.gfile.GFile(f"{path}/saved_model.pb", "w").close()
        raise error

    stub_save(monkeypatch)
    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(kind, match=f"cannot write {tmp_path / 'new' / 'vae'}: {message}"):
        export.export(run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_export_that_is_interrupted_leaves_nothing(run, tmp_path, monkeypatch):
    def save(module, path, signatures):
        tf.io.gfile.makedirs(path)
        raise KeyboardInterrupt

    stub_save(monkeypatch)
    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(KeyboardInterrupt):
        export.export(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_is_whole_when_it_gets_its_number(run, tmp_path, monkeypatch):
    stub_save(monkeypatch)
    seen = {}
    rename, synced = files.rename, set()

    def watched(path, target):
        seen[path.name] = sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*"))
        assert synced == {path, *path.rglob("*")}
        rename(path, target)

    monkeypatch.setattr(files, "sync", synced.add)
    monkeypatch.setattr(files, "rename", watched)
    target = export.export(run, tmp_path)
    [(name, before)] = seen.items()
    assert not name.isdigit()
    assert "assets.extra/tf_serving_warmup_requests" in before
    assert before == sorted(entry.relative_to(target).as_posix() for entry in target.rglob("*"))


def test_export_takes_the_next_number_where_another_process_was_faster(run, tmp_path, monkeypatch):
    stub_save(monkeypatch)
    rename, taken = files.rename, tmp_path / "vae" / "1"

    def late(path, target):
        if not taken.exists():
            taken.mkdir()
            (taken / "saved_model.pb").touch()
        rename(path, target)

    monkeypatch.setattr(files, "rename", late)
    assert export.export(run, tmp_path) == tmp_path / "vae" / "2"
    assert [path.name for path in taken.iterdir()] == ["saved_model.pb"]
    assert sorted(path.name for path in taken.parent.iterdir()) == ["1", "2"]


def test_export_into_a_file_is_a_usage_error(run, tmp_path, monkeypatch):
    stub_save(monkeypatch)
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=f"cannot write {tmp_path / 'taken' / 'vae'}"):
        export.export(run, tmp_path / "taken")


def test_export_of_a_gan_equals_the_run(tmp_path, mnist_5k):
    run = tiny.untrained(tiny.begin(tmp_path / "gan", "dcgan", epochs=1))
    own = signatures.of(runs.load_model(run))
    loaded = tf.saved_model.load(str(export.export(run, tmp_path / "exports"))).signatures
    z1, z2 = np.random.default_rng(0).normal(size=[2, 3, 2]).astype(np.float32)
    for name, arguments in {
        "sample_rows": {"seed": np.array([4, 5], np.int32)},
        "sample": {"num_samples": np.int32(4), "seed": np.int32(7)},
        "decode": {"z": z1},
        "interpolate": {"z1": z1, "z2": z2, "alphas": np.array([0, 0.25, 1], np.float32)},
        "discriminate": {"images": mnist_5k.test.scored("none")[:3]},
    }.items():
        arguments = {key: tf.constant(value) for key, value in arguments.items()}
        outputs, expected = loaded[name](**arguments), own[name](**arguments)
        assert outputs.keys() == expected.keys()
        for key in expected:
            if expected[key].dtype == tf.float32:
                np.testing.assert_allclose(outputs[key], expected[key], atol=1e-5)  # another order of sums
    assert loaded.keys() == own.keys() | {"serving_default"}
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of range"):
        loaded["discriminate"](images=tf.constant(mnist_5k.test.images[:3], tf.float32))  # grey levels 0..255
