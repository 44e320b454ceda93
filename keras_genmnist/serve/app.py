"""The HTTP surface: TensorFlow Serving's REST routes, and beside them samples, the explorer, health and metrics."""

import contextlib
import math
import re
import threading
import time
from urllib.parse import unquote

import orjson
import prometheus_client
import tensorflow as tf
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from keras_genmnist import images, versions
from keras_genmnist.serve import tensors
from keras_genmnist.serve.access import CHALLENGES, Access
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository
from keras_genmnist.serve.tensors import invalid

# TensorFlow Serving's own two expressions: names of models and labels are whatever holds no slash and no colon.
WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICTION = re.compile(rf"(?i)/v1/models/(?P<name>[^/:]+){WHICH}:(?P<method>classify|regress|predict)")
RESOURCE = re.compile(rf"(?i)/v1/models(?:/(?P<name>[^/:]+))?{WHICH}(?:/(?P<resource>metadata|sample\.png))?")

# TensorFlow Serving's status of an error; all others are 500.
STATUS = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNAUTHENTICATED: 401,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.ABORTED: 409,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DEADLINE_EXCEEDED: 504,
}
RETRY_SECONDS = "1"
LARGE = 2**18  # bytes of a body, which can be twenty times as many once it is parsed

# TensorFlow Serving ignores the content type, and `curl -d` says that its JSON is a form.
JSON_TYPES = re.compile(r"|application/(.*[+])?json|text/(json|plain)|application/(x-www-form-urlencoded|octet-stream)")


