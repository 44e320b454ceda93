"""Damaged files of runs and exports: each is told in one line by every verb that reads it, and nothing is changed."""

import json
import shutil
from pathlib import Path

import pytest

from tests import test_cli, test_export, tiny
from tests.test_cli import assert_one_line

eager, call, genmnist = tiny.eager, test_cli.call, test_cli.genmnist
DEEP = 1_000_000 * "["

READERS = {
    "train": ["train", "--workdir=w"],
    "train anew": ["train", "--config_from=w", "--workdir=new"],
    "evaluate": ["evaluate", "--workdir=w", "--num_draws=1"],
    "figures": ["figures", "--workdir=w", "--which=samples"],
    "export": ["export", "--workdir=w"],
    "sample": ["sample", "--workdir=w"],
    "gap": ["gap", "--workdir=w", "--num_images=2"],
}


def configs(change):
    """Changes the content of both config.json, as JSON."""

    def damage(workdir):
        for path in (workdir / "config.json", workdir / "checkpoints" / "config.json"):
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

    return damage


def field(name, value):
    """Sets a field of the config in both config.json."""
    return configs(lambda content: content["config"].update({name: value}))


def written(name, text):
    """Writes files of the run anew."""

    def damage(workdir):
        for path in workdir.glob(name):
            path.write_text(text)

    return damage


def file_for_folder(name):
    def damage(workdir):
        shutil.rmtree(workdir / name)
        (workdir / name).write_text("")

    return damage


def folder_for_file(name):
    def damage(workdir):
        (workdir / name).unlink(missing_ok=True)
        (workdir / name).mkdir()

    return damage


# What is damaged, the status of the verbs that read it, and part of what they say.
ALL = {
    "config.json deep": (written("**/config.json", DEEP), 3, "are both damaged"),
    "config.json empty": (written("**/config.json", ""), 3, "are both damaged"),
    "config.json null": (written("**/config.json", "null"), 3, "are both damaged"),
    "config []": (configs(lambda content: content.update(config=[])), 3, "are both damaged"),
    "config null": (configs(lambda content: content.update(config=None)), 3, "are both damaged"),
    "name 5": (configs(lambda content: content.update(name=5)), 3, "are both damaged"),
    "changes 5": (configs(lambda content: content.update(changes=5)), 3, "are both damaged"),
    "changes [5]": (configs(lambda content: content.update(changes=[5])), 3, "are both damaged"),
    "schema 0": (configs(lambda content: content.update(schema=0)), 3, "are both damaged"),
    "schema of text": (configs(lambda content: content.update(schema="2")), 3, "are both damaged"),
    "later schema": (configs(lambda content: content.update(schema=99)), 3, "later version"),
    "latent_size null": (field("latent_size", None), 3, "are both damaged"),
    "epochs [1]": (field("epochs", [1]), 3, "are both damaged"),
    "no model": (configs(lambda content: content["config"].pop("model")), 3, "config.json is damaged"),
    "checkpoints a file": (file_for_folder("checkpoints"), 3, "w/checkpoints is a file"),
    "best a file": (file_for_folder("best"), 3, "w/best is a file"),
    "progress a file": (file_for_folder("progress"), 3, "w/progress is a file"),
    "tensorboard a file": (file_for_folder("tensorboard"), 3, "w/tensorboard is a file"),
    "config.json a folder": (folder_for_file("config.json"), 3, "w/config.json is a folder"),
    "its copy a folder": (folder_for_file("checkpoints/config.json"), 3, "w/checkpoints/config.json is a folder"),
    "metrics.jsonl a folder": (folder_for_file("metrics.jsonl"), 3, "w/metrics.jsonl is a folder"),
    "metrics.json a folder": (folder_for_file("metrics.json"), 3, "w/metrics.json is a folder"),
}
BUILDING = {
    "latent_size of text": (field("latent_size", "abc"), 2, "config.latent_size=abc is out of range"),
    "latent_size 1.5": (field("latent_size", 1.5), 2, "config.latent_size=1.5 is out of range"),
    "latent_size enormous": (field("latent_size", 10**400), 2, "is out of range: give 2147483647 or less"),
    "posterior 5": (field("posterior", 5), 2, "config.posterior=5 is not known"),
    "model 5": (field("model", 5), 2, "config.model=5 is not known"),
    "free_bits of text": (field("free_bits", "none"), 3, "config.json is damaged"),
    "seed of text": (field("seed", "abc"), 3, "config.json is damaged"),
    "no hidden_size": (configs(lambda content: content["config"].pop("hidden_size")), 3, "hidden_size"),
}
TRAINING = {
    "learning_rate of text": (field("learning_rate", "fast"), 3, "config.json is damaged"),
    "epochs of text": (field("epochs", "many"), 2, "config.epochs=many is out of range"),
    "epochs 1.5": (field("epochs", 1.5), 2, "config.epochs=1.5 is out of range"),
    "dataset 5": (field("dataset", 5), 2, "config.dataset=5 is not known"),
}
CASES = [
    *((verb, damage) for damage in ALL for verb in READERS),
    *((verb, damage) for damage in BUILDING for verb in READERS if verb != "train anew"),
    *((verb, damage) for damage in TRAINING for verb in ("train", "train anew")),
]


def state():
    return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*") if path.name != ".lock"}


@pytest.fixture
def damaged(run, genmnist):
    """Damages a copy of the run, `w` in the present folder, and returns the state of that folder."""

    def damaged(damage):
        damage(Path(shutil.copytree(run.workdir, "w")))
        return state()

    return damaged


