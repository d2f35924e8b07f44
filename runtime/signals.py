"""SIGTERM and SIGINT end a service politely."""

from __future__ import annotations

import _thread
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM and SIGINT; put the former handlers back afterwards.

    It is called in a thread of its own: what the signal has interrupted may hold the very
    lock that ``stop`` wants.
    """

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal's own
        _thread.start_new_thread(stop, ())  # takes no lock, as `threading.Thread` does

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
