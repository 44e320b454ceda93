"""The explorer of `genmnist serve` in a real browser."""

import contextlib
import io
import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from keras_genmnist import export
from tests import tiny

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = 12  # latents of the models with sliders: more than there are sliders
EDGE = 3  # of the map
ALPHAS = [0, 0.2, 0.4, 0.6, 0.8, 1]
MEANS = {"means": [[1.5, 1.5], [-1.5, -1.5], [2.95, -2.5]], "labels": [3, 7, 5]}
MINUS, NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"  # as the page writes them
MODELS = ["vae_2d", "vae", "gan", "pixelcnn", "masked_diffusion", "flow_matching", "vqvae", "cvae"]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def written(value: float) -> str:
    """As the page writes it: a true minus sign, and none before a zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server of tiny models of every kind that no one has trained."""
    folder = tmp_path_factory.mktemp("explorer")
    changes = {name: {"latent_size": SIZE} for name in ("vae", "gan")} | {"pixelcnn": {"class_conditional": True}}
    changes["cvae"] = {"latent_size": SIZE, "network": "mlp", "prior": "normal"}
    for name in MODELS:
        run = tiny.untrained(tiny.begin(folder / "runs" / name, name, **changes.get(name, {})))
        version = export.export(run, folder / "exports")
        if name == "vae_2d":
            (version / "assets.extra" / "latent_means.json").write_text(json.dumps(MEANS))
    with tiny.serving(folder, MODELS) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser, may_ask: tuple[str, ...], timeout: int = 10_000, **given):
    """A page that in the end has asked for no address but those that begin so, and that has logged no error."""
    context = browser.new_context(**given)
    context.set_default_timeout(timeout)
    page = context.new_page()
    asked, logged = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: logged.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.logged = logged
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(may_ask)] == []
    assert logged == []


@pytest.fixture
def page(browser, server):
    """A page that has asked nobody but the server, and that has logged no error, when the test is over."""
    with watched(browser, (server, f"blob:{server}", "data:"), viewport=DESKTOP) as page:
        yield page


def visit(page, server, model):
    """Opens the page of a model, and waits until every panel has what it asked for."""
    page.goto(f"{server}/#{model}")
    page.wait_for_selector(".panel")
    settle(page)


def settle(page):
    """Waits until no panel waits for an answer."""
    page.wait_for_selector("[aria-busy]", state="detached")


def predict(server, model, signature, **inputs):
    """What the server says: outputs by name, or the only one."""
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    request = urllib.request.Request(f"{server}/v1/models/{model}:predict", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["outputs"]


def decode(server, model, z):
    """Grey levels 0..255 of the decodings of z [N, D], [N, 28, 28]."""
    return levels(predict(server, model, "decode", z=np.asarray(z).tolist())["probabilities"])


def levels(pixels):
    return 255 * np.asarray(pixels)[..., 0]


def pixels(canvas):
    """The red, green, blue and alpha of a canvas, [H, W, 4]."""
    url = canvas.evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(urllib.request.urlopen(url)).convert("RGBA")).astype(int)


def shown(canvas):
    """The grey levels of a canvas, [H, W]."""
    return pixels(canvas)[..., 0]


def assert_shows(canvas, expected):
    np.testing.assert_allclose(shown(canvas), expected, atol=1)  # rounded to whole levels


def at(page, z):
    """Where on the screen a place on the map is."""
    box = page.locator(".map").bounding_box()
    return box["x"] + (z[0] + EDGE) / (2 * EDGE) * box["width"], box["y"] + (EDGE - z[1]) / (2 * EDGE) * box["height"]


def point_at(page, z):
    """Moves the mouse to a place on the map."""
    page.mouse.move(*at(page, z))


def draw(page, points):
    """Draws a stroke on the pad, of points in shares of its width and height."""
    pad = page.locator(".pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    first, *rest = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*first)
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point)
    page.mouse.up()
    settle(page)


SEVEN = [(0.2, 0.2), (0.8, 0.2), (0.4, 0.9)]


# ---- the map


def test_map_decodes_what_the_mouse_points_at(page, server):
    visit(page, server, "vae_2d")
    digit = page.locator(".plane .reading .digit")
    for z in ([-2, 1], [2.4, -0.6]):
        point_at(page, z)
        settle(page)
        assert_shows(digit, decode(server, "vae_2d", [z])[0])
        assert page.locator(".plane .coordinates").inner_text().split("\n") == [
            f"z{i + 1} = {written(value)}" for i, value in enumerate(z)
        ]


def test_map_decodes_what_a_finger_touches(browser, server):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    visit(page, server, "vae_2d")
    box = page.locator(".map").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    settle(page)
    assert_shows(page.locator(".plane .reading .digit"), decode(server, "vae_2d", [[-1.5, 0]])[0])
    context.close()


