"""Runs and results of earlier versions: opened by what they say themselves, whatever configs/ has today."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from keras_genmnist import config as configs
from keras_genmnist import migrations, models, runs, training
from keras_genmnist.errors import Fault
from tests import tiny

ROOT = Path(__file__).parent.parent
FIRST = ROOT / "tests" / "data" / "first_version"  # records that it wrote, as of `evaluate --results`
STORED = ROOT / "tests" / "data"  # SCHEMA_N: a tiny vae_2d on mnist_5k, as a version that wrote schema N left it
# Of schema 1, as that version computed them.
WEIGHTS = "98738498be5edccc98ff1e339c7d2984ac6d9684996c555dbdf314d13b3c371e"
IMAGES = "c147563695b5752f4ad1333d2bf558325ed90153f60e0b0d26b7b2cc29c7aeeb"


def sha256(*arrays) -> str:
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.fixture
def stored(tmp_path) -> Path:
    """A copy of the stored run of schema 1."""
    return shutil.copytree(STORED / "schema_1", tmp_path / "stored")


@pytest.fixture
def no_configs(monkeypatch):
    """Makes each look into configs/ an error."""

    def asked(name):
        raise AssertionError(f"configs/ was asked for {name}")

    monkeypatch.setattr(configs, "load", asked)
    monkeypatch.setattr(configs, "names", lambda: asked("names"))


def test_stored_run_draws_the_very_images_that_it_drew_then(stored, no_configs):
    model = runs.load_model(runs.load(stored))
    assert sha256(*model.weights) == WEIGHTS
    assert sha256(model.sample(4, 1)["images"]) == IMAGES


def test_stored_run_is_written_anew_with_its_schema_and_a_lasting_identity(stored, no_configs):
    run = runs.load(stored)
    runs.record(run)
    content = json.loads((stored / "config.json").read_text())
    assert (content["schema"], content["id"]) == (migrations.SCHEMA, run.identity)
    assert runs.load(stored) == run


def older(stored: Path, drop: list[str], **fields) -> Path:
    """The stored run as a version before it would have written it."""
    path = stored / "config.json"
    content = json.loads(path.read_text())
    content["config"] = {f: value for f, value in content["config"].items() if f not in drop} | fields
    path.write_text(json.dumps(content))
    return stored


def test_run_of_the_first_version_draws_the_same(stored, no_configs):
    first = set(json.loads((FIRST / "vae.json").read_text())["config"]) | {"norm"}
    drop = set(json.loads((stored / "config.json").read_text())["config"]) - first | {"norm"}
    model = runs.load_model(runs.load(older(stored, drop, batch_norm=True)))
    assert len(drop) == 26
    assert sha256(model.sample(4, 1)["images"]) == IMAGES


RECORDS = {
    str(path.relative_to(ROOT)): json.loads(path.read_text())
    for path in sorted([*(ROOT / "results").glob("*.json"), *FIRST.glob("*.json")])
    if "config" in json.loads(path.read_text())
}


@pytest.mark.parametrize("name", RECORDS)
def test_config_of_a_result_can_be_trained_today(name):
    label, config, _ = runs.config_from(ROOT / name)
    record = RECORDS[name]
    assert label == record["model"]
    # A mixture is made of trained models, so it is their configs that count.
    trained, written = config.get("components", [config]), record["config"].get("components", [record["config"]])
    for config_now, config_then in zip(trained, written, strict=True):
        # Red where a config has a new field and MIGRATIONS no value for it.
        assert set(config_now) == set(configs.load(label if config_now is config else config_now["model"]))
        renamed = {"vote_noise": "bottom_up_noise", "place_features": "position_features"}
        kept = {renamed.get(field, field): own for field, own in config_then.items() if field != "batch_norm"}
        assert {field: config_now[field] for field in kept} == kept
        training.check_config(ConfigDict(config_now))
    model = models.build(config)
    if "parameters" in record:
        assert model.num_parameters == record["parameters"]


@pytest.mark.parametrize(
    "model, config, norm",
    [
        ("vae", {"network": "mlp", "batch_norm": True}, "batch"),
        ("vae", {"network": "mlp", "batch_norm": False}, "none"),
        ("vae", {"network": "mlp"}, "none"),
        ("vae", {"network": "conv", "batch_norm": True}, "none"),  # which then had no place for it
        ("vae", {"network": "conv", "batch_norm": True, "decoder": "bernoulli"}, "batch"),
        ("vae", {"network": "mlp", "norm": "layer"}, "layer"),
        ("ladder", {"network": "conv", "batch_norm": True}, "batch"),
    ],
)
def test_batch_norm_becomes_the_norm_that_it_was(model, config, norm):
    migrated = migrations.migrate({"model": model, **config}, 1)
    assert migrated["norm"] == norm and "batch_norm" not in migrated


def test_run_of_a_later_version_is_a_fault(tmp_path):
    run = tiny.begin(tmp_path / "run")
    content = json.loads((run.workdir / "config.json").read_text())
    content["schema"] = migrations.SCHEMA + 1
    (run.workdir / "config.json").write_text(json.dumps(content))
    with pytest.raises(Fault, match=f"a later version wrote this config, of schema {migrations.SCHEMA + 1}"):
        runs.load(run.workdir)


def test_components_of_a_mixture_are_migrated_with_it():
    old = {"model": "ladder", "class_conditional": False}
    found = migrations.migrate({"model": "mixture", "components": [old, old]}, 4)
    assert found["components"] == 2 * [migrations.migrate(old, 4)] and found["components"][0]["beta"] == 1.0
