import dataclasses
import shutil
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.collections import PathCollection

from keras_genmnist import datasets, figures, files, images, models, runs
from keras_genmnist.datasets import Dataset, DatasetSpec, Split
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.figures import Subject
from tests import tiny

eager = tiny.eager
OF_A_2D_VAE = [name for name in figures.FIGURES if name not in ("completion", "layers", "classes", "steps")]


@pytest.fixture(scope="module")
def subject(run, mnist_5k):
    return Subject(run, runs.load_model(run), lambda: mnist_5k, runs.read_metrics(run), seed=5)


@pytest.fixture
def draw(subject):
    """Draws a figure by its name and closes it after the test."""
    drawn = []

    def draw(name):
        drawn.append(figures.FIGURES[name](subject))
        return drawn[-1]

    yield draw
    for figure in drawn:
        plt.close(figure)


def picture(axis):
    """The one image of an axis, without its channel."""
    (image,) = axis.images
    return np.squeeze(np.asarray(image.get_array()))


def cell(sheet, row, column):
    return sheet[29 * row : 29 * row + 28, 29 * column : 29 * column + 28]


def of_digits(rows, columns):
    """The shape of a sheet of images of 28 x 28, and the lines between them."""
    return (29 * rows - 1, 29 * columns - 1)


def test_figures_of_a_2d_latent_are_all_written(run, tmp_path):
    figures.figures(run, [], seed=5, out=tmp_path / "new")
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {f"vae_{name}.png" for name in OF_A_2D_VAE}
    for path in (tmp_path / "new").iterdir():
        pixels = tf.io.decode_png(path.read_bytes()).numpy()
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels)) > 10  # not blank
    assert plt.get_fignums() == []


def test_notebook_shows_a_figure_once_whatever_its_backend(draw):
    figure = draw("samples")
    assert plt.get_fignums() == []  # else the inline backend shows it at the end of its cell, and again as its value
    assert tf.io.decode_png(figure._repr_png_()).shape[1] == 800


def test_figures_asked_for_are_those_written(run, tmp_path):
    figures.figures(run, ["samples", "latent_grid"], seed=5, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vae_samples.png", "vae_latent_grid.png"}


@pytest.mark.parametrize("name", OF_A_2D_VAE)
def test_figures_say_dataset_and_binarization(draw, name):
    title = draw(name).get_suptitle()
    assert "vae on mnist_5k" in title and "dynamic binarization" in title


def test_samples_are_a_hundred_draws(draw, subject):
    (axis,) = draw("samples").axes
    sheet = picture(axis)
    assert sheet.shape == of_digits(10, 10)
    digits = subject.model.sample(100, subject.seed)["probabilities"].numpy()[..., 0]
    np.testing.assert_array_equal(cell(sheet, 2, 3), digits[23])


def test_interpolation_goes_from_z2_to_z1(draw, subject):
    axes = draw("interpolation").axes
    assert len(axes) == 6
    z1, z2 = subject.model.prior().sample([2, 1], seed=tf.constant([subject.seed, 0]))
    assert not np.allclose(subject.model.decode(z1), subject.model.decode(z2), atol=1e-3)
    for axis, alpha in zip(axes, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), strict=True):
        assert rf"\alpha = {alpha:.1f}" in axis.get_title()
        expected = subject.model.decode(alpha * z1 + (1 - alpha) * z2)[0, ..., 0]
        np.testing.assert_allclose(picture(axis), expected, atol=1e-6)  # six rows or one: rounding
    assert "z_2" in axes[0].get_title() and "z_1" in axes[-1].get_title()


def test_interpolation_of_pairs_goes_from_test_image_to_test_image(subject, mnist_5k):
    pairs = [(3, 5), (12, 8)]
    figure = figures.interpolation(subject._replace(pairs=pairs))
    originals = mnist_5k.test.binary.astype(np.float32)[..., 0]
    means = subject.model.encode(originals[..., None])["z"].numpy()
    columns = len(figures.ALPHAS) + 2
    assert len(figure.axes) == columns * len(pairs)
    for row, (first, second) in enumerate(pairs):
        own = figure.axes[columns * row : columns * (row + 1)]
        np.testing.assert_array_equal(picture(own[0]), originals[first])
        np.testing.assert_array_equal(picture(own[-1]), originals[second])
        assert [axis.get_title() for axis in (own[0], own[-1])] == [f"test image\n{n}" for n in (first, second)]
        for axis, alpha in zip(own[1:-1], figures.ALPHAS, strict=True):
            expected = subject.model.decode(alpha * means[[second]] + (1 - alpha) * means[[first]])[0, ..., 0]
            np.testing.assert_allclose(picture(axis), expected, atol=1e-5)
    plt.close(figure)


