"""The page in a real browser, against a real server.

One server and one browser serve all of them. Nothing here depends on what the model can do.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.http.keys import digest_of, new_key
from tests.service.pictures import as_file, gradient
from tests.service.probes import value, wait_for

CHROMIUM = "/usr/bin/chromium"
# Of the sandbox, which needs rights that containers have not, and of what it would ask elsewhere.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
KEY = new_key()
PNG = as_file(gradient())
SLOW = 400  # steps that take seconds

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def guarded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that asks for a key."""
    arguments = [f"--checkpoint={checkpoint}", "--threads=1", "--cache-bytes=0"]
    arguments.append(f"--api-keys=anne:{digest_of(KEY)}")
    log = tmp_path_factory.mktemp("guarded") / "server.log"
    with ServerProcess(arguments, log=log) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(
            f"there is no {CHROMIUM}: install the packages of apt-packages.txt (make tools)"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


class Visit:
    """A page that has the key, and all that it logged and asked for."""

    def __init__(self, browser: Browser, url: str, *, key: str | None = KEY) -> None:
        self.context = browser.new_context(color_scheme="light", accept_downloads=True)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.page.on(
            "console", lambda message: self.logged.append(f"{message.type}: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.logged.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        if key is not None:
            self.page.add_init_script(f"sessionStorage.setItem('flowmo-key', '{key}')")
        self.url = url

    def open(self, address: str = "") -> Page:
        self.page.goto(f"{self.url}/{address}")
        return self.page

    def decoded(self, times: int) -> None:
        """Wait until so many pictures have been decoded to their end."""
        expect(self.page.locator("html")).to_have_attribute("data-decoded", str(times))

    def drop(self, data: bytes, name: str) -> None:
        """Drop a file on the page."""
        made = self.page.evaluate_handle(
            """([bytes, name]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], name));
                return transfer;
            }""",
            [list(data), name],
        )
        self.page.dispatch_event("#stage", "drop", {"dataTransfer": made})

    def pixels(self, canvas: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        width, height, data = self.page.evaluate(
            """(id) => {
                const canvas = document.getElementById(id);
                const { width, height } = canvas;
                const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                return [width, height, Array.from(data)];
            }""",
            canvas,
        )
        return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


@pytest.fixture
def visit(browser: Browser, guarded: ServerProcess) -> Iterator[Visit]:
    """A page that must not have logged anything, nor asked anybody but its server."""
    visit = Visit(browser, guarded.url)
    yield visit
    visit.context.close()
    assert visit.logged == []
    assert {url for url in visit.asked if not url.startswith((guarded.url, "blob:"))} == set()


@pytest.fixture(scope="module")
def api(guarded: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=60.0) as client:
        yield client


def read(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def set_steps(page: Page, steps: int) -> None:
    page.evaluate(
        """(steps) => {
            const slider = document.querySelector("[name=steps]");
            slider.max = Math.max(slider.max, steps);
            slider.value = steps;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        steps,
    )


def test_a_dropped_photo_comes_back_as_the_api_decodes_it(visit: Visit, api: httpx.Client) -> None:
    page = visit.open()
    visit.decoded(1)  # a sample
    visit.drop(PNG, "mine.png")
    visit.decoded(2)
    picture = api.post("/v1/reconstruct", files={"image": PNG}).content
    np.testing.assert_array_equal(visit.pixels("reconstruction"), read(picture))
    expect(page.locator("#bytes")).to_have_text("24 bytes")
    expect(page.locator("#bpp")).to_have_text("0.188")
    expect(page.locator("#psnr")).to_contain_text("dB")
    expect(page.locator("#stages li")).to_have_count(5)
    expect(page.locator("#codecs figcaption")).to_contain_text(["Tokens", "JPEG", "WebP"])

    with page.expect_download() as download:
        page.get_by_role("button", name=".flowmo", exact=True).click()
    saved = download.value.path().read_bytes()
    accept = {"Accept": MEDIA_TYPE}
    assert saved == api.post("/v1/tokenize", files={"image": PNG}, headers=accept).content

    visit.drop(saved, "mine.flowmo")
    visit.decoded(3)
    np.testing.assert_array_equal(visit.pixels("reconstruction"), read(picture))
    expect(page.locator("#original")).to_be_hidden()


def test_a_preview_that_is_read_late_does_not_cover_the_picture(
    visit: Visit, api: httpx.Client
) -> None:
    visit.page.add_init_script(
        """(() => {
            const read = window.createImageBitmap.bind(window);
            window.late = 0; // of what is read, the first takes longest
            window.createImageBitmap = async (...given) => {
                const bitmap = await read(...given);
                const seconds = (window.late = Math.max(0, window.late - 1));
                await new Promise((then) => setTimeout(then, 200 * seconds));
                return bitmap;
            };
        })()"""
    )
    page = visit.open()
    visit.decoded(1)
    answer = api.post("/v1/tokenize", files={"image": PNG}, headers={"Accept": MEDIA_TYPE})
    page.evaluate("window.late = 4")  # three previews, and the picture after them at once
    set_steps(page, 4)
    visit.decoded(2)
    page.evaluate("window.late = 4")
    visit.drop(answer.content, "mine.flowmo")
    visit.decoded(3)
    page.wait_for_timeout(1000)  # until the previews have been read
    query = {"steps": 4}
    headers = {"Content-Type": MEDIA_TYPE}
    picture = api.post("/v1/detokenize", content=answer.content, params=query, headers=headers)
    np.testing.assert_array_equal(visit.pixels("reconstruction"), read(picture.content))


def test_edited_tokens_are_decoded_saved_and_linked(
    visit: Visit, browser: Browser, api: httpx.Client
) -> None:
    page = visit.open()
    visit.decoded(1)
    before = visit.pixels("reconstruction")
    cell = page.get_by_role("gridcell", name="token 1", exact=True)
    cell.press("ArrowRight")
    page.get_by_role("gridcell", name="token 2", exact=True).press("Enter")
    visit.decoded(2)
    expect(page.get_by_role("gridcell", name="token 2, changed")).to_be_visible()
    changed = visit.pixels("reconstruction")
    assert np.abs(changed.astype(int) - before).max() > 0

    with page.expect_download() as download:
        page.get_by_role("button", name=".flowmo", exact=True).click()
    saved = download.value.path().read_bytes()
    Container.from_bytes(saved)
    picture = api.post("/v1/detokenize", content=saved, headers={"Content-Type": MEDIA_TYPE})
    np.testing.assert_array_equal(changed, read(picture.content))

    page.get_by_role("button", name="Copy link").click()
    expect(page).to_have_url(re.compile("#.*tokens="))
    other = Visit(browser, visit.url)
    other.open(page.url.removeprefix(f"{visit.url}/"))
    expect(other.page.get_by_role("gridcell", name="token 2, changed")).to_be_visible()
    other.decoded(1)
    np.testing.assert_array_equal(other.pixels("reconstruction"), changed)
    other.context.close()

    page.get_by_role("button", name="Restore all").click()
    visit.decoded(3)
    np.testing.assert_array_equal(visit.pixels("reconstruction"), before)


def test_a_second_photo_is_mixed_in(visit: Visit) -> None:
    page = visit.open()
    visit.decoded(1)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a second photo").click()
    chooser.value.set_files({"name": "b.png", "mimeType": "image/png", "buffer": PNG})
    visit.decoded(2)
    page.get_by_role("button", name="Left and right").click()
    visit.decoded(3)
    changed = page.locator("#map .changed")
    # The sample is 96 x 64 pixels, 4 x 3 tiles of 16 tokens: those of the two right columns, less
    # those that are equal.
    places = changed.evaluate_all("(cells) => cells.map((cell) => Number(cell.dataset.index))")
    assert {index // 16 % 4 for index in places} == {2, 3}
    assert 64 < len(places) <= 96
    page.get_by_role("button", name="Without it").click()
    visit.decoded(4)
    expect(changed).to_have_count(0)


def test_a_photo_stays_as_it_is_or_becomes_one_square(visit: Visit, api: httpx.Client) -> None:
    page = visit.open()
    visit.decoded(1)
    assert visit.pixels("reconstruction").shape == (64, 96, 3)  # of 451 x 300
    expect(page.locator("#tokens-text")).to_contain_text("192 tokens")
    page.get_by_label("Longer side at most").select_option("64")
    visit.decoded(2)
    assert visit.pixels("reconstruction").shape == (43, 64, 3)

    page.get_by_role("gridcell", name="token 90", exact=True).press("Enter")
    visit.decoded(3)
    with page.expect_download() as download:
        page.get_by_role("button", name=".flowmo", exact=True).click()
    saved = download.value.path().read_bytes()
    container = Container.from_bytes(saved)
    assert (container.width, container.height, container.tokens.tile_count) == (64, 43, 6)
    picture = api.post("/v1/detokenize", content=saved, headers={"Content-Type": MEDIA_TYPE})
    np.testing.assert_array_equal(visit.pixels("reconstruction"), read(picture.content))
    visit.drop(saved, "mine.flowmo")
    visit.decoded(4)
    np.testing.assert_array_equal(visit.pixels("reconstruction"), read(picture.content))
    page.get_by_role("gridcell", name="token 2", exact=True).press("Enter")  # it is read, too
    visit.decoded(5)

    page.locator("#samples button").first.click()
    visit.decoded(6)
    page.get_by_text("crop", exact=True).click()
    visit.decoded(7)
    assert visit.pixels("reconstruction").shape == (32, 32, 3)
    expect(page.get_by_label("Longer side at most")).to_be_disabled()


def test_a_turned_knob_cancels_the_decode_under_way(visit: Visit, api: httpx.Client) -> None:
    page = visit.open()
    visit.decoded(1)
    labels = {"model": api.get("/v1/models").json()["models"][0]["name"], "reason": "cancelled"}
    saved = value(api, "flowmo_steps_saved_total", **labels)
    set_steps(page, SLOW)
    expect(page.locator("#status")).to_have_text(re.compile(rf"step \d+ of {SLOW}"))
    set_steps(page, 3)
    wait_for(api, "flowmo_steps_saved_total", saved + 1, **labels)
    expect(page.locator("#status")).to_have_text("")
    visit.decoded(2)


def test_a_wrong_key_is_said_and_a_right_one_stays_in_the_tab(
    browser: Browser, guarded: ServerProcess
) -> None:
    visit = Visit(browser, guarded.url, key=None)
    page = visit.open()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog.get_by_text("does not know that key")).to_be_visible()
    dialog.get_by_label("API key").fill(KEY)
    dialog.get_by_role("button", name="Use it").click()
    visit.decoded(1)
    page.reload()
    visit.decoded(1)
    assert page.evaluate("localStorage.length") == 0
    assert visit.context.cookies() == []
    elsewhere = visit.context.new_page()
    elsewhere.goto(guarded.url)
    expect(elsewhere.get_by_role("dialog")).to_be_visible()
    visit.context.close()


def test_a_busy_server_is_asked_again_when_it_said_and_a_lost_one_when_it_is_back(
    browser: Browser, guarded: ServerProcess
) -> None:
    visit = Visit(browser, guarded.url)
    page = visit.open()
    visit.decoded(1)
    failures = ["busy", "gone"]

    def fail(route: Route) -> None:
        if not failures:
            route.continue_()
        elif failures.pop(0) == "busy":
            problem = '{"status": 429, "code": "queue-full", "detail": "64 requests are inside"}'
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            route.fulfill(status=429, headers=headers, body=problem)
        else:
            route.abort("connectionrefused")

    page.route("**/v1/detokenize*", fail)
    page.get_by_role("button", name="Another seed").click()
    banner = page.locator("#banner")
    expect(banner).to_have_text(re.compile(r"busy \(429\): 64 requests are inside\. Trying again"))
    expect(banner).to_have_text(re.compile("cannot be reached. Trying again"))
    visit.decoded(2)
    expect(banner).to_be_hidden()
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(visit: Visit, scheme: Any, tmp_path: Path) -> None:
    page = visit.open()
    page.emulate_media(color_scheme=scheme)
    visit.decoded(1)
    expect(page.locator("#codecs figure")).to_have_count(3)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_divider_and_the_page_work_by_keyboard_and_on_a_phone(visit: Visit) -> None:
    page = visit.open()
    visit.decoded(1)
    divider = page.get_by_role("slider", name="Divider")
    divider.press("Home")
    expect(divider).to_have_value("0")
    page.set_viewport_size({"width": 360, "height": 740})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360


def test_the_documentation_of_the_api_needs_nothing_from_elsewhere(visit: Visit) -> None:
    page = visit.open("docs")
    expect(page.get_by_text("/v1/detokenize", exact=True)).to_be_visible()


def test_the_page_works_behind_a_path_prefix(browser: Browser, guarded: ServerProcess) -> None:
    visit = Visit(browser, "http://proxy.example")

    def forward(route: Route) -> None:
        path = route.request.url.removeprefix("http://proxy.example/images")
        answer = route.fetch(url=f"{guarded.url}{path}")
        route.fulfill(response=answer)

    visit.page.route("http://proxy.example/images/**", forward)
    visit.page.route("http://proxy.example/*", lambda route: route.abort())
    visit.open("images/")
    visit.decoded(1)
    assert all(url.startswith(("http://proxy.example/images/", "blob:")) for url in visit.asked)
    visit.context.close()
