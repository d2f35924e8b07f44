"""What an example brings along: where it runs, and what happens there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an example runs.

    ``data`` holds the data sets, ``broker`` is its broker's URL and ``port`` the port of that.
    ``effort`` scales the training; ``samples`` bounds what is played (None: all there is).
    What the example opens is closed by ``stack``; ``say`` is told how far things are.
    """

    folder: Path
    data: Path
    broker: str
    port: int
    seed: int
    effort: float
    samples: int | None
    stack: contextlib.ExitStack
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What happens in an example.

    ``x`` (n, *shape) are the samples that the device should make of what is played, in order,
    and ``y`` (n,) their classes, -1 where nobody knows. ``play`` gives them at their pace;
    ``values`` are put in the place of what stands in the example's configuration.
    ``more`` makes further figures of the events that the device told.
    """

    bundle: Path
    x: NDArray[Any]
    y: NDArray[np.int64]
    play: Callable[[], None]
    values: Mapping[str, str] = field(default_factory=dict)
    stdin: IO[bytes] | None = None
    more: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None


def chosen(count: int, most: int | None, *, seed: int) -> NDArray[np.intp]:
    """Return which of ``count`` rows are played, in order: all, or a drawn ``most`` of them."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def paced(count: int, *, rate_hz: float) -> Iterator[int]:
    """Give 0 to ``count`` - 1, each when it is due."""
    begun_s = time.monotonic()
    for number in range(count):
        early_s = begun_s + number / rate_hz - time.monotonic()
        if early_s > 0:
            time.sleep(early_s)
        yield number
