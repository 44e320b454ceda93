"""What a number was made by: a hash over the code that has a part in it, which no edit of anything else changes."""

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
DRAWING = ("keras_genmnist.figures",)  # modules that make pictures of numbers and no numbers
# Modules whose result, images and labels, a record names by a digest of its own.
READING = ("keras_genmnist.datasets.files", "keras_genmnist.datasets.tfds")
NAMING = ("__version__", "__all__", "PUBLIC")  # what a package says of itself


def closure(names: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """The modules of the checkout that these import, and those that they import in turn, with their files, sorted.

    Those of DRAWING and READING, and what they alone import, are left out.

    Args:
      names: of modules, as "keras_genmnist.training".
      root: of the checkout.
    """
    todo, found = list(names), {}
    while todo:
        name = todo.pop()
        if name not in (*found, *DRAWING, *READING) and (path := _file(name, root)):
            found[name] = path
            todo += _imported(path.read_text())
    return dict(sorted(found.items()))


def digest(names: Iterable[str], told: Iterable[str] = (), root: Path = ROOT) -> str:
    """A hash over the code of `closure`, in which comments, docstrings, lines' ends, types and checks do not count.

    Args:
      names, root: as of `closure`.
      told: what else counts.
    Returns:
      12 hexadecimal digits.
    """
    parts = [*told, *(f"{name}\n{_code(path.read_text())}" for name, path in closure(names, root).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _file(name: str, root: Path) -> Path | None:
    path = root / name.replace(".", "/")
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _imported(text: str) -> tuple[str, ...]:
    """All that may be a module: of `from a import b`, both a and a.b; not what only a type checker imports."""
    names, tree = [], ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


@functools.cache
def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(_WhatComputes().visit(tree))


class _WhatComputes(ast.NodeTransformer):
    """Leaves out what no number comes from: types, what only refuses, what is only said, and what is drawn.

    They are the types of functions and imports for types; the messages of `raise`, functions named require_... that
    return nothing, and the imports of errors; calls of `print` and `warn`; each `if` that does nothing else; and
    functions that return a Figure, and the imports of DRAWING; and what a package says of itself.
    """

    def visit_Assign(self, node):
        return None if getattr(node.targets[0], "id", "") in NAMING else self.generic_visit(node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        draws = isinstance(node.returns, ast.Name) and node.returns.id == "Figure"
        node.returns = None
        gives = any(isinstance(part, ast.Return) and part.value for part in ast.walk(node))
        return None if draws or (node.name.startswith("require") and not gives) else self.generic_visit(node)

    def visit_ImportFrom(self, node):
        return None if node.module in ("typing", "collections.abc", "keras_genmnist.errors", *DRAWING) else node

    def visit_If(self, node):
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        names = any(isinstance(part, ast.NamedExpr) for part in ast.walk(node.test))
        node = self.generic_visit(node)
        empty = all(isinstance(part, ast.Raise) for part in node.body) and not node.orelse
        return None if empty and not names else node

    def visit_Raise(self, node):
        return ast.Raise()

    def visit_Expr(self, node):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        name = getattr(called, "id", getattr(called, "attr", ""))
        return None if name in ("print", "warn") or name.startswith("require") else node
