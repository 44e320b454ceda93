"""The explorer of models of other images than MNIST's: in colour, not square, small, of many classes."""

import io
import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from keras_genmnist import datasets, export, runs
from tests import test_explorer, tiny
from tests.test_explorer import (
    EDGE,
    PHONE,
    assert_shows,
    decode,
    draw,
    inputs_of,
    levels,
    number,
    picture,
    pixels,
    point_at,
    predict,
    settle,
    sheet,
    shown,
    visit,
)

pytestmark = test_explorer.pytestmark
browser, page = test_explorer.browser, test_explorer.page

CLASSES = ["a ring that is rather thin", "bar", "disc"]
SHAPE = (12, 20, 3)
MANY = 47
FACTS = "Version 1 · 12 \N{MULTIPLICATION SIGN} 20 pixels in colour · 2 latent dimensions"
MEANS = {"means": [[1.5, 1.5], [-1.5, -1.5], [2.95, -2.5]], "labels": [0, 1, 2]}


def write_images(path, shape, labels):
    drawn = np.random.default_rng(0).integers(0, 256, [60, *shape], np.uint8)
    np.savez(path, images=drawn, **({} if labels is None else {"labels": np.resize(labels, 60)}))
    return str(path)


def exported(folder, title, name, path, **changes):
    """The export of a model of the images at `path` that no one has trained."""
    dataset = datasets.load(path)
    config = tiny.config(name, dataset=path, batch_size=10, **changes)
    run = runs.Run(folder / title, name, config, "genmnist train", "commit", data=runs.describe(dataset))
    runs.record(run)
    return export.export(tiny.untrained(run), folder / "exports")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server of models of other images than MNIST's."""
    folder = tmp_path_factory.mktemp("shapes")
    colour = write_images(folder / "shapes.npz", SHAPE, CLASSES)
    shapes = exported(folder, "shapes", "vae", colour, latent_size=2)
    exported(folder, "chosen", "pixelcnn", colour, class_conditional=True, patch_size=1, orders=1)
    exported(folder, "grey", "vae", colour, decoder="logistic", binarization="none")
    exported(folder, "small", "vae", write_images(folder / "small.npz", (8, 8, 1), None), latent_size=3)
    numbers = write_images(folder / "numbers.npz", (8, 8, 1), [1, 2, 3])
    exported(folder, "numbers", "cvae", numbers, latent_size=2, network="mlp", prior="normal")
    many = shutil.copytree(shapes, folder / "exports" / "many" / "1")
    circle = {"means": [[np.cos(i), np.sin(i)] for i in range(MANY)], "labels": [*range(MANY)]}
    for version, means in ((shapes, MEANS), (many, circle)):
        (version / "assets.extra" / "latent_means.json").write_text(json.dumps(means))
    record = json.loads((many / "assets.extra" / "genmnist.json").read_text())
    record["data"]["spec"] |= {"num_classes": MANY, "class_names": [f"class {i}" for i in range(MANY)]}
    (many / "assets.extra" / "genmnist.json").write_text(json.dumps(record))
    with tiny.serving(folder, ("shapes", "chosen", "grey", "small", "many", "numbers")) as address:
        yield address


def colours(page, locator):
    """The red, green and blue of a canvas in [0, 1], [H, W, 3]."""
    return pixels(page.locator(locator).first)[..., :3] / 255


def mean_images(server, model, z):
    """The decodings of z [N, D] by the server, [N, H, W, C]."""
    return np.asarray(predict(server, model, "decode", z=np.asarray(z).tolist())["probabilities"])


def test_map_shows_images_in_colour_and_in_their_shape(page, server):
    visit(page, server, "shapes")
    assert page.locator("#facts").inner_text() == FACTS
    point_at(page, [-2, 1])
    settle(page)
    found, expected = colours(page, ".plane .reading .digit"), mean_images(server, "shapes", [[-2, 1]])[0]
    assert found.shape == SHAPE
    np.testing.assert_allclose(found, expected, atol=1.5 / 255)
    grid = colours(page, ".map .grid")
    assert grid.shape == (26 * 12, 15 * 20, 3)  # as near to a square as whole images are
    for row, column in ((0, 0), (25, 14), (7, 3)):
        cell = grid[12 * row : 12 * (row + 1), 20 * column : 20 * (column + 1)]
        centre = [-EDGE + 6 / 15 * (column + 0.5), EDGE - 6 / 26 * (row + 0.5)]
        np.testing.assert_allclose(cell, mean_images(server, "shapes", [centre])[0], atol=1.5 / 255)
    box = page.locator(".plane .reading .digit").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(20 / 12, rel=0.01)


