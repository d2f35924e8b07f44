"""How fast a device goes: the difference of two of its snapshots."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from ...telemetry.ledger import StreamReport
from ...telemetry.snapshot import Snapshot


class StreamRates(Struct, frozen=True, kw_only=True):
    """One stream between two snapshots; ``escalated`` is a share of 0 to 1, see `escalated`."""

    samples_per_s: float | None = None
    escalated: float | None = None


class Rates(Struct, frozen=True, kw_only=True):
    """A device between two snapshots; None: not known. ``cpu`` is a share of one core."""

    streams: Mapping[str, StreamRates] = {}
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    cpu: float | None = None

    def of(self, stream: str) -> StreamRates:
        """Return a stream's; nothing is known of one that was not there before."""
        return self.streams.get(stream, StreamRates())


def rates(before: Snapshot | None, now: Snapshot | None) -> Rates:
    """Return what happened per second of the device's own time.

    A new session begins anew, and so does a counter that has fallen: nothing is known of it
    until the next snapshot.
    """
    if before is None or now is None or before.session != now.session:
        return Rates()
    passed_s = now.uptime_s - before.uptime_s
    if passed_s <= 0:
        return Rates()

    def per_s(name: str) -> float | None:
        grown = _grown(before.uplink.get(name), now.uplink.get(name))
        return None if grown is None else grown / passed_s

    cpu_s = _grown(before.cpu_s, now.cpu_s)
    return Rates(
        streams={
            name: _stream(before.streams[name], one, passed_s=passed_s)
            for name, one in now.streams.items()
            if name in before.streams
        },
        up_bytes_per_s=per_s("bytes_up"),
        down_bytes_per_s=per_s("bytes_down"),
        cpu=None if cpu_s is None else cpu_s / passed_s,
    )


def escalated(routes: Mapping[str, int]) -> float | None:
    """Return which share of the samples that passed the filters was escalated.

    None where none has passed.
    """
    passed = routes.get("accepted", 0) + routes.get("escalated", 0)
    return routes.get("escalated", 0) / passed if passed > 0 else None


def _stream(before: StreamReport, now: StreamReport, *, passed_s: float) -> StreamRates:
    grown = {name: _grown(before.routes.get(name, 0), n) for name, n in now.routes.items()}
    read = _grown(before.read, now.read)
    if read is None or None in grown.values():
        return StreamRates()
    return StreamRates(
        samples_per_s=read / passed_s,
        escalated=escalated({name: int(n or 0) for name, n in grown.items()}),
    )


def _grown(before: float | None, now: float | None) -> float | None:
    if before is None or now is None or now < before:
        return None
    return now - before
