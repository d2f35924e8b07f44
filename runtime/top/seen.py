"""What is known of one device, gathered from whatever came of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ...models.errors import WireError
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.snapshot import Snapshot

MAX_BYTES = 1 << 20
"""A longer snapshot is not looked at."""

_GREATEST = 1e18  # of a figure that can be meant
_STALE_AFTER = 3.0  # of the usual time between two
_STALE_AT_LEAST_S = 5.0


class Seen(Struct, frozen=True, kw_only=True):
    """One device, as it is known at one moment.

    ``state`` is what the device or its broker says of it, ``trouble`` why nothing comes.
    ``now`` is the newest snapshot, ``age_s`` old here, ``before`` the one that came before
    it. They usually come every ``usual_s`` seconds. ``malformed`` and ``oversized`` messages
    were passed over.
    """

    device: str | None
    site: str | None
    state: str | None = None
    note: str | None = None
    trouble: str | None = None
    now: Snapshot | None = None
    before: Snapshot | None = None
    age_s: float | None = None
    usual_s: float | None = None
    malformed: int = 0
    oversized: int = 0

    @property
    def stale(self) -> bool:
        """Whether the newest snapshot should have had a successor long since."""
        if self.age_s is None or self.usual_s is None:
            return False
        return self.age_s > max(_STALE_AT_LEAST_S, _STALE_AFTER * self.usual_s)

    @property
    def offline(self) -> bool:
        """Whether the device, or its broker, says that it has gone."""
        return self.state is not None and self.state.startswith("offline")

    @property
    def current(self) -> bool:
        """Whether the newest snapshot tells how it is now."""
        return not (self.stale or self.offline)


class Watch:
    """Takes what comes of one device; one thread uses it.

    ``usual_s`` is how often a snapshot is asked for; None: they come by themselves, and the
    time between the last two tells, or of the first what the device has counted.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        site: str | None = None,
        usual_s: float | None = None,
        clock: Clock = boottime_ns,
    ) -> None:
        self._seen = Seen(device=device, site=site, usual_s=usual_s)
        self._measures = usual_s is None
        self._clock = clock
        self._at_ns: int | None = None

    def seen(self) -> Seen:
        """Return what is known now."""
        if self._at_ns is None:
            return self._seen
        age_s = (self._clock() - self._at_ns) / 1e9
        return msgspec.structs.replace(self._seen, age_s=max(0.0, age_s))

    def say(self, *, state: str | None, note: str | None = None) -> None:
        """Note what is said of the device."""
        self._seen = msgspec.structs.replace(self._seen, state=state, note=note)

    def trouble(self, why: str | None) -> None:
        """Note why nothing comes; None: nothing is in the way."""
        self._seen = msgspec.structs.replace(self._seen, trouble=why)

    def pass_over(self, *, oversized: bool) -> None:
        """Count a message that is none."""
        seen = self._seen
        if oversized:
            self._seen = msgspec.structs.replace(seen, oversized=seen.oversized + 1)
        else:
            self._seen = msgspec.structs.replace(seen, malformed=seen.malformed + 1)

    def take(self, payload: bytes) -> None:
        """Take a snapshot as it came; the same once more is no news."""
        if len(payload) > MAX_BYTES:
            self.pass_over(oversized=True)
            return
        try:
            found = read_snapshot(payload)
        except WireError:
            self.pass_over(oversized=False)
            return
        last, now_ns = self._seen.now, self._clock()
        if last is not None and (last.session, last.uptime_s) == (found.session, found.uptime_s):
            return
        usual_s = self._seen.usual_s
        if self._measures:
            since_ns = None if self._at_ns is None else now_ns - self._at_ns
            usual_s = _published_every_s(found) if since_ns is None else since_ns / 1e9
        self._at_ns = now_ns
        self._seen = msgspec.structs.replace(self._seen, now=found, before=last, usual_s=usual_s)


def _published_every_s(first: Snapshot) -> float | None:
    """Return how often a device has published, by its own count before this snapshot."""
    published = first.uplink.get("telemetry_offered", 0)
    return first.uptime_s / published if published > 0 else None


def read_snapshot(payload: bytes) -> Snapshot:
    """Return the snapshot that JSON of at most MAX_BYTES holds.

    Raises:
        WireError: it holds none, or a figure that cannot be meant.
    """
    try:
        found = msgspec.json.decode(payload, type=Snapshot)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"no snapshot: {error}") from error
    for number in _numbers(msgspec.to_builtins(found)):
        if not abs(number) <= _GREATEST:  # NaN is not, either
            raise WireError("a snapshot with a figure that cannot be meant")
    return found


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401 -- any part of a decoded document
    match value:
        case bool() | str() | None:
            return
        case dict():
            for one in value.values():
                yield from _numbers(one)
        case list() | tuple():
            for one in value:
                yield from _numbers(one)
        case int() | float():
            yield value
