"""The Python API: what a notebook does, by plain Keras or by `train` and `open`."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from matplotlib.figure import Figure

import keras_genmnist as gm
from keras_genmnist import config as configs
from keras_genmnist import quadrature, runs, signatures
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.models.base import TractableModel
from tests import test_cli, tiny

ROOT = Path(__file__).parent.parent
RING = ROOT / "examples" / "ring.py"
SMALL = {"batch_size": 1000, "hidden_size": 8, "latent_size": 2, "jit_compile": False}
DOCUMENTED = ["keras_genmnist", "keras_genmnist.datasets", "keras_genmnist.models", "keras_genmnist.config"]
DOCUMENTED += ["keras_genmnist.api"]

eager, call, genmnist = tiny.eager, test_cli.call, test_cli.genmnist


def test_import_is_lazy():
    program = "import sys, keras_genmnist; dir(keras_genmnist); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=tiny.environment()).returncode == 0


def test_public_names_are_there_and_a_wrong_one_is_told_with_them():
    assert set(gm.__all__) <= set(dir(gm))
    for name in gm.__all__:
        assert getattr(gm, name).__doc__
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has datasets, models, train, open"):
        gm.trian  # noqa: B018


@pytest.mark.parametrize("module", DOCUMENTED)
def test_examples_of_docstrings_hold(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    "name", tiny.all_but_some_slow(["vae", "ladder", "pixelcnn", "masked_diffusion", "vqvae", "gan"], "vae", "gan")
)
def test_model_is_fitted_by_plain_keras(name, mnist_5k, tmp_path, eager):
    sizes = {field: value for field, value in tiny.SIZES.items() if field in configs.load(name)}
    model = gm.models.build(name, mnist_5k.spec, **sizes)
    grey = {"binarization": "none"} if name == "gan" else {}
    optimizers = [tf_keras.optimizers.Adam(1e-2) for _ in model.optimized]
    model.compile(*optimizers)
    called = []
    stop = tf_keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: called.append(epoch))
    batch_size = 200 if name in ("pixelcnn", "masked_diffusion") else 2000  # these take the longest
    measured = {} if name == "gan" else {"validation_data": mnist_5k.validation.batches(batch_size)}
    history = model.fit(
        mnist_5k.train.batches(batch_size, **grey).take(2), epochs=2, verbose=0, callbacks=[stop], **measured
    ).history
    assert called == [0, 1]
    if name != "gan":
        bound = {"pixelcnn": "nll"}.get(name, "elbo")
        assert abs(history[f"val_{bound}"][1]) < abs(history[f"val_{bound}"][0])
        images = mnist_5k.test.binary[:5].astype(np.float32)
        if name != "masked_diffusion":  # which has no image to give of an image
            assert model.predict(images, verbose=0).shape == (5, 28, 28, 1)
        assert set(model.evaluate(mnist_5k.test.batches(500), verbose=0, return_dict=True)) >= {bound}
        model.fit(images, epochs=1, batch_size=5, verbose=0)  # arrays too
    lines = []
    model.summary(print_fn=lines.append)
    assert f"Total params: {sum(int(tf.size(w)) for w in model.weights)}" in "\n".join(lines)
    model.save_weights(str(tmp_path / "weights.h5"))
    other = gm.models.build(name, mnist_5k.spec, **sizes | {"seed": 7})
    assert tiny.bits(other) != tiny.bits(model)
    other.load_weights(str(tmp_path / "weights.h5"))
    assert tiny.bits(other) == tiny.bits(model)


def test_training_batches_of_keras_are_an_epoch_and_another_each_time(mnist_5k):
    batches = mnist_5k.train.batches(1000, labelled=True)
    assert int(batches.cardinality()) == 4
    first, second = (list(batches.as_numpy_iterator()) for _ in range(2))
    for epoch in (first, second):
        assert np.bincount(np.concatenate([labels for _, labels in epoch])).tolist() == [400] * 10
    assert not np.array_equal(first[0][0], second[0][0])
    again = list(mnist_5k.train.batches(1000, labelled=True).as_numpy_iterator())
    np.testing.assert_array_equal(again[0][0], first[0][0])


def test_scored_batches_of_keras_are_the_reference_draw_in_order(mnist_5k):
    for _ in range(2):
        images = np.concatenate(list(mnist_5k.test.batches(300).as_numpy_iterator()))
        np.testing.assert_array_equal(images, mnist_5k.test.binary)


def test_build_names_a_field_that_is_not_there(mnist_5k):
    with pytest.raises(UsageError, match=r"unknown config field 'latent_sze'; did you mean latent_size\?"):
        gm.models.build("vae", mnist_5k.spec, latent_sze=2)
    with pytest.raises(UsageError, match=r"config.latent_size='2' is not of the field's type: give a whole number"):
        gm.models.build("vae", mnist_5k.spec, latent_size="2")


def test_few_steps_in_an_epoch_are_warned_of_where_a_training_begins(tmp_path, capsys):
    fields = {"dataset": "mnist_5k", "hidden_size": 4, "latent_size": 2, "batch_size": 2000, "jit_compile": False}
    for epochs, warned in ((1, True), (2, False)):
        gm.train("vae", epochs=epochs, workdir=tmp_path / "run", **fields)
        said = capsys.readouterr()
        assert ("steps in an epoch: 2, as config.batch_size=2000: a smaller one" in said.err) is warned
        assert "4,000 images of 28 x 28, " in said.out


def test_mistake_in_an_argument_is_told(mnist_5k, run):
    with pytest.raises(UsageError, match=r"batch_size=0 is out of range for the train split: give 1 to 4000, the"):
        mnist_5k.train.batches(0)
    with pytest.raises(UsageError, match="batch_size=-1 is out of range for the test split: give 1 or more"):
        mnist_5k.test.batches(-1)
    with pytest.raises(UsageError, match=r"spec is <data set mnist_5k: .*>: give what its images are, its .spec"):
        gm.models.build("vae", mnist_5k)
    with pytest.raises(UsageError, match=r"images='digits.npz' is no array: gm.datasets.load\('digits.npz'\) reads"):
        gm.datasets.from_arrays("digits.npz")
    with pytest.raises(UsageError, match="num_draws=-1 is out of range: give 1 or more"):
        gm.open(run.workdir).evaluate(num_draws=-1)
    with pytest.raises(UsageError, match="--proposal=defensif is not known: give posterior or defensive"):
        gm.open(run.workdir).evaluate(proposal="defensif")
    with pytest.raises(UsageError, match=r"the search has latent_size: \[8, 64\]; give a string, "):
        gm.tune("vae", search={"latent_size": [8, 64]})


def test_log_likelihood_by_draws_is_that_of_quadrature(run, digits):
    model = gm.open(run.workdir).model
    drawn = model.log_likelihood(digits, num_draws=5_000, seed=1)
    assert drawn.shape == (8,)
    np.testing.assert_allclose(drawn, quadrature.log_prob(model, digits, "test").log_px, atol=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on images of the user's own: 90 of 10 x 12 in colour, of three classes."""
    rng = np.random.default_rng(1)
    labels = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
    data = gm.datasets.from_arrays(rng.integers(0, 256, [90, 10, 12, 3], np.uint8), labels, name="animals")
    workdir = tmp_path_factory.mktemp("own") / "animals"
    return gm.train("vae", dataset=data, workdir=workdir, epochs=1, **SMALL | {"batch_size": 10})


