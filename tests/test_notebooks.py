"""The notebooks: each .ipynb is the .py beside it and what its cells show."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from tests import tiny

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.py"))
FIGURES = {"homework": 11, "own_data": 7}  # pictures that each shows
LARGEST, MOST_LINES = 1.5e6, 60  # bytes of a notebook that is read on the web; lines that a cell prints


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request):
    return request.param


def cells(path):
    return jupytext.read(path).cells


def code(path):
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def shown(cell, kind):
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def check_outputs(executed, figures):
    """That all cells of a notebook have run without an error, show their figures, and print little."""
    assert all(cell.execution_count for cell in executed)
    outputs = [output for cell in executed for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum(len(shown(cell, "image/png")) for cell in executed) == figures
    for cell in executed:
        if cell.source.rsplit("\n", 1)[-1].startswith(("run.figure", "plane.figure", "gan.figure")):
            assert len(shown(cell, "image/png")) == 1, cell.source
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert text.count("\n") <= MOST_LINES and "\r" not in text and "\b" not in text, text
        for noise in ("Traceback", "Warning", "INFO:", "retracing", str(Path.home())):
            assert noise not in text, text


def test_there_are_two_notebooks():
    assert [path.stem for path in PATHS] == list(FIGURES)


def test_ipynb_is_in_step_with_the_py(path):
    expected = [(cell.cell_type, cell.source) for cell in cells(path)]
    assert [(cell.cell_type, cell.source) for cell in cells(path.with_suffix(".ipynb"))] == expected


def test_committed_outputs_show_the_figures_and_no_error(path):
    check_outputs(code(path.with_suffix(".ipynb")), FIGURES[path.stem])
    assert path.with_suffix(".ipynb").stat().st_size < LARGEST


def test_first_cell_installs_from_the_repository_in_colab_alone(path, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    source = code(path)[0].source
    exec(source, {})
    assert commands == []
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(source, {})
    ((*_, install, quiet, repository),) = commands
    assert (install, quiet) == ("install", "--quiet")
    assert repository.startswith("git+https://") and repository.endswith("/keras_genmnist")


@pytest.mark.notebook
def test_notebook_executes(path, monkeypatch):
    for name, value in (tiny.environment() | {"NOTEBOOK_EPOCHS": "1"}).items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    notebook = script.execute(path)
    check_outputs([cell for cell in notebook.cells if cell.cell_type == "code"], FIGURES[path.stem])
