"""The site: README, the pages of this folder, the notebooks as they are stored, and the pages of reference.py.

`make docs` builds it into docs/_build/html.  Its source is the whole repository, so that a link leads to the same place
here and in a checkout.
"""

import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import reference  # noqa: E402

import keras_genmnist  # noqa: E402

reference.write(HERE / "reference")

project = "keras_genmnist"
author = "The keras_genmnist developers"
version = release = keras_genmnist.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**.md", "notebooks/*.ipynb"]
# Folders that nothing is read from need not be searched.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "notebooks")]
exclude_patterns += ["docs/_build"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # with tables
myst_heading_anchors = 4  # as GitHub makes them
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = project
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False

CONTENTS = """
```{toctree}
:hidden:
:caption: Guide
docs/models
docs/data
docs/results
docs/leaderboard
docs/scale
docs/serving
docs/speed
docs/log
```
```{toctree}
:hidden:
:caption: Notebooks
notebooks/homework
notebooks/own_data
```
```{toctree}
:hidden:
:caption: Reference
docs/reference/api
docs/reference/models
```
```{toctree}
:hidden:
:caption: Project
CONTRIBUTING
CHANGELOG
SECURITY
```
"""


def complete(app, name: str, source: list[str]) -> None:
    """Makes of a page what a checkout has no use for: README's contents, and links to pages that are made here."""
    if name == "README":
        source[0] += CONTENTS
    if name == "docs/models":
        source[0] = reference.with_pages(source[0])
    # Of a page that is no source, Sphinx would make a download.
    source[0] = re.sub(r"\[([^]]+)\]\(((?:docs/)?explorer\.html)\)", r'<a href="\2">\1</a>', source[0])


def readable(app, what, name, thing, options, lines: list[str]) -> None:
    """Turns a docstring as this package has them into RST: the sections, and lists of NAME: MEANING."""
    text = re.sub(r"^(Args|Returns|Raises):\n((?:  .*\n)+)", section, "\n".join(lines) + "\n", flags=re.M)
    lines[:] = "\n\n".join(map(reference.listed, text.strip("\n").split("\n\n"))).split("\n")


def section(found: re.Match) -> str:
    """A heading, and what is indented under it."""
    return f"\n**{found[1]}**\n\n{textwrap.dedent(found[2])}\n"


def skipped(app, what, name, thing, skip: bool, options) -> bool | None:
    """Leaves out the fields of a named tuple, which its docstring tells."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", readable)
    app.connect("autodoc-skip-member", skipped)