def test_map_names_the_classes(page, server):
    visit(page, server, "shapes")
    assert page.locator(".chip").all_inner_texts() == ["all", *CLASSES, "none"]
    point_at(page, [-1.5, -1.5])
    assert page.locator(".tip").inner_text() == CLASSES[1]
    before = pixels(page.locator(".map .means"))
    page.get_by_role("radio", name=CLASSES[1]).check(force=True)
    after = pixels(page.locator(".map .means"))
    height, width = after.shape[:2]
    assert not after[: height // 2, width // 2 :].any() and before[: height // 2, width // 2 :].any()
    assert after[height // 2 :, : width // 2].any()


@pytest.mark.parametrize("model", ["shapes", "chosen", "small"])
def test_page_calls_images_images(page, server, model):
    visit(page, server, model)
    said = page.locator("main").inner_text() + str(
        page.evaluate("[...document.querySelectorAll('main [aria-label]')].map((e) => e.ariaLabel)")
    )
    assert "igit" not in said
    assert "The same seed gives the same images." in said and "Draw an image" in said


def test_legend_of_many_classes_has_as_many_colours_and_stays_in_its_place(page, server):
    page.set_viewport_size(PHONE)
    for viewport in (PHONE, test_explorer.DESKTOP):
        page.set_viewport_size(viewport)
        visit(page, server, "many")
        swatches = page.evaluate("[...document.querySelectorAll('.swatch')].map((e) => e.style.background)")
        assert len(swatches) == MANY + 2 and len(set(swatches)) == MANY + 1
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        legend, panel = (page.locator(name).bounding_box() for name in (".legend", ".panel.plane"))
        assert legend["x"] + legend["width"] <= panel["x"] + panel["width"]
        assert legend["y"] + legend["height"] <= panel["y"] + panel["height"]
        assert page.locator(".chips").bounding_box()["height"] < 300
    page.locator(".chip").last.scroll_into_view_if_needed()
    page.get_by_role("radio", name="class 46").check(force=True)
    assert pixels(page.locator(".map .means"))[..., 3].any()


def test_samples_of_a_named_class(page, server):
    visit(page, server, "chosen")
    picker = page.get_by_role("combobox", name="Class")
    assert picker.locator("option").all_inner_texts() == ["any", *CLASSES]
    page.get_by_role("spinbutton", name="Samples").fill("4")
    with page.expect_request(f"**/sample.png?num_samples=4&seed=1&label={CLASSES[1]}"):
        picker.select_option(CLASSES[1])
    settle(page)
    content, name = sheet(page)
    assert name == f"chosen, {CLASSES[1]}, 4 samples, seed 1.png"
    image = np.asarray(Image.open(io.BytesIO(content)))
    assert image.shape == (25, 41, 3) and np.ptp(image.astype(int), axis=-1).max() > 0
    query = f"num_samples=4&seed=1&label={CLASSES[1]}"
    assert content == urllib.request.urlopen(f"{server}/v1/models/chosen/sample.png?{query}").read()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/v1/models/chosen/sample.png?label=square")
    said = json.load(refused.value)["error"]
    assert said == f"label='square' is no class of shapes; accepted: {', '.join(CLASSES)}, or 0 to 2"


def test_samples_of_a_class_whose_name_is_the_number_of_another(page, server):
    visit(page, server, "numbers")
    page.locator(".class-choice select").select_option(label="2")
    content, name = sheet(page)
    assert name == "numbers, 2, 64 samples, seed 1.png"
    drawn = predict(server, "numbers", "sample_class", num_samples=64, seed=1, label=1)["probabilities"]
    first = np.asarray(Image.open(io.BytesIO(content)))[:8, :8]
    np.testing.assert_allclose(first, levels(drawn)[0], atol=1)


def test_map_is_of_the_class_that_is_chosen_while_it_loads(page, server):
    page.route("**:predict", lambda route: None)  # nothing is answered
    with page.expect_request(lambda request: len((inputs_of(request, "decode") or {"z": []})["z"]) > 1):
        page.goto(f"{server}/#numbers")
    page.locator("#class").select_option(label="3")
    page.unroute("**:predict")  # goes on with what is held
    settle(page)
    grid = shown(page.locator(".map .grid"))
    for row, column in ((0, 0), (9, 12), (19, 19)):
        centre = [-EDGE + 0.3 * (column + 0.5), EDGE - 0.3 * (row + 0.5)]
        expected = predict(server, "numbers", "decode", z=[centre], label=[2])["probabilities"]
        cell = grid[8 * row : 8 * (row + 1), 8 * column : 8 * (column + 1)]
        np.testing.assert_allclose(cell, levels(expected)[0], atol=1)


def test_drawing_for_a_colour_model_is_white_where_it_is_drawn(page, server):
    visit(page, server, "shapes")
    assert "White on black in every channel" in page.locator(".drawing .hint").inner_text()
    box = page.locator(".pad").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(20 / 12, rel=0.01)
    draw(page, [(0.25, 0.2), (0.25, 0.8)])
    seen = pixels(picture(page, "As the model sees it"))[..., :3] / 255
    assert seen.shape == SHAPE and (np.ptp(seen, axis=-1) == 0).all()
    rows, columns = np.nonzero(seen[..., 0])
    assert abs(columns.mean() + 0.5 - 5) < 0.6 and abs(rows.mean() + 0.5 - 6) < 0.6
    assert rows.min() in (1, 2) and rows.max() in (9, 10)  # from 2.4 to 9.6, and half the pen's width
    terms = predict(server, "shapes", "elbo", images=[seen.tolist()] * 8, seed=0)
    assert number(page, "ELBO") == f"{np.mean(terms['elbo']):.1f} nats"
    expected = predict(server, "shapes", "reconstruct", images=[seen.tolist()])["probabilities"][0]
    found = pixels(picture(page, "Reconstruction"))[..., :3] / 255
    np.testing.assert_allclose(found, expected, atol=1.5 / 255)


def test_model_of_grey_levels_sees_the_grey_edges_of_what_is_drawn(page, server):
    visit(page, server, "grey")
    draw(page, [(0.2, 0.2), (0.8, 0.7)])
    seen = pixels(picture(page, "As the model sees it"))[..., :3]
    assert len(np.unique(seen)) > 4
    terms = predict(server, "grey", "elbo", images=[(seen / 255).tolist()] * 8, seed=0)
    assert number(page, "ELBO") == f"{np.mean(terms['elbo']):.1f} nats"


def test_drawing_is_completed_in_colour(page, server):
    visit(page, server, "chosen")
    draw(page, [(0.25, 0.2), (0.25, 0.8)])
    completions = [pixels(canvas)[..., :3] for canvas in page.locator(".sheet canvas").all()]
    seen = pixels(picture(page, "As the model sees it"))[..., :3]
    for completion in completions:
        assert completion.shape == SHAPE
        np.testing.assert_array_equal(completion[:6], seen[:6])
        assert np.ptp(completion[6:], axis=-1).max() == 255


def test_model_of_small_images_has_all_its_panels(page, server):
    page.set_viewport_size(PHONE)
    visit(page, server, "small")
    page.get_by_role("button", name="Zero").click()
    settle(page)
    digit = page.locator(".latents .digit")
    assert shown(digit).shape == (8, 8)
    assert_shows(digit, decode(server, "small", [[0, 0, 0]])[0])
    assert [shown(stop).shape for stop in page.locator(".stop .digit").all()] == [(8, 8)] * 6
    assert page.locator(".plate img").evaluate("(image) => image.naturalWidth") == 71
    draw(page, [(0.1, 0.5), (0.9, 0.5)])
    rows, columns = np.nonzero(shown(picture(page, "As the model sees it")))
    assert set(rows) <= {3, 4} and len(set(columns)) >= 6
    assert number(page, "ELBO").endswith("nats")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
