import shutil

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from keras_genmnist import datasets, images, runs, sampling, sources
from keras_genmnist.datasets import DatasetSpec
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.signatures import MAX_SAMPLES
from tests import tiny

eager = tiny.eager


@pytest.fixture(scope="module")
def source(run):
    return sources.of_run(run)


def draw(source, out, num_samples=5, seed=3):
    sampling.sample(source, num_samples, seed, out)
    return np.load(out.with_suffix(".npy")), tf.io.decode_png(out.read_bytes()).numpy()


def test_sample_writes_the_model_s_draws(run, source, tmp_path):
    digits, sheet = draw(source, tmp_path / "new" / "digits.png")
    expected = runs.load_model(run).sample(5, 3)["probabilities"]
    np.testing.assert_allclose(digits, expected, atol=1e-6)  # eager or in a graph: rounding
    assert sheet.shape == (3 * (2 * 29 - 1), 3 * (3 * 29 - 1), 1)  # 5 in rows of 3, enlarged three times
    np.testing.assert_array_equal(sheet[::3, ::3], sheet[2::3, 1::3])
    np.testing.assert_allclose(sheet[::3, ::3] / 255, images.tile(digits, 3), atol=1 / 255)  # one of 255 levels


def test_sample_from_an_export_equals_that_from_its_run(exported, source, tmp_path):
    of_run, _ = draw(source, tmp_path / "run.png")
    of_export, _ = draw(sources.of_export(exported), tmp_path / "export.png")
    np.testing.assert_array_equal(of_run, of_export)


def test_sample_repeats_with_the_seed(source, tmp_path):
    first, again = draw(source, tmp_path / "a.png"), draw(source, tmp_path / "b.png")
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], draw(source, tmp_path / "c.png", seed=4)[0])


def test_sample_draws_in_as_many_steps_as_asked_for(run, tmp_path, eager):
    masked = tiny.untrained(tiny.begin(tmp_path / "masked", "masked_diffusion", epochs=1))
    model = runs.load_model(masked)
    found, _ = draw(sources.of_run(masked, num_steps=5), tmp_path / "a.png", num_samples=2)
    seeds = tf.constant([[3, 0], [3, 1]])
    np.testing.assert_allclose(found, model.draw(seeds, num_steps=5)["probabilities"], atol=1e-6)
    assert not np.allclose(found, model.draw(seeds)["probabilities"], atol=1e-3)
    for steps in (0, 785):
        with pytest.raises(UsageError, match=rf"--num_steps={steps} is out of range: give 1 to 784"):
            sources.of_run(masked, num_steps=steps)
    with pytest.raises(UsageError, match=r"--num_steps=5 means nothing for vae: .* or a flow_matching"):
        sources.of_run(run, num_steps=5)


def test_sample_of_a_flow_draws_in_as_many_steps_as_asked_for(tmp_path, eager):
    run = tiny.untrained(tiny.begin(tmp_path / "flow", "flow_matching"))
    found, _ = draw(sources.of_run(run, num_steps=2), tmp_path / "a.png", num_samples=2)
    model, seeds = runs.load_model(run), tf.constant([[3, 0], [3, 1]])
    np.testing.assert_allclose(found, model.draw(seeds, num_steps=2)["probabilities"], atol=1e-6)
    assert not np.allclose(found, model.draw(seeds)["probabilities"], atol=1e-3)
    for steps in (0, 1001):
        with pytest.raises(UsageError, match=rf"--num_steps={steps} is out of range: give 1 to 1000"):
            sources.of_run(run, num_steps=steps)


@pytest.mark.parametrize("num_samples", [0, MAX_SAMPLES + 1])
@pytest.mark.parametrize("kind", ["run", "export"])
def test_sample_refuses_more_than_the_model_draws(source, exported, tmp_path, num_samples, kind):
    source = source if kind == "run" else sources.of_export(exported)
    message = f"--num_samples={num_samples}.* out of range: give 1 to {MAX_SAMPLES}"
    with pytest.raises(UsageError, match=message) as raised:
        draw(source, tmp_path / "digits.png", num_samples)
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_sample_refuses_a_number_beyond_int32(source, tmp_path):
    with pytest.raises(UsageError, match=f"--num_samples={2**40}"):
        draw(source, tmp_path / "digits.png", 2**40)


def test_sample_writes_png_alone(source, tmp_path):
    with pytest.raises(UsageError, match=r"digits.jpg is not a PNG file.*\.png"):
        draw(source, tmp_path / "digits.jpg")


