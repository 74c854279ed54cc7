"""What the page says where something goes wrong, is exchanged or is locked."""

from pathlib import Path

import pytest
from page_service import BERRY, CARD, OF_EACH, ask, backend_of, cards, serving, settled, write_bundle
from playwright.sync_api import Browser, BrowserContext, Page, expect

from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend

pytest_plugins = ["page_fixtures"]
pytestmark = [pytest.mark.heavy, pytest.mark.slow]

KEY = "a key of sixteen letters".replace(" ", "-")


def test_what_is_no_image_is_answered_kindly_and_the_next_image_works(page: Page) -> None:
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    page.set_input_files("#file", broken)  # type: ignore[arg-type]
    expect(page.locator("#problem-words")).to_contain_text("image")
    expect(page.locator("#problem-id")).to_contain_text("Request ")
    expect(page.locator("#retry")).to_be_hidden()  # it would be refused again
    expect(page.locator("#demos")).to_be_hidden()
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    page.set_input_files("#file", text)  # type: ignore[arg-type]
    expect(page.locator("#problem-words")).to_have_text(
        "notes.txt is not an image. Take a picture such as a JPEG, PNG or WebP file."
    )
    large = {"name": "large.png", "mimeType": "image/png", "buffer": b"0" * 80_000}
    page.set_input_files("#file", large)  # type: ignore[arg-type]
    expect(page.locator("#problem-words")).to_contain_text("too large: the service takes up to 75 kB")
    ask(page)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_service_that_is_gone_is_said_and_tried_again(page: Page, context: BrowserContext) -> None:
    context.set_offline(True)
    page.set_input_files("#file", BERRY)
    expect(page.locator("#problem-words")).to_have_text("The service cannot be reached. Is it still running?")
    context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()


def test_an_index_that_takes_the_place_of_another_is_noticed_once(
    page: Page, backend: LocalBackend, tmp_path: Path
) -> None:
    ask(page)
    expect(page.locator("#served")).to_contain_text(f"{6 * OF_EACH} images")
    reads: list[str] = []
    page.on("request", lambda one: reads.append(one.url) if one.url.endswith("/v1/indexes") else None)
    backend.load(str(write_bundle(tmp_path / "bundle", of_each=4).folder))
    try:
        page.get_by_label("Number").fill("5")
        expect(page.locator("#served")).to_contain_text("24 images")
        expect(page.locator("#swapped")).to_contain_text("The index was exchanged at")
        settled(page)
        assert len(cards(page)) == 5
        expect(page.locator("#items img[src^=blob]")).to_have_count(5)
        assert len(reads) == 1
    finally:
        backend.load()


def test_a_service_with_keys_asks_for_one(browser: Browser, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY, encoding="utf-8")
    with serving(backend_of(folder), ServiceConfig(keys_file=str(keys))) as address:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(address)
        expect(page.get_by_label("This service asks for a key")).to_be_focused()
        page.keyboard.type("a-wrong-key-of-some-length")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_have_text("That key is not accepted.")
        page.get_by_label("This service asks for a key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        ask(page)
        expect(page.locator("#items img[src^=blob]")).to_have_count(7)
        expect(page.locator("#key-form")).to_be_hidden()
        with page.expect_download() as saved:
            page.get_by_role("link", name="what the encoder ignores").click()
        assert saved.value.path().read_text(encoding="utf-8") == CARD
        page.get_by_text("Python", exact=True).click()
        expect(page.locator("#prompt-text")).to_contain_text("VIEWFOLD_KEY")
        expect(page.locator("#prompt-text")).not_to_contain_text(KEY)
        page.close()
