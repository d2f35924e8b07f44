"""The audit of one stream: which samples are drawn, and what came of those.

A coin is tossed for every judged sample, whatever the gate makes of it, so that what is learnt
is a uniform sample of the stream, from which the error below any gate can be told. Of what is
drawn and accepted the cloud is asked; what is escalated is asked about anyway, and then kept
until it is answered, as the others are: a link that is away must not lose the one kind only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from random import Random
from typing import NamedTuple

from ...models.confidence_sequence import bounds
from ...telemetry.clock import Clock
from ...telemetry.gate_state import AuditState
from .options import AuditOptions

_NEVER = 1 << 62
_HOUR_NS = 3600 * 10**9
_SAVED_NS = 300 * 10**9
_REMEMBERED = 4096


class Said(NamedTuple):
    """What the edge has said of a drawn sample: its score, its label, whether that passed."""

    score: float
    label: int
    accepted: bool


class Audit:
    """Draws a ``share`` of the samples, and counts what the truth says of them.

    `Audit.draw` is called for every judged sample; how many are passed over until the next one
    is drawn is known beforehand, from ``rng``. The options' ``most_per_hour`` come in evenly from
    the start on and are saved up for five minutes: while there are none left nothing is drawn.
    Where ``asks`` is False labels are waited for, and the cloud is not asked. What the edge has
    said of a drawn sample is remembered until then, for the last 4096 of them.
    """

    def __init__(self, options: AuditOptions, *, rng: Random, clock: Clock) -> None:
        self.asks = options.truth == "cloud"
        self._most = options.most_per_hour if self.asks else _NEVER
        self._rng = rng
        self._clock = clock
        self.share = options.share if self._most else 0.0
        self._saved = 0.0
        self._most_saved = max(1.0, self._most * _SAVED_NS / _HOUR_NS)
        self._saved_ns = clock()
        self._remembered: OrderedDict[str, Said] = OrderedDict()
        self._drawn = self._asked = self._judged = 0
        self._rows = self._wrong = 0
        self._until_next = self._gap()

    def draw(self) -> bool:
        """Return whether the next sample is drawn."""
        self._until_next -= 1
        return self._until_next < 0 and self._take()

    def asked(self) -> None:
        """Note that the cloud is asked about one that the gate has let pass."""
        self._asked += 1
        self._saved -= 1.0

    def remember(self, ask_id: str, said: Said) -> None:
        """Keep what the edge has said of a drawn sample, until its label comes."""
        self._remembered[ask_id] = said
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    def recall(self, ask_id: str) -> Said | None:
        """Return what the edge has said of a drawn sample, once; None: it is not known."""
        return self._remembered.pop(ask_id, None)

    def judge(self, *, wrong: bool, accepted: bool) -> None:
        """Count what the truth says of a sample, which the gate lets pass or not."""
        self._judged += 1
        if accepted:
            self._rows += 1
            self._wrong += wrong

    def restart(self) -> None:
        """Begin to count errors anew: the gate stands elsewhere."""
        self._rows = self._wrong = 0

    def succeed(self, other: Audit) -> None:
        """Go on counting where another one of this stream, which ends now, has stopped."""
        self._drawn, self._asked, self._judged = other._drawn, other._asked, other._judged
        self._saved, self._saved_ns = min(other._saved, self._most_saved), other._saved_ns

    def counted(self) -> tuple[int, int]:
        """Return how many of what the gate lets pass were judged since it moved, and wrong."""
        return self._rows, self._wrong

    def resume(self, *, rows: int, wrong: int) -> None:
        """Go on counting errors from what an earlier run has counted at this gate."""
        self._rows, self._wrong = rows, wrong

    def state(self, *, confidence: float | None) -> AuditState:
        """Return what is known; the bounds on the error hold with ``confidence``, at any time.

        There are none where that is None.
        """
        rows, wrong = self._rows, self._wrong
        low = high = None
        if rows and confidence is not None:
            low, high = bounds(wrong, rows, confidence=confidence)
        return AuditState(
            drawn=self._drawn,
            asked=self._asked,
            judged=self._judged,
            wrong=wrong,
            rows=rows,
            error=wrong / rows if rows else None,
            low=low,
            high=high,
        )

    def _take(self) -> bool:
        """Draw this sample if it may be asked about, and the gap to the next one."""
        self._until_next = self._gap()
        now_ns = self._clock()
        passed_ns, self._saved_ns = now_ns - self._saved_ns, now_ns
        saved = self._saved + self._most * passed_ns / _HOUR_NS
        self._saved = min(self._most_saved, saved)
        if self._saved < 1.0:
            return False
        self._drawn += 1
        return True

    def _gap(self) -> int:
        """Return how many samples are passed over before the next one: geometric, from 0."""
        if self.share <= 0.0:
            return _NEVER
        if self.share >= 1.0:
            return 0
        return int(math.log(1.0 - self._rng.random()) / math.log1p(-self.share))
