"""The page at `/`, in a real browser against the real service: an image, settings, demonstrations, prompt, map."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_service import BERRY, CARD, COLOURS, DOMAINS, OF_EACH, ask, backend_of, cards, picture, serving, settled
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, expect

from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service.config import ServiceConfig

pytest_plugins = ["page_fixtures"]
pytestmark = [pytest.mark.heavy, pytest.mark.slow]


def copied(page: Page) -> str:
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_an_image_gets_its_demonstrations_and_a_filter_holds(page: Page) -> None:
    ask(page)
    expect(page.locator("#vote")).to_have_text("All 7 are berry.")
    expect(page.locator("#items img[src^=blob]")).to_have_count(7)
    scores = [float(text) for text in page.locator("#items .figure span:last-child").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < scores[-1] <= scores[0] <= 1
    assert set(page.locator("#items .domain").all_inner_texts()) == set(DOMAINS)

    page.get_by_text("Filters", exact=False).first.click()
    page.get_by_label("printed").check()
    settled(page)
    assert set(page.locator("#items .domain").all_inner_texts()) == {"printed"}
    expect(page.locator("#left-out-counts")).to_contain_text(f"{3 * OF_EACH} by the domain filter")
    expect(page.locator("#left-out-items")).to_contain_text("the filter by domain does not let it pass")

    page.get_by_role("checkbox", name="<b>sky</b>").check()
    settled(page)
    assert set(cards(page)) == {"<b>sky</b>"}
    page.get_by_role("button", name="Clear settings and filters").click()
    settled(page)
    assert set(cards(page)) == {"berry"}


def test_number_and_strategy_are_obeyed(page: Page) -> None:
    ask(page)
    page.get_by_label("Number").fill("12")
    settled(page)
    assert len(cards(page)) == 12
    page.get_by_label("Quota").select_option("min_per_class")
    settled(page)
    assert set(cards(page)) == set(COLOURS)
    page.get_by_label("Strategy").select_option("random")
    settled(page)
    assert len(cards(page)) == 12


def test_the_prompt_is_copied_whole_and_the_copied_program_asks_for_the_same(page: Page, tmp_path: Path) -> None:
    ask(page)
    page.get_by_label("Number").fill("3")
    settled(page)
    messages: list[dict[str, Any]] = json.loads(copied(page))
    parts = [part for message in messages if message["role"] == "user" for part in message["content"]]
    assert sum(part["type"] == "image_url" for part in parts) == 4
    expect(page.locator("#prompt-text")).to_contain_text("kB")  # pictures are shown cut short

    page.get_by_text("Python", exact=True).click()
    (tmp_path / "asked.py").write_text(copied(page) + "print(json.dumps(messages))\n", encoding="utf-8")
    (tmp_path / "berry.png").write_bytes(picture("berry", 7000))
    ran = subprocess.run([sys.executable, "asked.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == messages


def test_all_of_it_works_from_the_keyboard(page: Page) -> None:
    # Choosers are caught from here on: a listener that is added right before the key may come too late.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    while page.evaluate("document.activeElement.id") != "file":
        page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(BERRY)
    expect(page.locator("#prompt")).to_be_visible()
    press_until(page, "k")
    page.keyboard.press("ArrowDown")
    settled(page)
    assert len(cards(page)) == 6
    while not page.evaluate("document.activeElement.classList.contains('item')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#record")).to_be_visible()
    expect(page.locator("#record-facts")).to_contain_text("domain")
    page.keyboard.press("Escape")
    expect(page.locator("#record")).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "item"
    press_until(page, "copy")
    page.keyboard.press("Enter")
    expect(page.locator("#copy")).to_have_text("Copied")


def night() -> bytes:
    """A PNG file that is all black."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    return file.getvalue()


def press_until(page: Page, wanted: str) -> None:
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == wanted:
            return
    raise AssertionError(f"Tab never comes to {wanted}")


def test_a_picture_can_be_pasted_and_dropped(page: Page) -> None:
    for event in ("paste", "drop"):
        page.evaluate(
            """async ([event, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], `${event}.png`, {type: "image/png"}));
                const made = event === "paste"
                    ? new ClipboardEvent(event, {clipboardData: data, bubbles: true})
                    : new DragEvent(event, {dataTransfer: data, bubbles: true, cancelable: true});
                document.body.dispatchEvent(made);
            }""",
            [event, list(picture("leaf", 7001))],
        )
        expect(page.locator("#status")).to_contain_text(f"7 demonstrations for {event}.png")
        assert set(cards(page)) == {"leaf"}


