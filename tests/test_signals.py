"""Signals end a service politely, whatever they interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from hedge.runtime.signals import stopped_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_the_bell_is_held_does_not_hang(
    number: signal.Signals, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    bell = threading.Event()
    with stopped_by_signals(bell.set):
        with bell._cond:  # type: ignore[attr-defined]  # as the loop holds it for a moment in each wait
            os.kill(os.getpid(), number)
        eventually(bell.is_set)


def test_the_former_handlers_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
