"""The README's numbers are those that `evaluate --results` wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}
COMPARED = FILES.pop("compare")
GAPS = {name: record for name, record in FILES.items() if name.endswith("_gap")}
RESULTS = {name: record for name, record in FILES.items() if name not in GAPS}


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in RESULTS if "test" in RESULTS[name]])
def test_readme_row_is_the_likelihood(name, readme):
    test = RESULTS[name]["test"]
    nll = f"{test['nll']['mean']:.2f} ({test['nll']['se']:.2f})"
    if "elbo" in test:
        elbo, draws = f"{-test['elbo']['mean']:.2f} ({test['elbo']['se']:.2f})", f"{test['nll']['num_draws']:,}"
    else:
        elbo, draws = "", "exact"
    assert f"| `{name}` | {elbo} | {nll} | {draws} | {training(name)} |" in readme


# The samples of the planar study are in no table.
@pytest.mark.parametrize("name", [name for name in RESULTS if "samples" in RESULTS[name] and "_k" not in name])
def test_readme_row_is_the_quality_of_samples(name, readme):
    rows = {RESULTS[name]["weights"]: "samples"}
    if "test" not in RESULTS[name]:  # a GAN: both weights are scored
        rows["raw"] = "samples_raw"
    for weights, key in rows.items():
        score = RESULTS[name][key]
        shares, parzen = score["class_shares"], score["parzen"]
        row = (
            f"| `{name}` | {weights} | {score['frechet']:.2f} | {score['precision']:.1%} | {score['recall']:.1%} "
            f"| {min(shares):.1%} .. {max(shares):.1%} | {score['confident_share']:.1%} "
            f"| {parzen['mean']:.1f} ({parzen['se']:.1f}) | {training(name)} |"
        )
        assert row in readme


@pytest.mark.parametrize("name", GAPS)
def test_readme_rows_are_the_gaps(name, readme):
    for split in ("train", "test"):
        found = GAPS[name][split]
        levels = [cell(found[level], sign=-1) for level in ("log_px", "planar", "best", "amortized")]
        gaps = [cell(found["gaps"][gap]) for gap in ("approximation", "amortization")]
        assert f"| `{name.removesuffix('_gap')}` | {split} | {' | '.join(levels + gaps)} |" in readme


# The two gaps are of the same images, and so are the levels: each difference has a standard error of its own.
@pytest.mark.parametrize("name", GAPS)
def test_levels_of_the_gaps_are_ordered(name):
    for split in ("train", "test"):
        for gap in GAPS[name][split]["gaps"].values():
            assert gap["mean"] > -2 * gap["se"]


def test_readme_rows_are_the_comparison(readme):
    for name, own in COMPARED.items():
        elbo, nll = cell(own["test"]["elbo"], sign=-1), cell(own["test"]["nll"])
        cost = f"{own['milliseconds_per_image']:.3f}"
        assert f"| `{name}` | {elbo} | {nll} | {cost} | {own['epochs']} epochs, " in readme


def cell(score: dict, sign: int = 1) -> str:
    return f"{sign * score['mean']:.2f} ({score['se']:.2f})"


def training(name: str) -> str:
    return f"{RESULTS[name]['epochs']} epochs, {RESULTS[name]['train_seconds'] / 60:.1f} minutes"
