"""docs/explorer.html, which `python scripts/make_explorer_page.py` writes: the latent plane without a server."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_genmnist import runs, zoo

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explorer.html"
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
EDGE = 3  # of the map


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The pretrained vae_2d."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "_cache", lambda: tmp_path_factory.getbasetemp() / "cache")
        return runs.load_model(zoo.run("vae_2d"))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def page(browser, request):
    """The page, which has asked no one for anything, and logged no error, when the test is over."""
    context = browser.new_context(viewport=request.param, offline=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    asked, logged = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: logged.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.goto(PAGE.as_uri())
    page.wait_for_selector(".between")
    settle(page)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith("data:")] == [PAGE.as_uri()]
    assert logged == []


def settle(page):
    """Waits until no panel computes."""
    page.wait_for_selector("[aria-busy]", state="detached")


def shown(canvas):
    """The grey levels of a canvas in [0, 1], [H, W]."""
    levels = canvas.evaluate(
        "(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).filter((_, i) => i % 4 === 0)"
    )
    return np.reshape(levels, [28, 28]) / 255


def at(page, z):
    """Where on the screen a place on the map is."""
    page.locator(".map").scroll_into_view_if_needed()
    box = page.locator(".map").bounding_box()
    return box["x"] + (z[0] + EDGE) / (2 * EDGE) * box["width"], box["y"] + (EDGE - z[1]) / (2 * EDGE) * box["height"]


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
    page.mouse.move(*at(page, [-1.5, 1.2]))
    settle(page)
    latents = page.locator(".coordinates").inner_text().replace("\N{MINUS SIGN}", "-").split("\n")
    z = [float(part.split("=")[1]) for part in latents]
    np.testing.assert_allclose(z, [-1.5, 1.2], atol=0.02)  # a phone's map has 50 pixels a unit
    digit = page.locator(".reading .digit")
    # Levels are rounded to 1 / 255, and where the mouse is to 0.01: slopes are below 2 a unit.
    np.testing.assert_allclose(shown(digit), decoded(model, [z])[0], atol=0.03)
    page.locator(".map").focus()
    page.keyboard.press("Shift+ArrowRight")
    settle(page)
    np.testing.assert_allclose(shown(digit), decoded(model, [[z[0] + 0.5, z[1]]])[0], atol=0.03)


def test_page_shows_the_line_between_two_places_that_were_clicked(page, model):
    ends = [[-1.2, -1.2], [0.9, 1.5]]
    page.mouse.click(*at(page, ends[0]))
    page.mouse.move(*at(page, ends[1]))
    page.keyboard.press("Enter")  # the click has focused the map
    settle(page)
    images = page.locator(".between canvas")
    assert images.count() == 12
    for number, share in ((0, 0), (4, 4 / 11), (11, 1)):
        z = (1 - share) * np.array(ends[0]) + share * np.array(ends[1])
        np.testing.assert_allclose(shown(images.nth(number)), decoded(model, [z])[0], atol=0.05)


def test_page_fits_its_screen(page):
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_page_is_what_the_script_writes_and_small(model, monkeypatch):
    script = runpy.run_path(str(ROOT / "scripts" / "make_explorer_page.py"))
    assert script["page"]() == PAGE.read_text(), "run python scripts/make_explorer_page.py"
    assert PAGE.stat().st_size < 3e6
