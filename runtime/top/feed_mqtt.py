"""A device anywhere, by what it publishes: its telemetry and its status. Nothing is sent."""

from __future__ import annotations

from ...models.errors import WireError
from ...telemetry.clock import Clock, boottime_ns
from ...uplink.link.link import Connected, Disconnected, Link, Received, Subscribed
from ...uplink.topics import Device
from .seen import Seen, Watch
from .status import in_words, read_status

_CLOSE_S = 0.5
_UNREADABLE = "nothing has come yet that can be read: is the device's hedge of another version?"
_SILENT = "no telemetry has come yet: does the device have [telemetry] every_s?"


class MqttFeed:
    """A `Feed` over a link that is not yet open, and is closed with it."""

    def __init__(self, link: Link, *, device: Device, clock: Clock = boottime_ns) -> None:
        self._link = link
        self._device = device
        self._watch = Watch(device=device.name, site=device.site, clock=clock)
        self._away: str | None = "connecting to the broker"
        self._deaf: str | None = None
        self._tell()
        link.open()

    def poll(self, timeout_s: float) -> None:
        """Take what has come; see `Feed`."""
        for event in self._link.poll(timeout_s):
            match event:
                case Connected():
                    self._link.subscribe((self._device.telemetry, self._device.status))
                case Disconnected(reason=reason):
                    self._away = f"no broker: {reason}"
                case Subscribed(refused=refused):
                    self._away = None
                    hears = f"the broker does not let us hear {', '.join(refused)}"
                    self._deaf = hears if refused else None
                case Received():
                    self._received(event)
                case _:
                    continue
            self._tell()

    def seen(self) -> Seen:
        """Return what is known now."""
        return self._watch.seen()

    def close(self) -> None:
        """Part from the broker."""
        self._link.close(timeout_s=_CLOSE_S)

    def _tell(self) -> None:
        """Say why nothing comes, if nothing can."""
        seen = self._watch.seen()
        silent = seen.now is None and not seen.offline
        why = _UNREADABLE if seen.malformed or seen.oversized else _SILENT
        self._watch.trouble(self._away or self._deaf or (why if silent else None))

    def _received(self, event: Received) -> None:
        if event.token is not None:
            self._link.ack(event.token)
        if event.topic == self._device.status:
            self._said(event.payload)
        elif event.topic == self._device.telemetry and not event.retained:  # how old, who knows
            self._watch.take(event.payload)

    def _said(self, payload: bytes) -> None:
        if not payload:  # that is how a retained message is taken back
            self._watch.say(state=None)
            return
        try:
            status = read_status(payload)
        except WireError:
            self._watch.pass_over(oversized=False)
        else:
            self._watch.say(state=in_words(status), note=status.note)