@pytest.mark.parametrize("verb, damage", CASES)
def test_damaged_run_is_one_line_and_changes_nothing(verb, damage, damaged, genmnist):
    act, status, part = (ALL | BUILDING | TRAINING)[damage]
    before = damaged(act)
    outcome = genmnist(*READERS[verb])
    assert_one_line(outcome, status, part)
    assert outcome.out == "" and len(outcome.err) < 500
    assert state() == before


LINES = ["null", "[]", "5", '"text"', '{"epoch": 1}', '{"epoch": "1", "step": 4, "seconds": 1.0}', DEEP, "\x00", "{"]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:20])
def test_metrics_without_a_whole_row_are_one_line_and_change_nothing(line, damaged, genmnist):
    before = damaged(written("metrics.jsonl", line + "\n"))
    assert_one_line(genmnist("evaluate", "--workdir=w", "--num_draws=1"), 3, "w/metrics.jsonl is missing or damaged")
    assert_one_line(genmnist("figures", "--workdir=w"), 3, "w/metrics.jsonl is missing or damaged")
    assert state() == before


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:20])
def test_damaged_line_of_metrics_is_left_out(line, run, damaged, genmnist):
    whole = (run.workdir / "metrics.jsonl").read_text()
    damaged(written("metrics.jsonl", whole + 3 * (line + "\n")))
    assert_one_line(genmnist("figures", "--workdir=w", "--which=training_curves"), 0, "left out 3 damaged lines")
    assert_one_line(genmnist("train", "--workdir=w"), 0, "left out 3 damaged lines")
    assert Path("w/metrics.jsonl").read_text() == whole


def test_rows_that_lack_a_column_draw_the_other_curves(run, damaged, genmnist):
    row = json.loads((run.workdir / "metrics.jsonl").read_text())
    damaged(written("metrics.jsonl", json.dumps(row) + "\n" + json.dumps({**row, "epoch": 2, "kl": None}) + "\n"))
    command = ["figures", "--workdir=w", "--which=training_curves"]
    assert genmnist(*command).status == 0
    short = {name: row[name] for name in ("epoch", "step", "seconds", "val_elbo", "val_kl")}
    Path("w/metrics.jsonl").write_text(json.dumps(short) + "\n")
    assert_one_line(genmnist(*command), 3, "w/metrics.jsonl is damaged")


@pytest.mark.parametrize("name", ["ckpt-x.index", "ckpt-.index", "ckpt-²the.index", "ckpt-1-2.index", "ckpt-².index"])
@pytest.mark.parametrize("folder", ["best", "checkpoints"])
def test_file_that_is_no_checkpoint_is_passed_over(folder, name, damaged, genmnist):
    before = damaged(lambda workdir: (workdir / folder / name).write_text(""))
    assert genmnist("sample", "--workdir=w", "--num_samples=1").err == ""
    assert genmnist("train", "--workdir=w").err == ""
    assert {path: before[path] for path in before if "w/" in str(path)}.items() <= state().items()


def test_checkpoint_whose_index_is_a_folder_falls_back(damaged, genmnist):
    damaged(lambda workdir: (workdir / "best" / "ckpt-9.index").mkdir())
    assert_one_line(genmnist("sample", "--workdir=w", "--num_samples=1"), 0, "w/best/ckpt-9 is damaged")


STRIPS = {
    "text": lambda path: path.write_text("no PNG"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", STRIPS.values(), ids=STRIPS)
def test_strip_that_is_no_png_is_left_out(damage, run, damaged, genmnist):
    before = damaged(lambda workdir: damage(workdir / "progress" / "1.png"))
    assert_one_line(genmnist("figures", "--workdir=w", "--which=progress"), 3, "w/progress has no samples")
    assert state() == before
    row = json.loads(Path("w/metrics.jsonl").read_text())
    Path("w/metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "epoch": 2}) + "\n")
    shutil.copy(run.progress / "1.png", "w/progress/2.png")
    outcome = genmnist("figures", "--workdir=w", "--which=progress")
    assert_one_line(outcome, 0, "left out what is no PNG file: w/progress/1.png")
    assert "wrote figures/w_progress.png" in outcome.out


def test_figures_that_can_be_drawn_are_drawn_where_one_cannot(damaged, genmnist):
    damaged(lambda workdir: shutil.rmtree(workdir / "progress"))
    outcome = genmnist("figures", "--workdir=w")
    assert_one_line(outcome, 0, "no figure progress: w/progress has no samples")
    assert {path.name for path in Path("figures").iterdir()} >= {"w_samples.png", "w_neighbours.png"}


RECORDS = ["", "null", "[]", "5", "{}", '{"model": "vae"}', DEEP]


@pytest.mark.parametrize("text", RECORDS, ids=lambda text: text[:10] or "empty")
def test_damaged_record_of_an_export_is_one_line(text, run, exported, genmnist):
    folder = Path(shutil.copytree(exported, Path("exports") / run.title / "1"))
    (folder / "assets.extra" / "genmnist.json").write_text(text)
    before = state()
    for source in (folder, folder.parent):
        assert_one_line(genmnist("sample", f"--export={source}"), 3, f"the export {folder} is damaged")
    assert_one_line(genmnist("train", f"--config_from={folder}/assets.extra/genmnist.json"), 3, "holds no whole config")
    assert state() == before


@pytest.mark.parametrize("text", ["null", DEEP], ids=lambda text: text[:10])
def test_export_beside_a_damaged_record_is_written_and_says_so(text, run, exported, genmnist, monkeypatch):
    test_export.stub_save(monkeypatch)
    folder = Path(shutil.copytree(exported, Path("exports") / run.title / "1"))
    (folder / "assets.extra" / "genmnist.json").write_text(text)
    outcome = genmnist("export", f"--workdir={run.workdir}")
    assert_one_line(outcome, 0, f"{folder}, the version before, is of something that it does not tell of")
    assert outcome.out == f"wrote {folder.parent}/2\n"
