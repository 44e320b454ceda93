"""The pretrained models: what is packed is unpacked, a damaged file is told, and those that are shipped are whole."""

import hashlib
import json
import os
import shutil
import tempfile
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

import keras_genmnist as gm
from keras_genmnist import bounds, evaluate, export, figures, files, runs, zoo
from keras_genmnist.errors import Fault, UsageError
from tests import test_cli, tiny

call, genmnist, assert_one_line = test_cli.call, test_cli.genmnist, test_cli.assert_one_line


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder that the user's cache is in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    zoo._cache.cache_clear()
    yield tmp_path / "cache" / "genmnist" / "pretrained"
    zoo._cache.cache_clear()


@pytest.fixture
def packed(run, exported, monkeypatch, tmp_path, cache):
    """The tiny run as the only pretrained model; its file."""
    own = runs.load(shutil.copytree(run.workdir, tmp_path / "vae"))
    own.metrics_json.write_text('{"test": {}}')
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    return zoo.pack(zoo.rounded(own, tmp_path / "rounded"), exported)


def test_run_comes_back_with_its_weights_rounded(packed, run):
    assert zoo.names() == ["vae"]
    unpacked = zoo.run("vae")
    assert (unpacked.config, unpacked.identity, unpacked.title) == (run.config, run.identity, "vae")
    assert runs.history(unpacked) == runs.history(run)
    before, after = (tiny.parameters(runs.load_model(r)) for r in (run, unpacked))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, zoo._rounded(old.numpy()).astype(np.float32))
    assert any((old.numpy() != new.numpy()).any() for old, new in zip(before, after, strict=True))


def test_export_comes_back_and_gives_what_the_run_gives(packed, exported):
    folder = zoo.export("vae")
    (version,) = folder.iterdir()
    loaded = tf.saved_model.load(str(version))
    own = runs.load_model(zoo.run("vae")).sample(2, seed=7)["probabilities"]
    signature = loaded.signatures["sample"](num_samples=tf.constant(2), seed=tf.constant(7))
    np.testing.assert_allclose(signature["probabilities"], own, atol=1e-6)
    expected = {path.relative_to(exported) for path in exported.rglob("*") if path.is_file()}
    assert {path.relative_to(version) for path in version.rglob("*") if path.is_file()} == expected


def test_same_run_gives_the_same_file(packed, run, exported):
    before = packed.read_bytes()
    own = packed.parent.parent / "rounded" / "vae"
    assert zoo.pack(runs.load(own), exported).read_bytes() == before


def test_damaged_file_is_told(packed, genmnist):
    packed.write_bytes(packed.read_bytes()[:-1])
    assert_one_line(genmnist("sample", "--pretrained=vae"), 3, f"{packed} is damaged: install the package again")


def test_unpacked_model_is_used_again_and_one_that_changed_is_not(packed, cache):
    first = zoo.run("vae").workdir
    packed.unlink()
    assert zoo.run("vae").workdir == first and first.is_relative_to(cache)
    digests = {"vae": "0" * 64}
    (packed.parent / "sha256.json").write_text(json.dumps(digests))
    with pytest.raises(FileNotFoundError):
        zoo.run("vae")
    assert not list(cache.glob(".writing*"))


def test_what_is_missing_or_cut_off_in_the_cache_is_unpacked_again(packed):
    first = zoo.run("vae").workdir
    for path, damage in ((first / "config.json", "cut"), (first / "best", "gone"), (zoo.export("vae"), "gone")):
        shutil.rmtree(path) if damage == "gone" else path.write_text("")
        (first / "metrics.json").write_text("{}")  # as another evaluation might
        assert runs.load_model(zoo.run("vae")) and (zoo.export("vae") / "1" / "saved_model.pb").exists()
        assert (first / "metrics.json").read_text() != "{}"
    (first / "metrics.json").write_text("{}")
    assert zoo.run("vae").metrics_json.read_text() == "{}"


def test_what_another_process_has_unpacked_meanwhile_is_used(packed, cache, monkeypatch):
    rename = files.rename

    def late(new, target):
        if new.is_dir() and not target.exists():
            shutil.copytree(new, target)
        rename(new, target)

    monkeypatch.setattr(files, "rename", late)
    assert runs.load_model(zoo.run("vae"))
    assert [path.name for path in cache.iterdir()] == [zoo._unpacked("vae").name]


@pytest.fixture
def elsewhere(packed, monkeypatch, tmp_path):
    """The temporary folder, where the user's cache cannot be written."""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    zoo._cache.cache_clear()
    return tmp_path / "tmp"


def test_cache_that_cannot_be_written_is_done_without(elsewhere):
    workdir = zoo.run("vae").workdir
    assert (workdir / "config.json").exists()
    zoo._cache.cache_clear()  # as another process has it
    assert zoo.run("vae").workdir == workdir
    (folder,) = elsewhere.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and workdir.is_relative_to(folder)


@pytest.mark.parametrize("kind", ["a file", "a link"])
def test_what_is_no_folder_is_not_unpacked_into(elsewhere, tmp_path, kind):
    """A link leads wherever its maker likes."""
    taken, there = elsewhere / f"genmnist-{os.getuid()}", tmp_path / "there"
    there.mkdir()
    taken.touch() if kind == "a file" else taken.symlink_to(there)
    workdir = zoo.run("vae").workdir
    assert workdir.is_relative_to(elsewhere) and not workdir.is_relative_to(taken)
    assert not list(there.iterdir())


def test_folder_of_another_user_is_not_read(elsewhere, monkeypatch):
    uid = os.getuid() + 1
    other = elsewhere / f"genmnist-{uid}"
    other.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: uid)
    workdir = zoo.run("vae").workdir
    assert workdir.is_relative_to(elsewhere) and not workdir.is_relative_to(other)