def test_of_export_takes_the_newest_version(exported, tmp_path):
    # Ten is newer than nine, and what has no number is no version.
    for version in ("9", "0010", ".writing-7", "\u00b2", "\u0663\u0663"):
        shutil.copytree(exported, tmp_path / version)
    (tmp_path / "11").mkdir()  # holds no model
    for version in ("9", ".writing-7", "\u00b2", "\u0663\u0663"):
        (tmp_path / version / "saved_model.pb").write_bytes(b"not a model")
    draw(sources.of_export(tmp_path), tmp_path / "digits.png")
    draw(sources.of_export(tmp_path / "0010"), tmp_path / "digits.png")
    with pytest.raises(Fault):
        sources.of_export(tmp_path / "9")


def test_of_export_says_where_no_model_is(tmp_path):
    with pytest.raises(UsageError, match=f"no SavedModel in {tmp_path}: give exports/NAME"):
        sources.of_export(tmp_path)


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_of_export_says_that_an_export_is_damaged(exported, tmp_path, file):
    folder = shutil.copytree(exported, tmp_path / "1")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(Fault, match=f"the export {folder} is damaged"):
        sources.of_export(tmp_path)


def test_sample_draws_a_chosen_digit_of_a_conditional_model(tmp_path, eager):
    run = tiny.train(tiny.begin_small(tmp_path / "run", "pixelcnn", class_conditional=True))
    source = sources.of_run(run)
    sampling.sample(source, 5, 3, tmp_path / "digits.png", "2", "--digit")
    expected = source.signatures["sample_class"](label=tf.constant(2), num_samples=tf.constant(5), seed=tf.constant(3))
    np.testing.assert_array_equal(np.load(tmp_path / "digits.npy"), expected["probabilities"])


def test_sample_refuses_to_choose_a_digit_of_other_models(source, tmp_path):
    with pytest.raises(
        UsageError, match=r"--digit=7 cannot be chosen, because vae on mnist_5k draws all .* --model=cvae"
    ):
        sampling.sample(source, 5, 3, tmp_path / "digits.png", "7", "--digit")
    assert list(tmp_path.iterdir()) == []


SHAPES = DatasetSpec("shapes", (12, 20, 3), num_classes=3, class_names=("disc", "bar", "ring"))


def stand_in(spec, *names):
    """A source of which each signature draws images that are the label, or a half without one."""

    def drawn(num_samples, label=0.5, **_):
        return {"probabilities": tf.fill([num_samples, *spec.image_shape], tf.cast(label, tf.float32) / 4)}

    signatures = dict.fromkeys(names, lambda seed, **inputs: drawn(**inputs))
    return sources.Source(signatures, "vae on shapes", spec, ConfigDict(), None, None)


@pytest.mark.parametrize(("label", "number"), [("ring", 2), ("2", 2), ("disc", 0)])
def test_sample_draws_a_class_by_its_name_or_number(tmp_path, label, number):
    sampling.sample(stand_in(SHAPES, "sample", "sample_class"), 3, 1, tmp_path / "rings.png", label)
    np.testing.assert_array_equal(np.load(tmp_path / "rings.npy"), np.full([3, 12, 20, 3], number / 4))


@pytest.mark.parametrize(
    ("spec", "label", "accepted"),
    [
        (SHAPES, "rung", "--label='rung' is no class of shapes; accepted: disc, bar, ring, or 0 to 2"),
        (SHAPES, "3", "--label='3' is no class of shapes; accepted: disc, bar, ring, or 0 to 2"),
        (datasets.spec("mnist"), "12", "--label='12' is no class of mnist; accepted: 0 to 9"),
        (datasets.spec("mnist"), "-1", "--label='-1' is no class of mnist; accepted: 0 to 9"),
    ],
)
def test_sample_names_the_classes_there_are(tmp_path, spec, label, accepted):
    with pytest.raises(UsageError) as raised:
        sampling.sample(stand_in(spec, "sample", "sample_class"), 3, 1, tmp_path / "rings.png", label)
    assert str(raised.value) == accepted
    assert list(tmp_path.iterdir()) == []


def test_class_names_come_before_numbers():
    spec = DatasetSpec("odd", (8, 8, 1), num_classes=3, class_names=("1", "3", "5"))
    assert [spec.label_of(text) for text in ("1", "3", "5", "2")] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "times"), [((28, 28, 1), 3), ((8, 8, 1), 10), ((12, 20, 3), 4), ((64, 64, 3), 1), ((64, 8, 1), 1)]
)
def test_small_images_are_enlarged_more(tmp_path, shape, times):
    sampling.sample(stand_in(DatasetSpec("own", shape), "sample"), 4, 1, tmp_path / "sheet.png")
    sheet = tf.io.decode_png((tmp_path / "sheet.png").read_bytes())
    assert sheet.shape == (times * (2 * shape[0] + 1), times * (2 * shape[1] + 1), shape[2])
