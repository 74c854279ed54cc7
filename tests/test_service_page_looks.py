"""How the page looks: on a phone, in the dark, to those who see or hear it otherwise."""

import pytest
from page_service import ask
from playwright.sync_api import Page, expect

pytest_plugins = ["page_fixtures"]
pytestmark = [pytest.mark.heavy, pytest.mark.slow]

PHONE = {"width": 375, "height": 812}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(page: Page, theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert fits(page)
    ask(page)
    for summary in page.locator("summary").all():
        summary.click()
    assert fits(page)
    page.locator("#items button").first.click()
    assert fits(page)


def fits(page: Page) -> bool:
    wide: bool = page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth
            && [...document.querySelectorAll("main *, header *")]
                .filter((node) => node.offsetParent && !node.closest(".hidden, pre, .segments input"))
                .every((node) => node.getBoundingClientRect().right <= innerWidth + 1)"""
    )
    return wide


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page: Page, theme: str) -> None:
    """WCAG 2: at least 4.5 to 1, computed of the colours that the browser resolved."""
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    ask(page)
    poor = page.evaluate(
        """() => {
            const channels = (text) => text.match(/[\\d.]+/g).map(Number);
            const linear = (c) => (c <= 10.3 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
            const light = (text) => {
                const [r, g, b] = channels(text).map(linear);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (node) => {
                for (; node; node = node.parentElement) {
                    const colour = getComputedStyle(node).backgroundColor;
                    if (channels(colour)[3] !== 0) return colour;
                }
                return "rgb(255, 255, 255)";
            };
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const poor = [];
            while (texts.nextNode()) {
                const node = texts.currentNode.parentElement;
                if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
                if (node.closest("svg, noscript")) continue;
                const pair = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
                const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
                if (ratio < 4.5) poor.push([texts.currentNode.data, ratio]);
            }
            return poor;
        }"""
    )
    assert poor == []


def test_the_theme_is_that_of_the_system_until_another_is_chosen(page: Page, url: str) -> None:
    def ground() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    page.get_by_role("button", name="Light").click()
    assert ground() == light
    page.goto(url)
    assert ground() == light
    expect(page.locator("#theme")).to_have_text("Dark")


def test_every_control_has_a_name(page: Page) -> None:
    ask(page)
    for summary in page.locator("summary").all():
        summary.click()
    unnamed = page.evaluate(
        """() => {
            const inside = "img[alt]:not([alt=''])";
            const name = (node) => node.labels?.[0]?.textContent || node.ariaLabel || node.textContent
                || node.querySelector(inside)?.alt || "";
            return [...document.querySelectorAll("input, select, button, summary, canvas, pre[tabindex]")]
                .filter((node) => node.checkVisibility() && !name(node).trim())
                .map((node) => node.outerHTML);
        }"""
    )
    assert unnamed == []
