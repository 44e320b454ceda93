"""The site: what its pages make of the code.  `make docs` builds it and checks its links."""

import importlib.util
import re
from pathlib import Path

import pytest

from keras_genmnist import config as configs
from keras_genmnist import models
from tests import tiny

DOCS = Path(__file__).parent.parent / "docs"


def script(name: str):
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, links = script("reference"), script("links")


@pytest.mark.parametrize("name", configs.names())
def test_page_of_a_model_has_all_its_parts(name):
    page = reference.page(name)
    parts = dict(zip(*[iter(re.split(r"^#+ (.*)$", page, flags=re.M)[1:])] * 2, strict=True))
    assert re.search(rf"^genmnist train --model={name}$", parts["Usage"], re.M)
    pieces = [part.rpartition(":")[2] or "losses" for part in reference.parts(configs.load(name))]
    assert pieces and all(parts[piece].strip() for piece in pieces)
    assert re.search("[={]|E log", page.split("## Equations")[1].split("## Config")[0])
    assert parts["Config"].count("\n| `") == len(configs.load(name))
    assert "| `" in parts["Logged metrics"]
    numbers = re.findall(r"^(\d+)\. ", parts["Departures from the paper"], re.M)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)] and numbers
    assert ("has not been scored" in parts["Result"]) != (f"| `{name}" in parts["Result"])


def test_page_of_a_model_shows_its_row_of_the_results_with_the_head():
    result = reference.page("planar").split("## Result\n")[1]
    head = "| config | -ELBO | NLL | over seeds | draws | training |\n| --- | --- | --- | --- | --- | --- |\n"
    assert f"{head}| `planar` | " in result
    assert "[Likelihood](../results.md#likelihood)" in result
    assert "`planar_k80-binarized_mnist`" not in result and "`radial`" not in result


@pytest.mark.parametrize("name", ["vae", "iwae", "svi", "ladder", "pixelcnn", "vqvae", "cgan"])
def test_every_column_that_a_model_logs_is_explained(name):
    model = models.build(tiny.config(name))
    table = reference.page(name).split("## Logged metrics")[1].split("##")[0]
    told = set(re.findall(r"`([a-z_\d]+)`", table))
    told |= {f"val_{column}" for column in told}
    told |= {column.replace("_1", "_2") for column in told}
    logged = {metric.name for metric in model.metrics}.union(*model.curves.values())
    assert logged <= told


def test_equations_and_papers_stand_out_and_nothing_is_taken_for_markup():
    text = reference.described("bounds:iwae_bound")
    assert "```text\nlog (1/S) sum{ p(x | z[s]) p(z[s]) / q(z[s] | x) : s = 1..S }\n```" in text
    assert "[arxiv.org/abs/1509.00519](https://arxiv.org/abs/1509.00519)" in text
    assert "Args" not in text and "kl_weight" not in text
    assert reference.linked("q(z[1] | x) * `a_b`") == r"q(z\[1\] \| x) \* `a_b`"


def test_lists_of_a_docstring_become_lists():
    assert (
        reference.listed("name: of it\nimages, labels: of\n  both") == "- `name`: of it\n- `images, labels`: of\n  both"
    )
    assert reference.listed("UsageError, Fault: if so") == "- `UsageError, Fault`: if so"
    for prose in ("Data sets: what they are", "Source: Kingma", "one: two\nand prose"):
        assert reference.listed(prose) == prose


def test_pages_are_written_only_where_they_change(tmp_path):
    reference.write(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"api", "models", *configs.names()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "vae.md").write_text("old")
    reference.write(tmp_path)
    changed = {path.stem for path in tmp_path.iterdir() if path.stat().st_mtime_ns != before[path]}
    assert changed == {"vae"} and (tmp_path / "vae.md").read_text() == reference.page("vae")


def test_link_that_leads_nowhere_is_told(tmp_path, capsys):
    site = tmp_path / "html"
    site.mkdir()
    (site / "b.html").write_text('<p id="there"></p>')
    (site / "a.html").write_text(
        '<a href="b.html#there"></a><a href="#"></a><img src="https://elsewhere.example/x.png">'
    )
    links.main(site)
    assert capsys.readouterr().out == "2 pages, 3 links, 0 of them broken; 1 addresses elsewhere\n"
    assert (tmp_path / "external.txt").read_text() == "https://elsewhere.example/x.png\n"
    (site / "a.html").write_text('<a href="b.html#here"></a><a href="c.html"></a>')
    with pytest.raises(SystemExit, match=r"a\.html: b\.html#here\na\.html: c\.html"):
        links.main(site)
