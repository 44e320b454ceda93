"""The house: a model is three files, imports point down, what is public is described."""

import ast
import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
import tensorflow as tf
from hatchling.builders.sdist import SdistBuilder

import keras_genmnist
from keras_genmnist import config as configs
from keras_genmnist import models
from tests import tiny

PACKAGE = Path(keras_genmnist.__file__).parent
TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Who may import whom: a module only what stands in a line above its own.  One that is not listed is a verb.
LAYERS = [
    {"", "codes", "denoising", "errors", "fields", "optimization", "patches", "precision", "replicas"},
    {"augmentation", "autoregressive", "bounds", "config", "files", "images", "losses", "networks"}
    | {"cluster", "device", "importance", "leftovers", "memory", "migrations", "progress", "versions", "workers"},
    {"averaging", "datasets.binarization", "datasets.spec", "search", "search.space", "shards", "symmetries"},
    {"classifier", "datasets.splits"},
    {"datasets.arrays", "datasets.tfds"},
    {"datasets.files"},
    {"datasets"},
    {"judges"},
    {"distributions", "flows", "quality"},
    {"serve", "serve.access", "serve.batching", "serve.tensors"},
    {"serve.servables"},
    {"serve.app"},
    {"serve.server"},
    {"inference"},
    {"models.base"},
    {"orders"},
    {"annealing", "models.*", "proposals", "quadrature"},
    {"likelihood", "models"},
    {"runs"},
    {"signatures"},
    {"formats", "mirrored", "sources", "evaluate", "zoo"},
    {"training", "figures", "export", "sampling", "encoding", "densities"},
    {"report", "scoring"},
    {"api", "compare", "gap", "sweep", "search.storage"},
    {"mixing", "search.study"},
    {"search.table"},
    {"search.figures"},
    {"tuning"},
    {"cli"},
    {"__main__"},
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "configs" not in path.relative_to(PACKAGE).parts
}


def layer(module: str) -> int:
    """The line of LAYERS that a module of the package stands in."""
    if module.startswith("models.") and module != "models.base":
        module = "models.*"
    found = [number for number, names in enumerate(LAYERS) if module in names]
    assert found, f"{module}.py has no place in LAYERS of {Path(__file__).name}: give it one"
    return found[0]


def imports(path: Path) -> set[str]:
    """The absolute names a file imports, `from a import b` as both a and a.b; not those for type checkers alone."""
    names, tree = set(), ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING:")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, without the package's name."""
    names = {name.removeprefix("keras_genmnist.") for name in imports(path) if name.startswith("keras_genmnist.")}
    package = ".".join(path.relative_to(PACKAGE).parent.parts)  # a file needs nothing of the package that it is in
    return {name for name in names if name in MODULES and name != package}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_the_layers_below(module):
    own = layer(module)
    up = sorted(name for name in own_imports(MODULES[module]) if layer(name) >= own)
    assert up == [], f"{module}.py imports {', '.join(up)}, which stands no lower in {LAYERS}"


def test_import_rules_see_the_imports_they_rule():
    # Else every rule above would hold of nothing.
    assert {"runs", "models", "training", "datasets"} - own_imports(MODULES["training"]) == {"training"}
    assert {"bounds", "inference"} <= own_imports(MODULES["models.base"])
    assert {"api", "runs", "evaluate"} <= own_imports(MODULES["cli"])


def test_type_checkers_see_the_public_names():
    (block,) = (node for node in ast.parse(MODULES[""].read_text()).body if isinstance(node, ast.If))
    told = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    assert told == {name: place.replace(":", ".") for name, place in keras_genmnist.PUBLIC.items()}
    assert (PACKAGE / "py.typed").exists()