def test_map_follows_the_arrow_keys(page, server):
    visit(page, server, "vae_2d")
    page.locator(".map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    settle(page)
    assert_shows(page.locator(".plane .reading .digit"), decode(server, "vae_2d", [[0.1, 0.6]])[0])
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    settle(page)
    assert_shows(page.locator(".plane .reading .digit"), decode(server, "vae_2d", [[-EDGE, 0.6]])[0])


def assert_map_is_decoded(page, server):
    grid = shown(page.locator(".map .grid"))
    assert grid.shape == (560, 560)
    for row, column in ((0, 0), (3, 17), (19, 19)):
        cell = grid[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
        centre = [-EDGE + 0.3 * (column + 0.5), EDGE - 0.3 * (row + 0.5)]
        np.testing.assert_allclose(cell, decode(server, "vae_2d", [centre])[0], atol=1)


def test_map_shows_the_decoded_grid(page, server):
    visit(page, server, "vae_2d")
    assert_map_is_decoded(page, server)


def test_part_of_the_map_that_is_refused_is_asked_for_again(page, server):
    asked = []

    def refuse_the_second(route):
        if len((inputs_of(route.request, "decode") or {"z": []})["z"]) > 1:
            asked.append(route)
        if len(asked) == 2 and asked[-1] is route:
            route.fulfill(status=503, json={"error": "the server is stopping"})
        else:
            route.continue_()

    page.route("**:predict", refuse_the_second)
    page.goto(f"{server}/#vae_2d")
    error = page.locator(".plane .error")
    playwright.expect(error).to_have_text("the server is stopping")
    playwright.expect(error).to_have_text("", timeout=10_000)
    settle(page)
    assert_map_is_decoded(page, server)
    assert len(asked) == 6  # five parts, one of them twice
    page.logged.clear()  # the browser's own note of the refusal


def test_part_of_the_map_that_is_refused_for_good_is_not_asked_for_again(page, server):
    asked = []

    def refuse(route):
        if len((inputs_of(route.request, "decode") or {"z": []})["z"]) > 1:
            asked.append(route)
            route.fulfill(status=400, json={"error": "label is missing"})
        else:
            route.continue_()

    page.route("**:predict", refuse)
    page.goto(f"{server}/#vae_2d")
    playwright.expect(page.locator(".plane .error")).to_have_text("label is missing")
    page.wait_for_timeout(2500)
    assert len(asked) == 1
    page.logged.clear()  # the browser's own note of the refusal


def test_map_shows_means_in_the_colour_of_their_digit(page, server):
    visit(page, server, "vae_2d")
    means = page.locator(".map .means")

    def colours():
        """Of the quarters of the map in which a 3 and a 7 lie."""
        image = pixels(means)
        height, width = image.shape[:2]
        quarters = image[: height // 2, width // 2 :], image[height // 2 :, : width // 2]
        # A digit is drawn over its mean: its colour is the brightest there.
        brightest = [quarter.reshape(-1, 4)[quarter[..., :3].sum(axis=-1).argmax()] for quarter in quarters]
        return ["#{:02x}{:02x}{:02x}".format(*colour[:3]) if colour[3] else None for colour in brightest]

    three, seven = "#82ffff", "#b048b6"
    assert colours() == [three, seven]
    for choice, expected in (("7", [None, seven]), ("none", [None, None]), ("all", [three, seven])):
        page.get_by_role("radio", name=choice).check(force=True)
        assert colours() == expected, choice


def test_map_tells_the_digit_of_a_mean_that_is_pointed_at(page, server):
    visit(page, server, "vae_2d")
    point_at(page, [1.52, 1.48])
    assert page.locator(".tip").inner_text() == "3"
    page.get_by_role("radio", name="7").check(force=True)
    assert page.locator(".tip").is_hidden()
    page.get_by_role("radio", name="all").check(force=True)
    assert page.locator(".tip").inner_text() == "3"
    point_at(page, [0, 0])
    assert page.locator(".tip").is_hidden()


# ---- sliders and interpolation


def test_sliders_set_the_first_latents(page, server):
    visit(page, server, "vae")
    assert page.locator(".slider").count() == 10
    digit = page.locator(".latents .digit")
    page.get_by_role("button", name="Zero").click()
    settle(page)
    assert_shows(digit, decode(server, "vae", [np.zeros(SIZE)])[0])
    page.locator(".slider input").nth(4).fill("1.5")
    first = page.locator(".slider input").nth(0)
    first.press("Home")
    settle(page)
    end = float(first.get_attribute("min"))  # at most -3: sliders reach as far as random latents do
    assert end <= -3
    assert_shows(digit, decode(server, "vae", [np.eye(SIZE)[4] * 1.5 + np.eye(SIZE)[0] * end])[0])
    assert page.locator(".slider output").nth(0).inner_text() == written(end)


def inputs_of(request, signature):
    """What a request gives the signature, or None if it is of another one."""
    body = request.post_data_json or {}
    return body.get("inputs") if body.get("signature_name") == signature else None


@pytest.mark.parametrize("model", ["vae", "gan", "cvae"])
def test_random_vector_is_of_all_latents(page, server, model):
    visit(page, server, model)
    with page.expect_request(lambda request: inputs_of(request, "decode")) as asked:
        page.get_by_role("button", name="Random vector").click()
    (z,) = inputs_of(asked.value, "decode")["z"]
    assert len(set(z)) == SIZE
    assert [written(value) for value in z[:10]] == page.locator(".slider output").all_inner_texts()


def test_random_vector_is_the_code_of_a_sample(page, server):
    visit(page, server, "cvae")
    page.locator("#class").select_option("7")
    settle(page)
    asked = []
    page.on("request", lambda request: asked.append(request))
    page.get_by_role("button", name="Random vector").click()
    settle(page)
    drawn, encoded, decoded = map(inputs_of, asked, ("sample_class", "encode_draw", "decode"))
    assert drawn["label"] == encoded["label"][0] == 7
    assert encoded["images"] == predict(server, "cvae", "sample_class", **drawn)["images"]
    np.testing.assert_allclose(decoded["z"], predict(server, "cvae", "encode_draw", **encoded)["z"], atol=1e-5)


def test_random_vector_is_of_one_class_though_another_is_chosen_meanwhile(page, server):
    visit(page, server, "cvae")
    held, labels = [], []

    def hold_the_sample(route):
        if inputs_of(route.request, "sample_class"):
            held.append(route)
            return
        if encoded := inputs_of(route.request, "encode_draw"):
            labels.append(encoded["label"])
        route.continue_()

    page.route("**:predict", hold_the_sample)
    with page.expect_request(lambda request: inputs_of(request, "sample_class")):
        page.get_by_role("button", name="Random vector").click()
    page.locator("#class").select_option("7")
    held.pop().continue_()
    settle(page)
    assert labels == [[0]]


def test_sliders_reach_as_far_as_the_latents(page, server):
    def enlarge(route):
        if inputs_of(route.request, "encode_draw"):
            answer = route.fetch()
            outputs = answer.json()["outputs"]
            outputs["z"][-1] = [-8.4, *[0.0] * (SIZE - 1)]
            route.fulfill(response=answer, json={"outputs": outputs})
        else:
            route.continue_()

    page.route("**:predict", enlarge)
    visit(page, server, "vae")
    ends = [slider.evaluate("(input) => [input.min, input.max]") for slider in page.locator(".slider input").all()]
    assert ends == 10 * [["-9", "9"]]
    assert f"from {MINUS}9 to 9" in page.locator(".latents .hint").inner_text()


def strip_request(page, press):
    """The latents that the strip asks for when `press` is called, [6, D]."""
    with page.expect_request(
        lambda request: len((request.post_data_json or {}).get("inputs", {}).get("z", [])) == 6
    ) as asked:
        press()
    settle(page)
    return np.array(asked.value.post_data_json["inputs"]["z"])


def test_strip_goes_from_z2_to_z1(page, server):
    visit(page, server, "vae")
    stops = page.locator(".stop .digit")
    path = strip_request(page, page.get_by_role("button", name="Two new vectors").click)
    z2, z1 = path[0], path[-1]
    np.testing.assert_allclose(path, [alpha * z1 + (1 - alpha) * z2 for alpha in ALPHAS], atol=1e-12)
    assert stops.count() == 6
    for stop, image in zip(stops.all(), decode(server, "vae", path), strict=True):
        assert_shows(stop, image)
    # What the page calls z1 is what stands at alpha = 1.
    other = strip_request(page, page.get_by_role("button", name="New z1").click)
    assert np.array_equal(other[0], z2) and not np.isclose(other[-1], z1).any()
    other = strip_request(page, page.get_by_role("button", name="New z2").click)
    assert not np.isclose(other[0], z2).any()


def test_interpolation_slider_shows_what_lies_between(page, server):
    visit(page, server, "gan")
    path = strip_request(page, page.get_by_role("button", name="Two new vectors").click)
    digit, slider = page.locator(".interpolation .reading .digit"), page.get_by_label("alpha", exact=True)
    slider.fill("0.3")
    settle(page)
    assert_shows(digit, decode(server, "gan", [0.3 * path[-1] + 0.7 * path[0]])[0])
    page.get_by_role("button", name="alpha 0.8").click()
    settle(page)
    assert slider.input_value() == "0.8"
    np.testing.assert_allclose(shown(digit), shown(page.locator(".stop .digit").nth(4)), atol=1)


def test_slider_stands_under_the_image_of_its_alpha(page, server):
    for viewport in (PHONE, DESKTOP):
        page.set_viewport_size(viewport)
        visit(page, server, "vae")
        boxes = [stop.bounding_box() for stop in page.locator(".stop .digit").all()]
        slider = page.get_by_label("alpha", exact=True).bounding_box()
        for box, alpha in zip(boxes, ALPHAS, strict=True):
            thumb = slider["x"] + 10 + alpha * (slider["width"] - 20)
            assert abs(box["x"] + box["width"] / 2 - thumb) < 1


# ---- samples


def sheet(page):
    """The bytes of the sheet, as they are downloaded, and the file's name."""
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    return open(download.value.path(), "rb").read(), download.value.suggested_filename


def test_samples_of_the_same_seed_are_the_same_picture(page, server):
    visit(page, server, "vae")
    first, name = sheet(page)
    assert name == "vae, 64 samples, seed 1.png"
    assert np.asarray(Image.open(io.BytesIO(first))).shape[:2] == (8 * 29 - 1, 8 * 29 - 1)
    assert first == urllib.request.urlopen(f"{server}/v1/models/vae/sample.png?num_samples=64&seed=1").read()
    image = page.locator(".plate img")
    assert image.evaluate("(image) => image.naturalWidth") == 8 * 29 - 1
    page.get_by_role("button", name="Another").click()
    other, _ = sheet(page)
    assert other != first
    page.get_by_role("spinbutton", name="Seed").fill("1")
    page.keyboard.press("Enter")
    assert sheet(page)[0] == first


def test_samples_of_a_chosen_digit(page, server):
    visit(page, server, "pixelcnn")
    page.get_by_role("spinbutton", name="Samples").fill("4")
    with page.expect_request("**/sample.png?num_samples=4&seed=1&digit=7"):
        page.get_by_role("combobox", name="Digit").select_option("7")
    settle(page)
    assert sheet(page)[1] == "pixelcnn, digit 7, 4 samples, seed 1.png"
    visit(page, server, "vae")
    assert page.get_by_role("combobox", name="Digit").is_hidden()


def test_samples_out_of_range_are_refused_in_the_servers_words(page, server):
    visit(page, server, "vae")
    page.get_by_role("spinbutton", name="Samples").fill("5000")
    page.keyboard.press("Enter")
    settle(page)
    assert "num_samples is out of range" in page.locator(".samples .error").inner_text()
    page.get_by_role("spinbutton", name="Samples").fill("9")
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator(".samples .error").inner_text() == ""
    assert page.logged.pop().endswith("400 (BAD REQUEST)")  # the browser's own note of the answer


# ---- drawing


def picture(page, caption):
    return page.locator(".picture", has_text=caption).locator("canvas")


def number(page, name):
    return page.locator(".number", has_text=name).locator("output").inner_text().replace(MINUS, "-")


def seen(page):
    """The image that the model sees, as it is sent, [1, 28, 28, 1]."""
    return (shown(picture(page, "As the model sees it")) / 255)[None, ..., None]


def test_drawing_is_read_by_a_vae(page, server):
    visit(page, server, "vae")
    assert number(page, "ELBO") == NOTHING
    draw(page, SEVEN)
    image = seen(page)
    assert sorted(np.unique(image)) == [0, 1]
    expected = predict(server, "vae", "reconstruct", images=image.tolist())["probabilities"][0]
    assert_shows(picture(page, "Reconstruction"), levels(expected))
    terms = predict(server, "vae", "elbo", images=np.repeat(image, 8, axis=0).tolist(), seed=0)
    assert number(page, "ELBO") == f"{np.mean(terms['elbo']):.1f} nats"
    bars = page.locator(".code canvas")
    drawn = pixels(bars)
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert number(page, "ELBO") == NOTHING
    assert seen(page).max() == 0
    assert not np.array_equal(pixels(bars), drawn)


def test_reading_that_fails_leaves_the_others_to_the_drawing(page, server):
    def refuse(route):
        if inputs_of(route.request, "reconstruct"):
            route.fulfill(status=429, json={"error": "the server is busy"})
        else:
            route.continue_()

    visit(page, server, "vae")
    draw(page, [(0.3, 0.3), (0.7, 0.7)])
    assert shown(picture(page, "Reconstruction")).max() > 0
    page.route("**:predict", refuse)
    draw(page, SEVEN)
    assert shown(picture(page, "Reconstruction")).max() == 0  # what was there is of another drawing
    terms = predict(server, "vae", "elbo", images=np.repeat(seen(page), 8, axis=0).tolist(), seed=0)
    assert number(page, "ELBO") == f"{np.mean(terms['elbo']):.1f} nats"
    assert page.locator(".drawing .error").inner_text() == "the server is busy"
    page.logged.clear()  # the browser's own notes of the refusals


def test_bars_are_in_the_ink_of_the_colour_scheme(page, server):
    visit(page, server, "vae")
    draw(page, SEVEN)
    bars = page.locator(".code canvas")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        painted = pixels(bars)
        densest = painted[np.unravel_index(painted[..., 3].argmax(), painted.shape[:2])]
        # A canvas keeps colours times their alpha, in whole levels.
        np.testing.assert_allclose(densest[:3], colour_of(bars, "color"), atol=3)


def test_drawing_is_marked_on_the_map(page, server):
    visit(page, server, "vae_2d")
    mark = page.locator(".drawn")
    assert mark.is_hidden()
    draw(page, SEVEN)
    (z,) = predict(server, "vae_2d", "encode", images=seen(page).tolist())["z"]
    # A ring is placed by its middle, in percent of the map.
    share = [(z[0] + EDGE) / (2 * EDGE), (EDGE - z[1]) / (2 * EDGE)]
    place = mark.evaluate("(mark) => [parseFloat(mark.style.left), parseFloat(mark.style.top)]")
    np.testing.assert_allclose(place, 100 * np.array(share), atol=0.01)
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert mark.is_hidden()


def test_drawing_is_scaled_and_centred_as_mnist_is(page, server):
    visit(page, server, "vae")
    small = [(0.6 + 0.3 * x, 0.05 + 0.3 * y) for x, y in SEVEN]
    for stroke in (SEVEN, small):
        page.get_by_role("button", name="Clear").click()
        draw(page, stroke)
        rows, columns = np.nonzero(seen(page)[0, ..., 0])
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21  # a box of 20, and what rounding adds
        # The grey image is centred: its bits are within a pixel.
        np.testing.assert_allclose([rows.mean() + 0.5, columns.mean() + 0.5], [14, 14], atol=1)


def test_stroke_is_whole_on_a_page_that_is_told_no_moves_within_a_frame(page, server):
    page.add_init_script("delete PointerEvent.prototype.getCoalescedEvents")  # as without TLS on another machine
    visit(page, server, "vae")
    draw(page, SEVEN)
    assert seen(page).sum() > 30


def test_address_may_hold_a_password(browser, server):
    known = server.replace("http://", "http://me:secret@")
    with watched(browser, (server, known, f"blob:{server}", "data:"), viewport=DESKTOP) as page:
        visit(page, known, "vae_2d")
        assert "does not answer" not in page.content()


def test_drawing_with_the_keyboard(page, server):
    visit(page, server, "pixelcnn")
    page.locator(".pad").focus()
    for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"] + ["ArrowRight"] * 5:
        page.keyboard.press(key)
    settle(page)
    assert number(page, "log p(x)").endswith("nats")
    assert shown(page.locator(".sheet canvas").first).max() == 255  # which only a pen that was lifted brings
    rows, columns = np.nonzero(seen(page)[0, ..., 0])
    assert np.ptp(rows) > 4 * np.ptp(columns)  # a 1


def test_drawing_stands_among_test_images_by_its_likelihood(page, server):
    visit(page, server, "vae")
    draw(page, SEVEN)
    models = json.load(urllib.request.urlopen(f"{server}/explorer/models"))["models"]
    (known,) = [model["log_likelihoods"] for model in models if model["name"] == "vae"]
    request = {"images": seen(page).tolist(), "num_draws": known["num_draws"], "seed": 0}
    (value,) = predict(server, "vae", "log_likelihood", **request)["log_likelihood"]
    below = np.mean(np.array(known["log_likelihoods"]) < value)
    count = len(known["log_likelihoods"])
    assert number(page, f"Likelier than, of {count} test images") == f"{100 * below:.0f} %"


def test_drawing_is_judged_by_a_discriminator_in_grey_levels(page, server):
    visit(page, server, "gan")
    draw(page, SEVEN)
    image = seen(page)
    assert len(np.unique(image)) > 10
    (logit,) = predict(server, "gan", "discriminate", images=image.tolist())
    assert float(number(page, "logit")) == pytest.approx(logit, abs=0.02)  # of levels rounded to 1/255


def test_drawing_is_scored_and_completed_by_a_pixelcnn(page, server):
    visit(page, server, "pixelcnn")
    draw(page, SEVEN)
    image = seen(page)
    (log_prob,) = predict(server, "pixelcnn", "log_prob", images=image.tolist())
    assert number(page, "log p(x)") == f"{log_prob:.1f} nats"
    completions = page.locator(".sheet canvas")
    first = [shown(canvas) for canvas in completions.all()]
    assert len(first) == 6
    for completion in first:
        np.testing.assert_array_equal(completion[:14], 255 * image[0, :14, :, 0])
    assert len(np.unique([completion[14:] for completion in first], axis=0)) == 6
    page.get_by_role("button", name="Others").click()
    settle(page)
    assert not np.array_equal([shown(canvas) for canvas in completions.all()], first)


def test_drawing_is_reconstructed_from_its_codes_by_a_vqvae(page, server):
    visit(page, server, "vqvae")
    draw(page, SEVEN)
    expected = predict(server, "vqvae", "reconstruct", images=seen(page).tolist())["probabilities"][0]
    assert_shows(picture(page, "Reconstruction"), levels(expected))
    assert page.locator(".code").count() == 0  # of bars or a point in the plane: it has neither


def test_parts_of_a_drawing_are_completed_by_a_masked_diffusion(page, server):
    visit(page, server, "masked_diffusion")
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if ":predict" in request.url else None)
    assert "white and black ink stay" in page.locator(".drawing .hint").inner_text()
    draw(page, [(0.7, 0.8), (0.9, 0.8)])  # below, and small: neither moved nor scaled
    page.get_by_role("button", name="Black ink").click()
    draw(page, [(0.8, 0.6), (0.8, 0.95)])  # crosses it
    page.get_by_role("button", name="Black ink").click()
    draw(page, [(0.1, 0.2), (0.3, 0.2)])
    part = shown(page.locator(".drawing .picture canvas").first)
    white, black = part == 255, part == 0
    assert set(np.unique(part)) == {0, 128, 255} or set(np.unique(part)) == {0, 127, 255}
    rows, columns = np.nonzero(white)
    assert (rows.min(), rows.max()) in [(4, 23), (5, 22), (4, 22), (5, 23)] and columns.min() < 4
    assert black[22, 22] and black[26, 22] and white[22, 19] and white[22, 25]
    inputs = asked[-1]["inputs"]
    np.testing.assert_array_equal(np.array(inputs["mask"])[0, ..., 0], white | black)
    np.testing.assert_array_equal(np.array(inputs["images"])[0, ..., 0], white)
    completions = [shown(canvas) for canvas in page.locator(".sheet canvas").all()]
    assert len(np.unique(completions, axis=0)) == 6
    for completion in completions:
        assert (completion[white] == 255).all() and (completion[black] == 0).all()
        assert set(np.unique(completion)) == {0, 255}
    page.get_by_role("button", name="Clear").click()
    settle(page)
    assert shown(page.locator(".sheet canvas").first).max() == 0
    draw(page, [(0.8, 0.8)])  # a dot
    dot = shown(page.locator(".drawing .picture canvas").first)
    assert dot[22, 22] == 255 and (dot > 200).sum() < 9 and (dot < 100).sum() == 0  # nothing of the strokes before


# ---- the server


def test_requests_do_not_pile_up(page, server):
    visit(page, server, "vae_2d")
    flying, most, asked = set(), [0], []

    def begin(request):
        flying.add(request)
        asked.append(request)
        most[0] = max(most[0], len(flying))

    page.on("request", begin)
    page.on("requestfinished", lambda request: flying.discard(request))
    held = []
    page.route("**:predict", lambda route: held.append(route))  # nothing is answered while the mouse moves
    for x in np.linspace(-2, 2, 30):
        point_at(page, [x, 0])
    page.unroute("**:predict")  # goes on with what is held
    settle(page)
    assert most == [1]
    assert len(asked) == 2  # the first and the newest
    assert_shows(page.locator(".plane .reading .digit"), decode(server, "vae_2d", [[2, 0]])[0])


def test_errors_of_the_server_are_shown_where_they_happen(page, server):
    visit(page, server, "vae")
    answer = {"status": 429, "json": {"error": "the server is busy\nand more that no one reads"}}
    page.route("**:predict", lambda route: route.fulfill(**answer))
    page.get_by_role("button", name="Random vector").click()
    settle(page)
    error = page.locator(".latents .error")
    assert error.inner_text() == "the server is busy"
    assert page.locator(".interpolation .error").inner_text() == ""
    page.unroute("**:predict")
    page.route("**:predict", lambda route: route.abort())
    page.get_by_role("button", name="Random vector").click()
    settle(page)
    assert error.inner_text() == "The server does not answer. Is it still running?"
    page.unroute("**:predict")
    page.get_by_role("button", name="Random vector").click()
    settle(page)
    assert error.inner_text() == ""
    assert len(page.logged) == 2  # the browser's own notes of the two
    page.logged.clear()


def test_page_without_a_model_says_so_and_asks_again(page, server):
    page.route("**/explorer/models", lambda route: route.fulfill(json={"models": [], "loading": []}))
    page.goto(server)
    page.wait_for_selector("text=No model is available yet.")
    page.unroute("**/explorer/models")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".panel")
    assert page.locator("#notice").inner_text() == ""
    assert page.get_by_role("button", name="Try again").is_hidden()
    settle(page)


def test_page_that_is_opened_while_models_are_loaded_waits_for_them(page, server):
    every = json.load(urllib.request.urlopen(f"{server}/explorer/models"))["models"]
    names, loaded = [model["name"] for model in every], []

    def answer(route):
        models = [model for model in every if model["name"] in loaded]
        route.fulfill(json={"models": models, "loading": [name for name in names if name not in loaded]})

    page.route("**/explorer/models", answer)
    page.goto(server)
    page.wait_for_selector(f"text=The server is loading {names[0]} …")
    page.goto(f"{server}/#nvae")
    page.reload()
    page.wait_for_selector(f"text=No model named nvae is available here. Choose one of: {', '.join(names)}.")
    page.goto(f"{server}/#vae")
    page.reload()
    page.wait_for_selector("text=The server is loading vae …")
    loaded += ["gan", "vae"]
    page.wait_for_selector(".panel")
    assert page.locator("#title").inner_text() == "vae on mnist_5k"
    page.get_by_role("button", name="Zero").click()
    settle(page)
    loaded[:] = names
    picker = page.get_by_role("combobox", name="Model")
    page.wait_for_function("(count) => document.querySelectorAll('#picker option').length === count", arg=len(names))
    assert picker.input_value() == "vae"
    assert page.locator(".slider output").all_inner_texts() == 10 * ["0.00"]  # the panels are as they were


def test_page_that_is_told_to_try_again_asks_no_more_often(page, server):
    page.route("**/explorer/models", lambda route: route.fulfill(json={"models": [], "loading": ["vae"]}))
    page.goto(f"{server}/#nvae")
    for _ in range(3):
        page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("text=No model named nvae is available here.")
    asked = []
    page.on("request", lambda request: asked.append(request))
    page.wait_for_timeout(2500)
    assert 1 <= len(asked) <= 3  # every second


def test_page_of_a_model_that_is_not_served_says_so(page, server):
    page.goto(f"{server}/#nvae")
    page.wait_for_selector("text=No model named nvae is available here.")
    page.get_by_role("combobox", name="Model").select_option("vae")
    page.wait_for_selector(".panel")
    settle(page)


def test_page_of_a_model_with_unknown_signatures_says_so(page, server):
    model = {"name": "other", "version": "3", "label": "other", "signatures": ["classify"], "latent_size": None}
    page.route("**/explorer/models", lambda route: route.fulfill(json={"models": [model], "loading": []}))
    page.goto(server)
    page.wait_for_selector("text=signatures: classify.")
    assert page.get_by_role("combobox", name="Model").is_hidden()  # nothing to choose


def test_model_is_kept_in_the_address(page, server):
    visit(page, server, "vae_2d")
    page.get_by_role("combobox", name="Model").select_option("gan")
    page.wait_for_selector("text=gan on mnist_5k")
    assert page.url == f"{server}/#gan"
    settle(page)
    page.reload()
    page.wait_for_selector("text=gan on mnist_5k")
    settle(page)
    page.go_back()
    page.wait_for_selector("text=vae_2d on mnist_5k")
    assert page.get_by_role("combobox", name="Model").input_value() == "vae_2d"
    settle(page)


# ---- the page itself


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("model", MODELS)
def test_page_fits_a_phone(page, server, model, scheme):
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    visit(page, server, model)
    if model == "vae_2d":
        point_at(page, [2.95, -2.5])
        assert page.locator(".tip").inner_text() == "5"
    draw(page, SEVEN)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 17, 18)") == (scheme == "dark")


