"""Following a name in the registry: what a moved alias brings, and what a bad version or a silent registry does not."""

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pools import pool

from viewfold.errors import InvalidInput
from viewfold.jobs.serve_watch import Watched, follow, is_alias
from viewfold.retrieval import IndexBundle, build_bundle
from viewfold.retrieval.service.local import LocalBackend, Opened

SIDE = 4


class Thumbnail:
    """An encoder: the pixels of a small picture."""

    id = "thumbnail"
    size = SIDE

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        pictures = [Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE)) for data in images]
        return [np.asarray(picture, dtype=np.float32).ravel() for picture in pictures]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles of versions 1 to 3, of which the second is damaged."""
    folder = tmp_path_factory.mktemp("bundles")
    for version in "123":
        vectors = np.random.default_rng(int(version)).normal(size=(20, 3 * SIDE**2)).astype(np.float32)
        build_bundle(pool(vectors, encoder_id=Thumbnail.id), folder / version)
    index = folder / "2" / "index.faiss"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    return {version: folder / version for version in "123"}


class Followed:
    """A backend, the version that a registry names, and what was said while the one followed the other."""

    def __init__(self, bundles: dict[str, Path]) -> None:
        self.bundles = bundles
        self.named = "1"
        self.opened: list[str] = []
        self.said: list[Watched] = []
        self.backend = LocalBackend(self.open)
        self.seen = self.backend.load().version

    def open(self, source: str | None) -> Opened:
        version = self.named
        self.opened.append(version)
        bundle = IndexBundle.open(self.bundles[version], encoder_id=Thumbnail.id)
        return Opened(bundle, Thumbnail(), None, None, source or "models:/any@champion", version)

    def through(self, *answers: str | Exception, opens: Callable[[str], str] = str) -> list[tuple[str, str | None]]:
        """Follow while the registry gives these answers, one at each look; `opens`: what an answer is by then."""
        left, stop = list(answers), threading.Event()

        def current() -> str:
            answer = left.pop(0)
            if not left:
                stop.set()
            if isinstance(answer, Exception):
                raise answer
            self.named = opens(answer)
            return answer

        follow(current, self.backend.load, seen=self.seen, every_s=0, stop=stop, report=self.said.append)
        return [(watched.outcome, watched.version) for watched in self.said]

    @property
    def served(self) -> str | None:
        return self.backend.pair().info.version


@pytest.fixture
def followed(bundles: dict[str, Path]) -> Followed:
    return Followed(bundles)


def test_a_moved_alias_is_served_and_one_that_stays_is_not_opened_again(followed: Followed) -> None:
    assert followed.through("1", "1", "3", "3") == [("loaded", "3")]
    assert (followed.served, followed.opened) == ("3", ["1", "3"])
    info = followed.backend.pair().info
    assert all(name in followed.said[0].message for name in (info.id, info.encoder_id, info.bundle.id))


def test_a_bad_version_is_refused_once_and_the_old_one_stays(followed: Followed) -> None:
    assert followed.through("2", "2", "2") == [("refused", "2")]
    assert "index.faiss" in followed.said[0].message
    assert (followed.served, followed.opened) == ("1", ["1", "2"])


def test_a_version_after_a_bad_one_is_served_and_the_bad_one_is_tried_anew_when_named_again(followed: Followed) -> None:
    assert followed.through("2", "3", "2") == [("refused", "2"), ("loaded", "3"), ("refused", "2")]
    assert followed.served == "3"


def test_a_registry_that_is_silent_is_reported_once_and_again_when_it_answers(followed: Followed) -> None:
    gone = InvalidInput("models:/any@champion: not found in http://registry: no answer")
    assert followed.through("1", gone, ConnectionError("reset"), "3", gone) == [
        ("unanswered", None),
        ("answered", "3"),
        ("loaded", "3"),
        ("unanswered", None),
    ]
    assert "http://registry" in followed.said[0].message
    assert followed.served == "3"


def test_an_alias_that_moves_on_while_it_is_opened_is_not_opened_twice(followed: Followed) -> None:
    assert followed.through("2", "3", opens=lambda _: "3") == [("loaded", "3")]
    assert followed.opened == ["1", "3"]


@pytest.mark.parametrize(
    ("source", "expected"), [("models:/a@champion", True), ("models:/a/3", False), ("runs/me@home", False)]
)
def test_only_an_alias_can_come_to_name_something_else(source: str, expected: bool) -> None:
    assert is_alias(source) is expected
