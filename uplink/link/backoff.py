"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random


class Backoff:
    """Doubling delays up to a cap, each shortened at random so that a fleet does not march.

    Where the host is there and only its broker is not, it is asked again within
    ``absent_cap_s``: that costs two short packets, and the broker is soon back.
    """

    def __init__(
        self,
        *,
        first_s: float = 0.2,
        cap_s: float = 10.0,
        absent_cap_s: float = 0.8,
        rng: random.Random | None = None,
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._absent_cap_s = min(cap_s, absent_cap_s)
        self._rng = rng or random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._attempts = 0

    def next_s(self, *, absent: bool = False) -> float:
        """Return the next delay: from half of what is due to all of it.

        ``absent``: the host has said that nobody listens.
        """
        cap_s = self._absent_cap_s if absent else self._cap_s
        due_s = min(cap_s, self._first_s * 2.0 ** min(self._attempts, 60))
        self._attempts += 1
        return due_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin anew, after a connection that held."""
        self._attempts = 0
