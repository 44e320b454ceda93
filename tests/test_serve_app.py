"""The cases of TensorFlow Serving's http_rest_api_handler_test and http_rest_api_util_test, as tables; and our own."""

import gzip
import json
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import prometheus_client
import pytest
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families

from keras_genmnist import export, images
from keras_genmnist.serve import tensors
from keras_genmnist.serve.access import Access
from keras_genmnist.serve.app import LARGE, create_app
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository
from tests import toy

RESERVED = "model !#$%&'()*+,/:;=?@[]"


@pytest.fixture(scope="module")
def folders(exported, tmp_path_factory):
    """Exports: a toy, version 123, and a VAE with 2 latents, version 1."""
    folder = tmp_path_factory.mktemp("exports")
    toy.save(folder / "toy", 123)
    return folder / "toy", exported.parent


@pytest.fixture(scope="module")
def repository(folders):
    repository = Repository([*folders], lambda rows: None)
    repository.refresh()
    repository.models[RESERVED] = repository.models["toy"]
    return repository


@pytest.fixture(scope="module")
def places():
    return Places(2)


@pytest.fixture(scope="module")
def client(repository, places):
    return create_app(repository, places, prometheus_client.CollectorRegistry(), Access("127.0.0.1")).test_client()


def assert_error(response, status: int, message: str | None = None) -> None:
    """It is one clear sentence in TensorFlow Serving's form."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    assert response.json.keys() == {"error"}
    error = response.json["error"]
    assert message is None or message in error
    assert error and "\n" not in error and "Traceback" not in error and len(error) < 300


# Routes

ROUTES = [
    # malformed: a wrong route or verb below /v1
    ("GET", "/v1", 400, "Malformed request: GET /v1"),
    ("GET", "/v1/", 400, "Malformed request: GET /v1/"),
    ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
    ("POST", "/v1/foo", 400, "Malformed request: POST /v1/foo"),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("POST", "/v1/models", 400, "Malformed request: POST /v1/models"),
    ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
    ("GET", "/v1/models//toy", 400, "Malformed request: GET /v1/models//toy"),
    ("GET", "/v1/models/toy:predict", 400, "Malformed request: GET /v1/models/toy:predict"),
    ("GET", "/v1/models/toy/version/50:predict", 400, "Malformed request"),
    ("POST", "/v1/models/toy", 400, "Malformed request: POST /v1/models/toy"),
    ("POST", "/v1/models/toy/version/50:regress", 400, "Malformed request"),
    ("POST", "/v1/models/toy/versions/HELLO:regress", 400, "Malformed request"),
    ("POST", "/v1/models/toy/versions/-1:predict", 400, "Malformed request"),
    ("POST", "/v1/models/toy/versions/50/labels/some_label:regress", 400, "Malformed request"),
    ("POST", "/v1/models/toy/metadata", 400, "Malformed request"),
    ("POST", "/v1/models/toy:explain", 400, "Malformed request"),
    ("PUT", "/v1/models/toy:predict", 400, "Malformed request: PUT /v1/models/toy:predict"),
    ("PATCH", "/v1/models/toy", 400, "Malformed request: PATCH /v1/models/toy"),
    ("DELETE", "/v1/models/toy", 400, "Malformed request: DELETE /v1/models/toy"),
    ("OPTIONS", "/v1/models/toy", 400, "Malformed request: OPTIONS /v1/models/toy"),
    ("GET", f"/v1/models/toy/versions/{2**64 - 1}", 400, "the version is out of range"),
    ("GET", f"/v1/models/toy/versions/{'9' * 5000}", 400, "the version is out of range"),
    ("POST", f"/v1/models/toy/versions/{2**64 - 1}:predict", 400, "the version is out of range"),
    # what there is not
    ("GET", "/v1/models/foo", 404, "Could not find any versions of model foo"),
    ("GET", "/v1/models/toy/versions/99", 404, "Could not find version 99 of model toy"),
    ("GET", "/v1/models/foo/metadata", 404, "Servable not found for request: Latest(foo)"),
    ("GET", "/v1/models/toy/versions/99/metadata", 404, "Servable not found for request: Specific(toy, 99)"),
    ("GET", "/v1/models/foo/sample.png", 404, "Servable not found for request: Latest(foo)"),
    ("POST", "/v1/models/foo:predict", 404, "Servable not found for request: Latest(foo)"),
    ("POST", "/v1/models/foo/versions/50:predict", 404, "Servable not found for request: Specific(foo, 50)"),
    ("POST", "/v1/models/toy/versions/99:predict", 404, "Servable not found for request: Specific(toy, 99)"),
    ("POST", "/v1/models/toy99:predict", 404, "Servable not found for request: Latest(toy99)"),
    ("POST", "/v1/models/foo:classify", 404, "Servable not found for request: Latest(foo)"),
    ("POST", "/v1/models/toy/labels/stable:predict", 400, "Unrecognized servable version label: stable"),
    ("GET", "/v1/models/toy/labels/a%2Fb", 400, "Unrecognized servable version label: a/b"),
    ("GET", "/v1/models/toy/labels/stable/metadata", 400, "Unrecognized servable version label: stable"),
    # a model's name is a name, and no path
    ("GET", "/v1/models/..%2F..%2Fetc", 404, "model ../../etc"),
    ("GET", "/v1/models/..%2Ftoy%2F123", 404, "model ../toy/123"),
    ("GET", "/v1/models/%2Fetc%2Fpasswd/metadata", 404, "Latest(/etc/passwd)"),
    ("POST", "/v1/models/../toy:predict", 400, "Malformed request"),
    ("POST", "/v1/models/..:predict", 404, "Latest(..)"),
    ("GET", "/static/../app.py", 404, "Not Found"),
    ("GET", "/static/%2e%2e/app.py", 404, "Not Found"),
    # signatures of another kind
    ("POST", "/v1/models/toy:classify", 400, "no signature to classify"),
    ("POST", "/v1/models/toy/versions/123:regress", 400, "no signature to regress"),
    # elsewhere
    ("GET", "/nothing", 404, "Not Found: GET /nothing"),
    ("GET", "/v2/models/toy", 404, "Not Found: GET /v2/models/toy"),
    ("POST", "/healthz", 405, "Method Not Allowed: POST /healthz"),
    ("DELETE", "/", 405, "Method Not Allowed: DELETE /"),
]


@pytest.mark.parametrize(("method", "path", "status", "message"), ROUTES)
def test_route_that_leads_nowhere(client, method, path, status, message):
    assert_error(client.open(path, method=method, data='{"instances": [1]}'), status, message)


def test_method_not_allowed_says_which_are(client):
    assert set(client.post("/healthz").headers["Allow"].split(", ")) >= {"GET"}


@pytest.mark.parametrize("path", ["", "/versions/123"])
@pytest.mark.parametrize("name", ["toy", quote(RESERVED, safe="")])
def test_status(client, name, path):
    response = client.get(f"/v1/models/{name}{path}")
    assert (response.status_code, response.content_type) == (200, "application/json")
    status = {"error_code": "OK", "error_message": ""}
    assert response.json == {"model_version_status": [{"version": "123", "state": "AVAILABLE", "status": status}]}


def test_routes_are_case_insensitive(client):
    assert client.get("/V1/Models/toy/VERSIONS/123").status_code == 200
    assert client.post("/v1/models/toy:PREDICT", data='{"inputs": [1]}').json == {"outputs": [2.5]}
    assert_error(client.get("/v1/models/TOY"), 404)


@pytest.mark.parametrize("path", ["", "/versions/123"])
def test_metadata(client, path):
    response = client.get(f"/v1/models/toy{path}/metadata")
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.json["model_spec"] == {"name": "toy", "signature_name": "", "version": "123"}
    signatures = response.json["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "pair", "count", "log"} <= signatures.keys()
    assert signatures["pair"]["method_name"] == "tensorflow/serving/predict"
    assert signatures["pair"]["inputs"]["numbers"] == {
        "dtype": "DT_INT32",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
        "name": "pair_numbers:0",
    }


# Predictions

PREDICTIONS = [
    ("", {"instances": [1.0, 2]}, {"predictions": [2.5, 3]}),
    ("/versions/123", {"instances": [1.0, 2.0]}, {"predictions": [2.5, 3]}),
    ("/versions/123", {"signature_name": "serving_default", "instances": [{"x": 3}]}, {"predictions": [3.5]}),
    ("/versions/123", {"signature_name": "serving_default", "inputs": [3, 4]}, {"outputs": [3.5, 4]}),
    ("", {"signature_name": "", "inputs": {"x": [3]}}, {"outputs": [3.5]}),
    ("", {"inputs": [], "more": "is ignored"}, {"outputs": []}),
    (
        "",
        {
            "signature_name": "pair",
            "instances": [{"numbers": [1, 2], "text": "a"}, {"text": {"b64": "Yg=="}, "numbers": [3, 4]}],
        },
        {
            "predictions": [
                {"sums": 3, "text": "a", "text_bytes": {"b64": "YQ=="}},
                {"sums": 7, "text": "b", "text_bytes": {"b64": "Yg=="}},
            ]
        },
    ),
    (
        "",
        {"signature_name": "pair", "inputs": {"numbers": [[1, 2]], "text": ["a"]}},
        {"outputs": {"sums": [3], "text": ["a"], "text_bytes": [{"b64": "YQ=="}]}},
    ),
    ("", {"signature_name": "count", "inputs": 5}, {"outputs": {"n": 5, "zeros": [0, 0]}}),
]


@pytest.mark.parametrize(("version", "body", "answer"), PREDICTIONS)
def test_predict(client, version, body, answer):
    response = client.post(f"/v1/models/toy{version}:predict", data=json.dumps(body))
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.json == answer


def test_predict_takes_and_gives_numbers_that_are_not_finite(client):
    answer = client.post("/v1/models/toy:predict", data='{"signature_name": "log", "inputs": [1, 0, NaN, -1]}')
    assert answer.text == '{"outputs": [0.0, -Infinity, NaN, NaN]}'


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain",
     "application/vnd.api+json", "application/octet-stream"],
)  # fmt: skip
def test_predict_takes_what_clients_send_json_as(client, content_type):
    response = client.post("/v1/models/toy:predict", data='{"inputs": [1]}', content_type=content_type)
    assert response.json == {"outputs": [2.5]}


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "image/png", "text/html", "application/xml"]
)
def test_predict_refuses_another_content_type(client, content_type):
    response = client.post("/v1/models/toy:predict", data='{"inputs": [1]}', content_type=content_type)
    assert_error(response, 415, "send JSON")


def test_predict_refuses_a_compressed_body(client):
    body = gzip.compress(b'{"inputs": [1]}')
    response = client.post("/v1/models/toy:predict", data=body, headers={"Content-Encoding": "gzip"})
    assert_error(response, 415, "the content encoding is gzip: send JSON as it is")


def ask(signature: str, **inputs) -> dict:
    return {"signature_name": signature, "inputs": inputs}


def ask_rows(signature: str, *rows) -> dict:
    return {"signature_name": signature, "instances": [*rows]}


LISTS = "[" * 900 + "]" * 900
WRONG = {
    "empty body": ("toy", "", "JSON Parse error"),
    "malformed JSON": ("toy", "instances = [1, 2]", "JSON Parse error"),
    "JSON cut off": ("toy", '{"instances": [1, ', "JSON Parse error"),
    "deep nesting": ("toy", f'{{"instances": {LISTS}}}', "input x is nested in more than 64 lists"),
    "deeper nesting": ("toy", '{"instances": ' + "[" * 10**6, "JSON Parse error"),
    "unknown signature": ("toy", ask("zz", x=[1]), 'Serving signature name: "zz" not found in signature def'),
    "a signature that is no string": ("toy", ask(100, x=[1]), "must be a string value"),
    "a signature of initialization": ("toy", ask("__saved_model_init_op"), "not found in signature def"),
    "a signature that is no Unicode": ("toy", r'{"signature_name": "\ud800", "x": NaN}', "JSON Parse error"),
    "an input that is no Unicode": ("toy", r'{"inputs": {"\ud800": NaN}}', "JSON Parse error"),
    "missing input": ("toy", ask("pair", text=["a"]), "'inputs' lacks numbers"),
    "missing input of a row": ("toy", ask_rows("pair", {"text": "a"}), "item 0 of 'instances' lacks numbers"),
    "extra input": ("toy", {"inputs": {"x": [1], "z": 2}}, "'inputs' has z, no input"),
    "extra input of a row": ("toy", {"instances": [{"x": 1, "z": 2}]}, "item 0 of 'instances' has z, no input"),
    "wrong shape": ("toy", ask("pair", numbers=[1, 2], text=[]), "numbers has shape [2], expected [any, 2]"),
    "wrong dtype": ("toy", ask("pair", numbers=[[1.5, 2]], text=[]), "1.5 is not of expected type: int32"),
    "strings for numbers": ("toy", {"instances": ["a"]}, '"a" is not of expected type: float32'),
    "rows that differ": (
        "toy",
        ask_rows("pair", {"numbers": [1, 2], "text": ""}, {"numbers": [1], "text": ""}),
        "ragged",
    ),
    "what the graph refuses": ("toy", {"instances": [1, -1]}, "x is negative: give 0 or more"),
    "a scalar by row": ("toy", ask_rows("count", 5), "input n has shape [1], expected []"),
    "NaN": ("vae", '{"signature_name": "decode", "inputs": [[0, NaN]]}', "z must be finite"),
    "infinity": ("vae", '{"signature_name": "decode", "inputs": [[0, -Infinity]]}', "z must be finite"),
    "a number that overflows": ("vae", '{"signature_name": "decode", "inputs": [[0, 1e999]]}', "JSON Parse error"),
    "no samples": ("vae", ask("sample", num_samples=0, seed=1), "give 1 to 1024"),
    "negative samples": ("vae", ask("sample", num_samples=-1, seed=1), "give 1 to 1024"),
    "too many samples": ("vae", ask("sample", num_samples=1025, seed=1), "give 1 to 1024"),
    "far too many samples": ("vae", ask("sample", num_samples=2**31, seed=1), "num_samples: 2147483648 is out of"),
    "too many rows": ("vae", {"instances": list(range(1025))}, "give 1 to 1024"),
    "no rows": ("vae", {"inputs": []}, "give 1 to 1024"),
    "grey levels": ("vae", ask("encode", images=np.full([1, 28, 28, 1], 255).tolist()), "give pixels in [0, 1]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_predict_of_a_wrong_request(client, case):
    name, body, message = WRONG[case]
    body = body if isinstance(body, str) else json.dumps(body)
    assert_error(client.post(f"/v1/models/{name}:predict", data=body), 400, message)
    assert client.post("/v1/models/toy:predict", data='{"inputs": [1]}').json == {"outputs": [2.5]}  # it goes on


def test_predict_equals_the_savedmodel(client, exported, digits):
    loaded = tf.saved_model.load(str(exported)).signatures
    z = np.random.default_rng(0).normal(size=[3, 2]).astype(np.float32)
    for name, inputs in {
        "sample_rows": {"seed": np.int32([4, 5, 6])},
        "sample": {"num_samples": np.int32(4), "seed": np.int32(7)},
        "decode": {"z": z},
        "encode": {"images": digits},
        "interpolate": {"z1": z, "z2": z[::-1], "alphas": np.float32([0, 1])},
        "elbo": {"images": digits, "seed": np.int32(8)},
    }.items():
        body = {"signature_name": name, "inputs": {key: value.tolist() for key, value in inputs.items()}}
        answer = client.post("/v1/models/vae:predict", json=body).json["outputs"]
        expected = loaded[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert answer.keys() == expected.keys()
        for key, value in expected.items():
            if value.dtype == tf.float32:
                np.testing.assert_array_equal(np.float32(answer[key]), value)


def test_what_a_body_was_parsed_into_is_gone_when_the_model_is_called(repository, client, monkeypatch):
    class Body(dict):
        """A dictionary that can be referred to weakly."""

    parse, bodies = tensors.parse, []

    def parsed(data):
        body = Body(parse(data))
        bodies.append(weakref.ref(body))
        return body

    def half(inputs):
        assert [body() for body in bodies] == [None]
        return {"y": inputs["x"] / 2}

    half.inputs = {"x": tf.TensorSpec([None], tf.float32)}
    monkeypatch.setattr(tensors, "parse", parsed)
    monkeypatch.setitem(repository.servable("toy").signatures, "serving_default", half)
    assert client.post("/v1/models/toy:predict", data='{"inputs": [1]}').json == {"outputs": [0.5]}


def test_large_bodies_are_parsed_one_by_one_and_small_ones_meanwhile(repository, monkeypatch):
    app = create_app(repository, Places(16), prometheus_client.CollectorRegistry(), Access("127.0.0.1"))
    parse, parsing, begun, small_is_answered = tensors.parse, [], threading.Event(), threading.Event()

    def parsed(data):
        if len(data) > LARGE:
            parsing.append(1)
            begun.set()
            assert small_is_answered.wait(5) and len(parsing) == 1
            parsing.pop()
        return parse(data)

    monkeypatch.setattr(tensors, "parse", parsed)
    large = json.dumps({"inputs": [1.0] * (LARGE // 4)})

    def asked(body):
        return app.test_client().post("/v1/models/toy:predict", data=body).status_code

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(asked, large) for _ in range(2)]
        assert begun.wait(5) and asked('{"inputs": [1]}') == 200
        small_is_answered.set()
        assert [answer.result() for answer in answers] == [200, 200]


def test_concurrent_requests_equal_single_ones(repository):
    app = create_app(repository, Places(16), prometheus_client.CollectorRegistry(), Access("127.0.0.1"))

    def ask(seed):
        return (
            app.test_client().post("/v1/models/vae:predict", json={"instances": [seed, seed + 100]}).json["predictions"]
        )

    alone, together = [ask(seed) for seed in range(16)], {}
    threads = [threading.Thread(target=lambda seed=seed: together.update({seed: ask(seed)})) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for seed in range(16):
        for one, other in zip(alone[seed], together[seed], strict=True):
            assert one["images"] == other["images"]
            # One row or many: a matrix product may round differently, by a few units in the last place.
            np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-6)


# Beside TensorFlow Serving's contract


def test_sample_sheet(client, exported):
    response = client.get("/v1/models/vae/sample.png?num_samples=5&seed=7")
    assert (response.status_code, response.content_type) == (200, "image/png")
    sheet = tf.io.decode_png(response.data).numpy()
    assert sheet.shape == (57, 86, 1)
    sample = tf.saved_model.load(str(exported)).signatures["sample"]
    digits = sample(num_samples=tf.constant(5), seed=tf.constant(7))["probabilities"]
    np.testing.assert_allclose(sheet / 255, images.tile(digits.numpy(), 3), atol=1 / 255)  # of 255 levels
    assert response.data == client.get("/v1/models/vae/versions/1/sample.png?seed=7&num_samples=5").data
    assert response.data != client.get("/v1/models/vae/sample.png?num_samples=5&seed=8").data


def test_sample_sheet_has_defaults(client):
    response = client.get("/v1/models/vae/sample.png")
    assert tf.io.decode_png(response.data).shape == (8 * 29 - 1, 8 * 29 - 1, 1)
    assert response.data == client.get("/v1/models/vae/sample.png?num_samples=64&seed=1").data


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("vae", "num_samples=0", "num_samples is out of range: give 1 to 1024, not 0"),
        ("vae", "num_samples=-5", "num_samples is out of range: give 1 to 1024, not -5"),
        ("vae", "num_samples=1025", "num_samples is out of range: give 1 to 1024, not 1025"),
        ("vae", "num_samples=99999999999", "num_samples: 99999999999 is out of range"),
        ("vae", f"num_samples={'9' * 5000}", "num_samples=99999999999999999999 is no"),
        ("vae", "num_samples=many", "num_samples=many is no whole number: give one"),
        ("vae", "seed=", "seed= is no whole number"),
        ("vae", "seed=1.5", "seed=1.5 is no whole number"),
        ("vae", "n=5", "unknown parameter n: give num_samples, seed or digit"),
        ("vae", "digit=7", "digit cannot be chosen: vae on mnist_5k was not told the classes"),
        ("toy", "", '"sample" not found'),
    ],
)
def test_sample_sheet_of_a_wrong_request(client, name, query, message):
    assert_error(client.get(f"/v1/models/{name}/sample.png?{query}"), 400, message)


def test_sample_sheet_of_a_digit(repository, client, monkeypatch):
    # As of a class-conditional model: an image that holds the digit asked for.
    servable = repository.servable("vae")

    def sample_class(inputs):
        return {"probabilities": np.full([inputs["num_samples"], 28, 28, 1], inputs["label"] / 10, np.float32)}

    sample_class.inputs = {key: tf.TensorSpec([], tf.int32) for key in ("num_samples", "seed", "label")}
    monkeypatch.setitem(servable.signatures, "sample_class", sample_class)
    sheet = tf.io.decode_png(client.get("/v1/models/vae/sample.png?digit=7&num_samples=4").data).numpy()
    np.testing.assert_allclose(sheet[:28, :28] / 255, np.full([28, 28, 1], 0.7), atol=1 / 255)
    assert sheet.shape == (57, 57, 1)
    for query, told in (("digit=10", "digit=10 is out of range: give 0 to 9"), ("digit=1&label=2", "give one of them")):
        assert_error(client.get(f"/v1/models/vae/sample.png?{query}"), 400, told)


def test_sample_sheet_of_a_digit_needs_the_number_of_classes(repository, client, monkeypatch):
    # A SavedModel of other makers, without genmnist.json, does not say it.
    def sample_class(inputs):
        return {"probabilities": np.full([inputs["num_samples"], 28, 28, 1], inputs["label"] / 10, np.float32)}

    sample_class.inputs = {key: tf.TensorSpec([], tf.int32) for key in ("num_samples", "seed", "label")}
    monkeypatch.setitem(repository.servable("toy").signatures, "sample_class", sample_class)
    message = "digit cannot be chosen: toy does not say what classes it has; give label"
    assert_error(client.get("/v1/models/toy/sample.png?digit=0"), 400, message)
    assert client.get("/v1/models/toy/sample.png?label=0").status_code == 200


@pytest.mark.parametrize(
    "outputs",
    [
        {"images": np.zeros([4, 28, 28, 1], np.float32)},
        {"probabilities": np.zeros([4, 28, 28], np.float32)},
        {"probabilities": np.float32(0.5)},
        {"probabilities": np.zeros([0, 28, 28, 1], np.float32)},
        {"probabilities": np.full([4, 28, 28, 1], b"", object)},
    ],
    ids=["none", "rank 3", "a scalar", "no images", "strings"],
)
def test_sample_sheet_of_what_is_no_images(repository, client, monkeypatch, outputs):
    def sample(inputs):
        return outputs

    sample.inputs = {key: tf.TensorSpec([], tf.int32) for key in ("num_samples", "seed")}
    monkeypatch.setitem(repository.servable("toy").signatures, "sample", sample)
    message = "no sheet of images: sample of toy gives no probabilities [N, H, W, C]"
    assert_error(client.get("/v1/models/toy/sample.png"), 400, message)


def test_explorer_is_told_of_the_models(client):
    found = {model["name"]: model for model in client.get("/explorer/models").json["models"]}
    vae, other = found["vae"], found["toy"]
    assert vae.pop("signatures") == sorted(vae_signatures := vae_names())
    assert "sample_class" not in vae_signatures
    vae.pop("latent_means")
    likely = vae.pop("log_likelihoods")
    assert likely["num_draws"] == 20 and len(likely["log_likelihoods"]) == export.NUM_SCORED
    assert vae == {
        "name": "vae",
        "version": "1",
        "label": "vae on mnist_5k",
        "image_shape": [28, 28, 1],
        "grey": False,
        "completes_any": False,
        "noun": "digit",
        "classes": [str(digit) for digit in range(10)],
        "latent_size": 2,
        "class_conditional": False,
    }
    assert (other["image_shape"], other["noun"], other["classes"]) == (None, "image", [])
    assert (other["label"], other["latent_size"], other["latent_means"]) == ("toy", None, None)


def test_explorer_is_told_which_models_are_still_to_come(folders, tmp_path):
    for name in ("whole", "broken", "toy"):
        shutil.copytree(folders[0], tmp_path / name)
    for path in (tmp_path / "broken").glob("*/saved_model.pb"):
        path.write_bytes(b"no model")
    repository = Repository([tmp_path / name for name in ("whole", "broken", "toy")], lambda rows: None)
    places = Places(1)
    told = create_app(repository, places, prometheus_client.CollectorRegistry(), Access("127.0.0.1")).test_client()
    assert told.get("/explorer/models").json == {"models": [], "loading": ["whole", "broken", "toy"]}
    for name in ("whole", "broken"):
        repository.models[name].refresh()
    found = told.get("/explorer/models").json
    assert ([model["name"] for model in found["models"]], found["loading"]) == (["whole"], ["toy"])


def vae_names() -> list[str]:
    own = [
        "decode",
        "decode_probabilities",
        "elbo",
        "encode",
        "encode_draw",
        "interpolate",
        "log_likelihood",
    ]
    return [*own, "reconstruct", "sample", "sample_rows", "serving_default"]


def test_health_and_readiness(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "toy")
    repository, places = Repository([tmp_path / "toy"], lambda rows: None), Places(1)
    client = create_app(repository, places, prometheus_client.CollectorRegistry(), Access("127.0.0.1")).test_client()
    assert client.get("/healthz").text == "ok"
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (503, "no version is loaded of toy")
    repository.refresh()
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (200, "ok")
    places.close()
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (503, "the server is stopping")
    assert client.get("/healthz").text == "ok"


def test_work_past_the_bound_is_refused(client, places):
    with places.take(), places.take():
        for response in (client.post("/v1/models/toy:predict", data="{}"), client.get("/v1/models/vae/sample.png")):
            assert_error(response, 429, "2 requests are being worked on")
            assert int(response.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models/toy").status_code == 200
    assert client.post("/v1/models/toy:predict", data='{"inputs": [1]}').status_code == 200


def test_work_for_a_server_that_stops_is_refused(repository):
    places = Places(1)
    places.close()
    client = create_app(repository, places, prometheus_client.CollectorRegistry(), Access("127.0.0.1")).test_client()
    response = client.post("/v1/models/toy:predict", data='{"inputs": [1]}')
    assert_error(response, 503, "stopping")
    assert int(response.headers["Retry-After"]) > 0


def test_an_error_of_ours_is_no_traceback_to_the_client(repository, client, monkeypatch):
    monkeypatch.setattr(repository, "servable", lambda name, version: 1 / 0)
    assert_error(client.post("/v1/models/toy:predict", data="{}"), 500, "internal error")


def test_metrics_count(repository):
    client = create_app(repository, Places(1), prometheus_client.CollectorRegistry(), Access("127.0.0.1")).test_client()
    for _ in range(3):
        client.post("/v1/models/toy:predict", data='{"inputs": [1]}')
    client.post("/v1/models/foo:predict", data="{}")
    client.get("/v1/models/toy")
    client.get("/nothing")
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    samples = families["genmnist_requests"].samples
    counts = {(s.labels["route"], s.labels["status"]): s.value for s in samples if s.name.endswith("_total")}
    assert counts == {("predict", "200"): 3, ("predict", "404"): 1, ("status", "200"): 1, ("none", "404"): 1}
    seconds = {
        s.labels["route"]: s.value for s in families["genmnist_request_seconds"].samples if s.name.endswith("_sum")
    }
    assert 0 < seconds["predict"] < 60
    versions = {s.labels["model"]: s.value for s in families["genmnist_model_version"].samples}
    assert versions == {"toy": 123, RESERVED: 123, "vae": 1}
