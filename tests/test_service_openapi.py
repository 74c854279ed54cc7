"""What the service says of itself."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from viewfold.retrieval.service.__main__ import description
from viewfold.retrieval.service.schemas import QueryBody, SettingsBody

pytestmark = pytest.mark.slow

COMMITTED = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def described() -> str:
    return description()


@pytest.fixture(scope="module")
def schema(described: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(described)
    return found


def test_the_committed_description_is_the_services_own(described: str) -> None:
    told = "run `python -m viewfold.retrieval.service > docs/openapi.json`"
    assert COMMITTED.read_text(encoding="utf-8") == described, told


def test_every_reference_leads_somewhere_and_none_is_left_over(schema: dict[str, Any]) -> None:
    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert references(schema) <= known
    assert known - references(schema) == set()


def test_the_body_of_demonstrations_is_all_that_is_read_and_nothing_else(schema: dict[str, Any]) -> None:
    body = schema["components"]["schemas"]["DemonstrationsBody"]
    assert set(body["properties"]) == {field.name for kind in (QueryBody, SettingsBody) for field in fields(kind)}
    assert body["additionalProperties"] is False
    assert all("description" in told for told in body["properties"].values())


def test_every_route_of_the_api_tells_its_errors(schema: dict[str, Any]) -> None:
    for path, methods in schema["paths"].items():
        for told in methods.values():
            assert {"401", "422", "503", "504"} <= set(told["responses"]), path
    assert {"/v1/demonstrations", "/v1/search", "/v1/embed", "/v1/messages", "/readyz"} <= set(schema["paths"])
