"""What may be sent per minute, hour and day over a link that costs.

Each limit is a token bucket that holds the limit and fills at the limit per period. So in
any stretch of time t no more goes than ``limit * (1 + t / period)``, and up to one message:
a message larger than a bucket is let through when that is full, and what it takes beyond
is a debt, which is paid off before the next. Levels are whole numbers: nothing drifts.

The state goes to a file, since a device that restarts again and again would otherwise spend
its budget each time. The time between counts as far as it is known (see `lifetime`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from ...models.errors import ConfigError
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.whole_file import write_whole
from ..outbox.lifetime import Lifetime, boot_id, read_stamp, synchronised_wall_ns

_log = logging.getLogger(__name__)

_MINUTE_NS = 60_000_000_000
_MAX_STATE_BYTES = 4096
_CRC_BYTES = 4

SEGMENT_BYTES = 1360
"""What one packet carries of a stream, on links whose packets have 1,400 to 1,500 bytes."""

PACKET_BYTES = 72
"""What surrounds it: IPv6 40, TCP 20, time stamps 12; 20 less on IPv4."""

TLS_BYTES = 22
"""What TLS 1.3 adds to a record, which holds up to 16 KiB."""

_TLS_RECORD_BYTES = 16 << 10
_PUBACK_BYTES = 4


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many messages and bytes may go per minute, hour and day; None: any number."""

    messages_per_minute: int | None = None
    messages_per_hour: int | None = None
    messages_per_day: int | None = None
    bytes_per_minute: int | None = None
    bytes_per_hour: int | None = None
    bytes_per_day: int | None = None


_PERIOD_NS = {"minute": _MINUTE_NS, "hour": 60 * _MINUTE_NS, "day": 24 * 60 * _MINUTE_NS}


class _Kept(Struct, frozen=True, array_like=True):
    """The state on disk: by limit, how much it was and how much is missing of it."""

    v: int
    stamp: bytes
    missing: dict[str, tuple[int, int]]


