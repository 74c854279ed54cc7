"""The documentation, done as it says: each page from top to bottom, in one folder, with one finished run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest
from docs_blocks import PAGES, Block, blocks_of, name_of
from docs_reader import Reader, Services
from docs_sandbox import make_ready, make_sandbox

from viewfold.ssl.backbones import BACKBONES

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[Path]:
    """The working folder of all pages; MLflow's files are in it, at places that a copy would not have."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("VIEWFOLD_SERVICE_KEYS", raising=False)
        patch.chdir(folder)
        make_sandbox(folder)
        yield folder


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Those that pages start, each once: what they serve stays."""
    with ExitStack() as stack:
        yield Services(stack)


@pytest.fixture
def beside(sandbox: Path) -> Iterator[Path]:
    """The sandbox, from which what a page has made goes when the page is over."""
    before = {*sandbox.iterdir(), *(sandbox / "runs").iterdir()}
    backbones, environment = dict(BACKBONES), dict(os.environ)
    make_ready(sandbox)
    yield sandbox
    BACKBONES.clear()  # of those that a page has added
    BACKBONES.update(backbones)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # what it starts with; it sets the environment, too
    os.environ.clear()
    os.environ.update(environment)
    for made in {*sandbox.iterdir(), *(sandbox / "runs").iterdir()} - before:
        shutil.rmtree(made) if made.is_dir() else os.unlink(made)


def shown(page: Path) -> list[Block]:
    return [block for block in blocks_of(name_of(page), page.read_text(encoding="utf-8")) if block.language != "text"]


@pytest.mark.parametrize("page", [page for page in PAGES if shown(page)], ids=name_of)
def test_the_page_does_what_it_shows(page: Path, beside: Path, services: Services) -> None:
    with ExitStack() as stack:
        reader = Reader(beside, stack, services)
        for block in shown(page):
            reader.read(block)
    assert len(reader.outcomes) >= len(shown(page))
