"""The way out of the device: everything that goes over its one connection to the broker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from ..telemetry.clock import boottime_ns
from ..uplink import codecs
from ..uplink.absent import Absent
from ..uplink.asks import Uplink
from ..uplink.link.broker_url import Broker
from ..uplink.link.budget import Budget, BudgetFile
from ..uplink.link.link import Link
from ..uplink.link.meter import Meter
from ..uplink.link.quiet import QuietHours
from ..uplink.outbox.durable_outbox import DurableOutbox
from ..uplink.outbox.outbox import MemoryOutbox, Outbox
from ..uplink.publishers.home_assistant import HomeAssistant
from ..uplink.publishers.labels import LabelTopic
from ..uplink.publishers.outcomes import OutcomePublisher
from ..uplink.publishers.publisher import Publisher
from ..uplink.publishers.spool import Spool
from ..uplink.publishers.telemetry_topic import TelemetryTopic
from ..uplink.pump import Pump
from ..uplink.topics import Device as Address
from .both_ends import link_to
from .config import OUTBOX, Config, UplinkConfig
from .credentials import secret_path
from .sinks.mqtt import MqttSink
from .sinks.options import MqttSinkConfig
from .sinks.sink import Sink
from .streams import Streams
from .version import installed

_BUDGET, _OUTCOMES = "budget", "outcomes"  # below the state directory, beside the outbox


def _nothing(config: Config) -> None:
    """Tell nobody."""


class WayOut(Struct, frozen=True, kw_only=True):
    """The uplink, the sinks that publish through it, where telemetry goes and labels come.

    ``renew`` tells others of the streams and rules of a configuration that is taken up.
    """

    uplink: Uplink
    sinks: Sequence[Sink] = ()
    telemetry: TelemetryTopic | None = None
    labels: LabelTopic | None = None
    renew: Callable[[Config], None] = _nothing


def way_out(
    config: Config,
    streams: Streams,
    *,
    base: Path,
    session: int,
    bell: threading.Event,
    since: Mapping[str, tuple[int, int]],
) -> WayOut:
    """Build it, not yet started; ``since`` is `Uplink.adopt`'s.

    Raises:
        ConfigError: a URL, a file, a codec, a budget or quiet hours are no good.
        UplinkError: another process owns the state directory.
    """
    uplink = config.uplink
    if uplink is None:
        return WayOut(uplink=Absent())
    contracts = streams.contracts()
    for stream in config.stream:
        sent = contracts[stream.name]
        where = f"stream {stream.name}: codec"
        codecs.check(stream.codec, dtype=sent.dtype, shape=sent.shape, where=where)
    state = base / config.device.state_dir
    address = Address(config.device.site, config.device.name)
    link = _link(uplink, address, base=base, state=state)
    others = _Others()
    for sink in config.sink:
        if isinstance(sink, MqttSinkConfig):
            others.outcomes(sink, address, link, state=state, labels=streams.labels)
    if config.telemetry.every_s is not None:
        others.telemetry = TelemetryTopic(address, wake=link.wake)
        others.publishers.append(others.telemetry)
    labels = LabelTopic(address, streams=_labelled(config), ring=bell.set)
    others.publishers.append(labels)
    home = None
    if uplink.home_assistant is not None:
        home = _home_assistant(config, uplink, address, streams)
        others.publishers.append(home)

    def renew(config: Config) -> None:
        labels.renew(_labelled(config))
        if home is not None:
            home.renew(streams=_sensors(config, streams), events=_rules(config))

    pump = Pump(
        link,
        device=address,
        session=session,
        contracts=contracts,
        outbox=_outbox(uplink, folder=state / OUTBOX),
        keep_for_s=uplink.keep_for_s,
        codecs={stream.name: stream.codec for stream in config.stream},
        publishers=others.publishers,
        since=since,
        bell=bell,
        clock=boottime_ns,
    )
    return WayOut(
        uplink=pump, sinks=others.sinks, telemetry=others.telemetry, labels=labels, renew=renew
    )


class _Others(Struct):
    """What goes over the connection beside the asks."""

    publishers: list[Publisher] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    telemetry: TelemetryTopic | None = None

    def outcomes(
        self,
        sink: MqttSinkConfig,
        address: Address,
        link: Link,
        *,
        state: Path,
        labels: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Add the sink that publishes outcomes."""
        spool = Spool(
            state / _OUTCOMES if sink.keep == "disk" and sink.qos else None,
            max_count=sink.keep_count,
            max_bytes=sink.keep_bytes,
            clock=boottime_ns,
        )
        publisher = OutcomePublisher(
            address, spool=spool, wake=link.wake, qos=sink.qos, max_rate_hz=sink.max_rate_hz
        )
        self.publishers.append(publisher)
        self.sinks.append(MqttSink(publisher, labels=labels, which=sink.which, events=sink.events))


