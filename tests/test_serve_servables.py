import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_genmnist.errors import UsageError
from keras_genmnist.serve import servables
from keras_genmnist.serve.servables import Repository
from tests import toy


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Versions 1 (offset 2) and 2 (offset 20) of a toy.  Read them, and write elsewhere."""
    folder = tmp_path_factory.mktemp("saved")
    toy.save(folder, 1, 2.0)
    toy.save(folder, 2, 20.0)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """An export with version 1."""
    shutil.copytree(saved / "1", tmp_path / "toy" / "1")
    return tmp_path / "toy"


def repository(*exports) -> Repository:
    loaded = Repository([*exports], lambda rows: None)
    loaded.refresh()
    return loaded


def offset(models: Repository, name: str = "toy", version: int | None = None) -> float:
    """What the served version adds: it tells which one it is."""
    half = models.servable(name, version).signature("serving_default")
    return float(half({"x": np.zeros([1], np.float32)})["y"][0])


def test_the_newest_version_is_served(saved, folder):
    models = repository(folder)
    assert offset(models) == 2
    shutil.copytree(saved / "2", folder / "10")
    models.refresh()
    assert (offset(models), models.servable("toy").version) == (20, 10)
    assert offset(models, version=10) == 20
    with pytest.raises(tf.errors.NotFoundError, match=r"^Servable not found for request: Specific\(toy, 1\)$"):
        models.servable("toy", 1)
    with pytest.raises(tf.errors.NotFoundError, match=r"^Servable not found for request: Latest\(foo\)$"):
        models.servable("foo")


def test_versions_are_numbers(saved, folder):
    for name in NO_VERSIONS:
        shutil.copytree(saved / "2", folder / name)
    (folder / "8").write_text("")
    models = repository(folder)
    assert (offset(models), models.status("toy")) == (2, [AVAILABLE])


# Superscripts are digits to Python, as are those of all scripts, and a number of more than 64 bits is none.
NO_VERSIONS = ("notes", ".writing-9", "9a", "\u0663", "\u00b2", "-9", " 9", "9" * 19)


@pytest.mark.parametrize("name", NO_VERSIONS)
def test_a_folder_that_is_no_version_is_refused(saved, folder, name):
    path = shutil.copytree(saved / "2", folder / name)
    with pytest.raises(UsageError, match=r"no SavedModel in .*: give exports/NAME or exports/NAME/VERSION"):
        repository(path)


def test_a_version_is_the_number_that_its_folder_spells(saved, folder):
    # As TensorFlow Serving has it: of two folders that spell one number, it takes the last by name.
    shutil.copytree(saved / "2", folder / "0010")
    models = repository(folder)
    assert (offset(models), models.servable("toy", 10).version) == (20, 10)
    assert models.status("toy") == [AVAILABLE | {"version": "10"}]
    assert offset(repository(folder / "0010"), version=10) == 20
    shutil.copytree(saved / "1", folder / "10")
    assert offset(repository(folder), version=10) == 2
    assert offset(repository(folder / "0010"), version=10) == 20


def test_a_broken_version_of_any_spelling_is_reported(saved, folder, capsys):
    (folder / "0010").mkdir()
    models = repository(folder)
    models.refresh()
    assert capsys.readouterr().err.count(f"{folder}/0010 cannot be served") == 1
    assert [state["version"] for state in models.status("toy")] == ["10", "1"]


def test_a_version_that_goes_gives_way_to_the_one_before(saved, folder):
    shutil.copytree(saved / "2", folder / "2")
    models = repository(folder)
    assert offset(models) == 20
    shutil.rmtree(folder / "2")
    models.refresh()
    assert offset(models) == 2
    shutil.rmtree(folder)
    models.refresh()
    assert offset(models) == 2  # better than nothing


def damage_nothing_there(path):
    shutil.rmtree(path)
    path.mkdir()


def damage_graph(path):
    (path / "saved_model.pb").write_bytes(b"garbage")


def damage_graph_end(path):
    graph = path / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1000])


def damage_variables(path):
    os.truncate(path / "variables" / "variables.data-00000-of-00001", 2)


def damage_index(path):
    (path / "variables" / "variables.index").unlink()


def extra(path, name, text):
    """Writes a file of assets.extra/."""
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / name).write_text(text)


def damage_record(path):
    extra(path, "genmnist.json", "{")


def damage_means(path):
    extra(path, "latent_means.json", "{")


def damage_with_a_pipe(path):
    """Which to read would wait for a writer for ever, and with it whoever looks for new versions."""
    (path / "saved_model.pb").unlink()
    os.mkfifo(path / "saved_model.pb")


def damage_record_text(path):
    extra(path, "genmnist.json", r'{"model": "\ud800", "dataset": "mnist"}')


def damage_means_number(path):
    extra(path, "latent_means.json", '{"means": [[NaN, 0]], "labels": null}')


def damage_means_list(path):
    extra(path, "latent_means.json", "[1, 2]")


def damage_means_labels(path):
    extra(path, "latent_means.json", '{"means": [[1, 2], [3, 4]], "labels": [7]}')


def damage_likelihoods_order(path):
    extra(path, "log_likelihoods.json", '{"num_draws": 20, "log_likelihoods": [-90.0, -100.0]}')


def damage_likelihoods_draws(path):
    extra(path, "log_likelihoods.json", '{"num_draws": null, "log_likelihoods": [-100.0, -90.0]}')


DAMAGES = [function for name, function in globals().items() if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_version_is_reported_and_the_old_one_stays(saved, folder, capsys, damage):
    models = repository(folder)
    shutil.copytree(saved / "2", folder / "2")
    damage(folder / "2")
    for _ in range(3):
        models.refresh()
    assert offset(models) == 2 and not models.waiting
    err = capsys.readouterr().err
    assert err.startswith(f"genmnist: {folder}/2 cannot be served: ") and err.count("\n") == 1  # once, not each second
    broken, served = models.status("toy")
    assert (broken["version"], broken["state"]) == ("2", "END")
    assert broken["status"]["error_code"] != "OK" and "cannot be served" in broken["status"]["error_message"]
    assert served == AVAILABLE
    # Repaired, it is served.
    shutil.rmtree(folder / "2")
    shutil.copytree(saved / "2", folder / "2")
    models.refresh()
    assert offset(models) == 20
    assert models.status("toy") == [AVAILABLE | {"version": "2"}]
    shutil.copytree(saved / "1", folder / "3")
    models.refresh()
    assert models.status("toy") == [AVAILABLE | {"version": "3"}]


AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def test_a_broken_version_that_goes_is_forgotten(folder):
    models = repository(folder)
    (folder / "2").mkdir()
    models.refresh()
    assert len(models.status("toy")) == 2
    (folder / "2").rmdir()
    models.refresh()
    assert models.status("toy") == [AVAILABLE]


def test_a_start_with_a_broken_version_serves_the_one_before(saved, folder):
    shutil.copytree(saved / "2", folder / "3")
    damage_graph(folder / "3")
    models = repository(folder)
    assert offset(models) == 2 and not models.waiting


def test_a_version_that_may_not_be_searched_is_reported_and_the_one_before_served(saved, folder, capsys, monkeypatch):
    shutil.copytree(saved / "2", folder / "0")  # before 1, also where the export is first looked for
    (folder / "0").rename(folder / "02")
    stat = Path.stat

    def refused(path, **options):
        if folder / "02" in path.parents:  # by hand: root may search every folder
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refused)
        models = repository(folder)
        models.refresh()
        assert offset(models) == 2
    assert capsys.readouterr().err.count(f"{folder}/02 cannot be served: PermissionError: [Errno 13]") == 1
    assert [state["version"] for state in models.status("toy")] == ["2", "1"]
    models.refresh()
    assert offset(models) == 20


def test_without_a_whole_version_it_is_not_ready(saved, folder):
    damage_graph(folder / "1")
    models = repository(folder)
    assert models.waiting == ["toy"]
    with pytest.raises(tf.errors.NotFoundError, match="Latest"):
        models.servable("toy")
    shutil.copytree(saved / "2", folder / "2")
    models.refresh()
    assert not models.waiting and offset(models) == 20


def test_a_version_can_be_pinned(saved, folder):
    shutil.copytree(saved / "2", folder / "2")
    assert offset(repository(folder / "1")) == 2


def test_several_exports_are_served_by_their_names(saved, folder):
    shutil.copytree(saved / "2", folder.parent / "other" / "7")
    models = repository(folder, folder.parent / "other")
    assert (offset(models, "toy"), offset(models, "other")) == (2, 20)


@pytest.mark.parametrize("second", ["toy", "toy/1", "toy/../toy", "elsewhere/toy"])
def test_two_exports_of_one_name_are_refused(folder, second):
    shutil.copytree(folder, folder.parent / "elsewhere" / "toy")
    with pytest.raises(UsageError, match="two exports are named toy"):
        repository(folder, folder.parent / second)


@pytest.mark.parametrize("path", ["nowhere", "toy/2", "empty", "."])
def test_a_folder_without_an_export_is_refused(folder, path):
    (folder.parent / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no SavedModel in .*: give exports/NAME or exports/NAME/VERSION"):
        repository(folder.parent / path)


def test_an_export_whose_folders_are_no_versions_is_refused(folder):
    (folder / "1").rename(folder / "latest")
    with pytest.raises(UsageError, match=r"no SavedModel in .*: give exports/NAME or exports/NAME/VERSION"):
        repository(folder)


def test_a_link_that_leads_nowhere_keeps_no_model_from_being_served(folder):
    (folder / "1" / "notes").symlink_to(folder / "gone")
    shutil.copytree(folder, folder.parent / "other", symlinks=True)
    models = repository(folder, folder.parent / "other")
    assert not models.waiting


@pytest.mark.parametrize(("version", "message"), [(None, "any versions of"), (9, "version 9 of")])
def test_status_of_what_there_is_not(folder, version, message):
    with pytest.raises(tf.errors.NotFoundError, match=f"^Could not find {message} model toy$" if version else message):
        repository(folder).status("toy" if version else "foo", version)


def test_only_signatures_of_rows_are_joined(folder, exported):
    def joined(servable):
        return {name for name, signature in servable.signatures.items() if signature._batcher}

    assert joined(repository(folder).servable("toy")) == {"serving_default", "log"}
    rows = {"serving_default", "sample_rows", "decode", "decode_probabilities", "encode", "reconstruct"}
    assert joined(repository(exported.parent).servable("vae")) == rows  # not `sample`, `elbo` and `interpolate`


def test_errors_of_the_graph_are_one_sentence(folder, exported):
    toys, digits = repository(folder).servable("toy"), repository(exported.parent).servable("vae")
    z = np.zeros([3, 2], np.float32)
    for servable, name, inputs, message in [
        (toys, "serving_default", {"x": np.float32([-1])}, "x is negative: give 0 or more"),
        (
            digits,
            "sample",
            {"num_samples": np.int32(0), "seed": np.int32(1)},
            "num_samples is out of range: give 1 to 1024, not 0",
        ),
        (
            digits,
            "sample",
            {"num_samples": np.int32(9999), "seed": np.int32(1)},
            "num_samples is out of range: give 1 to 1024, not 9999",
        ),
        (digits, "decode", {"z": z + np.nan}, "z must be finite : Tensor had NaN values"),
        (
            digits,
            "encode",
            {"images": np.full([1, 28, 28, 1], 2, np.float32)},
            "values of images are out of range: give pixels in [0, 1], not 2",
        ),
        (digits, "interpolate", {"z1": z, "z2": z[:2], "alphas": z[0]}, "give as many rows of z1 as of z2, or one"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError) as refused:
            servable.signature(name)(inputs)
        assert refused.value.message == message


def test_warm_up_requests_are_played(folder):
    def warm(x, signature_name="serving_default"):
        log, other = PredictionLog(), PredictionLog()
        request = log.predict_log.request
        request.model_spec.signature_name = signature_name
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
        other.classify_log.request.model_spec.name = "toy"
        (folder / "1" / "assets.extra").mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / "1" / "assets.extra" / "tf_serving_warmup_requests")) as writer:
            writer.write(other.SerializeToString())
            writer.write(log.SerializeToString())

    for name in ("serving_default", ""):
        rows = []
        warm([1.0, 2.0, 3.0], name)
        Repository([folder], rows.append).refresh()
        assert rows == [3]
    warm([-1.0])  # refused by the graph: then the requests of others would be too
    assert repository(folder).waiting == ["toy"]


def test_warm_up_requests_are_played_two_at_a_time(exported, monkeypatch):
    meet, call = threading.Barrier(2, timeout=60), servables.Signature.__call__
    played = []

    def met(self, inputs):
        if len(played) < 2:
            played.append(self)
            meet.wait()
        return call(self, inputs)

    monkeypatch.setattr(servables.Signature, "__call__", met)
    assert not repository(exported.parent).waiting
    assert len(played) == 2


def test_a_model_is_read_while_another_warms_up_and_never_two_at_once(folder, monkeypatch):
    others = [shutil.copytree(folder, folder.parent / name) for name in ("second", "third")]
    load, reading, both = tf.saved_model.load, threading.Lock(), threading.Barrier(2, timeout=60)

    def read(path):
        assert reading.acquire(blocking=False), "two are read at once"
        found = load(path)
        reading.release()
        return found

    def warm_up(self, path):
        if self.name in ("toy", "second"):  # the first two, of which neither may wait for the other to be served
            both.wait()

    monkeypatch.setattr(tf.saved_model, "load", read)
    monkeypatch.setattr(servables.Servable, "_warm_up", warm_up)
    assert not repository(folder, *others).waiting


def test_what_the_explorer_is_told(folder, exported, tmp_path):
    toys, digits = repository(folder).servable("toy"), repository(exported.parent).servable("vae")
    assert (toys.label, toys.latent_size) == ("toy", None)
    assert (digits.label, digits.latent_size) == ("vae on mnist_5k", 2)
    means = {"means": [[0.5, 1.0]], "labels": [7]}
    copy = shutil.copytree(exported, tmp_path / "vae" / "1")
    (copy / "assets.extra" / "latent_means.json").write_text(json.dumps(means))
    assert repository(copy).servable("vae").latent_means == means


@pytest.mark.parametrize(
    "spec", [{"codes": tf.TensorSpec([None, 2])}, {"z": tf.TensorSpec([None, 2, 3])}], ids=["codes", "z"]
)
def test_a_decoder_of_other_makers_has_no_latents_to_explore(spec, tmp_path):
    module = tf.Module()
    module.decode = tf.function(lambda **inputs: {"image": next(iter(inputs.values()))})
    tf.saved_model.save(module, str(tmp_path / "other" / "1"), {"decode": module.decode.get_concrete_function(**spec)})
    assert repository(tmp_path / "other").servable("other").latent_size is None
