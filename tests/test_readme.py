"""What README.md, CONTRIBUTING.md and docs/ say is true: their numbers, commands, code and links."""

import copy
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from keras_genmnist import cli, datasets, migrations, models
from keras_genmnist import config as configs
from tests import tiny

ROOT = Path(__file__).parent.parent


def script():
    """scripts/tables.py, which writes the tables."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results = script()
FILES = results.read()
GAPS = {name: record for name, record in FILES.items() if name.endswith("_gap")}
# Those of other seeds have no rows of their own.
RESULTS = {name: record for name, record in FILES.items() if "dataset" in record and not results.SEED.search(name)}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, EVERYTHING = PAGES["README.md"], "\n".join(PAGES.values())
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", EVERYTHING, re.M | re.S)  # pairs of a language and code
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", EVERYTHING, flags=re.M | re.S))
CODE = "\n".join([code for _, code in BLOCKS] + INLINE)
# What docker takes and no verb does.
DOCKER = {"gpus", "read-only", "tmpfs"}


def section(name: str) -> str:
    """What stands in the place of a table."""
    return re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end -->", EVERYTHING, re.S)[1]


def row(name: str, text: str) -> list[str]:
    """The cells of the first row of a config."""
    line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_are_what_the_results_make_them():
    assert set(map(str, (path.relative_to(ROOT) for path in results.pages()))) == PAGES.keys() - {"CONTRIBUTING.md"}
    for name, page in PAGES.items():
        assert results.filled(page, FILES) == page, f"{name}: the results have changed: run `python scripts/tables.py`"
        emptied = re.sub(r"(<!-- results: [a-z ]+ -->\n).*?(?=<!-- end -->)", r"\1", page, flags=re.S)
        assert len(emptied) < len(page) or "<!-- results" not in page
        assert results.filled(emptied, FILES) == page
    assert Counter(re.findall("<!-- results: (.*) -->", EVERYTHING)) == dict.fromkeys(results.TABLES, 1)
    assert "<!-- results: best -->" in README


def test_readme_is_one_page():
    assert len(README.splitlines()) < 150
    assert len(re.findall(r"!\[[^]]*\]\(", README)) == 4  # pictures


@pytest.mark.parametrize("name", PAGES)
def test_rows_of_a_table_have_the_cells_of_its_head(name):
    for table in re.findall(r"(?:^\|.*\n)+", re.sub(r"```.*?```", "", PAGES[name], flags=re.S), re.M):
        counts = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert counts == counts[:1] * len(counts), table


def test_every_link_leads_somewhere():
    for name, page in PAGES.items():
        text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page, flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?://", target):
                continue
            path, _, place = target.partition("#")
            found = (ROOT / name).parent / path if path else ROOT / name
            assert found.exists(), f"{name}: {target}"
            if place:
                heads = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
                anchors = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
                assert place in anchors, f"{name}: {target}"


def test_every_page_and_picture_is_linked():
    linked = set(re.findall(r"\]\((?:docs/)?([\w.]+)[)#]", EVERYTHING))
    assert {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".png")} <= linked
    assert all(f"({name})" in README or f"({name}#" in README for name in PAGES.keys() - {"README.md"})


def test_only_targets_verbs_models_and_data_sets_that_exist_are_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = set(re.findall(r"\bmake ([a-z][a-z-]*)", CODE))
    assert {"demo", "test", "image-cpu"} <= used <= targets
    assert set(re.findall(r"\bgenmnist ([a-z_]+)", CODE)) == cli.VERBS.keys()
    assert set(re.findall(r"--model=([a-z]\w*)(?!\w*[/.])", CODE)) <= set(configs.names())
    named = set(re.findall(r"^\| (`.*`) \|", PAGES["docs/models.md"].split("## Fields")[0], re.M))
    assert set(re.findall(r"`(\w+)`", " ".join(named))) >= set(configs.names())
    assert all(f"`{name}`" in README for name in configs.names())
    assert all(f"`{name}`" in PAGES["docs/data.md"] for name in datasets.names())


def flags_of(verb: str) -> set[str]:
    """The names of the flags that a verb's help tells."""
    with pytest.raises(cli._Help) as asked:
        cli.VERBS[verb](["--help"])
    return set(re.findall(r"^  --([\w.]+)=?", str(asked.value), re.M))


def test_every_flag_is_one_of_its_verb():
    fields = {field for name in configs.names() for field in configs.load(name)}
    assert set(re.findall(r"--config\.(\w+)=", CODE)) <= fields
    known = {verb: flags_of(verb) for verb in cli.VERBS}
    commands = re.findall(r"\bgenmnist ([a-z_]+)((?:\s+(?:\\\n\s*)?--[\w.]+(?:=\S*)?)*)", CODE)
    assert len(commands) > 20
    for verb, given in commands:
        used = {flag for flag in re.findall(r"--([\w.]+)", given) if not flag.startswith("config.")}
        assert used - {"help"} <= known[verb], (verb, given)
    alone = {flag for code in INLINE for flag in re.findall(r"^--([\w-]+)", code)}
    assert alone - {"help", "config"} <= set().union(*known.values()) | DOCKER


