"""What a device's run has cost so far, published every so often for whoever watches.

The loop's thread makes the record, for it alone may read the ledgers, and hands it over;
only the newest is kept. It goes at QoS 0 and is not retained: it is out of date soon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from ...telemetry.snapshot import Snapshot
from ..link.link import Link, Received
from ..topics import Device


class TelemetryTopic:
    """A `Publisher` of the newest `Snapshot`; ``wake`` makes the pump's thread call `turn`."""

    def __init__(self, device: Device, *, wake: Callable[[], None]) -> None:
        self._topic = device.telemetry
        self._wake = wake
        self._newest: deque[bytes] = deque(maxlen=1)
        self._mid: int | None = None
        self._encoder = msgspec.json.Encoder()
        self._offered = 0
        self._sent = 0

    @property
    def filters(self) -> tuple[str, ...]:
        """Nothing is subscribed to."""
        return ()

    def offer(self, record: Snapshot) -> None:
        """Hand over a record, from any one thread; it takes the place of one not yet sent."""
        self._newest.append(self._encoder.encode(record))
        self._offered += 1
        self._wake()

    busy = False  # what is not sent is out of date soon

    def connected(self, link: Link) -> None:
        """Do nothing: `turn` goes on."""

    def disconnected(self) -> None:
        """Forget what was under way; see `Publisher`."""
        self._mid = None

    def received(self, event: Received) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return False: nothing is for us."""
        return False

    def delivered(self, mid: int, refused: str | None) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Note that the connection has taken the last record; see `Publisher`."""
        if mid != self._mid:
            return False
        self._mid = None
        return True

    def turn(self, link: Link | None, now_ns: int) -> None:  # noqa: ARG002 -- the protocol's signature
        """Publish the newest record, once the one before is written; see `Publisher`."""
        if link is None or self._mid is not None or not self._newest:
            return
        self._mid = link.send(self._topic, self._newest.pop(), qos=0)
        self._sent += self._mid is not None

    def next_ns(self) -> int | None:
        """Return None: only an offer makes something due; see `Publisher`."""
        return None

    def counters(self) -> dict[str, int]:
        """Return how many records were offered, and how many of them sent; see `Publisher`."""
        return {"telemetry_offered": self._offered, "telemetry_sent": self._sent}

    def close(self) -> None:
        """Do nothing: what was not sent is out of date; see `Publisher`."""
