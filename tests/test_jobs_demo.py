"""The demo in a few steps: its page and its numbers, not what is learned."""

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from viewfold.jobs.demo import run_demo
from viewfold.jobs.recipes import emoji_demo, objects_demo
from viewfold.jobs.report import TITLES, measures
from viewfold.jobs.run_config import RunConfig

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


def short(recipe: Callable[[], RunConfig]) -> Callable[[], RunConfig]:
    """The recipe in four steps a training, registered under another name."""
    config = recipe()
    assert config.pretrain is not None
    pretrain = replace(config.pretrain, steps=4, log_every=2)
    adapt = config.adapt and replace(config.adapt, steps=4, log_every=2)
    name = config.register_as and "viewfold-short-demo"
    return lambda: replace(config, pretrain=pretrain, adapt=adapt, register_as=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A finished short demo."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    run_demo(out, {"objects": short(objects_demo), "emoji": short(emoji_demo)})
    return out


class Resources(HTMLParser):
    """Collects what a page would load from elsewhere, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]


def test_the_report_stands_alone_and_shows_every_query(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = Resources()
    found.feed(page)
    assert [source for source in found.sources if not source.startswith(("data:", "#"))] == []
    assert found.tags.count("h2") == 8
    comparison = json.loads((folder / "emoji" / "compare" / "comparison.json").read_text())
    assert page.count("query: ") == len(comparison["gallery_labels"]) == 6
    assert found.tags.count("img") == 6 * (1 + 2 * comparison["k"]) + 2
    assert found.tags.count("svg") == 5


def test_the_results_hold_each_printed_number_beside_its_chance(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    card = results["objects"]["evaluate"]
    trained, untrained = measures(card, "trained"), measures(card, "untrained")
    assert set(TITLES) <= set(trained)
    assert list(trained) == list(untrained)
    assert all(isinstance(measure["chance"], float) for measure in trained.values())
    # The yaw-only law: a predictor that never looks scores 0.6 by the published formula and 0 by the weighted one.
    official, weighted = trained["equivariant/rotation/r2_official"], trained["equivariant/rotation/r2"]
    assert official["chance"] == pytest.approx(0.59, abs=0.03)
    assert weighted["chance"] == pytest.approx(0, abs=0.02)
    selectors = results["emoji"]["compare"]["selectors"]
    assert list(selectors) == ["random", "nearest-untrained", "nearest-pretrained", "invariant"]
    assert results["emoji"]["compare"]["queries"] == 180
    random = selectors["random"]
    assert random["precision"]["low"] <= random["chance_precision"] <= random["precision"]["high"]


def test_a_second_demo_finds_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "objects" / "pretrain" / "stage.json").read_text()
    capsys.readouterr()
    run_demo(folder, {"objects": short(objects_demo), "emoji": short(emoji_demo)})
    printed = capsys.readouterr().out
    assert (folder / "objects" / "pretrain" / "stage.json").read_text() == before
    assert printed.count("found") == 12
    assert "viewfold ask" in printed