def test_trainings_are_accepted_as_they_are_written():
    lines = "\n".join(code for _, code in BLOCKS).splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"genmnist train .*--model=\w+ ", line)]
    assert len(found) >= 3
    for argv in found:
        config = cli.config_of(argv[1:])
        small = {field: value for field, value in tiny.SIZES.items() if field in config and field != "dataset"}
        models.build(config, datasets.spec("mnist"), **small)


def test_model_of_ones_own_is_the_example_word_for_word():
    example = (ROOT / "examples" / "ring.py").read_text()
    assert len(example.splitlines()) < 40
    assert [code for language, code in BLOCKS if language == "python"].count(example) == 1


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(import keras_genmnist as gm\n.*?)^```$", README, re.M | re.S)
    for shown, small in (
        ("latent_size=2", "latent_size=2, hidden_size=8"),
        ('"vae_2d", ', '"vae_2d", hidden_size=8, batch_size=1000, jit_compile=False, '),
        (".batches(100)", ".batches(1000)"),
        ("num_draws=100", "num_draws=2"),
    ):
        assert shown in code
        code = code.replace(shown, small)
    names = {}
    exec(re.sub(r"\bepochs=\d+", "epochs=1", code), names)
    assert names["digits"].shape == (16, 28, 28, 1)
    assert names["nats"].shape == (500,)
    assert names["run"].history["epoch"] == [1]
    assert (tmp_path / "exports" / "mine" / "1" / "saved_model.pb").is_file()


def test_arrays_of_ones_own_become_a_data_set():
    (line,) = re.findall(r"^data = gm\.datasets\.from_arrays\(.*$", EVERYTHING, re.M)
    rng = np.random.default_rng(1)
    names = {
        "images": rng.integers(0, 200, [60, 9, 8], np.uint8),
        "labels": np.arange(60) % 3,
        "gm": tiny.keras_genmnist,
    }
    exec(line, names)
    assert names["data"].spec.image_shape == (9, 8, 1)


def test_every_number_has_its_place():
    place = {"mnist": "likelihood", "binarized_mnist": "fixed binarization", "mnist_60k": "all images"}
    for name, record in RESULTS.items():
        if "test" in record and record["binarization"] != "none":  # nats of grey levels are on another scale
            nll = record["test"].get("nll")  # a bound has none
            cells = row(name, section("planar depth" if "_k" in name else place[record["dataset"]]))
            assert cells[2] == (f"{nll['mean']:.2f} ({nll['se']:.2f})" if nll else "")
            minutes = f"{record['train_seconds'] / 60:.1f} minutes"
            if name == "mixture":
                assert cells[-1] == f"{minutes} of `pixelcnn` and `pixelvae_best`"
                continue
            training, _, start = cells[-1].partition(" after ")
            assert training == f"{record['epochs']:,} epochs, {minutes}"
            assert ("--init_from=" in record["command"]) == (start.strip("`") in RESULTS)
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
    of_bits = "test" in record and record["binarization"] != "none"
    if not of_bits or record.get("samples", {}).get("pixels") == "mean images":
        frechet = record["samples"]["frechet"]["mean"]
        assert row(name, grey)[4].split()[0] == f"{frechet:.2f}"
    else:
        assert f"| `{name}` |" not in grey
        unscored = grey.split("No sample scores yet")[-1] if "No sample" in grey else ""
        assert (f"`{name}`" in unscored) == (not record.keys() & {"samples", "samples_binary"})
    if of_bits:
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
    """Of a VAE, with these scores of its samples, of a GAN as it is, and of a PixelCNN without scores of drawn bits."""
    vae, cnn = (
        {key: value for key, value in copy.deepcopy(RESULTS[name]).items() if not key.startswith("samples")}
        for name in ("vae", "pixelcnn-binarized_mnist")
    )
    cnn["samples"] = score([9.0], "probabilities of drawn pixels")
    return {"vae": vae | samples, "gan": RESULTS["gan"], "pixelcnn-binarized_mnist": cnn}