def test_of_two_pictures_the_later_one_counts_however_long_the_first_takes_to_read(page: Page) -> None:
    page.evaluate(
        """(files) => {
            const read = FileReader.prototype.readAsDataURL;
            FileReader.prototype.readAsDataURL = function (file) {
                setTimeout(() => read.call(this, file), file.name === "first.png" ? 500 : 0);
            };
            for (const [name, bytes] of files) {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
                document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
            }
        }""",
        [["first.png", list(picture("leaf", 7001))], ["second.png", list(picture("berry", 7002))]],
    )
    expect(page.locator("#status")).to_contain_text("7 demonstrations for second.png")
    page.wait_for_timeout(700)
    settled(page)
    expect(page.locator("#status")).to_contain_text("7 demonstrations for second.png")
    expect(page.locator("#drop-title")).to_have_text("second.png")


def test_what_the_service_was_started_with_is_asked_for_until_the_visitor_says_otherwise(
    browser: Browser, folder: Path
) -> None:
    select = SelectConfig(diversity=DiversityConfig(lam=0.75))
    with serving(backend_of(folder), ServiceConfig(select=select)) as address:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        bodies: list[Any] = []

        def heard(one: Request) -> None:
            if "demonstrations" in one.url:
                bodies.append(one.post_data_json)

        page.on("request", heard)
        page.goto(address)
        ask(page)
        page.get_by_label("Diversity").fill("0.4")
        settled(page)
        page.locator("#reset").evaluate("button => button.click()")
        settled(page)
        page.close()
    assert [body.get("diversity") for body in bodies] == [None, {"lam": 0.6}, None]


def test_an_image_chosen_before_the_page_is_ready_is_asked_with_once(browser: Browser, folder: Path) -> None:
    with serving(backend_of(folder), ServiceConfig()) as address:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        asked: list[str] = []
        held: list[Route] = []
        page.on("request", lambda one: asked.append(one.url))
        page.route("**/v1/map*", lambda route: held.append(route))
        with page.expect_request("**/v1/map*"):
            page.goto(address)
        page.set_input_files("#file", BERRY)
        expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#status")).to_have_text("Connecting to the index")
        held[0].continue_()
        expect(page.locator("#prompt")).to_be_visible()
        settled(page)
        page.close()
    assert sum(url.endswith("demonstrations") for url in asked) == 1


def test_an_image_of_the_index_can_be_asked_with_and_is_not_its_own_demonstration(page: Page) -> None:
    page.locator("#samples button").first.click()
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator("#left-out-items")).to_contain_text("it looks the same")


def test_an_image_unlike_all_others_comes_with_a_warning(page: Page) -> None:
    ask(page)
    expect(page.locator("#warnings li")).to_have_count(0)
    page.set_input_files("#file", {"name": "night.png", "mimeType": "image/png", "buffer": night()})
    expect(page.locator("#warnings")).to_contain_text("nothing that the filters leave is much like this image")


def test_the_query_stands_on_the_map_in_the_colours_of_its_demonstrations(page: Page) -> None:
    expect(page.locator("#legend")).not_to_contain_text("your image")
    ask(page)
    expect(page.locator("#legend")).to_contain_text("your image")
    expect(page.locator("#canvas")).to_have_attribute(
        "aria-label", f"Map of {6 * OF_EACH} images, coloured by label; your image lies among berry, <b>sky</b>, leaf"
    )
    page.get_by_text("Domain", exact=True).click()
    expect(page.locator("#legend button")).to_have_count(2)
    assert set(page.locator("#legend button").all_inner_texts()) == set(DOMAINS)
    page.locator("#legend button").first.click()
    expect(page.locator("#legend button").first).to_have_attribute("aria-pressed", "true")
    colours = page.evaluate(
        """() => {
            const {width, height} = canvas;
            const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) if (data[i + 3]) seen.add(data.slice(i, i + 3).join());
            return seen.size;
        }"""
    )
    assert colours > 5


def test_the_card_of_the_encoder_can_be_saved(page: Page) -> None:
    with page.expect_download() as saved:
        page.get_by_role("link", name="what the encoder ignores").click()
    assert saved.value.suggested_filename == "card.json"
    assert saved.value.path().read_text(encoding="utf-8") == CARD