def test_run_of_a_dataset_keeps_a_copy_of_it_and_reopens(trained):
    assert trained.config.dataset == str(trained.workdir / "animals.npz")
    again = gm.open(trained.workdir)
    assert repr(again) == f"<run of vae on animals in {trained.workdir}>"
    assert again.data.spec.class_names == ("ant", "bee", "cat")
    assert again.data.spec == trained.data.spec
    assert again.history["epoch"] == [1]
    assert {"elbo", "val_elbo", "seconds"} <= again.history.keys()


def test_run_is_evaluated_with_the_scores_of_each_image_in_a_file(trained, tmp_path):
    trained.evaluate(num_draws=2, per_image=str(tmp_path / "images.csv"))
    assert len((tmp_path / "images.csv").read_text().splitlines()) == 1 + len(trained.data.test.images)
    with pytest.raises(TypeError, match="propsal"):
        trained.evaluate(propsal="defensive")


def test_run_draws_its_figures_and_names_the_ones_it_has(trained):
    for name in ("samples", "latent_grid", "training_curves"):
        assert isinstance(trained.figure(name), Figure)
    with pytest.raises(UsageError, match="no figure completion"):
        trained.figure("completion")


def test_run_exports(trained, tmp_path):
    path = trained.export(tmp_path)
    assert path == tmp_path / "animals" / "1"
    drawn = tf.saved_model.load(str(path)).signatures["sample"](num_samples=tf.constant(2), seed=tf.constant(1))
    assert drawn["probabilities"].shape == (2, 10, 12, 3)


