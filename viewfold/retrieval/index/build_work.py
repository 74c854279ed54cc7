"""Where a build is made: a folder beside the bundle, in which a build that was killed finds what it had finished."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.folders import linked, publish, writing_to
from viewfold.retrieval.index.files import changing, replaceable, write_json

_MARK = "build.json"
_BUNDLE = "bundle"


@dataclass(frozen=True)
class Work:
    """The folder of one build; `bundle` in it becomes the bundle."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """The files of the bundle so far."""
        return self.folder / _BUNDLE

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` answers (plain data), from an earlier process if it had finished this step."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_json(path, make())
        done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return done


@contextmanager
def working(out: Path, mark: str, *, marker: str) -> Iterator[Work]:
    """The work folder of `out`, with what an earlier build of the same `mark` left; `out` is replaced at the end.

    An error in what the user gave removes the folder; whatever else ends the block leaves it for the next build.

    Raises:
        InvalidInput: `out` holds something else than `marker` stands for, or another process changes it now.
    """
    out = linked(out)
    replaceable(out, marker=marker)
    work = Work(out.with_name(f"{out.name}.build"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with changing(out), writing_to(out):
        work.folder.mkdir(exist_ok=True)
        _prepare(work, mark)
        try:
            yield work
            publish(work.bundle, out)
        except InvalidInput:
            shutil.rmtree(work.folder)
            raise
        shutil.rmtree(work.folder)


def _prepare(work: Work, mark: str) -> None:
    path = work.folder / _MARK
    # Without its folder `bundle` a process was killed right after publishing, and there is nothing left to go on with.
    if not path.is_file() or not work.bundle.is_dir() or json.loads(path.read_text(encoding="utf-8")) != {"mark": mark}:
        for leftover in work.folder.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        write_json(path, {"mark": mark})
    work.bundle.mkdir(exist_ok=True)
