"""Ctrl-C and SIGTERM, made an orderly end of a command: what is half made goes, Ray ends, nothing is left running."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""What a shell says of a process that SIGTERM ended."""
_AGAIN_S = 0.05


@contextmanager
def orderly_end() -> Iterator[list[int]]:
    """While the block runs, SIGINT and SIGTERM raise KeyboardInterrupt, after an import; gives those that did.

    In the middle of an import it is not safe: torch, cut there, aborts the process, and other packages swallow the
    error. An exit code of our own would not arrive: Ray makes another of it.
    """
    raised: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield raised
        return

    this_thread = threading.get_ident()

    def again(number: int) -> None:
        # To this thread itself: in any other it would not wake this one from a system call.
        timer = threading.Timer(_AGAIN_S, signal.pthread_kill, [this_thread, number])
        timer.daemon = True
        timer.start()

    def end(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            again(number)
        else:
            raised.append(number)
            raise KeyboardInterrupt

    tell = sys.unraisablehook

    def dropped(told: "sys.UnraisableHookArgs") -> None:
        """Where Python drops an error, as in its hooks at a fork, the signal comes again; that of Ray's start, too."""
        if isinstance(told.exc_value, KeyboardInterrupt) and raised:
            again(raised.pop())
        elif isinstance(told.exc_value, SystemExit) and told.exc_value.code == signal.SIGTERM:
            again(signal.SIGTERM)
        else:
            tell(told)

    sys.unraisablehook = dropped
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield raised
    finally:
        sys.unraisablehook = tell
        for number, handler in before.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
