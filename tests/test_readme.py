"""The README's numbers are those that `evaluate --results` wrote, and what it says of them is true."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def script():
    """scripts/results.py, which writes the tables."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results = script()
FILES = results.read()
GAPS = {name: record for name, record in FILES.items() if name.endswith("_gap")}
RESULTS = {name: record for name, record in FILES.items() if "dataset" in record}
README = (ROOT / "README.md").read_text()


def section(name: str, text: str = README) -> str:
    """What stands in the place of a table."""
    return re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end -->", text, re.S)[1]


def row(name: str, text: str) -> list[str]:
    """The cells of the first row of a config."""
    line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_readme_is_what_the_results_make_it():
    filled = results.filled(README, FILES)
    assert filled == README, "the results have changed: run `python scripts/results.py`"
    assert set(re.findall("<!-- results: (.*) -->", README)) == results.TABLES.keys()
    emptied = re.sub(r"(<!-- results: [a-z ]+ -->\n).*?(?=<!-- end -->)", r"\1", README, flags=re.S)
    assert len(emptied) < len(README) and results.filled(emptied, FILES) == README


def test_every_number_has_its_place():
    place = {"mnist": "likelihood", "binarized_mnist": "fixed binarization"}
    for name, record in RESULTS.items():
        if "test" in record:
            nll = record["test"]["nll"]
            cells = row(name, section("planar depth" if "_k" in name else place[record["dataset"]]))
            assert cells[2] == f"{nll['mean']:.2f} ({nll['se']:.2f})"
            minutes = f"{record['train_seconds'] / 60:.1f} minutes"
            assert cells[-1] == f"{record['epochs']} epochs, {minutes}"
    for name, record in FILES["compare"].items():
        assert row(name, section("comparison"))[3] == f"{record['milliseconds_per_image']:.3f}"
    for name, record in GAPS.items():
        amortization = record["train"]["gaps"]["amortization"]
        cells = row(name.removesuffix("_gap"), section("gaps"))
        assert cells[-1] == f"{amortization['mean']:.2f} ({amortization['se']:.2f})"


@pytest.mark.parametrize("name", [name for name in RESULTS if "_k" not in name])  # that study is of the likelihood
def test_every_result_has_sample_scores_or_is_named_as_having_none(name):
    record = RESULTS[name]
    grey, bits = section("grey levels"), section("bits")
    if "test" not in record or record.get("samples", {}).get("pixels") == "mean images":
        frechet = record["samples"]["frechet"]["mean"]
        assert row(name, grey)[4].split()[0] == f"{frechet:.2f}"
    else:
        assert f"| `{name}` |" not in grey
        unscored = grey.split("No sample scores yet")[-1] if "No sample" in grey else ""
        assert (f"`{name}`" in unscored) == (not record.keys() & {"samples", "samples_binary"})
    if "test" in record:
        if "samples_binary" in record:
            assert row(name, bits)[3].split()[0] == f"{record['samples_binary']['frechet']['mean']:.2f}"
        else:
            assert f"`{name}`" in bits.split("No scores of drawn bits yet")[1]


def score(frechet: list[float], pixels: str) -> dict:
    """What a model whose other scores do not matter is given."""
    judged = {"mean": sum(frechet) / len(frechet), "spread": 0.25 if len(frechet) > 1 else None}
    names = ("frechet", "precision", "recall", "rarest_class", "commonest_class", "confident_share")
    parzen = {"mean": 200.0, "se": 1.0}
    return {"pixels": pixels, "judges": ["a", "b", "c"][: len(frechet)], "parzen": parzen} | dict.fromkeys(
        names, judged
    )


def records(**samples) -> dict[str, dict]:
    """Three results: a VAE and a PixelCNN as they are, and a GAN, with these scores of the VAE's samples."""
    vae = {k: v for k, v in copy.deepcopy(RESULTS["vae"]).items() if not k.startswith("samples")} | samples
    cnn = copy.deepcopy(RESULTS["pixelcnn-binarized_mnist"])
    cnn["samples"] = score([9.0], "probabilities of drawn pixels")
    return {"vae": vae, "gan": RESULTS["gan"], "pixelcnn-binarized_mnist": cnn}


def test_tables_show_like_beside_like():
    three = [1.0, 2.0, 3.0]
    both = records(samples=score(three, "mean images"), samples_binary=score([4.0], "drawn bits"))
    grey, bits = results.grey_levels(both), results.bits(both)
    assert row("vae", grey)[1:6] == ["mean images", "raw", "3", "2.00 (0.25)", "200.0% (25.0%)"]
    assert row("gan", grey)[1] == "grey levels"
    assert "pixelcnn" not in grey and "yet" not in grey
    assert row("vae", bits)[1:4] == ["raw", "1", "4.00"]  # no spread of one judge
    assert "`gan`" not in bits
    assert bits.endswith("yet, for they were evaluated before there were any: `pixelcnn-binarized_mnist`.\n\n")


def test_tables_say_what_has_no_scores():
    assert "No sample scores yet, for they were evaluated before there were any: `vae`." in results.grey_levels(
        records()
    )
    assert "`vae`, `pixelcnn-binarized_mnist`" in results.bits(records())


@pytest.mark.parametrize("name", [name for name, record in FILES.items() if "command" in record])
def test_recorded_command_trains_what_was_trained_or_the_readme_says_why_not(name):
    reason = results.unrepeatable(FILES[name])
    assert (f"- `{name}` cannot be had again as it was: {reason}." in section("reservations")) == bool(reason)


def test_unrepeatable_names_what_has_changed():
    record = copy.deepcopy(RESULTS["planar"])
    assert results.unrepeatable(record) == ""
    refused = record | {"command": "genmnist train --model=planar --config.flowsteps=3"}
    assert results.unrepeatable(refused) == "its command is refused today (unknown config field 'flowsteps')"
    other = record | {"command": "genmnist train --model=planar --config.flow_steps=3"}
    assert results.unrepeatable(other) == "flow_steps=10 is 3 today"
    changed = record | {"trained": {"machine": [None], "commit": ["abc", "def+"]}}
    assert results.unrepeatable(changed) == "the code that trained it had changes since the commit def"


# The two gaps are of the same images, and so are the levels: each difference has a standard error of its own.
@pytest.mark.parametrize("name", GAPS)
def test_levels_of_the_gaps_are_ordered(name):
    for split in ("train", "test"):
        for gap in GAPS[name][split]["gaps"].values():
            assert gap["mean"] > -2 * gap["se"]


@pytest.mark.parametrize("name", RESULTS)
def test_result_names_what_trained_and_what_evaluated_it(name):
    record = RESULTS[name]
    assert all(record["trained"]["commit"]) and record["trained"].keys() == record["evaluated"].keys()
    for machine in (record["evaluated"]["machine"], *filter(None, record["trained"]["machine"])):
        assert re.match(r"1 core of|[2-9]\d* cores of|1\d+ cores of", machine)
    for score in (record[key] for key in record if key.startswith("samples")):
        assert len(score["judges"]) == len(score["frechet"]["each"])
