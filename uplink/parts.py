"""Requests that are longer than one packet: cut at the device, joined at the worker.

What a worker gathers is bounded per device and in all, by the sizes that were announced: a
stranger's notice takes room away, so unfinished requests are forgotten after a time. The
device then announces anew; nothing is acknowledged to it but by the answer.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from ..models.errors import UplinkError, WireError
from .topics import Device
from .wire import MAX_PARTS, MAX_REQUEST_BYTES, Notice, Part

ENVELOPE_BYTES = 96
"""What a part takes beside its data, at most."""

MIN_PART_BYTES = 256
"""The shortest parts: the first holds whatever is computed anew at each sending."""

COUNTERS = (
    *("parts_joined", "parts_forgotten", "parts_no_room"),
    *("parts_unannounced", "parts_mismatched", "parts_repeated"),
)
"""What a `Gatherer` counts: requests in the first row, parts in the second."""

_UNBEGUN_NS, _STALLED_NS = 2_000_000_000, 20_000_000_000  # untouched, of a device that wants room
_BESIDE_BYTES = 544  # topic and properties of a packet


class Bounds(Struct, frozen=True, kw_only=True):
    """How much a worker gathers at once, and for how long after the last new part."""

    size_bytes: int = 64 << 20
    requests: int = 256
    device_bytes: int = 8 << 20
    device_requests: int = 32
    patience_s: float = 60.0


def part_bytes(max_packet_bytes: int) -> int:
    """Return how many bytes of a request fit a packet.

    Raises:
        UplinkError: the broker's packets are too short to be of use.
    """
    room = min(max_packet_bytes, MAX_REQUEST_BYTES) - ENVELOPE_BYTES - _BESIDE_BYTES
    if room < MIN_PART_BYTES:
        raise UplinkError(
            f"packets of {max_packet_bytes} bytes are too short for requests in parts",
            hint=f"raise the broker's limit to {MIN_PART_BYTES + ENVELOPE_BYTES + _BESIDE_BYTES}",
        )
    return room


def split(payload: bytes, *, part_bytes: int) -> list[bytes]:
    """Cut an encoded request; all parts but the last have ``part_bytes``.

    Raises:
        WireError: there is nothing, it is too much, or it takes too many parts.
    """
    count = -(-len(payload) // part_bytes)
    if not 1 <= len(payload) <= MAX_REQUEST_BYTES or count > MAX_PARTS:
        raise WireError(f"{len(payload)} bytes do not go in parts of {part_bytes}")
    return [payload[at : at + part_bytes] for at in range(0, len(payload), part_bytes)]


class _Gathering:
    """One unfinished request."""

    __slots__ = ("found", "missing_bytes", "notice", "until_ns")

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.until_ns = 0
        self.missing_bytes = notice.size
        self.found: dict[int, bytes] = {}


_Key = tuple[Device, str]


class Gatherer:
    """Joins the parts of many devices' requests; one thread owns it.

    Times are nanoseconds on a clock that never steps back.
    """

    def __init__(self, bounds: Bounds = Bounds()) -> None:  # noqa: B008 -- frozen
        self._bounds = bounds
        self._patience_ns = int(bounds.patience_s * 1e9)
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._open: OrderedDict[_Key, _Gathering] = OrderedDict()  # longest untouched first
        self._held: dict[Device, tuple[int, int]] = {}  # requests and bytes announced
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How many bytes the unfinished requests will have."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._open)

    def counters(self) -> dict[str, int]:
        """Return everything counted since the start, by name."""
        return self._counts.copy()

    def expect(self, device: Device, notice: Notice, *, now_ns: int) -> bool:
        """Make room for what is announced; False where there is none, so do not claim it.

        An announcement that is repeated changes nothing; a different one of the same id
        takes the place of the first.
        """
        self.forget_old(now_ns=now_ns)
        key = (device, notice.id)
        known = self._open.get(key)
        if known is not None and _same(known.notice, notice):
            self._touch(key, known, now_ns)
            return True
        if known is not None:
            self._close(key)
        if not self._has_room(device, notice.size):
            self._give_up_own(device, now_ns=now_ns)
        if not self._has_room(device, notice.size):
            self._counts["parts_no_room"] += 1
            return False
        self._hold(device, 1, notice.size)
        self._touch(key, _Gathering(notice), now_ns)
        return True

    def _give_up_own(self, device: Device, *, now_ns: int) -> None:
        """Give up what a device has announced and does not send, for what it announces now.

        It was parted from us, perhaps, and has others before that one in its line: it would
        have to wait for our patience with any of them.
        """
        own = [
            (bool(one.found), one.until_ns, key)
            for key, one in self._open.items()
            if key[0] == device
        ]
        if not own:
            return
        begun, until_ns, key = min(own, key=lambda one: one[:2])
        idle_ns = now_ns + self._patience_ns - until_ns
        if idle_ns >= (_STALLED_NS if begun else _UNBEGUN_NS):
            self._close(key)
            self._counts["parts_forgotten"] += 1

    def take(self, device: Device, part: Part, *, now_ns: int) -> bytes | None:
        """Add a part; return the whole request when it was the last that was missing.

        A part that was not announced, or is not of what was, is counted and dropped; so is
        one that is here already. Other parts than announced, by their bytes, end the gathering.
        """
        self.forget_old(now_ns=now_ns)
        key = (device, part.id)
        known = self._open.get(key)
        if known is None:
            self._counts["parts_unannounced"] += 1
        elif part.index in known.found:
            self._counts["parts_repeated"] += 1
        elif (part.session, part.count) != (known.notice.session, known.notice.parts):
            self._counts["parts_mismatched"] += 1
        else:
            return self._add(key, known, part, now_ns)
        return None

    def forget(self, device: Device, ask_id: str) -> None:
        """Give up what is gathered of one request, if anything is."""
        if (device, ask_id) in self._open:
            self._close((device, ask_id))

    def forget_old(self, *, now_ns: int) -> None:
        """Give up the requests to which nothing new has come for too long."""
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if oldest.until_ns > now_ns:
                return
            self._close(key)
            self._counts["parts_forgotten"] += 1

    def _add(self, key: _Key, known: _Gathering, part: Part, now_ns: int) -> bytes | None:
        known.found[part.index] = part.data
        known.missing_bytes -= len(part.data)
        complete = len(known.found) == part.count
        if known.missing_bytes > 0 and not complete:
            self._touch(key, known, now_ns)
            return None
        self._close(key)
        if known.missing_bytes or not complete:
            self._counts["parts_mismatched"] += 1
            return None
        self._counts["parts_joined"] += 1
        return b"".join(known.found[index] for index in range(part.count))

    def _touch(self, key: _Key, known: _Gathering, now_ns: int) -> None:
        known.until_ns = now_ns + self._patience_ns
        self._open[key] = known
        self._open.move_to_end(key)

    def _close(self, key: _Key) -> None:
        known = self._open.pop(key)
        self._hold(key[0], -1, -known.notice.size)

    def _has_room(self, device: Device, size_bytes: int) -> bool:
        requests, held_bytes = self._held.get(device, (0, 0))
        return (
            len(self._open) < self._bounds.requests
            and self._size_bytes + size_bytes <= self._bounds.size_bytes
            and requests < self._bounds.device_requests
            and held_bytes + size_bytes <= self._bounds.device_bytes
        )

    def _hold(self, device: Device, requests: int, size_bytes: int) -> None:
        held_requests, held_bytes = self._held.get(device, (0, 0))
        self._size_bytes += size_bytes
        if held_requests + requests:
            self._held[device] = (held_requests + requests, held_bytes + size_bytes)
        else:
            self._held.pop(device, None)


def _same(one: Notice, other: Notice) -> bool:
    """Tell whether parts of one are parts of the other; the time that remains may differ."""
    return (one.session, one.contract, one.size, one.parts) == (
        other.session,
        other.contract,
        other.size,
        other.parts,
    )