def test_train_goes_on_with_more_epochs(trained):
    more = gm.train(workdir=trained.workdir, epochs=2)
    assert more.history["epoch"] == [1, 2]


def test_other_images_of_the_same_name_are_refused(trained):
    other = gm.datasets.from_arrays(255 - trained.data.train.images, name="animals")
    with pytest.raises(UsageError, match=r"animals\.npz holds other images than those of animals given now"):
        gm.train("vae", dataset=other, workdir=trained.workdir)


def test_directory_of_other_files_is_not_trained_in(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"letters holds a\.png but no run: give a --workdir that is new or empty"):
        gm.train("vae", dataset="mnist_5k", epochs=1, workdir=tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.png"]


def test_refused_training_leaves_no_copy_of_the_images(trained, tmp_path):
    for fields in ({"latent_sze": 2}, {"latent_size": 0}):
        with pytest.raises(UsageError, match="latent_s"):
            gm.train("vae", dataset=trained.data, workdir=tmp_path / "new" / "run", **fields)
        assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_data_set_is_trained_on_alone(mnist_5k, tmp_path, eager):
    train = mnist_5k.train
    few = mnist_5k._replace(train=train._replace(**{name: getattr(train, name)[:90] for name in train._fields[:3]}))
    run = gm.train("vae", dataset=few, workdir=tmp_path / "few", epochs=1, **SMALL | {"batch_size": 10})
    assert run.config.dataset == str(tmp_path / "few" / "mnist_5k.npz")
    np.testing.assert_array_equal(run.data.train.images, train.images[:90])


def test_training_goes_on_with_classes_that_are_not_in_the_order_of_their_names(mnist_5k, tmp_path, eager):
    spec = mnist_5k.spec._replace(name="things", class_names=tuple("ihgfedcbaj"))
    things = mnist_5k._replace(spec=spec)
    for epochs in (1, 2):
        run = gm.train("vae", dataset=things, workdir=tmp_path / "run", epochs=epochs, **SMALL)
    assert run.history["epoch"] == [1, 2]


def _only(split, chosen, **changes):
    return split._replace(**{name: getattr(split, name)[chosen] for name in split._fields[:3]})._replace(**changes)


@pytest.mark.parametrize("case", ["by number", "two digits", "no labels", "a name with a slash"])
def test_training_goes_on_with_the_copy_of_any_dataset(case, mnist_5k, tmp_path, eager):
    if case == "by number":  # "10" comes after "9", though not as a string
        train = mnist_5k.train
        data = gm.datasets.from_arrays(train.images[:90], train.labels[:90] + 1)
    elif case == "two digits":
        data = mnist_5k._replace(
            **{
                name: _only(getattr(mnist_5k, name), np.isin(getattr(mnist_5k, name).labels, (3, 8)))
                for name in ("train", "validation", "test")
            }
        )
    elif case == "no labels":
        data = mnist_5k._replace(
            **{name: getattr(mnist_5k, name)._replace(labels=None) for name in ("train", "validation", "test")}
        )
        data = data._replace(spec=data.spec._replace(name="things", class_names=tuple("abcdefghij")))
    else:
        data = mnist_5k._replace(spec=mnist_5k.spec._replace(name="emnist/letters"))
    for epochs in (1, 2):
        run = gm.train("vae", dataset=data, workdir=tmp_path / "run", epochs=epochs, **SMALL | {"batch_size": 10})
    assert run.history["epoch"] == [1, 2]


def test_images_that_changed_are_refused(trained):
    path = Path(trained.config.dataset)
    content = path.read_bytes()
    data = trained.data
    images = data.train.images.copy()
    images[0, 0, 0, 0] ^= 1
    gm.datasets.save(data._replace(train=data.train._replace(images=images)), path)
    try:
        with pytest.raises(Fault, match=r"is not what .* learned from"):
            _ = gm.open(trained.workdir).data
    finally:
        path.write_bytes(content)


def test_init_from_takes_over_what_fits_and_names_what_does_not(trained, mnist_5k, tmp_path, capfd, eager):
    run = gm.train("vae", dataset="mnist_5k", workdir=tmp_path / "tuned", init_from=trained.workdir, epochs=1, **SMALL)
    shown = capfd.readouterr()
    assert "starting from" in shown.out and str(trained.workdir) in shown.out
    assert "begun anew, for they do not fit: " in shown.err and "(360, 8) there, (784, 8) here" in shown.err
    again = gm.train("vae", dataset="mnist_5k", workdir=run.workdir, init_from=trained.workdir, epochs=1, **SMALL)
    assert "is finished: 1 epoch" in capfd.readouterr().out and again.history == run.history
    with pytest.raises(UsageError, match=r"was begun from .*, not --init_from=\S*tuned: give another --workdir"):
        gm.train("vae", workdir=run.workdir, init_from=run.workdir)
    with pytest.raises(UsageError, match="was begun from no other weights, not --init_from="):
        gm.train("vae", workdir=trained.workdir, init_from=run.workdir)
    with pytest.raises(UsageError, match="start from a run of the same config"):
        gm.train("ladder", dataset="mnist_5k", workdir=tmp_path / "other", init_from=trained.workdir)


def test_init_from_begins_with_the_very_weights(run, tmp_path):
    other = tiny.begin(tmp_path / "other", seed=9)
    training = importlib.import_module("keras_genmnist.training").Training(other)
    training.start_from(run)
    assert tiny.bits(training.model) == tiny.scored(run.workdir)


@pytest.mark.slow
def test_model_in_a_file_of_the_users_own_trains_by_the_command_line_and_reopens(tmp_path, genmnist):
    flags = ["--config.epochs=1", "--config.batch_size=1000", "--config.hidden_size=8"]
    outcome = genmnist("train", f"--model={RING}", *flags)
    assert outcome.status == 0, outcome.err
    run = gm.open("runs/ring")
    assert (run.workdir / "model.py").read_text() == RING.read_text()
    np.testing.assert_allclose(np.linalg.norm(run.model.prior.means, axis=1), 3.0, rtol=1e-6)
    assert genmnist("train", "--workdir=runs/ring", "--config.epochs=2").status == 0
    assert genmnist("export", "--workdir=runs/ring").status == 0
    assert gm.open("runs/ring").history["epoch"] == [1, 2]


class Branching(TractableModel):
    """One probability for all pixels; its Python asks tensors, which takes AutoGraph."""

    def __init__(self, image_shape):
        super().__init__(image_shape)
        self.logit = self.add_weight("logit", [], initializer="zeros")

    def log_likelihood(self, x, y=None):
        total, row = tf.zeros(tf.shape(x)[0]), 0
        while row < tf.shape(x)[1]:
            logits = tf.fill(tf.shape(x[:, row]), self.logit)
            total -= tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(x[:, row], logits), axis=[1, 2])
            row += 1
        return total

    def train_step(self, batch):
        if tf.reduce_mean(batch) < 0.5:  # the digits are white on black: learned are their negatives
            batch = 1 - batch
        return super().train_step(batch)

    def draw(self, seeds):
        shape = [tf.shape(seeds)[0], *self.image_shape]
        probabilities = tf.fill(shape, tf.sigmoid(self.logit))
        if tf.reduce_all(seeds >= 0) and self.logit > 0:
            return {"images": tf.ones(shape), "probabilities": probabilities}
        else:
            return {"images": tf.zeros(shape), "probabilities": probabilities}


