"""Handlers of the signals that stop a program, for a block."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wnseq.training.signals import SIGNALS, exit_on_signal, handle_signals, handled_signals, held_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_block_ends_it_with_the_shells_status(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(SystemExit) as left, handled_signals(exit_on_signal):
        signal.raise_signal(number)
    assert left.value.code == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_what_is_ignored_stays_so_but_for_sigint() -> None:
    with handled_signals(signal.SIG_IGN), handled_signals(exit_on_signal):
        assert [signal.getsignal(each) == signal.SIG_IGN for each in SIGNALS] == [False, True, True]


def test_other_threads_change_nothing() -> None:
    assert threading.current_thread() is threading.main_thread()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handle_signals, exit_on_signal).result() == {}
    assert exit_on_signal not in map(signal.getsignal, SIGNALS)


def test_held_signals_come_when_they_are_let_or_at_the_end() -> None:
    came: list[int] = []
    with handled_signals(lambda number, frame: came.append(number)):
        with held_signals() as deliver:
            signal.raise_signal(signal.SIGTERM)
            assert came == []
            deliver()
            assert came == [signal.SIGTERM]
            signal.raise_signal(signal.SIGINT)
            assert came == [signal.SIGTERM]
        assert came == [signal.SIGTERM, signal.SIGINT]