def test_names_may_hold_what_would_be_mathematics(run, tmp_path):
    shutil.copytree(run.workdir, tmp_path / "a$_$b")
    figures.figures(runs.load(tmp_path / "a$_$b"), ["interpolation"], 5, tmp_path, "svg", [(0, 499)])
    assert (tmp_path / "a$_$b_interpolation.svg").stat().st_size > 10_000


@pytest.mark.parametrize("format, head", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_written_in_the_format_asked_for(format, head, run, tmp_path):
    figures.figures(run, ["interpolation"], 5, tmp_path, format, [(0, 499)])
    assert (tmp_path / f"vae_interpolation.{format}").read_bytes().startswith(head)
    assert len(list(tmp_path.iterdir())) == 1


def test_pairs_of_images_that_are_not_there_or_of_a_model_without_encoder_are_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"--pairs has 500: the test images are 0 to 499"):
        figures.figures(run, [], 5, tmp_path, pairs=[(3, 500)])
    monkeypatch.setattr(runs, "load_model", lambda run: models.build(tiny.config("gan")))
    with pytest.raises(UsageError, match="no latents of test images"):
        figures.figures(run, ["interpolation"], 5, tmp_path, pairs=[(3, 5)])
    assert list(tmp_path.iterdir()) == []


def test_traversals_vary_one_latent_from_a_test_image_those_that_tell_most_first(subject, mnist_5k, monkeypatch):
    scales, rng = np.array([0.5, 0.1], np.float32), np.random.default_rng(0)
    means = rng.normal(size=[len(mnist_5k.test.images), 2]).astype(np.float32)
    images_of = mnist_5k.test.binary.reshape(len(means), -1)

    def encode(x, noise=0.0):  # of z1 the channel tells log(1.25 / 0.25) / 2 nats, of z2 log(1.01 / 0.01) / 2
        places = [np.flatnonzero((images_of == row).all(axis=1))[0] for row in x.reshape(len(x), -1)]
        return {"z": tf.constant(means[places]) + scales * noise}

    def decode(z):  # an image that shows its z
        return tf.tile(tf.reshape(z, [-1, 1, 2, 1]), [1, 28, 14, 1])

    model = types.SimpleNamespace(
        encode=encode,
        decode=decode,
        images_and_labels=lambda x: (x, None),
        takes_labels=False,
        latent_size=2,
        autograph=False,
        image_shape=(28, 28, 1),
    )
    monkeypatch.setattr(figures.tf, "function", lambda function, **options: function)
    figure = figures.traversals(subject._replace(model=model, pairs=[(3, 8), (8, 5)]))
    first, second, third = figure.axes[3:]
    assert [axis.get_title() for axis in figure.axes[:3]] == [f"test image {place}" for place in (3, 8, 5)]
    np.testing.assert_array_equal(picture(figure.axes[1]), mnist_5k.test.binary[8, ..., 0])
    names = [text.get_text() for text in first.get_yticklabels()]
    assert [name.split(" tells ")[0] for name in names] == ["$z_{2}$", "$z_{1}$"]
    nats = [float(name.split(" tells ")[1].removesuffix(" nats")) for name in names]
    np.testing.assert_allclose(nats, [np.log(101) / 2, np.log(5) / 2], atol=0.11)  # shown by one decimal
    for place, axis in ((3, first), (8, second), (5, third)):
        shown = np.stack([[cell(picture(axis), row, column)[0, :2] for column in range(7)] for row in range(2)])
        np.testing.assert_allclose(shown[0, :, 0], means[place, 0])
        np.testing.assert_allclose(shown[1, :, 1], means[place, 1])
        np.testing.assert_allclose(shown[0, :, 1], np.linspace(-2, 2, 7) * means[:2000, 1].std(), atol=0.1)
        np.testing.assert_allclose(shown[1, :, 0], np.linspace(-2, 2, 7) * np.sqrt(1.25), atol=0.2)
    plt.close(figure)


