"""What signals ask of a service: an end, politely, or a look at its configuration."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stopped_by_signals(
    stop: Callable[[], None], *, reload: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call ``stop`` on SIGTERM and SIGINT; put the former handlers back afterwards.

    On SIGHUP it calls ``reload``, or ``stop`` where there is none, or where the signal means
    that the terminal is gone. They are called in a thread of their own: what the signal has
    interrupted may hold the very lock that they want.
    """
    hangup = stop if reload is None or os.isatty(0) else reload
    asks = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hangup}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal's own
        # takes no lock, as `threading.Thread` does
        _thread.start_new_thread(asks[signal.Signals(number)], ())

    before = {number: signal.signal(number, handle) for number in asks}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