def test_tables_show_like_beside_like():
    three = [1.0, 2.0, 3.0]
    both = records(samples=score(three, "mean images"), samples_binary=score([4.0], "drawn bits"))
    grey, bits, weights = results.grey_levels(both), results.bits(both), RESULTS["vae"]["weights"]
    assert row("vae", grey)[1:6] == ["mean images", weights, "3", "2.00 (0.25)", "200.0% (25.0%)"]
    assert row("gan", grey)[1] == "grey levels"
    assert "pixelcnn" not in grey and "yet" not in grey
    assert row("vae", bits)[1:4] == [weights, "1", "4.00"]  # no spread of one judge
    assert "`gan`" not in bits
    assert bits.endswith("yet, for they were evaluated before there were any: `pixelcnn-binarized_mnist`.\n\n")


def test_table_of_likelihoods_has_a_bound_without_a_likelihood():
    own = copy.deepcopy(RESULTS["vae"]) | {"test": {"elbo": {"mean": -85.0, "se": 0.2, "num_draws": 10}}}
    mine, other = results.likelihood({"vae": RESULTS["vae"], "mine": own}).strip().splitlines()[-2:]
    assert mine.startswith("| `mine` | 85.00 (0.20) |  |  |") and "`vae`" in other


def test_table_of_likelihoods_has_the_spread_over_seeds_of_one_row():
    def scored(nll):
        own = copy.deepcopy(RESULTS["vae"])
        own["test"]["nll"]["mean"] = nll
        return own

    found = {"vae": scored(86.0), "vae-seed3436": scored(86.1), "vae-seed3437": scored(86.2), "iaf": RESULTS["iaf"]}
    table = results.likelihood(found)
    assert row("vae", table)[3] == "0.10 of 3" and row("iaf", table)[3] == ""
    assert "-seed" not in table + results.bits(found) + results.grey_levels(found) + results.leaderboard(found)


def test_leaderboard_counts_cores_and_leaves_out_what_names_no_machine():
    def scored(*machines):
        own = copy.deepcopy(RESULTS["vae"]) | {"train_seconds": 600.0, "dataset": "mnist"}
        own["test"]["nll"]["mean"] = 83.0
        return own | {"trained": {"machine": list(machines), "commit": ["abc"]}}

    found = {"unknown": scored(None), "half_known": scored("1 core of X", None), "known": scored("2 cores of X")}
    assert "| 84 | `known` | 83.00" in (table := results.leaderboard(found)) and "| 20 |" in table
    assert "`known`" not in results.leaderboard({"unknown": found["unknown"]})


def test_minutes_count_those_of_the_run_whose_weights_a_training_started_from():
    first = copy.deepcopy(RESULTS["vae"]) | {"train_seconds": 600.0}
    first["trained"] = {"machine": ["1 core of X"], "commit": ["abc"]}
    after = copy.deepcopy(first) | {"command": "genmnist train --model=vae --init_from=runs/first --workdir=runs/after"}
    after["test"]["nll"]["mean"] = 83.0
    found = {"first": first, "after": after}
    assert row("after", results.likelihood(found))[-1].endswith("10.0 minutes after `first`")
    assert "| 84 | `after` | 83.00 (0.22) | 20 |" in results.leaderboard(found)


def test_tables_say_what_has_no_scores():
    assert "No sample scores yet, for they were evaluated before there were any: `vae`." in results.grey_levels(
        records()
    )
    assert "`vae`, `pixelcnn-binarized_mnist`" in results.bits(records())


@pytest.mark.parametrize("name", [name for name, record in FILES.items() if "command" in record])
def test_recorded_command_trains_what_was_trained_or_the_readme_says_why_not(name):
    reason = results.unrepeatable(FILES[name])
    assert (f"- `{name}` cannot be trained again as it was: {reason}." in section("reservations")) == bool(reason)


def test_unrepeatable_names_what_has_changed():
    today = {"config": configs.load("planar").to_dict(), "schema": migrations.SCHEMA}
    record = copy.deepcopy(RESULTS["planar"]) | today
    assert results.unrepeatable(record) == ""
    refused = record | {"command": "genmnist train --model=planar --config.flowsteps=3"}
    assert results.unrepeatable(refused) == "its command is refused today (unknown config field 'flowsteps')"
    other = record | {"command": "genmnist train --model=planar --config.flow_steps=3"}
    assert results.unrepeatable(other) == "flow_steps was 10 and is 3 today"
    changed = record | {"trained": {"machine": [None], "commit": ["abc", "def+"]}}
    assert results.unrepeatable(changed) == "the code that trained it had changes since the commit def"
    assert results.unrepeatable(record | {"command": "genmnist mix --workdirs=runs/vae,runs/iaf"}) == ""


def test_unrepeatable_counts_what_a_field_that_came_since_has_changed():
    record = {"command": "genmnist train --model=flow_matching", "config": {"model": "flow_matching"}, "schema": 5}
    assert results.unrepeatable(record | {"trained": {"commit": ["abc"]}}) == "levels was 0 and is 33 today"


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
