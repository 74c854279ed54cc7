"""Bringing outboxes to a tracking server: by a thread while a stage works, which waits for nothing; or all at once."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from viewfold.errors import InvalidInput
from viewfold.jobs.outbox import ABOUT, KEPT, Outbox, kept
from viewfold.jobs.registry_send import Sender
from viewfold.jobs.registry_server import first_line

POLL_S = 1.0
BUSY_S = 0.2
NOTHING = "nothing waits to be sent"
LOCK_PATIENCE_S = 20.0
"""How long `sync` waits for another sender, whose last attempt may be under way when its command has ended."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""After a failure; each pause is twice the one before."""


class Courier:
    """Sends all that is in the folder `keep`, of this stage and of earlier ones, until it is told to stop."""

    def __init__(self, keep: Path, uri: str) -> None:
        """The thread starts; it is a daemon, since a server that does not answer must not hold up a process's end."""
        self.failure = ""
        """Why the last attempt failed; empty when it did not."""
        self._keep, self._sender = keep, Sender(uri)
        self._over = threading.Event()
        self._shut_out = False  # by another process, which sends from there
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Let it send what is left; return after `patience_s` at the latest, and at once where the server is gone."""
        gone = bool(self.failure)
        self._over.set()
        if not gone:
            self._thread.join(patience_s)
            if self._thread.is_alive():
                late = f"MLflow at {self._sender.shown}: no answer within {patience_s:.0f} s"
                self.failure = self.failure or (f"another process sends from {self._keep}" if self._shut_out else late)

    def _work(self) -> None:
        try:
            self._send_until_over()
        # Whatever it is: it must be told, and a thread that died tells nobody.
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            self.failure = f"nothing more is sent to MLflow at {self._sender.shown} ({why})"

    def _send_until_over(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            last = self._over.is_set()  # asked first: what was kept before the end is then sent
            with alone(self._keep) as mine:
                self._shut_out = not mine
                if mine:
                    self.failure = send(kept(self._keep), lambda box: self._sender, Sending()).failure
            if not mine:
                time.sleep(BUSY_S)
                continue
            if last:
                return
            self._over.wait(pause if self.failure else POLL_S)
            if self.failure and self._over.is_set():  # nobody waits for a last attempt, which would hold the lock
                return
            pause = min(2 * pause, LONGEST_PAUSE_S) if self.failure else FIRST_PAUSE_S


@dataclass
class Sending:
    """What became of some runs."""

    whole: int = 0
    """That are over, and on the server."""
    open: int = 0
    """Whose rows are there so far."""
    failure: str = ""
    """Why something could not be sent."""


def send(boxes: Iterable[Outbox], sender_of: Callable[[Outbox], Sender], sending: Sending) -> Sending:
    """Send `boxes` in their order; a server that takes none ends it, an artifact that no store takes does not."""
    for box in boxes:
        sender = sender_of(box)
        try:
            over = sender.send(box)
        # Every kind of artifact store has errors of its own. None may end a training, and all are told.
        except Exception as error:
            sending.failure = (
                sending.failure or f"MLflow at {sender.shown}: {first_line(error) or type(error).__name__}"
            )
            if not box.sent(sender.shown).run_id:
                break
        else:
            sending.whole, sending.open = sending.whole + over, sending.open + (not over)
    return sending


def sync(folders: Sequence[Path]) -> str:
    """Send every run that is kept in or below `folders`; returns what is to be said.

    They go to `MLFLOW_TRACKING_URI`, else to the server that each was meant for.

    Raises:
        InvalidInput: there is no such folder, or not all could be sent.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInput(f"{folder}: no such folder; name a run folder, or one that holds some")
    keeps = sorted({path.parents[1] for folder in folders for path in folder.rglob(f"{KEPT}/[!.]*/{ABOUT}")})
    sender_of, done = _senders(), Sending()
    for keep in keeps:
        with alone(keep, LOCK_PATIENCE_S) as mine:
            if not mine:
                raise InvalidInput(f"{keep}: a running command sends from there itself; wait for its end")
            send(kept(keep), sender_of, done)
        if done.failure:
            raise InvalidInput(
                f"{done.failure}; what could not be sent stays in {keep}, and the same command goes on later; set "
                "MLFLOW_TRACKING_URI if the server has moved"
            )
    open_runs = f"; {done.open} more sent so far, and open until the command that makes it ends" if done.open else ""
    return f"{done.whole} run{'' if done.whole == 1 else 's'} sent whole{open_runs}" if keeps else NOTHING


def settle(folder: Path) -> bool:
    """End as killed what is open in a run folder that is worked in no more, and send all; whether nothing is left."""
    keep = folder / KEPT
    with alone(keep) as mine:
        if not mine:
            return False
        for box in kept(keep):
            if box.ended is None:
                box.end("KILLED")
        send(kept(keep), _senders(), Sending())
    return not any(keep.glob(f"[!.]*/{ABOUT}"))  # one that cannot be read is left, too


def _senders() -> Callable[[Outbox], Sender]:
    """Who sends an outbox: one sender for each server."""
    senders: dict[str, Sender] = {}

    def sender_of(box: Outbox) -> Sender:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or box.about.uri
        return senders.setdefault(uri, Sender(uri))

    return sender_of


@contextmanager
def alone(keep: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Whether nobody else sends from `keep` during the block, after waiting for them as long as is given.

    The lock lies beside it, for `keep` comes and goes.
    """
    if not keep.is_dir():
        yield True
        return
    with keep.with_name(f".{keep.name}.lock").open("w") as file:
        end = time.monotonic() + patience_s
        while not (mine := _locked(file)) and time.monotonic() < end:
            time.sleep(BUSY_S)
        yield mine


def _locked(file: IO[str]) -> bool:
    """Whether the lock on `file` is now this process's."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
