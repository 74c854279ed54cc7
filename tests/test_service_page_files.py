"""The files of the page as they are served, without a browser."""

import re
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from viewfold.retrieval.service.routes_page import FOLDER, MEDIA, router


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


class Addresses(HTMLParser):
    """Every address that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {str(value) for name, value in attrs if name in ("src", "href")}


def test_the_page_may_load_nothing_from_elsewhere_and_runs_no_inline_code(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_all_that_the_page_names_is_there_and_under_any_prefix(client: TestClient) -> None:
    page = Addresses()
    page.feed((FOLDER / "index.html").read_text(encoding="utf-8"))
    assert all(not re.match(r"/|\w+:", address) for address in page.found)  # relative, all of them
    named = {address for address in page.found if address.startswith("static/")}
    assert {"static/page.js", "static/page.css"} <= named
    assert {client.get(f"/{address}").status_code for address in named} == {200}


def test_every_module_that_a_script_imports_is_there(client: TestClient) -> None:
    scripts = sorted(FOLDER.glob("*.js"))
    imported = {
        name for path in scripts for name in re.findall(r'from "\./([\w.]+)"', path.read_text(encoding="utf-8"))
    }
    assert imported
    for name in imported:
        assert client.get(f"/static/{name}").headers["content-type"] == MEDIA[".js"]


def test_no_file_holds_markup_in_strings_or_foreign_addresses() -> None:
    for path in FOLDER.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}, path.name


def test_a_browser_that_has_a_file_is_not_sent_it_again(client: TestClient) -> None:
    first = client.get("/static/page.css")
    second = client.get("/static/page.css", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.content) == (304, b"")
    assert client.get("/static/page.css", headers={"If-None-Match": '"older"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2froutes_page.py", "%2e%2e/app.py"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404
