"""Work for a cluster that runs already, by Ray's job server: send a command line, follow what it prints, stop it.

A job is known by its submission id, of which a cluster runs one: who submits the same again looks at what is there.
"""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from viewfold import __version__
from viewfold.errors import InvalidInput, MissingDependency
from viewfold.jobs.submit_config import SubmitConfig, entrypoint, runtime_env, sent_files, sent_mark
from viewfold.jobs.submit_server import authorization, check_server
from viewfold.pipeline.stage import code_version

try:
    import aiohttp
    from ray.exceptions import RayError
    from ray.job_submission import JobDetails, JobSubmissionClient
except ModuleNotFoundError as error:
    raise MissingDependency("submitting work needs Ray and aiohttp: pip install 'viewfold[train,remote]'") from error

PATIENCE_S = 60.0
"""For which a server that answered before may be gone."""
_TALKS = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class _NotWrittenError(Exception):
    """What the job prints cannot be written here: no fault of the connection, which is not to be tried again."""

    def __init__(self, why: OSError) -> None:
        super().__init__(str(why))
        self.why = why


@dataclass(frozen=True)
class Job:
    """A submission on a cluster."""

    id: str
    state: Literal["sent", "running", "succeeded"]
    """Whether it was sent now, was there already and is going on, or has ended well."""
    sentence: str
    """What there is to say of that."""


def connect(address: str) -> JobSubmissionClient:
    """Ray's client of the job server at `address`, which answers and lets us in.

    Raises:
        InvalidInput: it does not.
    """
    address = address.rstrip("/")
    headers = authorization()
    check_server(address, headers)
    if not os.environ.get("VIEWFOLD_VERBOSE"):
        for name in _TALKS:
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    before = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:  # for Ray these variables go before the address that it is given
        return JobSubmissionClient(address, headers=headers)
    finally:
        os.environ.update(before)


def submit(client: JobSubmissionClient, config: SubmitConfig) -> Job:
    """Send the command line, unless it is running or has succeeded; one that failed is sent again, under a number.

    Raises:
        InvalidInput: the cluster does not take it; or what has succeeded had other files that go with the same words.
    """
    name, jobs = config.submission_id, _jobs(client, config)
    for number in count(1):
        candidate = name if number == 1 else f"{name}-{number}"
        if candidate not in jobs:
            return _send(client, config, candidate)
        found = _found(candidate, jobs[candidate], sent_mark(config))
        if found is not None:
            return found
    raise AssertionError("unreachable")


def follow(client: JobSubmissionClient, job_id: str, *, write: Callable[[str], Any]) -> int:
    """`write` what the job prints, from its beginning until it ends; its exit code.

    Raises:
        InvalidInput: the server has not answered for a minute.
        OSError: of `write`.
    """
    write_new = _once(write)
    silent_since: float | None = None  # set when an attempt fails; a job may say nothing for hours before that

    def written(start: int, text: str) -> None:
        nonlocal silent_since
        silent_since = None
        try:
            write_new(start, text)
        except OSError as error:
            raise _NotWrittenError(error) from error

    while True:
        try:
            asyncio.run(_tail(client, job_id, written))
            job = client.get_job_info(job_id)
            silent_since = None
            if job.status.is_terminal():
                return _exit_code(job)
        except _NotWrittenError as error:
            raise error.why from None
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            silent_since = time.monotonic() if silent_since is None else silent_since
            if time.monotonic() - silent_since > PATIENCE_S:
                raise InvalidInput(
                    f"{job_id}: the job server does not answer any more ({_last_line(error)}); jobs end with their "
                    "cluster, and the same command goes on from what is done once there is one again"
                ) from None
        time.sleep(0.5)


def stop(client: JobSubmissionClient, job_id: str) -> None:
    """Ask the job to end, and wait for that; Ray kills what does not end by itself.

    Raises:
        InvalidInput: the server does not answer, or the job goes on for a minute.
    """
    with _answered(job_id):
        client.stop_job(job_id)
        end = time.monotonic() + PATIENCE_S
        while not client.get_job_status(job_id).is_terminal():
            if time.monotonic() > end:
                raise InvalidInput(
                    f"{job_id}: was asked to end {PATIENCE_S:.0f} s ago and has not; the same command follows it again"
                )
            time.sleep(0.5)


