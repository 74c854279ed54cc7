"""Fixtures of the tests of the page: a small index behind the service, and the page in a browser.

Test files name this in `pytest_plugins`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_service import CARD, backend_of, chromium, serving, write_bundle
from playwright.sync_api import Browser, BrowserContext, Page, expect

from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.local import LocalBackend

expect.set_options(timeout=20_000)  # the machine may have other things to do

WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    (made / "card.json").write_text(CARD, encoding="utf-8")
    return write_bundle(made / "bundle", card=made / "card.json").folder


@pytest.fixture(scope="module")
def backend(folder: Path) -> LocalBackend:
    return backend_of(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(backend: LocalBackend, browser: Browser) -> Iterator[str]:
    with serving(backend, ServiceConfig(limits=LimitsConfig(max_body_bytes=100_000))) as address:
        yield address


@pytest.fixture
def context(browser: Browser, url: str) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport=WIDE, permissions=["clipboard-read", "clipboard-write"])  # type: ignore[arg-type]
    made.set_default_timeout(20_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, url: str) -> Iterator[Page]:
    """The page, with the index loaded; that it complained of nothing and stayed at home is checked at the end."""
    opened = context.new_page()
    complaints: list[str] = []
    elsewhere: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None
    )
    opened.on(
        "request", lambda one: elsewhere.append(one.url) if not one.url.startswith((url, "blob:" + url)) else None
    )
    opened.goto(url)
    expect(opened.locator("#samples img[src]").first).to_be_visible()
    yield opened
    assert (complaints, elsewhere) == ([], [])