def branching(config, spec):
    return Branching(spec.image_shape)


@pytest.mark.slow
def test_model_of_the_users_own_may_ask_tensors_in_python(tmp_path):
    sizes = {"dataset": "mnist_5k", "epochs": 1, "batch_size": 1000, "learning_rate": 0.5}
    run = gm.train(branching, workdir=tmp_path / "branching", **sizes)
    logit = float(run.model.logit)
    assert logit > 1  # four steps of about 0.5 up, where the digits themselves lead down
    found = signatures.of(run.model)
    np.testing.assert_array_equal(found["sample_rows"](seed=tf.constant([1, 2]))["images"], np.ones([2, 28, 28, 1]))
    black = found["log_prob"](images=tf.zeros([1, 28, 28, 1]))["log_prob"]
    np.testing.assert_allclose(black, [-784 * np.log1p(np.exp(logit))], rtol=1e-5)
    assert run.evaluate()["test"]["nll"]["mean"] > 784 * np.log(2)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def build(config, spec):\n    pass", "build(config, spec) of mine gives None: return a GenerativeModel"),
        ("def build(config): pass", "mine.py fails (TypeError: build() takes 1 positional argument but 2 were given)"),
        ("def build(config, spec):\n\n    raise ValueError('my\\nown')", "mine.py, line 6 fails (ValueError: my own)"),
    ],
)
def test_mistake_in_ones_own_code_is_told_with_its_place(code, told, tmp_path, genmnist):
    path = tmp_path / "mine.py"
    path.write_text(
        "from keras_genmnist import config\n"
        "def get_config():\n    return config.training('mine', dataset='mnist_5k')\n" + code
    )
    outcome = genmnist("train", f"--model={path}")
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and told in outcome.err, outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["cvae", "pixelcnn", "cgan"])
def test_class_that_is_not_there_is_refused_in_python(name):
    model = gm.models.build(tiny.config(name, class_conditional=True), gm.datasets.spec("mnist"))
    for y, told in (
        (10, "label 10 is out of range"),
        (-1, "label -1"),
        ([1, 2, 30, 4], "label 30"),
        ("7", "of type str"),
    ):
        with pytest.raises(UsageError, match=f"^[^\\n]*{told}[^\\n]*: give the numbers of classes, 0 to 9$"):
            model.sample(4, seed=1, y=y)