def test_layers_vary_one_at_a_time(subject):
    model = models.build(tiny.config("ladder", latent_size=4, num_layers=3))
    figure = figures.layers(subject._replace(model=model))
    top, middle, low = figure.axes
    assert [axis.get_ylabel() for axis in figure.axes] == ["layer 3", "layer 2", "layer 1"]
    varied, kept = (model.prior().sample([n], seed=tf.constant([subject.seed, i])) for n, i in ((10, 0), (1, 1)))
    kept = tf.tile(kept, [10, 1])
    for axis, first, last in ((low, 0, 4), (middle, 4, 6), (top, 6, 7)):  # 4, 2 and 1 latents
        z = tf.concat([kept[:, :first], varied[:, first:last], kept[:, last:]], axis=1)
        decoded = model.decode(z).numpy()[..., 0]
        for column in (0, 6):
            np.testing.assert_allclose(cell(picture(axis), 0, column), decoded[column], atol=1e-6)


def test_reconstructions_stand_below_their_originals(draw, subject):
    (axis,) = draw("reconstructions").axes
    sheet = picture(axis)
    assert sheet.shape == of_digits(8, 10)
    originals = subject.dataset.test.binary[:40].astype(np.float32)
    decoded = subject.model.reconstruct(originals).numpy()
    for index in (0, 7, 10, 39):
        row, column = divmod(index, 10)
        np.testing.assert_array_equal(cell(sheet, 2 * row, column), originals[index, ..., 0])
        np.testing.assert_array_equal(cell(sheet, 2 * row + 1, column), decoded[index, ..., 0])


def test_training_curves_show_every_epoch(subject):
    rows = [{"epoch": e, "elbo": -200 + e, "val_elbo": -210 + e, "kl": 10 + e, "val_kl": 11 + e} for e in range(1, 13)]
    figure = figures.training_curves(subject._replace(rows=rows))
    left, right = figure.axes
    for axis, name in ((left, "elbo"), (right, "kl")):
        lines = {line.get_label(): line for line in axis.lines}
        assert lines.keys() == {f"training {name.upper()}", f"validation {name.upper()}"}
        for label, key in ((f"training {name.upper()}", name), (f"validation {name.upper()}", f"val_{name}")):
            assert lines[label].get_xdata().tolist() == [row["epoch"] for row in rows]
            assert lines[label].get_ydata().tolist() == [row[key] for row in rows]
        assert axis.get_legend() is not None
        assert "nats" in axis.get_ylabel()
    plt.close(figure)


def test_training_curves_name_the_layers():
    labels = [figures._legend(column) for column in ("val_kl_1", "val_active_units_10", "iwae", "generator_loss")]
    assert labels == ["layer 1", "layer 10", "training IWAE", "training generator loss"]


@pytest.mark.parametrize("epoch", [0, 10])
def test_training_curves_leave_out_what_only_the_first_tenth_or_a_single_epoch_reaches(subject, epoch):
    rows = [{"epoch": e, "elbo": -100.0, "val_elbo": -101.0, "kl": 10, "val_kl": 11} for e in range(1, 21)]
    rows[epoch]["elbo"] = -1e4
    figure = figures.training_curves(subject._replace(rows=rows))
    low, high = figure.axes[0].get_ylim()
    assert -102 < low < -101 and -100 < high < -99
    plt.close(figure)
    rows[epoch]["elbo"] = -98.0  # three times as wide as the rest: still shown
    figure = figures.training_curves(subject._replace(rows=rows))
    assert figure.axes[0].get_ylim()[1] > -98
    plt.close(figure)


def test_training_curves_show_an_end_that_diverges(subject):
    rows = [{"epoch": e, "elbo": -100.0, "val_elbo": -101.0, "kl": 10, "val_kl": 11} for e in range(1, 21)]
    rows[-1]["elbo"] = -1e4
    figure = figures.training_curves(subject._replace(rows=rows))
    assert figure.axes[0].get_ylim()[0] < -1e4
    plt.close(figure)