def create_app(
    repository: Repository, places: Places, registry: prometheus_client.CollectorRegistry, access: Access
) -> Flask:
    """The application.

    Args:
      repository: what is served.
      places: that each request which calls a model takes one of.
      registry: of the metrics at /metrics; those of requests are added to it.
      access: what is asked of every request.
    """
    app = Flask(__name__)
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    requests = prometheus_client.Counter(
        "genmnist_requests_total", "Requests answered.", ["route", "status"], registry=registry
    )
    seconds = prometheus_client.Histogram(
        "genmnist_request_seconds", "Time from a request's arrival to its answer.", ["route"], registry=registry
    )
    in_flight = prometheus_client.Gauge("genmnist_in_flight", "Requests being worked on.", registry=registry)
    in_flight.set_function(lambda: places.taken)
    version_served = prometheus_client.Gauge(
        "genmnist_model_version", "The version served.", ["model"], registry=registry
    )
    reading = threading.Lock()

    @app.before_request
    def start():
        g.start = time.perf_counter()
        g.route = request.endpoint or "none"

    @app.before_request
    def admit():
        access.admit(request.method, request.path, request.headers)
        return Response(status=204) if access.is_preflight(request.method, request.headers) else None

    @app.after_request
    def finish(response):
        response.headers.update(access.headers(request.headers.get("Origin")))
        requests.labels(g.route, response.status_code).inc()
        seconds.labels(g.route).observe(time.perf_counter() - g.start)
        return response

    @app.errorhandler(tf.errors.OpError)
    def refused(error):
        status = STATUS.get(error.error_code, 500)
        response = _json({"error": error.message}, status)
        if status in (429, 503):
            response.headers["Retry-After"] = RETRY_SECONDS
        if status == 401:
            response.headers.setlist("WWW-Authenticate", CHALLENGES)
        return response

    @app.errorhandler(HTTPException)
    def failed(error):
        response = _json({"error": f"{error.name}: {request.method} {request.path}"}, error.code)
        if error.code == 405:
            response.headers["Allow"] = ", ".join(error.valid_methods)
        return response

    @app.errorhandler(Exception)
    def broken(error):
        app.logger.exception("error in %s %s", request.method, request.path)
        return _json({"error": "internal error: the server's log tells more"}, 500)

    @app.route("/<any(v1, V1):api>/", methods=ALL_METHODS, provide_automatic_options=False)
    @app.route("/<any(v1, V1):api>/<path:rest>", methods=ALL_METHODS, provide_automatic_options=False)
    def v1(api, rest=""):
        # A model's name may hold an encoded slash, which WSGI has decoded already.
        path = request.environ.get("REQUEST_URI", request.path).split("?")[0]
        pattern = {"POST": PREDICTION, "GET": RESOURCE}.get(request.method)
        found = pattern and pattern.fullmatch(path)
        if not found:
            raise invalid(f"Malformed request: {request.method} {path}")
        if not found["name"]:
            raise invalid("Missing model name in request.")
        name, version = unquote(found["name"]), found["version"] and versions.number_of(found["version"])
        if found["version"] and version is None:
            raise invalid(f"the version is out of range: give a number of at most {versions.MOST}")
        if found["label"]:
            raise invalid(f"Unrecognized servable version label: {unquote(found['label'])}")
        if request.method == "POST":
            g.route = found["method"].lower()
            return predict(name, version, g.route)
        g.route = (found["resource"] or "status").lower()
        if g.route == "sample.png":
            return sample(name, version)
        return metadata(name, version) if g.route == "metadata" else status(name, version)

    def predict(name, version, method):
        if not JSON_TYPES.fullmatch(request.mimetype):
            message = f"the content type is {request.mimetype}: send JSON, as application/json"
            return _json({"error": message}, 415)
        if (encoding := request.content_encoding or "identity") != "identity":
            return _json({"error": f"the content encoding is {encoding:.40}: send JSON as it is, without any"}, 415)
        with places.take():
            servable = repository.servable(name, version)
            if method != "predict":
                raise invalid(f"model {name} has no signature to {method}: its signatures are for predict")
            signature, inputs, by_row = read(servable)
            return Response(tensors.answer(signature(inputs), by_row), mimetype="application/json")

    def read(servable):
        """The signature that a request's body names, the inputs it gives, and whether they came by row."""
        # Of large bodies one is held at a time, and none while a model is called; small ones do not wait for it.
        with reading if (request.content_length or 0) > LARGE else contextlib.nullcontext():
            body = tensors.parse(request.get_data(cache=False))
            signature = servable.signature(tensors.signature_name(body))
            return signature, *tensors.inputs(body, signature.inputs)

    def status(name, version):
        return _json({"model_version_status": repository.status(name, version)})

    def metadata(name, version):
        servable = repository.servable(name, version)
        spec = {"name": name, "signature_name": "", "version": str(servable.version)}
        definitions = {"signature_def": {"signature_def": servable.signature_defs}}
        return _json({"model_spec": spec, "metadata": definitions})

    def sample(name, version):
        wanted = {"num_samples": 64, "seed": 1}
        servable = repository.servable(name, version)
        choice = "digit" if servable.spec.noun == "digit" else "label"
        for key, value in request.args.items():
            if key not in ("num_samples", "seed", "digit", "label"):
                raise invalid(f"unknown parameter {key}: give num_samples, seed or {choice}")
            if key in ("digit", "label") and "sample_class" not in servable.signatures:
                raise invalid(f"{key} cannot be chosen: {servable.label} was not told the classes; leave it out")
            if key == "label" and servable.spec.classes:
                try:
                    value = str(servable.spec.label_of(value))
                except ValueError as error:
                    raise invalid(f"label={error}") from error
            if not re.fullmatch(r"-?[0-9]{1,20}", value):
                raise invalid(f"{key}={value:.20} is no whole number: give one")
            wanted[key] = int(value)
        if "digit" in wanted:
            if "label" in wanted:
                raise invalid("digit and label name the same: give one of them")
            if servable.spec.num_classes is None:
                raise invalid(f"digit cannot be chosen: {servable.label} does not say what classes it has; give label")
            if not 0 <= wanted["digit"] < servable.spec.num_classes:
                raise invalid(f"digit={wanted['digit']} is out of range: give 0 to {servable.spec.num_classes - 1}")
            wanted["label"] = wanted.pop("digit")
        with places.take():
            method = "sample_class" if "label" in wanted else "sample"
            signature = servable.signature(method)
            inputs, _ = tensors.inputs({"inputs": wanted}, signature.inputs)
            drawn = signature(inputs).get("probabilities")
            if drawn is None or drawn.ndim != 4 or drawn.dtype.kind != "f" or not drawn.size:
                raise invalid(f"no sheet of images: {method} of {servable.label} gives no probabilities [N, H, W, C]")
            sheet = images.tile(drawn, columns=math.ceil(math.sqrt(len(drawn))))
            return Response(images.png(sheet).numpy(), mimetype="image/png")

    @app.get("/")
    def index():
        return app.send_static_file("index.html")

    @app.get("/explorer/models")
    def explorer():
        served = [model.served for model in repository.models.values() if model.served]
        return _json(
            {
                "models": [
                    {
                        "name": servable.name,
                        "version": str(servable.version),
                        "label": servable.label,
                        "signatures": sorted(servable.signatures),
                        "image_shape": servable.image_shape,
                        "grey": servable.grey,
                        "completes_any": servable.completes_any,
                        "noun": servable.spec.noun,
                        "classes": servable.spec.classes,
                        "latent_size": servable.latent_size,
                        "class_conditional": "sample_class" in servable.signatures,
                        "latent_means": servable.latent_means,
                        "log_likelihoods": servable.log_likelihoods,
                    }
                    for servable in served
                ],
                "loading": [name for name, model in repository.models.items() if not (model.served or model.broken)],
            }
        )

    @app.get("/healthz")
    def healthz():
        return Response("ok", mimetype="text/plain")

    @app.get("/readyz")
    def readyz():
        if waiting := repository.waiting:
            return Response(f"no version is loaded of {', '.join(waiting)}", 503, mimetype="text/plain")
        if places.closed:
            return Response("the server is stopping", 503, mimetype="text/plain")
        return Response("ok", mimetype="text/plain")

    @app.get("/metrics")
    def metrics():
        for name, model in repository.models.items():
            if model.served:
                version_served.labels(name).set(model.served.version)
        return Response(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def _json(value, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, mimetype="application/json")
