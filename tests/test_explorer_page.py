"""docs/explorer.html, which `python scripts/make_explorer_page.py` writes: the latent plane without a server."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from keras_genmnist import runs, zoo
from tests import test_explorer
from tests.test_explorer import DESKTOP, PHONE, at, point_at, settle, shown, watched

pytestmark = test_explorer.pytestmark
browser = test_explorer.browser

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explorer.html"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The pretrained vae_2d."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "_cache", lambda: tmp_path_factory.getbasetemp() / "cache")
        return runs.load_model(zoo.run("vae_2d"))


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def page(browser, request):
    """The page, which asks no one for anything."""
    given = {"viewport": request.param, "offline": True, "timeout": 60_000}
    with watched(browser, (PAGE.as_uri(), "data:"), **given) as page:
        page.goto(PAGE.as_uri())
        page.wait_for_selector(".between")
        settle(page)
        page.locator(".map").scroll_into_view_if_needed()
        yield page


def decoded(model, z):
    return model.decode(np.array(z, np.float32)).numpy()[..., 0]


def test_page_computes_what_the_model_decodes(page, model):
    z = np.random.default_rng(0).normal(size=[20, 2]).round(3).tolist()
    code = "async (z) => { const { decode, model } = await import('server.js'); return decode(model, z); }"
    found = np.asarray(page.evaluate(code, z))[..., 0]
    assert found.std() > 0.1
    # Both have the same weights, which are exact in float16, and add in another order.
    np.testing.assert_allclose(found, decoded(model, z), atol=1e-5)


def test_page_shows_the_digit_that_is_pointed_at(page, model):
    point_at(page, [-1.5, 1.2])
    settle(page)
    latents = page.locator(".coordinates").inner_text().replace(test_explorer.MINUS, "-").split("\n")
    z = [float(part.split("=")[1]) for part in latents]
    np.testing.assert_allclose(z, [-1.5, 1.2], atol=0.02)  # a phone's map has 50 pixels a unit
    digit = page.locator(".reading .digit")
    # Levels are rounded to 1 / 255, and where the mouse is to 0.01: slopes are below 2 a unit.
    np.testing.assert_allclose(shown(digit) / 255, decoded(model, [z])[0], atol=0.03)
    page.locator(".map").focus()
    page.keyboard.press("Shift+ArrowRight")
    settle(page)
    np.testing.assert_allclose(shown(digit) / 255, decoded(model, [[z[0] + 0.5, z[1]]])[0], atol=0.03)


def test_page_shows_the_line_between_two_places_that_were_clicked(page, model):
    ends = [[-1.2, -1.2], [0.9, 1.5]]
    page.mouse.click(*at(page, ends[0]))
    point_at(page, ends[1])
    page.keyboard.press("Enter")  # the click has focused the map
    settle(page)
    images = page.locator(".between canvas")
    assert images.count() == 12
    for number, share in ((0, 0), (4, 4 / 11), (11, 1)):
        z = (1 - share) * np.array(ends[0]) + share * np.array(ends[1])
        np.testing.assert_allclose(shown(images.nth(number)) / 255, decoded(model, [z])[0], atol=0.05)


def test_page_fits_its_screen(page):
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_page_is_what_the_script_writes_and_small(model, monkeypatch):
    script = runpy.run_path(str(ROOT / "scripts" / "make_explorer_page.py"))
    assert script["page"]() == PAGE.read_text(), "run python scripts/make_explorer_page.py"
    assert PAGE.stat().st_size < 3e6