def test_training_curves_leave_out_what_the_run_did_not_record(subject):
    rows = [{"epoch": e, "elbo": -100.0, "val_elbo": -101.0} for e in range(1, 21)]
    figure = figures.training_curves(subject._replace(rows=rows))
    assert [axis.get_ylabel() for axis in figure.axes] == ["ELBO (nats per image)"]
    plt.close(figure)


def test_progress_shows_strips_of_the_first_and_the_last_epoch(subject, tmp_path):
    run = dataclasses.replace(subject.run, workdir=tmp_path)
    for epoch in range(1, 31):
        files.write(run.progress / f"{epoch}.png", images.png(np.full([28, 280, 1], epoch / 255)).numpy())
    figure = figures.progress(subject._replace(run=run, rows=[{"epoch": epoch} for epoch in range(1, 31)]))
    shown = [int(axis.get_ylabel().removeprefix("epoch ")) for axis in figure.axes]
    assert shown == sorted(set(shown)) and len(shown) <= 10
    assert (shown[0], shown[-1]) == (1, 30)
    for axis, epoch in zip(figure.axes, shown, strict=True):
        np.testing.assert_allclose(picture(axis), epoch / 255, atol=1e-6)
    plt.close(figure)


def test_progress_shows_the_epochs_that_were_drawn(subject, tmp_path):
    run = dataclasses.replace(subject.run, workdir=tmp_path)
    subject = subject._replace(run=run, rows=[{"epoch": epoch} for epoch in range(1, 4)])
    with pytest.raises(Fault, match="progress has no samples"):
        figures.progress(subject)
    files.write(run.progress / "2.png", images.png(np.zeros([28, 280, 1])).numpy())
    figure = figures.progress(subject)
    assert [axis.get_ylabel() for axis in figure.axes] == ["epoch 2"]
    plt.close(figure)


def test_neighbours_stand_below_the_sample_they_are_nearest_to(draw, subject):
    (axis,) = draw("neighbours").axes
    sheet = picture(axis)
    assert sheet.shape == of_digits(6, 10)
    digits = subject.model.sample(10, subject.seed)["probabilities"].numpy()[..., 0]
    training = subject.dataset.train.images[..., 0].astype(np.float32) / 255
    for column in (0, 7):
        np.testing.assert_array_equal(cell(sheet, 0, column), digits[column])
        distances = np.linalg.norm((training - digits[column]).reshape(len(training), -1), axis=1)
        for row, index in enumerate(np.argsort(distances)[:5], start=1):
            np.testing.assert_array_equal(cell(sheet, row, column), training[index])


@pytest.mark.slow
def test_figures_of_a_gan_are_those_it_has(tmp_path, eager):
    run = tiny.train(tiny.begin(tmp_path / "gan", "gan", epochs=1, latent_size=4))
    figures.figures(run, [], seed=5, out=tmp_path / "out")
    names = ("samples", "interpolation", "training_curves", "progress", "neighbours")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"gan_{name}.png" for name in names}
    with pytest.raises(
        UsageError, match=r"gan has no figure reconstructions: it needs an encoder.*it has samples, inter"
    ):
        figures.figures(run, ["reconstructions"], seed=5, out=tmp_path / "out")


@pytest.mark.slow
def test_figures_of_a_pixelcnn_are_those_it_has(tmp_path):
    run = tiny.train(tiny.begin(tmp_path / "pixelcnn", "pixelcnn", epochs=1))
    figures.figures(run, [], seed=5, out=tmp_path / "out")
    names = ("samples", "training_curves", "progress", "neighbours", "completion")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"pixelcnn_{name}.png" for name in names}
    with pytest.raises(UsageError, match="pixelcnn has no figure interpolation: it needs latents"):
        figures.figures(run, ["interpolation"], seed=5, out=tmp_path / "out")


