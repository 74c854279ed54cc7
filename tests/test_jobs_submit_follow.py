"""A job that is followed for hours may lose its connection, and often: what counts is how long nobody answers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
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


def test_output_that_cannot_be_written_ends_the_following_and_not_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from viewfold.jobs import submit

    def closed(_: str) -> None:
        raise BrokenPipeError

    client: Any = Connection(("abc", False), ("abc", False))
    monkeypatch.setattr(submit, "_write", closed)
    with pytest.raises(BrokenPipeError):
        submit.watch(client, submit.Job("job", "running", ""), stops=None)
    assert len(client.attempts) == 1
    assert capsys.readouterr().err == "job: left running; the same command follows it again\n"


class Cluster:
    """In place of Ray's client: one job in this state, which no request to stop ends."""

    def __init__(self, status: str, metadata: dict[str, str], *, gone: bool = False) -> None:
        over = status != "RUNNING"
        self.status = type("Status", (str,), {"is_terminal": lambda _: over})(status)
        self.metadata, self.gone = metadata, gone

    def list_jobs(self) -> list[Any]:
        if self.gone:
            raise RuntimeError("Request failed with status code 502")
        job = SimpleNamespace(submission_id="job", status=self.status, metadata=self.metadata, end_time=None)
        return [job]

    def stop_job(self, _: str) -> None:
        self.list_jobs()

    def get_job_status(self, _: str) -> Any:
        return self.status


def test_a_job_that_does_not_end_and_a_server_that_is_gone_are_told_by_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from viewfold.jobs import submit
    from viewfold.jobs.submit_config import SubmitConfig

    monkeypatch.setattr(submit, "PATIENCE_S", 0.1)
    stays, gone = (Cluster("RUNNING", {}, gone=gone) for gone in (False, True))
    with pytest.raises(InvalidInput, match="has not; the same command follows it again"):
        submit.stop(stays, "job")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"job: .*502"):
        submit.stop(gone, "job")  # type: ignore[arg-type]
    config = SubmitConfig(words=("list", "methods"), address="http://head:8265", id="job")
    with pytest.raises(InvalidInput, match=r"http://head:8265: .*502"):
        submit.submit(gone, config)  # type: ignore[arg-type]


def test_the_same_words_with_another_file_are_not_taken_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewfold.jobs import submit
    from viewfold.jobs.submit_config import SubmitConfig, sent_mark

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    config = SubmitConfig(words=("run", "mine.yaml", "-o", "/there"), address="http://head:8265", id="job")
    metadata = {"files": sent_mark(config)}
    same: Any = Cluster("SUCCEEDED", metadata)
    assert submit.submit(same, config).state == "succeeded"
    (tmp_path / "mine.yaml").write_text("a: 2\n")
    with pytest.raises(InvalidInput, match=r"has succeeded with other files .* give another --id"):
        submit.submit(same, config)
    runs: Any = Cluster("RUNNING", metadata)
    assert "other files than are here now" in submit.submit(runs, config).sentence
