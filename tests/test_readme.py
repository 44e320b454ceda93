"""The README's numbers are those that `evaluate --results` wrote."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_readme_row_is_the_result(path):
    result = json.loads(path.read_text())
    elbo, nll = result["test"]["elbo"], result["test"]["nll"]
    row = (
        f"| `{path.stem}` | {-elbo['mean']:.2f} ({elbo['se']:.2f}) | {nll['mean']:.2f} ({nll['se']:.2f}) "
        f"| {nll['num_draws']:,} | {result['epochs']} epochs, {result['train_seconds'] / 60:.1f} minutes |"
    )
    assert row in (ROOT / "README.md").read_text()