def test_completion_keeps_the_upper_half_and_draws_the_lower(mnist_5k, tmp_path):
    run = tiny.begin(tmp_path / "pixelcnn", "pixelcnn")
    figure = figures.completion(Subject(run, models.build(run.config), lambda: mnist_5k, [], seed=5))
    sheet = picture(figure.axes[0])
    assert sheet.shape == of_digits(7, 10)
    for column in (0, 7):
        digit = mnist_5k.test.binary[column, ..., 0]
        np.testing.assert_array_equal(cell(sheet, 0, column), digit)
        for row in range(1, 7):
            np.testing.assert_array_equal(cell(sheet, row, column)[:14], digit[:14])
        assert (cell(sheet, 1, column)[14:] == 0.5).all()
        assert len({cell(sheet, row, column).tobytes() for row in range(2, 7)}) == 5
    plt.close(figure)


def test_latent_means_show_every_test_image_under_its_digit(draw, subject):
    (axis,) = draw("latent_means").axes
    clouds = [c for c in axis.collections if isinstance(c, PathCollection)]
    assert [cloud.get_label() for cloud in clouds] == [str(digit) for digit in range(10)]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [str(digit) for digit in range(10)]
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in clouds}) == 10
    test = subject.dataset.test
    for digit, cloud in enumerate(clouds):
        own = test.binary[test.labels == digit].astype(np.float32)
        expected = subject.model.encode(own)["z"]
        # Other numbers of rows: rounding, of sums of 784 float32 terms.
        np.testing.assert_allclose(cloud.get_offsets(), expected, atol=1e-5)


def test_latent_means_say_the_names_of_the_classes(subject):
    names = tuple("abcdefghij")
    spec = subject.dataset.spec._replace(class_names=names)
    (axis,) = figures.latent_means(subject._replace(load=lambda: subject.dataset._replace(spec=spec))).axes
    assert tuple(text.get_text() for text in axis.get_legend().get_texts()) == names


def test_latent_grid_has_each_digit_at_its_place(draw, subject):
    (axis,) = draw("latent_grid").axes
    (image,) = axis.images
    sheet = picture(axis)
    size = figures.GRID
    assert size >= 10
    assert sheet.shape == (28 * size, 28 * size)
    # The digits at the edges are centred on -2 and 2.
    edge = 2 + 2 / (size - 1)
    assert image.origin == "upper"
    assert image.get_clim() == (0, 1)
    np.testing.assert_allclose(image.get_extent(), [-edge, edge, -edge, edge])
    # With the first row on top, z_2 falls from row to row and z_1 rises from column to column.
    for row, column, z in ((0, 0, (-2, 2)), (0, -1, (2, 2)), (-1, 0, (-2, -2)), (-1, -1, (2, -2))):
        expected = subject.model.decode(tf.constant([z], tf.float32))[0, ..., 0]
        decoded = sheet.reshape(size, 28, size, 28)[row, :, column]
        np.testing.assert_allclose(decoded, expected, atol=1e-6)  # 400 rows or one


def test_latent_grid_covers_what_the_prior_does(draw, subject, monkeypatch):
    prior = tfp.distributions.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0])
    monkeypatch.setattr(subject.model, "prior_of", lambda label: prior)
    (axis,) = draw("latent_grid").axes
    edge = 4 + 4 / (figures.GRID - 1)
    np.testing.assert_allclose(axis.images[0].get_extent(), [-edge, edge, -edge, edge])


@pytest.fixture
def run_40d(run, monkeypatch):
    """The run, its model exchanged for an untrained one with a latent of 40 dimensions."""
    config = tiny.config(latent_size=40)
    monkeypatch.setattr(runs, "load_model", lambda run: models.build(run.config))
    return dataclasses.replace(run, config=config)


