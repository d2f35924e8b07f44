"""Which devices there are, by the statuses that the broker has retained."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ...models.errors import WireError
from ...telemetry.clock import Clock, boottime_ns
from ...uplink.link.link import Connected, Disconnected, Link, Received, Subscribed
from ...uplink.publishers.presence import Status
from ...uplink.topics import Device
from .lines import Line, Span, Style, cut
from .status import in_words, parse_status_topic, read_status

MOST = 1000
"""More devices than these are counted, and not listed."""

_CLOSE_S = 0.5


class ListedDevice(Struct, frozen=True, kw_only=True):
    """One device and what it says of itself."""

    device: str
    site: str
    state: str
    session: int
    note: str | None = None


class Listing(Struct, frozen=True, kw_only=True):
    """The devices of a broker, by site and name; ``left_out`` statuses had no room."""

    devices: tuple[ListedDevice, ...] = ()
    left_out: int = 0
    malformed: int = 0
    trouble: str | None = None


class DeviceList:
    """Gathers statuses over a link that is not yet open, and is closed with it.

    ``topics`` is the filter for them, see `statuses`.
    """

    def __init__(self, link: Link, topics: str, *, clock: Clock = boottime_ns) -> None:
        self._link = link
        self._topics = topics
        self._found: dict[Device, Status] = {}
        self._left_out = 0
        self._malformed = 0
        self._trouble: str | None = "connecting to the broker"
        self._clock = clock
        self._last_ns: int | None = None
        link.open()

    @property
    def quiet_s(self) -> float | None:
        """For how long nothing has come since the broker let us in; None: it has not yet."""
        return None if self._last_ns is None else (self._clock() - self._last_ns) / 1e9

    def poll(self, timeout_s: float) -> None:
        """Take what has come."""
        for event in self._link.poll(timeout_s):
            match event:
                case Connected():
                    self._link.subscribe((self._topics,))
                case Disconnected(reason=reason):
                    self._trouble = f"no broker: {reason}"
                    self._last_ns = None
                case Subscribed(refused=refused):
                    hears = f"the broker does not let us hear {', '.join(refused)}"
                    self._trouble = hears if refused else None
                    self._last_ns = None if refused else self._clock()
                case Received():
                    self._received(event)
                case _:
                    pass

    def listing(self) -> Listing:
        """Return what is known now."""
        return Listing(
            devices=tuple(
                ListedDevice(
                    device=device.name,
                    site=device.site,
                    state=in_words(status),
                    session=status.session,
                    note=status.note,
                )
                for device, status in sorted(self._found.items(), key=_place)
            ),
            left_out=self._left_out,
            malformed=self._malformed,
            trouble=self._trouble,
        )

    def close(self) -> None:
        """Part from the broker."""
        self._link.close(timeout_s=_CLOSE_S)

    def _received(self, event: Received) -> None:
        if event.token is not None:
            self._link.ack(event.token)
        self._last_ns = self._clock()
        try:
            device = parse_status_topic(event.topic)
            status = read_status(event.payload) if event.payload else None
        except WireError:
            self._malformed += 1
            return
        if status is None:
            self._found.pop(device, None)
        elif device in self._found or len(self._found) < MOST:
            self._found[device] = status
        else:
            self._left_out += 1


def _place(item: tuple[Device, Status]) -> tuple[str, str]:
    return item[0].site, item[0].name


def screen(listing: Listing, *, chosen: int, columns: int, rows: int | None = None) -> list[Line]:
    """Return the list as lines, the device at ``chosen`` marked and in sight."""
    count = len(listing.devices)
    head: list[Line] = [(Span(f"{count} device{'s' * (count != 1)}", "head"),)]
    if listing.trouble is not None:
        head.append((Span(listing.trouble, "bad"),))
    if listing.left_out or listing.malformed:
        said = f"{listing.left_out} statuses had no room, {listing.malformed} were malformed"
        head.append((Span(said, "warn"),))
    head.append((Span(f"  {'device':<24}{'site':<16}{'state':<18}session", "dim"),))
    shown = list(_rows(listing.devices, chosen=chosen))
    if rows is not None:
        room = max(0, rows - len(head))
        first = max(0, min(chosen - room // 2, len(shown) - room))
        shown = shown[first : first + room]
    return [cut(line, columns) for line in [*head, *shown][:rows]]


def _rows(devices: tuple[ListedDevice, ...], *, chosen: int) -> Iterator[Line]:
    for place, one in enumerate(devices):
        here = place == chosen
        style: Style = "bad" if one.state.startswith("offline") else "good"
        yield (
            Span("> " if here else "  ", "bold"),
            Span(f"{one.device:<24}", "head" if here else ""),
            Span(f"{one.site:<16}"),
            Span(f"{one.state:<18}", style),
            Span(f"{one.session}  {one.note or ''}", "dim"),
        )
