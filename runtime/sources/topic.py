"""An MQTT topic: readings that sensors and gateways publish."""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...models.errors import ConfigError, DataError, SourceError
from ...models.manifest import Input
from ...telemetry.clock import boottime_ns
from ...uplink.link.backoff import Backoff
from ...uplink.link.broker_url import Broker, read_password
from ...uplink.link.link import Connected, Disconnected, Received, Subscribed, Token
from ...uplink.link.mqtt import MqttLink
from ...uplink.link.tls import TlsFiles
from ...uplink.topics import ROOT
from ..credentials import secret_path
from .messages import Inbox, Messages, Series
from .options import MqttSource
from .source import Captured

if TYPE_CHECKING:
    from ..config import UplinkConfig
    from .opening import Surroundings

_WAIT_S = 0.25
_GOODBYE_S = 0.2
_OPEN_S = 6.0  # for a connection and the broker's answer
_STEP_S = 2.0  # of it: a broker that comes back is not waited for in vain for longer
_TRIES = 2  # a broker that speaks MQTT 3.1.1 alone refuses the first
_TOPICS = 256  # whose windows are cut at a time
_DEVICE_LEVELS = 5  # of hedge/1/SITE/DEVICE/status
_MIN_BYTES = 1 << 22  # what MQTT 3.1.1 brokers may send without being cut off for it


class TopicReader:
    """Reads what is published to a topic filter, over a connection of its own.

    What a broker has retained is passed over: nobody knows how old it is. What is published
    while the connection is away is lost. With ``qos`` 1 a message is acknowledged once its
    captures are taken, so that with the policy "every" the broker keeps the rest. Rows of a
    window come from one topic. ``name`` is the stream's.

    Raises:
        ConfigError: no broker, no topic filter, one that hears what devices say to each other,
            or a bundle that takes nothing of that form.
    """

    recorder = None

    def __init__(
        self, options: MqttSource, spec: Input, *, name: str, around: Surroundings
    ) -> None:
        self._options = options
        self._topic = check_filter(options.topic)
        self._messages = Messages(
            options.format,
            spec,
            fields=options.fields,
            hop=options.hop,
            max_pixels=options.max_pixels,
        )
        self._name = name
        self._around = around
        self._client_id = f"hedge-{around.device}-{name}-{secrets.token_hex(4)}"
        self._link: MqttLink | None = None
        self._old_only = False  # the broker speaks MQTT 3.1.1: it need not be asked again
        self._begin()
        place, broker = self._place()  # what can never work is said now
        if not broker.tls:
            self._tls(place).check(tls=False)

    def open(self) -> None:
        """Connect and subscribe; see `Reader`."""
        self._begin()
        try:
            self._link = self._new_link()
        except ConfigError as error:  # a file that may be put right while we run
            raise SourceError(
                error.what,
                where=error.where,
                hint=error.hint or "the device's user must be able to read it",
            ) from error
        self._link.open()
        until_s = time.monotonic() + _OPEN_S
        while not self._hears and self._tries < _TRIES and time.monotonic() < until_s:
            self._follow(self._link, _WAIT_S)
        if not self._hears:
            raise SourceError(f"no broker: {self._why or 'no answer'}", where=self._topic)

    def read(self) -> Sequence[Captured]:
        """Return what has been published; see `Reader`."""
        link = self._link
        if not self._inbox and link is not None:
            if not self._hears:
                raise SourceError(f"the broker is gone: {self._why}", where=self._topic)
            for token in self._owed:  # what they brought has been taken
                link.ack(token)
            self._owed.clear()
            self._follow(link, _WAIT_S)
        return self._inbox.take()

    def close(self) -> None:
        """Part from the broker; see `Reader`."""
        link, self._link = self._link, None
        if link is not None:
            link.close(timeout_s=_GOODBYE_S)

    def _begin(self) -> None:
        self._inbox = Inbox()
        self._series: OrderedDict[str, Series] = OrderedDict()
        self._owed: list[Token] = []
        self._hears = False
        self._tries = 0
        self._why: str | None = None

    def _follow(self, link: MqttLink, timeout_s: float) -> None:
        """Let the connection live, and take what comes over it."""
        events = link.poll(timeout_s)
        now_ns = boottime_ns()
        for event in events:
            match event:
                case Connected(protocol=protocol):
                    self._old_only |= protocol != "5"
                    link.subscribe((self._topic,))
                case Subscribed(refused=refused):
                    self._hears = not refused
                    if refused:
                        raise SourceError(
                            "the broker does not let us hear it",
                            where=self._topic,
                            hint="its access list has to let this user read the topic",
                        )
                case Disconnected(reason=why):
                    self._hears, self._why = False, why
                    self._tries += 1
                case Received():
                    self._take(link, event, now_ns)
                case _:
                    pass

    def _take(self, link: MqttLink, event: Received, now_ns: int) -> None:
        if event.token is not None and self._options.qos:
            self._owed.append(event.token)
        elif event.token is not None:
            link.ack(event.token)
        if event.retained:
            return
        size, most = len(event.payload), self._options.max_bytes
        message: bytes | DataError = event.payload
        if size > most:
            what = f"a message of {size} bytes, and max_bytes is {most}"
            message = DataError(what, where=_shown(event.topic))
        self._inbox.put(self._of(event.topic), message, now_ns)

    def _of(self, topic: str) -> Series:
        """Return what reads that topic's messages; of too many the one longest silent goes."""
        found = self._series.get(topic)
        if found is None:
            found = self._messages.series(where=_shown(topic), meta={"topic": topic})
            self._series[topic] = found
            if len(self._series) > _TOPICS:
                self._series.popitem(last=False)
        self._series.move_to_end(topic)
        return found

    def _place(self) -> tuple[MqttSource | UplinkConfig, Broker]:
        """Return whose broker it is, and which.

        Raises:
            ConfigError: there is none.
        """
        place = self._options if self._options.broker is not None else self._around.uplink
        if place is None or place.broker is None:
            raise ConfigError(
                "no broker",
                where=f"source of {self._name}",
                hint='add [uplink] with one, or broker = "mqtt://host" to the source',
            )
        return place, Broker.parse(place.broker)

    def _secret(self, name: str | None) -> Path | None:
        base = self._around.base
        return None if name is None else secret_path(name, base=base, environ=os.environ)

    def _tls(self, place: MqttSource | UplinkConfig) -> TlsFiles:
        files = (place.ca_file, place.cert_file, place.key_file)
        ca_file, cert_file, key_file = map(self._secret, files)
        return TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file)

    def _new_link(self) -> MqttLink:
        """Return a link that is not yet open.

        Raises:
            ConfigError: one of the files is no good.
        """
        place, broker = self._place()
        # The variable of the environment holds the password for the uplink, and no other's.
        environ = os.environ if place is self._around.uplink else {}
        if self._old_only:
            broker = msgspec.structs.replace(broker, version="3.1.1")
        return MqttLink(
            broker,
            client_id=self._client_id,
            password=read_password(self._secret(place.password_file), environ=environ),
            tls=self._tls(place),
            keepalive_s=self._options.keepalive_s,
            connect_timeout_s=_STEP_S,
            max_payload_bytes=max(self._options.max_bytes, _MIN_BYTES),
            backoff=Backoff(first_s=0.05, cap_s=1.0),
        )


