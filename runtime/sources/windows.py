"""Windows: a stream of rows cut into pieces of one length, that may overlap or leave gaps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError

Window = tuple[NDArray[np.float32], int]
"""A window, and when its last row was captured (CLOCK_BOOTTIME)."""


class Windows:
    """Cuts what is pushed into windows of ``rows`` rows; the next begins ``hop`` rows later.

    With ``hop`` less than ``rows`` they overlap, with more, rows between them are passed over.
    A row has ``channels`` values; None: it is one bare value, and a window is (rows,). Memory
    for two windows is taken once. ``period_ns`` is the time from row to row; 0: what is pushed
    at once was captured at once.
    """

    def __init__(
        self, rows: int, hop: int | None = None, *, channels: int | None, period_ns: float = 0.0
    ) -> None:
        if rows < 1 or (hop is not None and hop < 1):
            raise ValueError(rows, hop)
        self._rows = rows
        self._hop = hop or rows
        self._shape = () if channels is None else (channels,)
        self._period_ns = period_ns
        self._kept = np.empty((2 * rows, *self._shape), np.float32)
        self._begin = self._end = 0  # of the rows that are kept
        self._skip = 0

    def reset(self) -> None:
        """Begin anew: the next row that comes has nothing to do with the ones before."""
        self._begin = self._end = self._skip = 0

    def push(self, block: NDArray[Any], taken_at_ns: int) -> list[Window]:
        """Take rows (n, channels), or (n,), and return the windows that they complete, in order.

        ``taken_at_ns`` is when the last of them was captured.

        Raises:
            DataError: the rows have another number of channels.
        """
        return list(self.cut(block, taken_at_ns))

    def cut(self, block: NDArray[Any], taken_at_ns: int) -> Iterator[Window]:
        """Take rows as they are asked for; for a large block and a small hop. See `push`."""
        if block.shape[1:] != self._shape:
            raise DataError(f"rows of shape {block.shape[1:]}; they should be {self._shape}")
        count, at = len(block), 0
        while at < count:
            if self._skip:
                passed = min(self._skip, count - at)
                self._skip -= passed
                at += passed
                continue
            taken = min(self._rows - (self._end - self._begin), count - at)
            self._kept[self._end : self._end + taken] = block[at : at + taken]
            self._end += taken
            at += taken
            if self._end - self._begin == self._rows:
                window = self._kept[self._begin : self._end].copy()
                self._go_on()
                yield window, taken_at_ns - round((count - at) * self._period_ns)

    def _go_on(self) -> None:
        """Forget what the next window does not need."""
        self._begin += self._hop
        if self._begin >= self._end:
            self._skip = self._begin - self._end
            self._begin = self._end = 0
        elif self._begin >= self._rows:  # what is kept is shorter, so the two do not overlap
            left = self._end - self._begin
            self._kept[:left] = self._kept[self._begin : self._end]
            self._begin, self._end = 0, left