FONTS = ["DejaVu Sans", "Liberation Sans"]  # a wide one and a narrow one
SCRIBBLE = [(x, y) for x in np.linspace(0.1, 0.9, 14) for y in (0.1, 0.9)]  # fills its square
WIDTH_OF = """(font) => {
    const context = document.createElement("canvas").getContext("2d");
    context.font = `100px "${font}", monospace`;
    return context.measureText("reconstruction").width;
}"""


def heights(page):
    """The name and height of each panel."""
    return page.evaluate("() => [...document.querySelectorAll('.panel')].map((e) => [e.className, e.offsetHeight])")


@pytest.mark.parametrize(("model", "font"), [(model, FONTS[i % len(FONTS)]) for i, model in enumerate(MODELS)])
def test_panels_do_not_jump(page, server, model, font):
    page.route("**/sample.png*", lambda route: route.abort())  # before the sheet is there, and with an error instead
    page.goto(f"{server}/#{model}")
    page.wait_for_selector(".panel")
    if page.evaluate(WIDTH_OF, font) == page.evaluate(WIDTH_OF, "no such font"):
        pytest.skip(f"the font {font} is not installed")
    page.evaluate("(font) => (document.body.style.fontFamily = `'${font}'`)", font)
    for width, size in [(390, 100), (390, 125), (768, 100), (1280, 100)]:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("(size) => (document.documentElement.style.fontSize = `${size}%`)", size)
        before = heights(page)
        settle(page)
        if model == "vae_2d":
            point_at(page, [-2.95, -2.5])
        else:
            random = page.get_by_role("button", name="Random vector")
            if random.count():
                random.click()
        draw(page, SEVEN)
        assert heights(page) == before, (width, size, "a seven")
        draw(page, SCRIBBLE)
        assert heights(page) == before, (width, size, "a scribble")
        page.route("**:predict", lambda route: route.abort())
        draw(page, SEVEN)
        assert "does not answer" in page.locator(".drawing .error").inner_text()
        assert heights(page) == before, (width, size, "an error")
        page.unroute("**:predict")
        page.get_by_role("button", name="Clear").click()
        settle(page)
        assert heights(page) == before, (width, size, "cleared")
    page.logged.clear()  # the browser's own note of what was aborted


