"""Requests in parts that a worker has claimed, and what it owes the broker for them.

Brokers have few messages under way to a client (mosquitto: 20), and a notice that is not
acknowledged is one of them: if all were notices, the parts could never come. So only the
first few wait for their answer; the others are acknowledged with the claim, and their
devices announce anew if this worker dies.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .. import wire
from ..link.link import Token
from ..parts import Bounds, Gatherer
from ..topics import Device

_UNACKNOWLEDGED = 8


@dataclass(slots=True, eq=False)
class Claim:
    """One claimed request of a ``stream``: its notice, and the messages that brought it."""

    notice: wire.Notice
    tokens: list[Token]
    until_ns: int
    stream: str


class Claims:
    """Gathers requests, and keeps the tokens of their notices until they are whole.

    A claim whose device falls silent is given up after twice the gatherer's patience: the
    device announces anew.
    """

    def __init__(self, bounds: Bounds = Bounds()) -> None:  # noqa: B008 -- frozen
        self._gatherer = Gatherer(bounds)
        self._patience_ns = int(2e9 * bounds.patience_s)
        self._claims: OrderedDict[tuple[Device, str], Claim] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claims)

    def counters(self) -> dict[str, int]:
        """Return what the gatherer has counted."""
        return self._gatherer.counters()

    def claim(
        self,
        device: Device,
        notice: wire.Notice,
        tokens: list[Token],
        *,
        stream: str = "",
        now_ns: int,
    ) -> bool:
        """Make room for a request; False: there is none. It takes ``tokens`` if it keeps them."""
        if not self._gatherer.expect(device, notice, now_ns=now_ns):
            return False
        key = (device, notice.id)
        known = self._claims.pop(key, None)
        before = [] if known is None else known.tokens
        self._claims[key] = Claim(notice, before, now_ns + self._patience_ns, stream)
        if sum(len(one.tokens) for one in self._claims.values()) < _UNACKNOWLEDGED:
            before += tokens
            tokens.clear()
        return True

    def take(self, device: Device, part: wire.Part, *, now_ns: int) -> tuple[bytes, Claim] | None:
        """Add a part; return the whole request and its claim if nothing is missing now."""
        key = (device, part.id)
        payload = self._gatherer.take(device, part, now_ns=now_ns)
        known = self._claims.get(key)
        if known is None:
            return None
        if payload is not None:
            return payload, self._claims.pop(key)
        known.until_ns = now_ns + self._patience_ns
        self._claims.move_to_end(key)
        return None

    def lapse(self, *, now_ns: int) -> list[Token]:
        """Give up what has gone silent; return what is to be acknowledged for it."""
        self._gatherer.forget_old(now_ns=now_ns)
        tokens: list[Token] = []
        while self._claims:
            key, oldest = next(iter(self._claims.items()))
            if oldest.until_ns > now_ns:
                break
            del self._claims[key]
            tokens += oldest.tokens
        return tokens
