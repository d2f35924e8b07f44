"""How often something else took the processor from this process."""

from __future__ import annotations

import resource
from types import TracebackType

from ...telemetry.clock import Clock, boottime_ns


class Preemptions:
    """Counts the involuntary context switches (getrusage) of all threads in a block."""

    def __init__(self, *, clock: Clock = boottime_ns) -> None:
        self._clock = clock
        self._begun: tuple[int, int] = (0, 0)
        self.per_s: float | None = None

    def __enter__(self) -> Preemptions:  # noqa: PYI034 -- typing has Self from 3.11
        """Begin to count."""
        self._begun = (_switches(), self._clock())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Set ``per_s``."""
        switches, begun_ns = self._begun
        spent_s = (self._clock() - begun_ns) / 1e9
        self.per_s = (_switches() - switches) / spent_s if spent_s > 0 else None


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