def device_link(uplink: UplinkConfig, *, client_id: str, base: Path, session_s: int) -> Link:
    """Return the link that the configuration describes, without a meter and not yet open.

    Raises:
        ConfigError: the URL or one of the files is no good.
    """

    def path(name: str | None) -> Path | None:
        return None if name is None else secret_path(name, base=base, environ=os.environ)

    return link_to(
        uplink.broker,
        client_id=client_id,
        password_file=path(uplink.password_file),
        ca_file=path(uplink.ca_file),
        cert_file=path(uplink.cert_file),
        key_file=path(uplink.key_file),
        max_packet_bytes=uplink.max_packet_bytes,
        keepalive_s=uplink.keepalive_s,
        session_s=session_s,
    )


def _link(uplink: UplinkConfig, address: Address, *, base: Path, state: Path) -> Link:
    """Return the link, with a meter around it if there is anything to keep to."""
    client_id = f"hedge-{address.site}-{address.name}"
    link = device_link(uplink, client_id=client_id, base=base, session_s=uplink.session_s)
    if uplink.budget is None and not uplink.quiet_hours:
        return link
    file = BudgetFile(state / _BUDGET)
    return Meter(
        link,
        budget=None if uplink.budget is None else Budget(uplink.budget, state=file.read()),
        quiet=QuietHours(uplink.quiet_hours) if uplink.quiet_hours else None,
        file=file,
        tls=Broker.parse(uplink.broker).tls,
    )


def _outbox(uplink: UplinkConfig, *, folder: Path) -> Outbox:
    if uplink.outbox == "memory":
        return MemoryOutbox(
            max_count=uplink.outbox_count, max_bytes=uplink.outbox_bytes, evict=uplink.evict
        )
    return DurableOutbox(
        folder,
        max_count=uplink.outbox_count,
        max_bytes=uplink.outbox_bytes,
        min_free_bytes=uplink.min_free_bytes,
        evict=uplink.evict,
    )


def _home_assistant(
    config: Config, uplink: UplinkConfig, address: Address, streams: Streams
) -> HomeAssistant:
    return HomeAssistant(
        address,
        streams=_sensors(config, streams),
        events=_rules(config),
        version=installed(),
        prefix=uplink.discovery_prefix,
        telemetry=config.telemetry.every_s is not None,
        wanted=bool(uplink.home_assistant),
    )


def _sensors(config: Config, streams: Streams) -> dict[str, tuple[str, ...]]:
    """Return the labels of each stream whose outcomes are published."""
    return dict(streams.labels) if _mqtt_sinks(config) else {}


def _labelled(config: Config) -> list[str]:
    """Return the streams whose audits wait for labels."""
    return [one.name for one in config.stream if one.audit.truth == "label"]


def _rules(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the rules of each stream whose events are published."""
    if not any(sink.events for sink in _mqtt_sinks(config)):
        return {}
    return {one.name: tuple(rule.name for rule in one.event) for one in config.stream}


def _mqtt_sinks(config: Config) -> list[MqttSinkConfig]:
    return [sink for sink in config.sink if isinstance(sink, MqttSinkConfig)]