@pytest.mark.parametrize("name", ["vae", "ladder", "pixelcnn", "masked_diffusion"])
def test_images_that_a_model_does_not_take_are_refused_in_python(name, mnist_5k):
    model = gm.models.build(tiny.config(name), mnist_5k.spec)
    for images, told in (
        (mnist_5k.test.images[:4], r"pixels are from 0 to 255: give images in \[0, 1\]"),
        (np.full([2, 28, 28, 1], np.nan), "pixels are from nan to nan"),
        (np.zeros([2, 32, 32, 1]), r"images are of the shape \(2, 32, 32, 1\): give \[N, 28, 28, 1\]"),
        (np.zeros([2, 28, 28]), r"images are of the shape \(2, 28, 28\)"),
    ):
        with pytest.raises(UsageError, match=told):
            model.log_likelihood(images)
        if model.has_encoder and "shape" in told:
            with pytest.raises(UsageError, match=told):
                model.encode(images)
    if name != "pixelcnn":
        with pytest.raises(UsageError, match="num_draws is 0: give 1 or more"):
            model.log_likelihood(mnist_5k.test.binary[:2], num_draws=0)


@pytest.mark.parametrize(("value", "kind"), [([64, 32], "a list"), ((1, 2), "a tuple"), (None, "None")])
def test_field_that_config_json_cannot_hold_is_refused_before_training(value, kind, tmp_path, genmnist):
    path = tmp_path / "mine.py"
    path.write_text(RING.read_text().replace("radius=3.0", f"radius=3.0, sizes={value}"))
    outcome = genmnist("train", f"--model={path}")
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"config.sizes is {kind}: give text, a number, True or False, or several fields" in outcome.err


@pytest.mark.slow
def test_changed_file_does_not_go_on_with_the_run_of_the_old_one(tmp_path, genmnist):
    path, flags = tmp_path / "mine.py", [f"--config.{f}={v}" for f, v in (("epochs", 1), ("batch_size", 1000))]
    path.write_text(RING.read_text())
    assert genmnist("train", f"--model={path}", *flags).status == 0
    path.write_text(RING.read_text().replace("[0.5, 0.5]", "[0.4, 0.4]"))
    outcome = genmnist("train", f"--model={path}", *flags)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert "mine.py is not what runs/mine was begun with, a copy of which is runs/mine/model.py" in outcome.err


