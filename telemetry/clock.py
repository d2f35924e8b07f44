"""The clock that durations and deadlines are measured on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

Clock = Callable[[], int]
"""Nanoseconds on a clock that never steps back; handed to whoever measures."""

boottime_ns: Clock = partial(
    time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
"""CLOCK_BOOTTIME, which counts through suspend; CLOCK_MONOTONIC where there is none."""
