"""A real browser, without a window: Debian's Chromium, driven by Playwright."""

import shutil
from typing import Iterator
from urllib.parse import urlsplit

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")  # names of the program
HERE = ("127.0.0.1", "localhost")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a made-up one
MAX_WAIT = 20_000  # ms, for what a test waits for; the machine may be busy


@pytest.fixture(scope="module")
def browser():
    """Playwright's; skips where there is no Chromium.

    Of a module, not of the session: while it runs, no ``asyncio.run`` does in this thread.
    """
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("there is no Chromium to open pages in: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        # a container's root may not use its sandbox, and its /dev/shm may be small
        flags = ["--no-sandbox", "--disable-dev-shm-usage", *CAMERA]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """Playwright's page, as wide as a desktop's; ``page.set_viewport_size(PHONE)`` is a phone's.

    The test fails if the page asks for anything beyond this machine, or throws an error.
    """
    context = browser.new_context(viewport=DESKTOP, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(MAX_WAIT)
    outside, errors = [], []

    def let_pass(route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in HERE:
            outside.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    context.route("**/*", let_pass)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not outside, f"the page asks for {outside}"
    assert not errors, f"the page throws {errors}"
