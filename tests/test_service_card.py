"""The card of the encoder, as the service gives it out."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from served import backend, built, client

from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import ServiceConfig


@pytest.mark.parametrize(
    ("name", "kind", "shown"), [("card.json", "application/json", None), ("card.html", "octet-stream", "attachment")]
)
def test_the_card_is_given_as_it_was_indexed_and_a_page_is_shown_by_no_browser(
    tmp_path: Path, name: str, kind: str, shown: str | None
) -> None:
    (tmp_path / name).write_text('{"measures": 1}', encoding="utf-8")
    bundle = built(tmp_path / "bundle", count=4, card=tmp_path / name)
    served = backend(bundle.folder)
    (bundle.folder / name).write_text("what another build put in its place", encoding="utf-8")
    answer = TestClient(make_app(served, ServiceConfig()), base_url="http://127.0.0.1").get("/v1/card")
    assert (answer.status_code, answer.text) == (200, '{"measures": 1}')
    assert answer.headers["content-type"].endswith(kind)
    assert answer.headers.get("content-disposition") == shown


def test_an_index_without_a_card_says_so(tmp_path: Path) -> None:
    answer = client(built(tmp_path / "bundle", count=4).folder).get("/v1/card")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