def watch(client: JobSubmissionClient, job: Job, *, stops: Callable[[], bool] | None) -> int:
    """Print what the job prints; its exit code. After Ctrl-C `stops` says whether it is to end; None leaves it."""
    try:
        code = follow(client, job.id, write=_write)
    except KeyboardInterrupt:
        if stops is not None and stops():
            stop(client, job.id)
            print(f"{job.id}: stopped", file=sys.stderr)
        else:
            _tell_left(job)
        raise
    except OSError:  # of a pipe that nobody reads any more, or a disk that is full
        _tell_left(job)
        raise
    print(f"{job.id}: {'succeeded' if code == 0 else f'failed with exit code {code}'}", file=sys.stderr)
    return code


def _tell_left(job: Job) -> None:
    print(f"{job.id}: left running; the same command follows it again", file=sys.stderr)


def _jobs(client: JobSubmissionClient, config: SubmitConfig) -> dict[str | None, JobDetails]:
    with _answered(config.address):
        return {job.submission_id: job for job in client.list_jobs()}


@contextmanager
def _answered(whom: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, RayError) as error:
        raise InvalidInput(f"{whom}: the job server does not do what it is asked ({_last_line(error)})") from None


def _found(name: str, job: JobDetails, mark: str) -> Job | None:
    """What there is to do about a job of this id: None if it failed or was stopped. `mark` is that of the files."""
    known = job.metadata or {}
    changed = bool(mark and known.get("files")) and known["files"] != mark
    if not job.status.is_terminal():
        other = "" if known.get("code") == code_version() else "; it runs code that was sent earlier"
        other += "; it was sent other files than are here now, which need another --id" if changed else ""
        return Job(name, "running", f"{name}: was submitted already and goes on{other}")
    if str(job.status) != "SUCCEEDED":
        return None
    if changed:
        raise InvalidInput(f"{name}: has succeeded with other files than are here now; to run these, give another --id")
    ended = "" if job.end_time is None else f" at {datetime.fromtimestamp(job.end_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return Job(name, "succeeded", f"{name}: has succeeded already{ended}; to run it once more, give it another --id")


def _send(client: JobSubmissionClient, config: SubmitConfig, name: str) -> Job:
    try:
        with _folder(config) as folder:
            client.submit_job(
                entrypoint=entrypoint(config.words),
                submission_id=name,
                runtime_env=runtime_env(config, folder),
                metadata={"viewfold": __version__, "code": code_version(), "files": sent_mark(config)},
                entrypoint_num_gpus=0,  # the driver waits; a GPU that it held would be missing from the training
            )
    except (RuntimeError, ValueError) as error:
        jobs = _jobs(client, config)
        found = _found(name, jobs[name], sent_mark(config)) if name in jobs else None
        if found is None:
            raise InvalidInput(f"{config.address}: does not take the job: {_last_line(error)}") from None
        return found  # somebody else has submitted the same in between
    return Job(name, "sent", f"{name}: submitted to {config.address}")


@contextmanager
def _folder(config: SubmitConfig) -> Iterator[Path | None]:
    """What is sent as the job's working directory: the folder that was named, else one of the files that words name."""
    files = sent_files(config.words)
    if config.working_dir is not None or not files:
        yield config.working_dir
        return
    with tempfile.TemporaryDirectory(prefix="viewfold-submit-") as folder:
        for file in files:
            target = Path(folder) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        yield Path(folder)


async def _tail(client: JobSubmissionClient, job_id: str, write: Callable[[int, str], None]) -> None:
    """`write` the log with where each part begins, until the connection ends, which may be before the job does."""
    start = 0
    with warnings.catch_warnings():
        # Ray 2.60 hands None for a setting of which newer versions of aiohttp say that it should be True.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message="ssl=None")
        async for text in client.tail_job_logs(job_id):
            write(start, text)
            start += len(text)


def _once(write: Callable[[str], Any]) -> Callable[[int, str], None]:
    """A new connection tells the log from its beginning: what was written is left out."""
    written = 0

    def write_rest(start: int, text: str) -> None:
        nonlocal written
        if start + len(text) > written:
            write(text[max(0, written - start) :])
            written = start + len(text)

    return write_rest


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _exit_code(job: JobDetails) -> int:
    code = job.driver_exit_code
    if code is None:  # it never began, or was stopped
        if str(job.status) == "SUCCEEDED":
            return 0
        print(f"{job.submission_id}: {job.status}: {_last_line(job.message or '')}", file=sys.stderr)
        return 1
    return code if code >= 0 else 128 - code  # as a shell does, where a signal ended it


def _last_line(error: object) -> str:
    """Of a server's traceback, the line that says what it is about."""
    text = str(error).strip()
    if "Traceback" in text:
        text = text.rpartition("\n")[2]
    return " ".join(text.split())[:300]
