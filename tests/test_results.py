"""scripts/results.py: what makes every row of the tables, and knows when one has to be made again."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from keras_genmnist import cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scripts():
    """The modules `results`, `tables` and `code_hash`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("results")
        for name in ("results", "tables", "code_hash"):
            del sys.modules[name]


@pytest.fixture
def package(tmp_path):
    """A package whose `model` uses `layers` through a package, and has nothing to do with `page`."""
    (tmp_path / "package").mkdir()
    for name, text in {
        "__init__": "__version__ = '1'\n",
        "model": '"""One."""\nfrom package import layers\ndef make():\n    """Makes it."""\n    return layers.LAYER\n',
        "layers": "from package.sizes import SIZE\nif TYPE_CHECKING:\n    from package import page\nLAYER = SIZE\n",
        "sizes": "SIZE = 3\ndef refuse():\n    raise ValueError('one')\n",
        "page": "from package import model\nTITLE = 'one'\n",
    }.items():
        (tmp_path / "package" / f"{name}.py").write_text(text)
    return tmp_path


def test_closure_is_what_is_imported_in_turn(scripts, package):
    found = sys.modules["code_hash"].closure(["package.model"], package)
    assert list(found) == ["package", "package.layers", "package.model", "package.sizes"]


@pytest.mark.parametrize(
    ("name", "before", "after", "changes"),
    [
        ("sizes", "3", "4", True),
        ("__init__", "1", "2", False),  # or no record would outlive a release
        ("model", "return layers.LAYER", "return 1 + layers.LAYER", True),
        ("model", "Makes it.", "Makes one.", False),
        ("model", "One.", "Two.", False),
        ("sizes", "SIZE = 3", "SIZE = (3)  # of a layer", False),
        ("page", "one", "two", False),
        ("model", "make():", "make(size=3):", True),
        ("model", "make():", "make() -> object:", False),
        ("model", "make():", "make(*sizes: int):", True),
        ("model", "from package", "from collections.abc import Callable\nfrom package", False),
        ("layers", "    from package import page", "    import package.page", False),
        ("sizes", "SIZE = 3", "SIZE: int = 3", True),  # of a class, that makes a field
        ("model", "    return", "    if not layers.LAYER:\n        raise ValueError('none')\n    return", False),
        ("model", "    return", "    if not layers.LAYER:\n        layers.LAYER = 1\n    return", True),
        ("model", "    return", "    if not (size := layers.LAYER):\n        raise ValueError(size)\n    return", True),
        ("sizes", "'one'", "'two'", False),
        ("sizes", "raise ValueError('one')", "return 1", True),
        ("model", "    return", "    layers.require_one()\n    return", False),
        ("model", "    return", "    if layers.LAYER:\n        print(layers.LAYER)\n    return", False),
        ("model", "def make", "def require_one():\n    raise ValueError\ndef make", False),
        ("model", "def make", "def require_one():\n    return 1\ndef make", True),
        ("model", "def make", "def one():\n    return 1\ndef make", True),
        ("model", "def make", "def one() -> Figure:\n    return 1\ndef make", False),
        ("model", "from package", "from keras_genmnist.figures import save\nfrom package", False),
        ("model", "    return", "    layers.make_one()\n    return", True),
    ],
)
def test_digest_changes_with_the_code_that_has_a_part(scripts, package, name, before, after, changes):
    digest = sys.modules["code_hash"].digest
    old, path = digest(["package.model"], root=package), package / "package" / f"{name}.py"
    path.write_text(path.read_text().replace(before, after))
    assert (digest(["package.model"], root=package) != old) is changes
    assert digest(["package.model"], ["3"], package) != digest(["package.model"], root=package)


def test_every_record_of_a_run_has_a_row_and_every_row_can_be_made(scripts):
    records = {name for name, own in sys.modules["tables"].read().items() if "dataset" in own and "gaps" not in own}
    gaps = {f"{name}_gap" for name, row in scripts.ROWS.items() if row.gap}
    assert records <= scripts.ROWS.keys() | gaps
    for name, row in scripts.ROWS.items():
        make, *measured = scripts.commands(name, row, Path("runs/results"))
        dataset = cli.config_of(make[1:]).dataset if make[0] == "train" else "mnist"
        assert (dataset, f"--workdir=runs/results/{row.dataset}/" in make[-1]) == (row.dataset, True)
        assert all(make[-1] in arguments and "--results" in arguments for arguments in measured)
    assert (
        cli.config_of(
            scripts.commands("planar_k10-binarized_mnist", scripts.ROWS["planar_k10-binarized_mnist"], Path())[0][1:]
        ).flow_steps
        == 10
    )


