"""Who starts a library keeps the say over what signals do."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from viewfold.pipeline.interrupt import kept_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_takes_over_is_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with kept_signals():
        signal.signal(number, signal.SIG_IGN)
    assert signal.getsignal(number) == before


def test_an_exit_that_a_library_makes_of_sigterm_is_the_signal_again() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with kept_signals():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
        with pytest.raises(SystemExit, match="2"), kept_signals():
            sys.exit(2)
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_which_cannot_set_signals_the_block_is_run_all_the_same() -> None:
    def use() -> str:
        with kept_signals():
            return "done"

    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() == "done"
    assert signal.getsignal(signal.SIGINT) == before
