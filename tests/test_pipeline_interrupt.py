"""Who starts a library keeps the say over what signals do."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from viewfold.pipeline.interrupt import kept_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_takes_over_is_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with kept_signals():
        signal.signal(number, signal.SIG_IGN)
    assert signal.getsignal(number) == before


def test_a_thread_leaves_the_signals_alone() -> None:
    def use() -> None:
        with kept_signals():
            pass

    with ThreadPoolExecutor(1) as pool:
        pool.submit(use).result()