@pytest.mark.parametrize("name", ["latent_grid", "latent_means"])
def test_figures_of_2d_latents_are_refused_for_40_dimensions(run_40d, tmp_path, name):
    with pytest.raises(
        UsageError, match=f"vae has no figure {name}: it needs a latent of 2 dimensions, the model has 40"
    ):
        figures.figures(run_40d, ["samples", name], seed=5, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_figures_of_40_dimensions_are_those_it_has(run_40d, tmp_path):
    figures.figures(run_40d, [], seed=5, out=tmp_path)
    names = ("samples", "interpolation", "traversals", "reconstructions", "training_curves", "progress", "neighbours")
    assert {path.name for path in tmp_path.iterdir()} == {f"vae_{name}.png" for name in names}


def test_latent_means_are_refused_without_labels(run, tmp_path):
    spec = datasets.spec("binarized_mnist")._asdict() | {"image_shape": [28, 28, 1]}
    unlabelled = dataclasses.replace(run, data=run.data | {"spec": spec})
    with pytest.raises(UsageError, match="it needs labels, binarized_mnist has none"):
        figures.figures(unlabelled, ["latent_means"], seed=5, out=tmp_path)


def test_figures_without_the_data_are_those_that_need_none(run, tmp_path, monkeypatch, capsys):
    asked = []

    def missing(run):
        asked.append(run)
        raise Fault("there is no mnist")

    monkeypatch.setattr(runs, "load_data", missing)
    figures.figures(run, [], seed=5, out=tmp_path)
    drawn = {path.name.removeprefix(f"{run.title}_").removesuffix(".png") for path in tmp_path.iterdir()}
    assert {"samples", "interpolation", "latent_grid", "training_curves"} <= drawn
    warned = capsys.readouterr().err
    assert "no figure traversals: there is no mnist" in warned and "no figure neighbours either" in warned
    assert len(asked) == warned.count("there is no mnist") == 1
    with pytest.raises(Fault, match="there is no mnist"):
        figures.figures(run, ["neighbours"], seed=5, out=tmp_path)


def test_figures_suggest_a_name_for_an_unknown_one(run, tmp_path):
    with pytest.raises(UsageError, match="unknown figure 'sample'; did you mean samples"):
        figures.figures(run, ["sample"], seed=5, out=tmp_path)


SHAPES = DatasetSpec("shapes", (12, 20, 3), num_classes=3, class_names=("disc", "_bar", "a $ring$"))


@pytest.fixture(scope="module")
def in_colour(run):
    """A subject of colour images, 12 x 20, with classes that have names."""
    random = np.random.default_rng(0)

    def split(count):
        drawn = random.integers(0, 256, [count, *SHAPES.image_shape], np.uint8)
        return Split(drawn, (drawn > 127).astype(np.uint8), np.arange(count) % 3)

    dataset = Dataset(SHAPES, split(12), split(4), split(25))
    config = tiny.config("vae", latent_size=2)
    own = dataclasses.replace(run, config=config, data=runs.describe(dataset))
    return Subject(own, models.build(config, SHAPES), lambda: dataset, runs.read_metrics(run), seed=5)


@pytest.mark.parametrize("name", ["samples", "reconstructions", "neighbours", "latent_grid", "interpolation"])
def test_sheets_of_colour_images_have_their_shape_and_colours(in_colour, name):
    figure = figures.FIGURES[name](in_colour)
    sheet = picture(figure.axes[0])
    cells = {"samples": (10, 10), "reconstructions": (4, 10), "neighbours": (6, 10), "latent_grid": (20, 20)}
    rows, columns = cells.get(name, (1, 1))
    gap = name != "latent_grid"
    assert sheet.shape == ((12 + gap) * rows - gap, (20 + gap) * columns - gap, 3)
    assert np.ptp(sheet, axis=-1).max() > 0.001  # not grey
    # As they are drawn, all pixels are square.
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(sheet.shape[0] / sheet.shape[1], rel=0.02)
    plt.close(figure)


def test_reconstructions_of_few_images_stand_below_their_originals(in_colour):
    figure = figures.reconstructions(in_colour)
    sheet, originals = picture(figure.axes[0]), in_colour.dataset.test.binary
    for row, column in ((0, 3), (2, 9)):
        shown = sheet[13 * row : 13 * row + 12, 21 * column : 21 * column + 20]
        np.testing.assert_array_equal(shown, originals[5 * row + column])
    plt.close(figure)


def test_progress_of_colour_images_is_in_colour(in_colour, tmp_path):
    run = dataclasses.replace(in_colour.run, workdir=tmp_path)
    strip = np.random.default_rng(1).random([12, 80, 3]).astype(np.float32)
    files.write(run.progress / "1.png", images.png(strip).numpy())
    figure = figures.progress(in_colour._replace(run=run, rows=[{"epoch": 1}]))
    np.testing.assert_allclose(picture(figure.axes[0]), strip, atol=1 / 255)
    plt.close(figure)


def test_latent_means_name_the_classes(in_colour):
    figure = figures.latent_means(in_colour)
    legend = figure.axes[0].get_legend()
    assert legend.get_title().get_text() == "class"
    assert [text.get_text() for text in legend.get_texts()] == list(SHAPES.class_names)
    figure.draw_without_rendering()
    plt.close(figure)


@pytest.mark.parametrize("count", [10, 26, 47, 96])
def test_latent_means_of_many_classes_have_as_many_colours_and_fit(in_colour, count):
    spec = SHAPES._replace(num_classes=count, class_names=tuple(f"class {number}" for number in range(count)))
    test = in_colour.dataset.test
    tiled = Split(*(np.resize(part, [2 * count, *part.shape[1:]]) for part in test[:2]), np.arange(2 * count) % count)
    figure = figures.latent_means(in_colour._replace(load=lambda: in_colour.dataset._replace(spec=spec, test=tiled)))
    clouds = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    assert [len(cloud.get_offsets()) for cloud in clouds] == [2] * count
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in clouds}) == count
    figure.draw_without_rendering()
    legend, page = figure.axes[0].get_legend().get_window_extent(), figure.bbox
    assert min(legend.x0, legend.y0) >= 0 and legend.x1 <= page.width and legend.y1 <= page.height
    assert page.width - legend.width > 6.5 * figure.dpi  # what is left for the means
    plt.close(figure)


