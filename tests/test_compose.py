"""compose.yaml and what it mounts: TensorFlow Serving ends at the first line of its configs that it cannot read."""

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_genmnist import cli
from keras_genmnist import config as configs
from keras_genmnist.signatures import MAX_SAMPLES

ROOT = Path(__file__).parent.parent
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def served():
    """The models of models.config."""
    config = text_format.Parse((ROOT / "docker" / "models.config").read_text(), ModelServerConfig())
    return list(config.model_config_list.config)


def test_models_config_serves_exports_of_models_that_exist(served):
    assert served
    for model in served:
        assert model.name in configs.names()
        assert (model.base_path, model.model_platform) == (f"/exports/{model.name}", "tensorflow")


def test_batching_config_agrees_with_the_most_rows_of_a_call():
    lines = (ROOT / "docker" / "batching.config").read_text().splitlines()
    fields = [re.fullmatch(r"(\w+) { value: (\d+) }", line) for line in lines if not line.startswith("#")]
    values = {field[1]: int(field[2]) for field in fields}
    # Fields of BatchingParameters, which tensorflow-serving-api does not ship.
    assert values.keys() == {"max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches"}
    assert values["max_batch_size"] == MAX_SAMPLES


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("tensorflow-serving")])
def test_compose_mounts_what_tensorflow_serving_reads(name, served):
    service = SERVICES[name]
    mounts = {target: ROOT / source for source, target, _ in (volume.split(":") for volume in service["volumes"])}
    assert mounts["/exports"] == ROOT / "exports"
    files = [Path(argument.split("=")[1]) for argument in service["command"] if "file=" in argument]
    assert files
    for file in files:
        assert (mounts[str(file.parent)] / file.name).is_file()
    assert f"/v1/models/{served[0].name} " in service["healthcheck"]["test"][-1]


def test_compose_serves_the_same_models_by_genmnist(served):
    verb, *arguments = SERVICES["genmnist"]["command"]
    assert verb in cli.VERBS
    assert arguments == [f"--export={model.base_path}" for model in served]
    assert SERVICES["genmnist"]["volumes"] == [SERVICES["tensorflow-serving"]["volumes"][0]]


def test_compose_tunes_by_workers_that_reach_the_database():
    worker, database = SERVICES["tune"], SERVICES["postgresql"]
    verb, *arguments = worker["command"]
    given = dict(argument.split("=", 1) for argument in arguments)
    own = database["environment"]
    user, password = own["POSTGRES_USER"], own["POSTGRES_PASSWORD"]
    assert given["--storage"] == f"postgresql://{user}:{password}@postgresql/{own['POSTGRES_DB']}"
    assert "ports" not in database  # the password is no secret
    assert verb in cli.VERBS and given["--workdir"].startswith("runs/")
    assert worker["deploy"]["replicas"] == 2 and worker["profiles"] == database["profiles"] == ["tune"]
    assert worker["depends_on"] == {"postgresql": {"condition": "service_healthy"}}


@pytest.mark.parametrize("port", [["--port=8502"], ["--port", "8502"], ["-port=8502"], ["-port", "8502"]])
def test_health_of_a_container_is_asked_at_the_port_that_it_serves(port):
    (program,) = re.findall(r"sed -nE '([^']+)'", (ROOT / "Dockerfile").read_text())
    arguments = ["genmnist", "serve", "--export=exports/port", *port, "--host=0.0.0.0"]
    found = subprocess.run(["sed", "-nE", program], input="\n".join(arguments), capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == ("8502", "")


@pytest.mark.parametrize("place", ["Dockerfile", "compose.yaml"])
@pytest.mark.parametrize("status", [200, 503])
def test_health_of_a_container_is_that_of_its_server_whatever_the_proxy(place, status):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    program = SERVICES["genmnist"]["healthcheck"]["test"][-1]
    if place == "Dockerfile":
        (program,) = re.findall(r'python -c "(.*)"$', (ROOT / "Dockerfile").read_text(), re.M)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = re.sub(r"\$url|http://[\w.:]+/readyz", f"http://127.0.0.1:{server.server_port}/readyz", program)
        proxied = os.environ | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        asked = subprocess.run([sys.executable, "-c", program], env=proxied, stderr=subprocess.PIPE, text=True)
        server.shutdown()
    assert (asked.returncode == 0) == (status == 200), asked.stderr
    assert status == 200 or "HTTP Error 503" in asked.stderr