def _shown(topic: str) -> str:
    """Return a topic of others for a line of the log."""
    return "".join(one if one.isprintable() else "?" for one in topic[:200])


def check_filter(topic: str) -> str:
    """Return a topic filter that may be subscribed to (MQTT 5, section 4.7).

    Raises:
        ConfigError: it is none, or hears what devices of hedge say.
    """
    levels = topic.split("/")
    where = "source.topic"
    wild = [one for one in levels if ("+" in one or "#" in one) and len(one) > 1]
    if wild or "#" in levels[:-1] or len(topic.encode()) > 65_535:
        raise ConfigError(
            f"{topic[:80]!r} is no topic filter",
            where=where,
            hint="+ stands for one whole level, # for all that follow, at the end",
        )
    if levels[0] == "$share":
        raise ConfigError("a stream shares its topic with nobody", where=where)
    if _hears_devices(levels):
        raise ConfigError(
            f"{topic[:80]!r} hears {ROOT}/…, what devices say of their own samples",
            where=where,
            hint="name the topics of the sensor: sensors/#",
        )
    return topic


def _hears_devices(levels: Sequence[str]) -> bool:
    """Return whether a filter fits a device's topics, which have five levels or more."""
    for level, ours in zip(levels, ROOT.split("/"), strict=False):
        if level == "#":
            return True
        if level not in {"+", ours}:
            return False
    return "#" in levels or len(levels) >= _DEVICE_LEVELS
