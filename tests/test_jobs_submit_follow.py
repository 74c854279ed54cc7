"""A job that is followed for hours may lose its connection, and often: what counts is how long nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from viewfold.errors import InvalidInput

pytestmark = pytest.mark.heavy


class Connection:
    """In place of Ray's client: each attempt tells these parts of the log, with a pause after each, and may be cut."""

    def __init__(self, *attempts: tuple[str, bool]) -> None:
        self.attempts = list(attempts)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        text, cut = self.attempts.pop(0)
        for part in text:
            yield part
            await asyncio.sleep(0.3)
        if cut:
            raise ConnectionResetError(f"{job_id}: cut")

    def get_job_info(self, _: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True), driver_exit_code=0)


def test_a_connection_cut_after_the_patience_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.jobs import submit

    monkeypatch.setattr(submit, "PATIENCE_S", 0.8)  # an attempt and the pause before it; the first three take longer
    parts: list[str] = []
    client: Any = Connection(("abc", True), ("abcd", True), ("abcde", True), ("abcdef", False))
    assert submit.follow(client, "job", write=parts.append) == 0
    assert "".join(parts) == "abcdef"
    gone: Any = Connection(("ab", True), *[("", True)] * 9)
    with pytest.raises(InvalidInput, match="does not answer any more"):
        submit.follow(gone, "job", write=parts.append)
    assert len(gone.attempts) > 5