def test_weights_keep_eight_significant_bits():
    weights = np.float32([0.0, 1.0, -(2.0**-14), 3.14159, 60_000.0])
    rounded = zoo._rounded(weights)
    np.testing.assert_allclose(rounded.astype(np.float32), weights, rtol=2.0**-8)
    assert rounded[3] == 3.140625
    np.testing.assert_array_equal(zoo._whole(zoo._planes(rounded[:, None])), rounded[:, None])
    assert zoo._whole(zoo._planes(rounded[3])) == rounded[3]


def test_gan_comes_without_its_discriminator(monkeypatch, tmp_path, cache):
    run = tiny.untrained(tiny.begin(tmp_path / "gan", "gan"))
    run.metrics_json.write_text('{"test": {}}')
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    model = runs.load_model(run)
    rounded = zoo.rounded(run, tmp_path / "rounded")
    zoo.pack(rounded, export.export(rounded, tmp_path / "before"))
    unpacked = runs.load_model(zoo.run("gan"))
    assert any(np.any(weight) for weight in model.discriminator.get_weights())
    assert not any(np.any(weight) for weight in unpacked.discriminator.get_weights())
    own, other = (m.sample(4, seed=1)["images"] for m in (model, unpacked))
    np.testing.assert_allclose(own, other, atol=0.02)
    for exported in (zoo.export("gan") / "1", export.export(zoo.run("gan"), tmp_path / "exports")):
        signatures = tf.saved_model.load(str(exported)).signatures
        assert "sample" in signatures and "discriminate" not in signatures
    evaluate.evaluate(zoo.run("gan"), None)
    record = json.loads((zoo.run("gan").metrics_json).read_text())
    assert "samples" in record and "samples_raw" not in record


def test_figures_of_a_pretrained_model_leave_out_progress(packed, tmp_path, capsys):
    drawn = [name for name, _ in figures.draw(zoo.run("vae"), [])]
    assert "samples" in drawn and "progress" not in drawn and capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="no figure progress: it needs the samples of each epoch, and the run"):
        next(figures.draw(zoo.run("vae"), ["progress"]))


def test_weight_too_large_for_its_half_precision_is_refused():
    with pytest.raises(Fault, match="too large"):
        zoo._rounded(np.float32([1.0, 70_000.0]))
    assert zoo._rounded(np.int64([2**40])) == [2**40]


def test_verbs_take_a_pretrained_model(packed, genmnist, digits):
    np.savez("own.npz", images=(255 * digits[..., 0]).astype(np.uint8))
    for verb, *more in (["sample"], ["encode", "--images=own.npz"], ["score", "--images=own.npz", "--num_draws=2"]):
        outcome = genmnist(verb, "--pretrained=vae", *more)
        assert outcome.status == 0, outcome.err
    assert_one_line(genmnist("sample", "--pretrained=vea"), 2, "no pretrained model 'vea'; did you mean vae? There are")
    for verb in ("sample", "evaluate"):
        outcome = genmnist(verb, "--pretrained=vae", "--model=vae")
        assert_one_line(outcome, 2, "give either --pretrained or a run by --model or --workdir, not both")
    outcome = genmnist("sample", "--pretrained=vae", "--export=exports/vae")
    assert_one_line(outcome, 2, "give either --export or a run by --model, --workdir or --pretrained, not both")


@pytest.mark.slow
def test_server_without_exports_serves_them_all(tmp_path, cache):
    # Each is unpacked first, which must leave to the server how TensorFlow's threads are set.
    process = tiny.start("serve", "--port=0", cwd=tmp_path)
    said = process.stdout.readline()
    address = process.stdout.readline().split()[-1]
    served = f"{address}/v1/models/vae_2d"

    def is_ready():
        try:
            return urllib.request.urlopen(f"{address}/readyz").status == 200
        except urllib.error.URLError:
            return False

    tiny.wait_for(is_ready, process)
    sheet = urllib.request.urlopen(f"{served}/sample.png?num_samples=4&seed=7").read()
    process.terminate()
    process.communicate(timeout=30)
    assert said == f"no --export is given: serving the pretrained {', '.join(zoo.names())}\n"
    assert sheet.startswith(b"\x89PNG")


# Those that are shipped


def test_shipped_files_are_those_that_the_list_names_and_small():
    shipped = {path.stem: path.read_bytes() for path in zoo.ZOO.glob("*.zip")}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in shipped.items()} == zoo._digests()
    assert sum(map(len, shipped.values())) < 16e6
    assert "vae_2d" in shipped


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_model_is_as_good_as_its_record_says(name, mnist_5k, cache):
    run = gm.pretrained(name)
    record = json.loads((run.workdir / "metrics.json").read_text())
    assert record["dataset"] == "mnist" and not record["trained"]["commit"][-1].endswith("+")
    model, images = run.model, mnist_5k.test.binary[:300].astype(np.float32)
    told = record.get("test", {}).get("given_label", record.get("test"))
    if model.likelihood == "exact":
        values, expected = model.log_likelihood(images), -told["nll"]["mean"]
    elif model.likelihood == "bound":
        values, expected = model.bound_terms(images, num_draws=1, seed=1)["elbo"], told["elbo"]["mean"]
    elif model.likelihood == "importance":
        given = {"y": mnist_5k.test.labels[:300]} if model.takes_labels else {}
        values, expected = bounds.elbo(model.log_terms(images, 1, tf.constant([1, 2]), **given)), told["elbo"]["mean"]
    if model.likelihood:
        values = values.numpy()
        assert values.mean() == pytest.approx(expected, abs=float(4 * values.std() / 300**0.5))