def test_code_of_a_row_is_that_of_its_model_and_of_what_measures_it(scripts):
    closure = sys.modules["code_hash"].closure
    code = closure(["keras_genmnist.models.gan", "keras_genmnist.training", "keras_genmnist.evaluate"])
    assert {"keras_genmnist.models.gan", "keras_genmnist.bounds", "keras_genmnist.runs"} <= code.keys()
    others = {"keras_genmnist.models.vae", "keras_genmnist.flows", "keras_genmnist.cli"}
    assert not code.keys() & others and not any(name.startswith("keras_genmnist.serve") for name in code)
    assert "keras_genmnist.figures" not in closure(["keras_genmnist.gap"])  # it draws what gap has found
    assert "keras_genmnist.datasets.files" not in code  # a record has the digest of what is read
    digests = [scripts.made_by(scripts.ROWS[name], "train") for name in ("vae", "iaf", "planar_k0-binarized_mnist")]
    digests += [scripts.made_by(scripts.ROWS["vae"], "train", "evaluate")]
    assert len(set(digests)) == 4


def test_a_row_changes_with_the_config_that_its_own_is_based_on(scripts, monkeypatch):
    row, load = scripts.ROWS["iaf"], scripts.configs.load
    before = scripts.made_by(row, "train")
    monkeypatch.setattr(scripts.configs, "load", lambda name: ConfigDict(load(name).to_dict() | {"epochs": 7}))
    assert scripts.made_by(row, "train") != before


def test_draws_of_a_row_are_asked_for_and_are_no_part_of_its_training(scripts):
    row = scripts.ROWS["vae"]
    fewer = row._replace(draws=200)
    (_, usual, _), (_, evaluate, _) = (scripts.commands("vae", each, Path()) for each in (row, fewer))
    assert evaluate == [*usual, "--num_draws=200"]
    assert scripts.made_by(fewer, "train") == scripts.made_by(row, "train")
    assert scripts.made_by(fewer, "train", "evaluate") != scripts.made_by(row, "train", "evaluate")


def test_row_is_made_once_and_anew_by_other_code(scripts, tmp_path, monkeypatch, run):
    """`run` stands for what trains and evaluates."""
    row, asked = scripts.Row(1, "vae", "mnist_5k"), []
    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    monkeypatch.setitem(scripts.ROWS, "small", row)
    result, trained = tmp_path / "results" / "small.json", tmp_path / "trained"
    result.parent.mkdir()
    trained.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run.workdir / name, trained)
    data = json.loads((run.workdir / "config.json").read_text())["data"]

    def genmnist(arguments, log, until=None):
        asked.append(arguments[0])
        if arguments[0] == "train":
            shutil.copytree(trained, arguments[-1].removeprefix("--workdir="), dirs_exist_ok=True)
        else:
            result.write_text(json.dumps({"data": data}))
        return 0

    assert not scripts.is_current("small", row)
    assert scripts.record("small", row, tmp_path / "runs", genmnist) == ""
    assert asked == ["train", "evaluate"] and scripts.is_current("small", row)
    metrics, here = trained / "metrics.jsonl", tmp_path / "runs" / "mnist_5k"
    first, *more = map(json.loads, metrics.read_text().splitlines())
    for number, (made_by, change, aside) in enumerate(
        [
            ("one", {}, []),
            ("two", {"seconds": 0.0, "commit": "another"}, []),
            ("three", {"elbo": first["elbo"] + 1e-6}, ["small.two"]),
            ("two", {"elbo": first["elbo"] + 2e-6}, ["small.two", "small.three"]),
            ("three", {"elbo": first["elbo"] + 3e-6}, ["small.two", "small.three", "small.two+"]),
        ]
    ):
        metrics.write_text("".join(json.dumps(row) + "\n" for row in (first | change, *more)))
        with monkeypatch.context() as patch:
            patch.setattr(scripts, "made_by", lambda row, *verbs, stamp=made_by: stamp)
            assert not scripts.is_current("small", row)
            assert scripts.record("small", row, tmp_path / "runs", genmnist) == ""
            assert scripts.is_current("small", row)
        assert {path.name for path in here.glob("small*")} == {"small", "small.made_by", *aside}, number
    result.write_text(
        json.dumps({"data": data | {"sha256": "0"}, "made_by": scripts.made_by(row, "train", "evaluate")})
    )
    assert not scripts.is_current("small", row), "the data have changed"