def test_drawing_that_is_too_white_for_a_digit_is_told(page, server):
    visit(page, server, "vae")
    warning = page.locator(".warning")
    draw(page, SEVEN)
    assert warning.inner_text() == ""
    draw(page, SCRIBBLE)
    assert warning.inner_text() == "Too white for a digit: its numbers mean little."
    page.get_by_role("button", name="Clear").click()
    assert warning.inner_text() == ""


def test_address_that_cannot_be_decoded_is_told_and_left(page, server):
    page.goto(f"{server}/#%")
    page.wait_for_selector("text=No model named % is available here.")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("text=No model named % is available here.")
    page.evaluate("location.hash = 'vae'")
    page.wait_for_selector(".panel")
    settle(page)
    assert page.get_by_role("button", name="Try again").is_hidden()


@pytest.mark.parametrize("model", MODELS)
def test_controls_have_names_and_a_visible_focus(page, server, model):
    visit(page, server, model)
    names = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [tabindex], canvas[role]")]
            .map((e) => e.getAttribute("aria-label") ?? (e.labels?.[0] ?? e).textContent.trim())"""
    )
    assert len(names) > 8 and all(names)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const focused = document.activeElement;
                const outlined = focused.closest(".chip") ?? focused;
                return [focused.className || focused.name || focused.id, getComputedStyle(outlined).outlineStyle];
            }"""
        )
        if found[0]:  # else it is the page itself, after the last control
            assert found[1] == "solid", found[0]
            reached |= set(found[0].split())
    expected = {"picker", "pad", "clear", "num_samples", "seed", "another", "download"}
    own = {"vae_2d": {"map", "shown"}, "pixelcnn": {"digit"}, "masked_diffusion": {"black"}}
    own |= {"flow_matching": set(), "vqvae": set()}
    expected |= own.get(model, {"random", "zero", "alpha", "stop"})
    assert expected <= reached


