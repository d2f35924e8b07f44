"""What was counted, and the few lines that are logged about what was dropped."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

_QUIET_S = 60.0


class Tally:
    """Counters by name; one thread counts, any thread may copy."""

    def __init__(self, names: Sequence[str], *, log: logging.Logger) -> None:
        self._counts = dict.fromkeys(names, 0)
        self._log = log
        self._quiet_until_s: dict[str, float] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Count; only names given at the start exist."""
        self._counts[name] += amount

    def drop(self, name: str, why: object, *, error: BaseException | None = None) -> None:
        """Count what came to nothing, and say why at most once a minute."""
        self.add(name)
        now_s = time.monotonic()
        level = logging.DEBUG
        if now_s >= self._quiet_until_s.get(name, now_s):
            self._quiet_until_s[name] = now_s + _QUIET_S
            level = logging.WARNING
        self._log.log(level, "%s: %s", name, why, exc_info=error)

    def copy(self) -> dict[str, int]:
        """Return all counters."""
        return self._counts.copy()
