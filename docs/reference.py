"""The pages that are made of the code: one for each model and one of the public names.

A model's page puts together what stands in its config, in the docstrings of its parts, in docs/models.md and in
results/, so that nothing is told twice.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from ml_collections import ConfigDict

import keras_genmnist
from keras_genmnist import config as configs
from keras_genmnist import fields

HERE = Path(__file__).parent
# Whose docstrings give a model's equations, by what its config says.
PARTS = {
    "model": {
        "vae": "models.vae:VAE",
        "pixelcnn": "models.pixelcnn:PixelCNN",
        "masked_diffusion": "models.masked_diffusion:MaskedDiffusion",
        "flow_matching": "models.flow_matching:FlowMatching",
        "vqvae": "models.vqvae:VQVAE",
        "gan": "models.gan:GAN",
    },
    "inference": {
        "ladder": "models.ladder:Ladder",
        "bottom_up": "models.ladder:BottomUp",
        "semi_amortized": "inference:RefinedPosterior",
        "svi": "inference:RefinedPosterior",
    },
    "bound": {"elbo": "bounds:elbo", "iwae": "bounds:iwae_bound"},
    "gradient": {"dreg": "bounds:PathGradient"},
    "posterior": {
        "gaussian": "distributions:Posterior",
        "planar": "flows:Planar",
        "radial": "flows:Radial",
        "sylvester": "flows:Sylvester",
        "iaf": "flows:InverseAutoregressiveFlow",
    },
    "prior": {
        "normal": "distributions:StandardNormal",
        "vamp": "distributions:VampPrior",
        "maf": "flows:MaskedAutoregressiveFlow",
        "realnvp": "flows:RealNVP",
    },
    "decoder": {"bernoulli": "distributions:BernoulliDecoder", "pixelcnn": "distributions:PixelCNNDecoder"},
    "loss": dict.fromkeys(("non_saturating", "wasserstein_gp"), "losses:"),
}
# What public functions return.
RETURNED = {"Tuned": "keras_genmnist.tuning:Tuned", "GenerativeModel": "keras_genmnist.models.base:GenerativeModel"}
PENALTIES = {"gradient_penalty": "losses:gradient_penalty", "r1_penalty": "losses:r1_penalty"}


def write(folder: Path) -> None:
    """Writes the pages into a folder, and leaves alone what is there already word for word."""
    names = configs.names()
    listed = "".join(f"- [{name}]({name}.md): {linked(configs.description(name))}\n" for name in names)
    models = f"# Model by model\n\n{listed}\n```{{toctree}}\n:hidden:\n" + "\n".join(names) + "\n```\n"
    pages = {"api": api(), "models": models} | {name: page(name) for name in names}
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def api() -> str:
    """The page of the public names."""
    lines = ["# Python", "", "What `import keras_genmnist as gm` offers.", ""]
    for name, place in (keras_genmnist.PUBLIC | RETURNED).items():
        module, _, attribute = place.partition(":")
        title = f"## {'gm.' * (name in keras_genmnist.PUBLIC)}{name}"
        if not module.startswith("keras_genmnist"):
            lines += [title, "", f"This is `{module}`.", ""]
            continue
        kind = "module" if not attribute else "class" if name[0].isupper() else "function"
        lines += [title, "", "```{eval-rst}", f".. auto{kind}:: {place.replace(':', '.')}"]
        lines += ["   :members:"] * (kind != "function") + ["```", ""]
    return "\n".join(lines)


def page(name: str) -> str:
    """The page of the model that a config trains."""
    config = configs.load(name)
    about, _, departures = ast.get_docstring(ast.parse((HERE.parent / "configs" / f"{name}.py").read_text())).partition(
        "\n"
    )
    what = next(cells[1] for head, cells, _ in rows("models") if head[0] == "config" and f"`{name}`" in cells[0])
    metrics = [cells for head, cells, _ in rows("models") if head[0] == "column"]
    logged = [cells[:2] for cells in metrics if f"`{config.model}`" in cells[2]]
    meant = [[f"`{field}`", f"`{value}`", meaning] for field, value, meaning in fields.described(config)]
    results = [
        f"{place}:\n\n{table(head, [cells])}"
        for head, cells, place in rows("results")
        if re.match(rf"`{name}[-`]", cells[0])
    ]
    return f"""# {name}