def colour_of(element, name):
    """A colour of an element's style: red, green, blue and perhaps alpha."""
    return element.evaluate("(e, name) => getComputedStyle(e)[name].match(/[0-9.]+/g).map(Number)", name)


def contrast(one, other):
    """WCAG's, from 1 to 21, of two colours in levels."""

    def luminance(colour):
        shares = np.array(colour[:3]) / 255
        linear = np.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("media", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"forced_colors": "active"}])
def test_controls_stand_out_from_the_page(page, server, media):
    """WCAG 2.2, 1.4.11: at least 3:1."""
    page.emulate_media(**media)
    visit(page, server, "vae")
    grounds = [colour_of(page.locator(name).first, "backgroundColor") for name in ("body", ".panel")]
    slider = page.locator(".slider input").first
    slider.press("Home")  # the thumb is at the left
    track = np.asarray(Image.open(io.BytesIO(slider.screenshot())))
    colours = [colour_of(box, "borderTopColor") for box in page.locator("select, input[type=number]").all()]
    for colour in [*colours, track[track.shape[0] // 2, track.shape[1] * 3 // 4]]:
        assert all(contrast(colour, ground) >= 3 for ground in grounds)


@pytest.mark.parametrize("model", ["vae", "masked_diffusion"])
def test_invitation_to_draw_can_be_read(page, server, model):
    """WCAG 2.2, 1.4.3: at least 4.5:1."""
    visit(page, server, model)
    ink, pad = page.locator(".invitation"), page.locator(".pad")
    assert contrast(colour_of(ink, "color"), colour_of(pad, "backgroundColor")) >= 4.5


def test_colours_that_tell_something_stay_where_colours_are_forced(page, server):
    visit(page, server, "vae_2d")
    point_at(page, [1.52, 1.48])
    read = """() => [...document.querySelectorAll(".map, .pad, .plate, .digit, .swatch, .ring")].map((e) => {
        const { backgroundColor, boxShadow } = getComputedStyle(e);
        return [e.className, backgroundColor, boxShadow];
    })"""
    before = page.evaluate(read), colour_of(page.locator(".tip"), "color")
    page.emulate_media(forced_colors="active")
    assert colour_of(page.locator("body"), "backgroundColor") == [255, 255, 255]  # they are
    assert (page.evaluate(read), colour_of(page.locator(".tip"), "color")) == before


def test_motion_is_reduced_on_request(page, server):
    read = "getComputedStyle(document.querySelector('h2'), '::after').transitionDuration"
    visit(page, server, "vae")
    page.evaluate("document.querySelector('.panel').setAttribute('aria-busy', 'true')")
    assert page.evaluate(read) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(read) == "0s"


def test_class_is_chosen_for_all_panels(page, server):
    visit(page, server, "cvae")
    assert page.locator("#class").locator("option").all_inner_texts() == [str(digit) for digit in range(10)]
    page.locator(".latents .zero").click()
    settle(page)
    digit = page.locator(".latents .digit")
    for label in (0, 7):
        page.locator("#class").select_option(str(label))
        settle(page)
        outputs = predict(server, "cvae", "decode", z=[SIZE * [0.0]], label=[label])
        assert_shows(digit, levels(outputs["probabilities"])[0])
    draw(page, [(0.3, 0.2), (0.6, 0.2), (0.4, 0.8)])
    first = page.locator(".drawing").inner_text()
    assert "nats" in first
    assert "log p(x | class)" in first
    page.locator("#class").select_option("1")
    settle(page)
    assert page.locator(".drawing").inner_text() != first  # another class, another ELBO
    visit(page, server, "vae")
    assert page.locator("#class").is_hidden()
    assert "class" not in page.locator(".drawing").inner_text()