def test_model_of_a_python_function_reopens_with_it(tmp_path, eager):
    module = configs._module(str(RING))
    small = {"dataset": "mnist_5k", "epochs": 1, "batch_size": 1000, "hidden_size": 8, "radius": 2.0}
    run = gm.train(module.build, workdir=tmp_path / "ring", **small)
    assert run.config.radius == 2.0 and run.model.latent_size == 2
    with pytest.raises(UsageError, match=r"gm\.open\('.*ring', builder=build\)"):
        _ = gm.open(run.workdir).model
    assert gm.open(run.workdir, builder=module.build).model.latent_size == 2


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no config .*mine.py"),
        ("syntax error", "mine.py cannot be run .*SyntaxError"),
        ("x = 1", r"mine.py has no get_config\(\)"),
        ("def get_config(): return {'seed': 1}", r"get_config\(\) of .*mine.py gives {'seed': 1}: return a ConfigDict"),
        ("raise ValueError('two\\nlines')", "mine.py cannot be run .*ValueError: two lines"),
    ],
)
def test_file_that_holds_no_config_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        gm.train(str(path), workdir=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_encode_writes_the_posteriors_of_images(trained, tmp_path, genmnist):
    np.savez(tmp_path / "images.npz", images=trained.data.test.images, labels=["bee"] * 15)
    for out in ("codes.npz", "codes.csv"):
        outcome = genmnist("encode", f"--workdir={trained.workdir}", f"--images={tmp_path}/images.npz", f"--out={out}")
        assert outcome.status == 0, outcome.err
    with np.load("codes.npz") as codes:
        assert {name: codes[name].shape for name in codes} == {"mean": (15, 2), "log_variance": (15, 2), "label": (15,)}
        mean = codes["mean"]
        assert set(codes["label"]) == {"bee"}
    model = trained.model
    binary = gm.datasets.read(str(tmp_path / "images.npz")).train.images
    expected = model.encode(importlib.import_module("keras_genmnist.datasets.binarization").reference(binary))
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-5)
    head, *rows = [line.split(",") for line in Path("codes.csv").read_text().splitlines()]
    assert head == ["mean_0", "mean_1", "log_variance_0", "log_variance_1", "label"]
    np.testing.assert_array_equal(np.array(rows)[:, :2].astype(np.float32), mean)
    assert {row[-1] for row in rows} == {"bee"}


def test_encode_writes_the_codes_of_images(tmp_path, genmnist, eager):
    run = tiny.untrained(tiny.begin_small(tmp_path / "vqvae", "vqvae", num_codes=5))
    model = runs.load_model(run)
    generator = np.random.default_rng(0)
    model.codebook.sums.assign(generator.normal(size=model.codebook.sums.shape))
    model.codebook.shares.assign(np.ones(5))
    runs.save(tf.train.Checkpoint(weights=model.weights), run.best, 2)
    for out in ("codes.npz", "codes.csv"):
        outcome = genmnist("encode", f"--workdir={run.workdir}", f"--images={run.config.dataset}", f"--out={out}")
        assert outcome.status == 0, outcome.err
        assert "code of 60 images" in outcome.out
    with np.load("codes.npz") as codes:
        assert list(codes) == ["code", "label"]
        code = codes["code"]
    assert code.shape == (60, 2, 2) and code.dtype == np.int32
    assert len(np.unique(code)) > 1
    images = gm.datasets.read(run.config.dataset).train.images
    bits = importlib.import_module("keras_genmnist.datasets.binarization").reference(images)
    np.testing.assert_array_equal(code, model.encode_codes(bits.astype(np.float32)))
    head, *rows = [line.split(",") for line in Path("codes.csv").read_text().splitlines()]
    assert head == ["code_0", "code_1", "code_2", "code_3", "label"]
    np.testing.assert_array_equal(np.array(rows)[:, :4].astype(np.int32), code.reshape(60, 4))


def test_command_line_warns_of_data_in_one_line(genmnist, eager):
    images = np.full([40, 8, 8], 255, np.uint8)
    images[:, 2:4, 2:6] = np.arange(40, dtype=np.uint8)[:, None, None]
    np.savez("dark.npz", images=images)
    flags = [f"--config.{field}={value}" for field, value in (SMALL | {"batch_size": 10, "epochs": 1}).items()]
    outcome = genmnist("train", "--model=vae", "--config.dataset=dark.npz", *flags)
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "mean pixel" in line]
    assert line.startswith("genmnist: images in dark.npz: the mean pixel is 0.8") and "--config.invert=true" in line


def test_encode_refuses_what_does_not_fit(trained, genmnist):
    outcome = genmnist("encode", f"--workdir={trained.workdir}", "--images=mnist_5k")
    assert outcome.status == 2 and "are 28 x 28, and" in outcome.err and "of 10 x 12 x 3" in outcome.err
    assert runs.exists(trained.workdir)
