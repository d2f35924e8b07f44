"""The subscriptions of one connection: which the broker owes an answer for, and has refused.

A broker that leaves one unanswered is as good as gone (amqtt does so under load). What is
refused is asked for again: in a cluster that has just lost a node, nobody may be in charge
for a while, and its other nodes refuse what they would have granted before.
"""

from __future__ import annotations

from collections.abc import Sequence

from .backoff import Backoff
from .link import Subscribed

_FOREVER = float("inf")


class Subscriptions:
    """The book of one connection; times are on the monotonic clock.

    ``timeout_s`` is for each filter of a subscription: NATS gives four seconds to each in
    turn while a cluster looks for its leader, and answers for all at the end.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._owed: dict[int | None, tuple[tuple[str, ...], float, bool]] = {}
        self._refused: list[str] = []
        self._unwanted: set[str] = set()
        self._again_s = _FOREVER
        self._backoff = Backoff(first_s=0.5, cap_s=30.0)

    def asked(
        self, mid: int | None, filters: Sequence[str], *, now_s: float, again: bool = False
    ) -> None:
        """Note what was sent to the broker; ``again``: after it has been refused."""
        until_s = now_s + self._timeout_s * max(1, len(filters))
        self._unwanted.difference_update(filters)
        self._owed[mid] = (tuple(filters), until_s, again)

    def answered(self, mid: int, failures: Sequence[bool], *, now_s: float) -> Subscribed | None:
        """Take the broker's answer; what is refused as before is no news, and so is None."""
        filters, _, again = self._owed.pop(mid, ((), 0.0, False))
        refused = tuple(one for one, failed in zip(filters, failures, strict=False) if failed)
        if refused:
            self._refused += [one for one in refused if one not in self._unwanted]
            self._again_s = now_s + self._backoff.next_s()
        return None if again and refused == filters else Subscribed(refused)

    def dropped(self, filters: Sequence[str]) -> None:
        """Ask no more for what nobody wants any longer."""
        self._unwanted.update(filters)
        self._refused = [one for one in self._refused if one not in filters]

    def again(self, *, now_s: float) -> Sequence[str]:
        """Return what is to be asked for again now."""
        if now_s < self._again_s:
            return ()
        due, self._refused = self._refused, []
        self._again_s = _FOREVER
        return due

    def overdue(self, *, now_s: float) -> bool:
        """Return whether an answer should have come."""
        return now_s >= self._answer_s()

    def next_s(self) -> float:
        """Return when one of the two above may come true."""
        return min(self._answer_s(), self._again_s)

    def _answer_s(self) -> float:
        return next((until_s for _, until_s, _ in self._owed.values()), _FOREVER)
