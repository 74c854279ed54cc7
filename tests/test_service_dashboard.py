"""The dashboard asks for metrics and labels that the service has, and its panels lie beside one another."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from viewfold.retrieval.service import metrics

BOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "viewfold.json"
SCRAPED = {"instance", "job", "le"}
"""Labels that Prometheus adds, and that of the buckets."""


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
    return found


def served() -> dict[str, set[str]]:
    """The labels of each series that Prometheus can have of the service."""
    found: dict[str, set[str]] = {}
    for metric in (value for value in vars(metrics).values() if hasattr(value, "_labelnames")):
        labels = set(metric._labelnames)
        endings = ("_bucket", "_sum", "_count") if metric._type == "histogram" else ("",)
        ending = "_total" if metric._type == "counter" else ""
        found |= {metric._name + ending + suffix: labels for suffix in endings}
    return found


def test_every_metric_and_label_that_is_asked_for_is_served(board: dict[str, Any]) -> None:
    known = served()
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(asked) > 12
    for expression in asked:
        names = set(re.findall(r"viewfold_\w+", expression))
        assert names <= set(known), expression
        labels = SCRAPED.union(*(known[name] for name in names))
        used = {
            label for group in re.findall(r"(?:by|ignoring) \(([\w, ]+)\)", expression) for label in group.split(", ")
        }
        used |= set(re.findall(r'(\w+)(?:=~|=)"', expression))
        assert used <= labels, expression
    variables = [entry["query"] for entry in board["templating"]["list"] if entry["type"] == "query"]
    assert {name for query in variables for name in re.findall(r"viewfold_\w+", query)} <= set(known)


def test_all_that_the_service_counts_is_shown(board: dict[str, Any]) -> None:
    text = json.dumps(board)
    assert {name for name in served() if name not in text and not name.endswith(("_sum", "_count", "_bucket"))} == set()


def test_panels_do_not_overlap_and_have_titles_of_their_own(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in board["panels"]):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for name in ("id", "title"):
        assert len({panel[name] for panel in board["panels"]}) == len(board["panels"])