@pytest.fixture(scope="module")
def of_classes(mnist_5k, tmp_path_factory):
    """A class-conditional VAE of 2 latents that has learned nothing."""
    run = tiny.begin(tmp_path_factory.mktemp("cvae") / "cvae", "cvae", latent_size=2, network="mlp")
    model = models.build(run.config)
    for weight in model.trainable_weights:  # else no class is told from another
        weight.assign(tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.5))
    few = mnist_5k.test._replace(**{name: getattr(mnist_5k.test, name)[:40] for name in ("images", "binary", "labels")})
    return Subject(run, model, lambda: mnist_5k._replace(test=few), [], seed=5, label=3)


def test_classes_are_rows_of_the_same_latents(of_classes):
    (axis,) = figures.classes(of_classes).axes
    sheet, model = picture(axis), of_classes.model
    assert sheet.shape == of_digits(10, 10)
    assert [label.get_text() for label in axis.get_yticklabels()] == [str(digit) for digit in range(10)]
    for label in (0, 7):
        drawn = model.draw_given(tf.constant([[5, 0], [5, 1]]), tf.constant([label, label]))["probabilities"].numpy()
        for column in (0, 1):
            np.testing.assert_allclose(cell(sheet, label, column), drawn[column, ..., 0], atol=1e-5)
    assert (cell(sheet, 0, 0) != cell(sheet, 7, 0)).any()


def test_figures_of_a_class_conditional_model_are_of_the_class_chosen(of_classes):
    model, threes = of_classes.model, np.full(400, 3)
    (axis,) = figures.latent_grid(of_classes).axes
    reach = float(np.abs(axis.get_xlim()[0]) * (figures.GRID - 1) / figures.GRID)  # the first image is centred on it
    first = model.decode(np.float32([[-reach, reach]]), threes[:1])[0, ..., 0]
    np.testing.assert_allclose(cell(picture(axis), 0, 0), first, atol=1e-5)
    drawn = figures.interpolation(of_classes)
    z1, z2 = model.prior_of(threes[:1]).sample(2, seed=tf.constant([5, 0]))
    np.testing.assert_allclose(picture(drawn.axes[0]), model.decode(z2, threes[:1])[0, ..., 0], atol=1e-5)
    np.testing.assert_allclose(picture(drawn.axes[-1]), model.decode(z1, threes[:1])[0, ..., 0], atol=1e-5)


def test_interpolation_between_images_goes_from_class_to_class(of_classes):
    model, test = of_classes.model, of_classes.dataset.test
    assert test.labels[0] != test.labels[1]
    drawn = figures.interpolation(of_classes._replace(pairs=[(0, 1)]))
    reconstructions = model.reconstruct(test.binary[:2].astype(np.float32), test.labels[:2])[..., 0]
    for axis, expected in zip((drawn.axes[1], drawn.axes[-2]), reconstructions, strict=True):
        np.testing.assert_allclose(picture(axis), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["reconstructions", "latent_means", "samples"])