{linked(about)}

{what}

## Usage

```
genmnist train --model={name}
genmnist evaluate --model={name}
genmnist figures --model={name}
genmnist export --model={name}
genmnist serve --export=exports/{name}
```

```python
import keras_genmnist as gm

run = gm.train("{name}")
run.evaluate()
```

[Models](../models.md) explains these commands and the fields below, and [data](../data.md) the files of a run.

## Equations

{"".join(map(described, parts(config)))}
## Config

{table(["field", "value", "meaning"], meant)}
## Logged metrics

These are the columns of `metrics.jsonl`, by epoch, and of TensorBoard. Nats are per image.

{table(["column", "meaning"], logged)}
## Departures from the paper

{linked(departures.strip())}

## Result

{"".join(results) or "This model has not been scored on full MNIST yet. "}
[Results](../results.md) has all models side by side, and says how they are measured.
"""


def parts(config: ConfigDict) -> Iterator[str]:
    """The parts of a model, MODULE:NAME each."""
    for field, known in PARTS.items():
        if config.get(field) in known:
            yield known[config[field]]
    yield from (part for field, part in PENALTIES.items() if config.get(field))


def described(part: str) -> str:
    """What the docstring of a part says before its arguments, with the equations set apart."""
    module, _, name = part.partition(":")
    thing = import_module(f"keras_genmnist.{module}")
    text = inspect.getdoc(getattr(thing, name) if name else thing)
    said, *source = re.split(r"^(?=Source: )", text, flags=re.M)
    blocks = []
    for paragraph in re.split(r"^(?:Args|Returns|Raises):", said, flags=re.M)[0].strip().split("\n\n"):
        if paragraph.startswith("  "):
            blocks.append(f"```none\n{inspect.cleandoc(paragraph)}\n```")
            continue
        for sentence in re.split(r"(?<=\.)  ", paragraph) if listed(paragraph) == paragraph else []:
            prose = re.search(r"[a-z]{2,} [a-z]{2,}", sentence) and sentence[-1] in ".:"
            blocks.append(linked(sentence) if prose else f"```text\n{sentence.rstrip('.')}\n```")
    return "\n\n".join([f"### {name or module}", *blocks, *map(linked, source)]) + "\n\n"


def listed(paragraph: str) -> str:
    """A paragraph with a bullet before each line if these are NAME: MEANING, or belong to the one above."""
    items = r"(?:[a-z_]\w*(?:, \w+)*|[A-Z]\w+Error|Fault|KeyboardInterrupt|SystemExit)(?:, (?:[A-Z]\w+))*"
    if not re.fullmatch(rf"(?:(?:{items}): .*|  .*)(?:\n(?:(?:{items}): .*|  .*))*", paragraph):
        return paragraph
    return re.sub(rf"^({items})(?=: )", r"- `\1`", paragraph, flags=re.M)


def linked(text: str) -> str:
    """Plain text as Markdown, with links to papers and pages."""
    text = re.sub(r"`[^`]*`|[*_\[\]|<>~]", lambda found: found[0] if found[0][1:] else "\\" + found[0], text)
    text = re.sub(r"\bdocs/(\w+)\.md", r"[\1](../\1.md)", text)
    return re.sub(r"arxiv\.org/abs/[\d.]*\d", r"[\g<0>](https://\g<0>)", text)


def with_pages(page: str) -> str:
    """docs/models.md with links from its list to the pages of the models."""
    first, rest = page.split("\n## Train\n", 1)
    return re.sub(r"`(\w+)`(?=[^|\n]*\| )", r"[`\1`](reference/\1.md)", first) + "\n## Train\n" + rest


def rows(page: str) -> Iterator[tuple[list[str], list[str], str]]:
    """The rows of the tables of a page of this folder: the cells of the head, their own, and a link to the section."""
    head, place = [], ""
    for line in (HERE / f"{page}.md").read_text().splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            place = f"[{title}](../{page}.md#{anchor})"
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if head and not re.match("-+$", cells[0]):
            yield head, cells, place
        head = head or cells


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])