class _Bucket:
    """One limit. What is missing of it is counted in tokens times nanoseconds of the period."""

    def __init__(self, name: str, limit: int, now_ns: int) -> None:
        what, _, period = name.split("_")
        self.limit = limit
        self.period_ns = _PERIOD_NS[period]
        self.of_bytes = what == "bytes"
        self.missing = 0
        self.unkept = 0
        self._at_ns = now_ns

    def wait_ns(self, amount: int, now_ns: int) -> int:
        """Return how long it is until the amount may go."""
        self.fill(now_ns)
        room = max(0, self.limit - amount) * self.period_ns
        return max(0, -(-(self.missing - room) // self.limit))

    def take(self, amount: int, now_ns: int) -> None:
        self.fill(now_ns)
        self.missing += amount * self.period_ns
        self.unkept += amount

    def fill(self, now_ns: int) -> None:
        passed_ns = now_ns - self._at_ns
        if passed_ns > 0:
            self.missing = max(0, self.missing - self.limit * passed_ns)
            self._at_ns = now_ns

    @property
    def missing_tokens(self) -> int:
        return -(-self.missing // self.period_ns)


class Budget:
    """The buckets of one link; times are CLOCK_BOOTTIME nanoseconds. One thread owns it.

    ``state`` is what an earlier run has left by `state`; without, or where it is damaged,
    all buckets are full. A bucket whose limit has changed since is empty at most.

    Raises:
        ConfigError: a limit is less than 1.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        state: bytes | None = None,
        clock: Clock = boottime_ns,
        boot: str | None = None,
        wall: Callable[[], int | None] = synchronised_wall_ns,
        where: str = "uplink.budget",
    ) -> None:
        now_ns = clock()
        self._buckets: dict[str, _Bucket] = {}
        for name, limit in msgspec.structs.asdict(limits).items():
            if limit is not None and limit < 1:
                raise ConfigError(
                    f"{limit} is no limit", where=f"{where}.{name}", hint="1 or more, or none"
                )
            if limit is not None:
                self._buckets[name] = _Bucket(name, limit, now_ns)
        kept = None if state is None else _read(state)
        if state is not None and kept is None:
            _log.warning("the state of the budgets is damaged: they begin anew, unspent")
        boot = boot_id() if boot is None else boot
        last = None if kept is None else read_stamp(kept.stamp)
        self._lifetime = Lifetime(last=last, seen_ns=0, clock=clock, boot=boot, wall=wall)
        if kept is not None and last is not None:
            passed_ns = now_ns + self._lifetime.ahead_ns - last.life_ns
            if last.boot != boot:
                passed_ns = max(passed_ns, now_ns)  # this boot is later than that state
            self._restore(kept, passed_ns, now_ns)

    @property
    def unkept_share(self) -> float:
        """How much has been spent since `state` was last asked for, of the scarcest limit."""
        return max((one.unkept / one.limit for one in self._buckets.values()), default=0.0)

    def allows(self, size_bytes: int, now_ns: int) -> bool:
        """Tell whether a message of that size may go now."""
        return self.next_ns(size_bytes, now_ns) == now_ns

    def next_ns(self, size_bytes: int, now_ns: int) -> int:
        """Return when a message of that size may go, if nothing else goes before; or now."""
        waits = (
            bucket.wait_ns(size_bytes if bucket.of_bytes else 1, now_ns)
            for bucket in self._buckets.values()
        )
        return now_ns + max(waits, default=0)

    def spend(self, size_bytes: int, now_ns: int, *, messages: int = 1) -> None:
        """Count what has gone, allowed or not: what must go regardless becomes a debt."""
        for bucket in self._buckets.values():
            bucket.take(size_bytes if bucket.of_bytes else messages, now_ns)

    def left(self, now_ns: int) -> dict[str, int]:
        """Return what is left of each limit, by its name in `Limits`; a debt is negative."""
        for bucket in self._buckets.values():
            bucket.fill(now_ns)
        return {name: one.limit - one.missing_tokens for name, one in self._buckets.items()}

    def state(self, now_ns: int) -> bytes:
        """Return what the next run goes on from."""
        missing = {}
        for name, bucket in self._buckets.items():
            bucket.fill(now_ns)
            bucket.unkept = 0
            missing[name] = (bucket.limit, bucket.missing_tokens)
        data = msgspec.msgpack.encode(_Kept(1, self._lifetime.stamp(), missing))
        return crc32(data).to_bytes(_CRC_BYTES, "little") + data

    def _restore(self, kept: _Kept, passed_ns: int, now_ns: int) -> None:
        for name, bucket in self._buckets.items():
            limit, missing = kept.missing.get(name, (bucket.limit, 0))
            if limit != bucket.limit:
                missing = min(missing, bucket.limit)
            bucket.missing = max(0, missing * bucket.period_ns - bucket.limit * max(0, passed_ns))
            bucket.fill(now_ns)


class BudgetFile:
    """Where a budget's state is kept; a disk that fails is named once and then ignored.

    It is written when ``every_s`` have passed since the last time, or at once when a
    sixteenth of a limit has been spent since: so much a crash can cost.
    """

    def __init__(self, path: Path, *, every_s: float = 5.0) -> None:
        self._path = path
        self._every_ns = int(every_s * 1e9)
        self._kept_ns: int | None = None
        self._failed = False

    def read(self) -> bytes | None:
        """Return the state that was kept; None where there is none."""
        try:
            with self._path.open("rb") as file:
                return file.read(_MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            _log.info("%s: no budget is kept here yet: it begins unspent", self._path)
        except OSError as error:
            _log.warning("%s: cannot be read, so the budget begins unspent: %s", self._path, error)
        return None

    def keep(self, budget: Budget, now_ns: int) -> None:
        """Write the state if it is time."""
        share = budget.unkept_share
        late = self._kept_ns is None or now_ns - self._kept_ns >= self._every_ns
        if share >= 1 / 16 or (share and late):
            self._write(budget, now_ns)

    def close(self, budget: Budget, now_ns: int) -> None:
        """Write the state if anything has been spent since."""
        if budget.unkept_share:
            self._write(budget, now_ns)

    def _write(self, budget: Budget, now_ns: int) -> None:
        self._kept_ns = now_ns
        try:
            write_whole(self._path, budget.state(now_ns))
        except OSError as error:
            level = logging.DEBUG if self._failed else logging.WARNING
            self._failed = True
            _log.log(level, "%s: the budget's state cannot be kept: %s", self._path, error)


def wire_bytes(
    topic: str, payload_bytes: int, *, properties_bytes: int = 0, tls: bool = True
) -> int:
    """Estimate what a metered link counts for one QoS 1 message, in both directions.

    That is the MQTT packet in TLS records and TCP segments of `SEGMENT_BYTES`, an
    acknowledgement of TCP for every other segment, and the PUBACK with its own. Keepalives,
    handshakes and what is sent again are not in it. Rather too much than too little: over
    IPv4 without TLS it was 1.42 of what was measured for 100 bytes, 1.11 for 1 KB and 1.03
    for 100 KB, a message at a time.
    """
    rest = 2 + len(topic.encode()) + 2 + properties_bytes + payload_bytes
    stream = 1 + max(1, -(-rest.bit_length() // 7)) + rest
    answer = _PUBACK_BYTES
    if tls:
        stream += TLS_BYTES * -(-stream // _TLS_RECORD_BYTES)
        answer += TLS_BYTES
    segments = -(-stream // SEGMENT_BYTES)
    packets = segments + -(-segments // 2) + 2
    return stream + answer + packets * PACKET_BYTES


def _read(state: bytes) -> _Kept | None:
    """Return what was kept; None where it is damaged."""
    checksum, data = state[:_CRC_BYTES], state[_CRC_BYTES:]
    if len(state) > _MAX_STATE_BYTES or checksum != crc32(data).to_bytes(_CRC_BYTES, "little"):
        return None
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
    except (ValueError, RecursionError):
        return None
    return kept if kept.v == 1 and read_stamp(kept.stamp) is not None else None