def test_version_stands_in_the_package_and_is_cited():
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", cited, re.M) == [keras_genmnist.__version__]
    (released,) = re.findall(r"^date-released: (.*)$", cited, re.M)
    assert f"\n## {keras_genmnist.__version__}, {released}\n" in (ROOT / "CHANGELOG.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project and keras_genmnist.__version__ not in project


def test_checksums_of_a_release_leave_out_their_own_file(tmp_path):
    (command,) = re.findall(r"^\tcd dist && (sha256sum .*)$", (ROOT / "Makefile").read_text(), re.M)
    released = [f"keras_genmnist-1.0{name}" for name in ("-cpu.cdx.json", "-py3-none-any.whl", ".tar.gz")]
    for name in [*released, "SHA256SUMS"]:  # which `tee` may make before or after the shell lists the folder
        (tmp_path / name).touch()
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(released)


def test_sdist_has_what_runs_from_it_alone():
    # Tests and pages need scripts, results and notebooks too.
    files = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {name.split("/")[0] for name in files if "/" in name} == {"keras_genmnist", "configs", "examples"}


def test_licence_of_the_digits_is_shipped_with_them():
    builder = SdistBuilder(str(ROOT))
    shipped = {Path(name).name for name in builder.get_default_build_data()["force_include"].values()}
    assert {"LICENSE", "LICENSE-mlxtend"} == set(builder.metadata.core.license_files) <= shipped
    assert "Sebastian Raschka. All rights reserved." in (ROOT / "LICENSE-mlxtend").read_text()
    # The wheel in the image is built of what is copied.
    (copied,) = re.findall(r"^COPY pyproject.toml (.*) \./$", (ROOT / "Dockerfile").read_text(), re.M)
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    for name in builder.metadata.core.license_files:
        assert all(any(fnmatch.fnmatch(name, own) for own in some) for some in (copied.split(), sent)), name


def test_tensorflow_is_not_imported_before_the_verb_is_known():
    # It takes seconds, and `genmnist --help` or a mistyped verb should not.
    for module in ("", "cli", "config", "errors", "__main__"):
        tree = ast.parse(MODULES[module].read_text())
        heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        text = "\n".join(ast.unparse(node) for node in heads)
        assert not re.search(r"tensorflow|tf_keras|numpy|runs|training|models", text), module


SOURCES = sorted(MODULES.values()) + [
    p for folder in ("configs", "tests") for p in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_keras_is_always_tf_keras(path):
    # Keras 3 is another library, in which TFP's layers raise.
    wrong = {name for name in imports(path) if name.split(".")[0] == "keras" or name.startswith("tensorflow.keras")}
    attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    wrong |= {ast.unparse(node) for node in attributes if ast.unparse(node) in ("tf.keras", "tensorflow.keras")}
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), f"{module}.py has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


# Where the size of MNIST's images and the number of its digits may stand: its spec, and the classifiers shipped for it.
OF_MNIST = {"datasets.tfds", "classifier"}
IN_THE_PAGE = re.compile(r"\b(28|784|14)\b|< 10\b|\b10 digits|ten digits")


def of_mnist_alone(tree: ast.AST) -> list[str]:
    """The expressions of a syntax tree that hold of MNIST's images alone: their sides, pixels, and ten digits."""
    ten = ("range(10)", "np.arange(10)", "7 * 7")
    found = []
    for node in ast.walk(tree):
        size = isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value in (28, 784)
        name = isinstance(node, ast.Name | ast.Attribute | ast.arg) and re.search(
            r"(NUM|N)_?(DIGITS|CLASSES)$", ast.unparse(node)
        )
        if size or name or (isinstance(node, ast.Call | ast.BinOp) and ast.unparse(node) in ten):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module not in OF_MNIST])
def test_module_takes_the_size_of_images_and_their_classes_from_the_spec(module):
    assert of_mnist_alone(ast.parse(MODULES[module].read_text())) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "serve" / "static").glob("*.[jh]*")), ids=lambda path: path.name)
def test_page_takes_the_size_of_images_and_their_classes_from_the_model(path):
    lines = enumerate(path.read_text().splitlines(), start=1)
    assert [f"line {number}: {line.strip()}" for number, line in lines if IN_THE_PAGE.search(line)] == []


def test_search_for_what_holds_of_mnist_alone_finds_it():
    for text in ("x = 28", "f((28.0, 1))", "reshape(784)", "range(10)", "np.arange(10)", "7 * 7 * c", "NUM_DIGITS = 3"):
        assert of_mnist_alone(ast.parse(text)), text
    for text in ("x = 280", "range(11)", "0.28", "'28'"):
        assert not of_mnist_alone(ast.parse(text)), text


def test_every_traced_function_says_whether_autograph_rewrites_it():
    """By default it does, which takes as long as all else of a first call."""
    silent = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        told = [
            node.func
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and any(keyword.arg == "autograph" for keyword in node.keywords)
        ]
        silent += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "tf.function" and node not in told
        ]
    assert silent == []


@pytest.mark.parametrize("name", models.names())
def test_model_has_a_test_file_and_a_config(name):
    assert (TESTS / "models" / f"test_{name}.py").is_file()
    if name not in ("average", "mixture"):  # which `genmnist mix` makes of runs
        assert name in {configs.load(config).model for config in configs.names()}


@pytest.mark.parametrize("name", configs.names())
def test_config_is_flat_and_names_its_source(name):
    for field, value in configs.load(name).items():
        assert isinstance(value, str | int | float | bool), f"{field}={value!r} cannot be given as --config.{field}=..."
    first = configs.description(name)
    assert re.search(r"arxiv\.org/abs/\d{4}\.\d{4,5}|\b(19|20)\d\d\b", first), f"no paper in {first!r}"


@pytest.mark.parametrize("name", configs.names())
def test_config_builds_a_model_that_draws(name):
    model = models.build(tiny.config(name))
    assert model.num_parameters > 0
    # Pixel by pixel in Python takes ten seconds.
    sample = tf.function(model.sample) if model.pixel_by_pixel else model.sample
    assert sample(1, 0)["images"].shape == (1, *model.image_shape)