def test_figure_of_a_class_conditional_model_is_drawn(of_classes, name):
    assert figures.FIGURES[name](of_classes).get_suptitle()


def test_figures_refuse_a_label_that_means_nothing(run):
    with pytest.raises(UsageError, match="--label=3 means nothing for vae, which was not told the classes"):
        list(figures.draw(run, ["samples"], label="3"))
    with pytest.raises(UsageError, match="vae has no figure classes: it needs a model that was told the classes"):
        list(figures.draw(run, ["classes"]))


def test_steps_show_quality_and_nats_by_their_number(mnist_5k, tmp_path, monkeypatch, eager):
    monkeypatch.setattr(figures, "STEP_SAMPLES", 20)
    monkeypatch.setattr(figures, "STEP_IMAGES", 6)
    run = tiny.untrained(tiny.begin(tmp_path / "masked", "masked_diffusion", epochs=1))
    model, asked = runs.load_model(run), []
    scores = iter([50.0, 20.0, 10.0, 9.0])
    steps = []

    def drawn(model, count, num_steps):
        return steps.append(num_steps) or {"images": np.zeros([count, 28, 28, 1])}

    monkeypatch.setattr(figures.evaluate, "draw", drawn)

    def score(images, dataset, binarization):
        return asked.append(binarization) or {
            "frechet": {"mean": next(scores), "spread": 1.0},
            "frechet_floor": {"mean": 3.0},
        }

    monkeypatch.setattr(figures.quality, "score", score)
    figure = figures.steps(Subject(run, model, lambda: mnist_5k, runs.read_metrics(run), seed=5))
    assert steps == [8, 28, 98, 784]
    assert asked == ["dynamic"] * 4
    frechet, nats, samples = figure.axes
    np.testing.assert_array_equal(frechet.lines[0].get_xydata(), [[8, 50], [28, 20], [98, 10], [784, 9]])
    numbers, values = nats.lines[0].get_data()
    np.testing.assert_array_equal(numbers, steps)
    x = mnist_5k.test.binary[:6].astype(np.float32)
    expected = -model.bound_terms(x, num_draws=4, seed=tf.constant([0, 0]), num_steps=8)["elbo"].numpy().mean()
    np.testing.assert_allclose(values[0], expected, rtol=1e-5)
    assert picture(samples).shape == of_digits(4, 20)
    plt.close(figure)


def test_steps_of_a_flow_show_precision_and_recall_by_their_number(mnist_5k, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "STEP_SAMPLES", 20)
    run = tiny.untrained(tiny.begin(tmp_path / "flow", "flow_matching"))
    steps, asked = [], []

    def drawn(model, count, num_steps):
        return steps.append(num_steps) or {"images": np.zeros([count, 28, 28, 1])}

    def score(images, dataset, binarization):
        names = ("frechet", "frechet_floor", "precision", "recall")
        return asked.append(binarization) or {name: {"mean": 0.1 * len(asked), "spread": None} for name in names}

    monkeypatch.setattr(figures.evaluate, "draw", drawn)
    monkeypatch.setattr(figures.quality, "score", score)
    model = runs.load_model(run)
    monkeypatch.setattr(model, "bound_terms", lambda *given, **named: pytest.fail("its bound knows no such steps"))
    figure = figures.steps(Subject(run, model, lambda: mnist_5k, [], seed=5))
    assert steps == [1, 2, 4, 8, 16, 32] and asked == ["none"] * 6
    _, shares, samples = figure.axes
    assert [line.get_label() for line in shares.lines] == ["precision", "recall"]
    for line in shares.lines:
        np.testing.assert_allclose(line.get_xydata(), [[step, 0.1 * (i + 1)] for i, step in enumerate(steps)])
    assert picture(samples).shape == of_digits(6, 20)
    assert figure.get_suptitle().startswith("Drawn grey levels by the number of steps, flow")
    plt.close(figure)


def test_steps_are_drawn_only_where_they_are_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_lacks", lambda name, model, dataset: None if name in ("steps", "samples") else "no")
    assert [name for name, _ in figures.draw(run, [])] == ["samples"]
