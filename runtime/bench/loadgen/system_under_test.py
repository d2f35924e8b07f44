"""What LoadGen asks, and our own clock beside its."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ....telemetry.clock import boottime_ns
from ..latency import Nanoseconds
from .way import Fail, Row, Way


class SystemUnderTest:
    """Serves LoadGen's queries by a `Way`, and notes how long each took.

    That is from the moment when LoadGen hands over a query until its last sample is done;
    with ``per_sample`` until each of its samples is. Its size is LoadGen's: eight bytes for
    each query that it asks.
    """

    def __init__(
        self,
        library: Any,  # noqa: ANN401 -- LoadGen has no types
        way: Way,
        rows: Sequence[Row],
        *,
        per_sample: bool,
        fail: Fail,
    ) -> None:
        self._complete = library.QuerySamplesComplete
        self._response = library.QuerySampleResponse
        self._serve = way.serve
        self._all = rows
        self._rows: dict[int, Row] = {}
        self._per_sample = per_sample
        self._fail = fail
        self._spent_ns = array("q")
        self._begun: tuple[int, int] | None = None
        self._ended_ns = 0
        self.samples = 0

    def load(self, places: Sequence[int]) -> None:
        """Take the rows into the memory, each a copy of its own."""
        self._rows = {place: self._all[place].copy() for place in places}

    def unload(self, places: Sequence[int]) -> None:
        """Let rows go."""
        for place in places:
            self._rows.pop(place, None)

    def issue(self, queries: Sequence[Any]) -> None:
        """Serve one query; an exception must not reach LoadGen, which would abort the process."""
        begun_ns = time.perf_counter_ns()
        if self._begun is None:
            self._begun = begun_ns, boottime_ns()
        left = [1 if self._per_sample else len(queries)]
        try:
            for query in queries:
                done = partial(self._done, query.id, begun_ns, left)
                self._serve(self._rows[query.index], done)
        except BaseException as error:  # noqa: BLE001 -- see above
            self._fail(error)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def _done(self, sample: int, begun_ns: int, left: list[int]) -> None:
        now_ns = time.perf_counter_ns()
        self._complete([self._response(sample, 0, 0)])
        self._ended_ns = now_ns
        self.samples += 1
        if self._per_sample or left[0] == 1:
            self._spent_ns.append(now_ns - begun_ns)
        else:
            left[0] -= 1

    def spent_ns(self) -> Nanoseconds:
        """Return how long each took (n,), in the order they were done."""
        return np.frombuffer(self._spent_ns, np.int64)

    def window_ns(self) -> tuple[int, int]:
        """Return when the first query was asked and the last was done, on CLOCK_BOOTTIME."""
        if self._begun is None:
            return 0, 0
        begun_ns, at_ns = self._begun
        return at_ns, at_ns + self._ended_ns - begun_ns