@pytest.mark.parametrize("model", ["mixture", "vae"])
def test_row_of_others_is_made_once_they_are_there(scripts, tmp_path, monkeypatch, run, model):
    """A mixture, or a training that starts from the weights of another."""
    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    parts = {name: scripts.Row(1, name, "mnist_5k") for name in ("vae", "iaf")[: 2 if model == "mixture" else 1]}
    row, asked = scripts.Row(1, model, "mnist_5k", of=tuple(parts)), []
    for name, own in {**parts, "after": row}.items():
        monkeypatch.setitem(scripts.ROWS, name, own)
    data = json.loads((run.workdir / "config.json").read_text())["data"]

    def genmnist(arguments, log, until=None):
        asked.append(arguments)
        workdir = Path(arguments[1 if arguments[0] == "evaluate" else -1].removeprefix("--workdir="))
        if arguments[0] == "evaluate":
            (tmp_path / "results" / f"{workdir.name}.json").write_text(json.dumps({"data": data}))
        elif not workdir.exists():
            shutil.copytree(run.workdir, workdir)
        return 0

    (tmp_path / "results").mkdir()
    runs = tmp_path / "runs"
    assert scripts.record("after", row, runs, genmnist) == f"it is of {', '.join(parts)}, to be made before"
    assert not asked
    for name, own in parts.items():
        assert scripts.record(name, own, runs, genmnist) == ""
    here = runs / "mnist_5k"
    make = ["train", "--model=vae", f"--init_from={here}/vae", "--config.dataset=mnist_5k", f"--workdir={here}/after"]
    if model == "mixture":
        make = ["mix", f"--workdirs={here}/vae,{here}/iaf", f"--workdir={here}/after"]
    for made in (True, model != "mixture"):  # again, as when it was stopped before it was recorded; a training resumes
        asked.clear()
        assert scripts.record("after", row, runs, genmnist) == "" and scripts.is_current("after", row)
        assert asked == [*[make] * made, ["evaluate", make[-1], "--results"]]
    if model != "mixture":
        assert not scripts.is_current("after", row._replace(changes=("--config.epochs=7",)))
    load = scripts.configs.load
    monkeypatch.setattr(scripts.configs, "load", lambda name: ConfigDict(load(name).to_dict() | {"epochs": 7}))
    assert not scripts.is_current("after", row), "a part has changed"
    for name, own in parts.items():
        scripts.record(name, own, runs, genmnist)
    asked.clear()
    assert scripts.record("after", row, runs, genmnist) == "" and make in asked
    # What is trained again to compare is trained from the same weights, and elsewhere.
    assert asked[0][:-1] == make[:-1] and (asked[0] == make) is (model == "mixture")


def test_runs_that_a_row_is_made_of_are_made_again_where_they_are_gone(scripts, tmp_path, monkeypatch):
    rows = {"whole": scripts.Row(2, "vae"), "gone": scripts.Row(3, "iaf"), "other": scripts.Row(1, "gan")}
    rows["mixed"] = scripts.Row(9, "mixture", of=("whole", "gone"))
    monkeypatch.setattr(scripts, "ROWS", rows)
    current = {"whole", "gone"}
    monkeypatch.setattr(scripts, "is_current", lambda name, row: name in current)
    for name in ("whole", "gone"):
        (tmp_path / "mnist" / name).mkdir(parents=True)
    (tmp_path / "mnist" / "whole" / "metrics.json").write_text("{}")  # the other is half trained
    assert scripts.to_make(list(rows), tmp_path) == ["other", "gone", "mixed"]
    assert scripts.to_make(["mixed"], tmp_path) == ["gone", "mixed"]
    current.remove("whole")
    assert scripts.to_make(["mixed"], tmp_path) == ["whole", "gone", "mixed"]
    current |= {"whole", "mixed"}
    assert scripts.to_make(["whole", "gone", "mixed"], tmp_path) == []


def test_row_is_not_put_aside_where_its_first_epoch_was_not_trained_again(scripts, tmp_path, monkeypatch, run):
    """As when all is stopped meanwhile."""
    row = scripts.Row(1, "vae", "mnist_5k")
    monkeypatch.setitem(scripts.ROWS, "small", row)
    here = tmp_path / "mnist_5k" / "small"
    shutil.copytree(run.workdir, here)
    here.with_name("small.made_by").write_text("other code")

    def genmnist(arguments, log, until=None):
        log.write_text("genmnist: stopped\n")
        return 143

    assert scripts.record("small", row, tmp_path, genmnist) == "stopped"
    assert here.exists() and here.with_name("small.made_by").read_text() == "other code"


def test_row_whose_code_changes_while_it_is_made_is_not_recorded(scripts, tmp_path, monkeypatch):
    stamps = iter(["one", "one", "two"])
    monkeypatch.setattr(scripts, "made_by", lambda row, *verbs: next(stamps))
    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    reason = scripts.record("vae", scripts.ROWS["vae"], tmp_path / "runs", lambda arguments, log: 0)
    assert "the code has changed meanwhile" in reason and not (tmp_path / "results").exists()


def test_row_that_fails_tells_why_and_is_not_recorded(scripts, tmp_path, monkeypatch):
    def genmnist(arguments, log):
        log.write_text("genmnist: no room\n")
        return 3

    monkeypatch.setattr(scripts, "ROOT", tmp_path)
    assert scripts.record("vae", scripts.ROWS["vae"], tmp_path / "runs", genmnist) == "no room"
    assert not (tmp_path / "results").exists()


def test_rows_and_folder_that_are_none_are_one_line(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["results.py", "--rows=vae,vea"])
    with pytest.raises(SystemExit):
        scripts.main()
    assert "--rows=vea names no row: give some of gan," in capsys.readouterr().err
    for jobs in (0, scripts.workers.num_cores() + 1):
        monkeypatch.setattr(sys, "argv", ["results.py", f"--jobs={jobs}"])
        with pytest.raises(SystemExit):
            scripts.main()
        assert f"error: --jobs={jobs} is out of range: give 1 to " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["results.py", "--budget"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        scripts.main()
    assert f"results/ is in {ROOT}: call this there" in capsys.readouterr().err
