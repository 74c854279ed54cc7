"""Signals around a library that takes them for itself."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_signals() -> Iterator[None]:
    """What SIGINT and SIGTERM do, they do again after the block; in a thread, which cannot change it, nothing is done.

    Handlers that C code puts in the place of Python's go, too. Ray, told to end by SIGTERM while it starts, exits with
    the signal's number: it is sent again after the block.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminated = False
    try:
        yield
    except SystemExit as stopped:
        terminated = stopped.code == signal.SIGTERM
        if not terminated:
            raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # set by C code before the block: it cannot be set again from here
                    signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)
