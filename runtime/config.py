"""The configuration: one TOML file, checked whole before anything starts.

Precedence: a flag, then the environment (``HEDGE__SECTION__KEY``, for a stream
``HEDGE__STREAM__NAME__KEY``), then the file, then the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..models.errors import ConfigError
from ..models.manifest import Name, Sha256
from ..models.toml import parse_toml, to_record
from ..telemetry.power.options import PowerOptions
from ..uplink.codecs import Codec
from ..uplink.link.budget import Limits
from ..uplink.link.link import KEEPALIVE_S
from ..uplink.outbox.shelf import Evict
from ..uplink.publishers.home_assistant import PREFIX as PREFIX_OF_HOME_ASSISTANT
from .backends.options import BackendOptions
from .events.options import EventRule
from .filters.label_options import LabelOptions
from .gate.options import AuditOptions, GateOptions
from .local_server.endpoint import address_of
from .privacy import Privacy
from .sinks.options import AnySink, HttpSink, JsonLinesSink, MqttSinkConfig, SqliteSink
from .sources.options import (
    AnySource,
    AudioSource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)
from .tracing.options import TracesOptions

Rate = Annotated[float, Meta(gt=0, le=1e6)]
Text = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]
Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
EveryS = Annotated[float, Meta(ge=1, le=86_400)]
Place = Annotated[str, Meta(pattern=r"^(?:[^\s/@]{1,255}:)?[0-9]{1,5}\Z")]
Few = Annotated[int, Meta(ge=1, le=65_536)]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
PREFIX = "HEDGE__"
_SOUND = ("device", "path")
OUTBOX = "outbox"
"""The outbox's folder, below a device's state directory."""


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which device this is, and where it keeps its state.

    ``board`` names its profile (`hedge boards`), or a file that holds one; None: it is detected.
    """

    name: Name
    site: Name = "default"
    state_dir: Text = "/var/lib/hedge"
    board: Text | None = None


class Stream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stream of samples and what is done with them.

    ``window`` bounds how many of its asks may wait for an answer: a source that can wait
    is kept waiting beyond it, any other sample gets the edge's answer as a degraded final.
    ``codec`` is how samples travel to the worker; `uplink.codecs.LOSS` says what each loses.
    ``backend`` is how its models run here, ``privacy`` what of a sample may leave the device,
    ``event`` what its outcomes mean together. ``gate`` is what may move its gate, ``audit`` how
    many of the answers that it lets pass are checked.

    ``filter`` says whether the bundle's filters are asked. The share ``filter_shadow`` of the
    samples goes to the model whatever they say, so that it is known whether they still may.
    ``filter_cache`` "kept": what a reuse filter knows is kept over restarts. ``filter_labels``
    says how much of what a filter judges the far end labels, to teach it anew.
    """

    name: Name
    bundle: Text
    source: AnySource
    pin: Sha256 | None = None
    variant: Name | None = None
    filter: bool = True
    filter_shadow: Annotated[float, Meta(ge=0, le=1)] = 0.01
    filter_cache: Literal["kept", "reset"] = "reset"
    filter_labels: LabelOptions = LabelOptions()
    mode: Literal["async", "wait"] = "async"
    answer_within_ms: Milliseconds = 2000
    on_unavailable: Literal["edge", "abstain"] = "edge"
    window: Few = 256
    codec: Codec = "raw"
    backend: BackendOptions = BackendOptions()
    privacy: Privacy = Privacy()
    gate: GateOptions = GateOptions()
    audit: AuditOptions = AuditOptions()
    event: tuple[EventRule, ...] = ()


class UplinkConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's URL (`uplink.broker_url`), and how much may wait for it.

    ``outbox`` on disk keeps what it has stored through restarts and power cuts; it leaves
    ``min_free_bytes`` of the disk to others. When full it gives up the asks of which the
    edge is surest, or the oldest. ``keep_for_s`` bounds how long an ask is kept for
    delivery, though its user has had the edge's answer long since. The password comes from
    ``password_file`` or from HEDGE_BROKER_PASSWORD. ``cert_file`` and ``key_file`` are the
    device's own, read again at every connection. ``max_packet_bytes`` is for brokers that
    speak MQTT 3.1.1, which cannot say what they take. For ``session_s`` the broker keeps the
    answers for a device that is away (with MQTT 3.1.1 for as long as it likes; 0: not at all).

    ``budget`` bounds what goes over the link, ``quiet_hours`` ("22:00-06:00", local time)
    are hours in which nothing is sent that can wait. ``home_assistant`` announces the
    device to it; false removes what was announced.
    """

    broker: str
    password_file: Text | None = None
    ca_file: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None
    max_packet_bytes: Annotated[int, Meta(ge=1024, le=268_435_455)] | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65_535)] = KEEPALIVE_S
    session_s: Annotated[int, Meta(ge=0, le=4_294_967_294)] = 3600
    outbox: Literal["disk", "memory"] = "disk"
    outbox_count: Count = 100_000
    outbox_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 256 << 20
    min_free_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 16 << 20
    evict: Evict = "surest"
    keep_for_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 259_200
    budget: Limits | None = None
    quiet_hours: tuple[str, ...] = ()
    home_assistant: bool | None = None
    discovery_prefix: Annotated[str, Meta(pattern=r"^[^+#\x00/][^+#\x00]*\Z", max_length=200)] = (
        PREFIX_OF_HOME_ASSISTANT
    )


class TelemetryLogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run's figures as JSON lines, every so often; `telemetry.exporters.telemetry_log`."""

    path: Text
    every_s: EveryS = 60.0
    max_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 40)] = 10_000_000
    keep: Annotated[int, Meta(ge=0, le=1000)] = 4


class Telemetry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told of the run while it goes on, and where its report goes when it ends.

    Every ``every_s`` its figures are published over the uplink. ``prometheus`` is where they
    can be asked for over HTTP ("9469" or "HOST:PORT"; without a host on the loopback only),
    besides ``hedge.sock`` in the state directory. ``power`` says which sensors are read,
    ``traces`` where the ways of escalated samples are told.
    """

    report: Text | None = None
    every_s: EveryS | None = None
    prometheus: Place | None = None
    log: TelemetryLogConfig | None = None
    power: PowerOptions = PowerOptions()
    traces: TracesOptions | None = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device's whole configuration; complete once it is parsed."""

    device: Device
    stream: Annotated[tuple[Stream, ...], Meta(min_length=1)]
    uplink: UplinkConfig | None = None
    telemetry: Telemetry = Telemetry()
    sink: tuple[AnySink, ...] = ()


def load_config(path: Path, *, environ: Mapping[str, str]) -> Config:
    """Read, overlay with the environment, and check the configuration at ``path``.

    Raises:
        ConfigError: it cannot be read or is wrong; ``where`` names the file and the key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint="give the path of a TOML file",
        ) from error
    document = parse_toml(data, where=str(path), error=ConfigError)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            _overlay(document, name, environ[name])
    config = to_record(document, Config, where=str(path), error=ConfigError)
    _check_names(config, where=str(path))
    _check_sources(config, where=str(path))
    _check_gates(config, where=str(path))
    _check_outputs(config, where=str(path))
    _check_links(config, where=str(path))
    return config


def _overlay(document: dict[str, Any], name: str, text: str) -> None:
    """Set the key that an environment variable names."""
    *path, key = name[len(PREFIX) :].lower().split("__")
    place: Any = document
    for step in path:
        match place:
            case dict():
                place = place.setdefault(step, {})
            case list():
                place = next((item for item in place if _named(item, step)), None)
        if not isinstance(place, dict | list):
            raise ConfigError("names no section of the configuration", where=name)
    if not isinstance(place, dict):
        raise ConfigError(
            "names a list", where=name, hint=f"{PREFIX}STREAM__NAME__KEY sets a stream's key"
        )
    place[key] = _value(text)


def _named(item: object, step: str) -> bool:
    return isinstance(item, dict) and str(item.get("name", "")).replace("-", "_") == step


def _value(text: str) -> Any:  # noqa: ANN401 -- whatever TOML can say
    """Read a value as TOML does; what is no TOML value is the string itself."""
    try:
        return parse_toml(f"value = {text}".encode(), where="", error=ConfigError)["value"]
    except ConfigError:
        return text


def _check_names(config: Config, *, where: str) -> None:
    names = [stream.name for stream in config.stream]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigError(f"a second stream {name!r}", where=f"{where}: $.stream[{place}].name")


def _check_sources(config: Config, *, where: str) -> None:
    """Check that each source is one thing, and that no two streams read the same input."""
    taken: dict[str, str] = {}
    for stream in config.stream:
        at, source = f"{where}: stream {stream.name}: source", stream.source
        match source:
            case VideoSource(url=one, pipeline=other) | AudioSource(device=one, path=other):
                keys = ("url", "pipeline") if isinstance(source, VideoSource) else _SOUND
                if (one is None) == (other is None):
                    raise ConfigError(f"needs one of {keys[0]} and {keys[1]}", where=at)
            case StdinSource():
                _take(taken, "standard input", stream.name, where=at)
            case SocketSource(path=path) | SerialSource(port=path):
                _take(taken, os.path.normpath(path), stream.name, where=at)
            case _:
                pass


def _take(taken: dict[str, str], what: str, name: str, *, where: str) -> None:
    other = taken.setdefault(what, name)
    if other != name:
        raise ConfigError(f"{what} is read by stream {other} already", where=where)


def _check_gates(config: Config, *, where: str) -> None:
    """Check that each gate has one budget at most, which lets something through."""
    for stream in config.stream:
        for name in ("messages_per_hour", "bytes_per_hour"):
            amount = getattr(stream.gate, name)
            if amount is not None and 0 < amount < 1:
                raise ConfigError(
                    f"{amount:g} is below 1",
                    where=f"{where}: stream {stream.name}: gate.{name}",
                    hint="0 is none",
                )
        if stream.gate.messages_per_hour and stream.gate.bytes_per_hour:
            raise ConfigError(
                "a budget is of messages or of bytes, not of both",
                where=f"{where}: stream {stream.name}: gate",
                hint="leave out messages_per_hour or bytes_per_hour; [uplink.budget] caps both",
            )


def _check_outputs(config: Config, *, where: str) -> None:
    """Check that no two parts of the device write to one file."""
    telemetry, log = config.telemetry, config.telemetry.log
    files = {
        f"sink[{at}].path{ending and f' ({ending})'}": f"{sink.path}{ending}"
        for at, sink in enumerate(config.sink)
        if isinstance(sink, JsonLinesSink | SqliteSink)
        for ending in _endings(sink)
    }
    files |= {} if telemetry.report is None else {"telemetry.report": telemetry.report}
    if log is not None:
        files["telemetry.log.path"] = log.path
        files |= {f"telemetry.log.path (.{n})": f"{log.path}.{n}" for n in range(1, log.keep + 1)}
    places = {
        f"sink[{at}].listen": sink.listen
        for at, sink in enumerate(config.sink)
        if isinstance(sink, HttpSink)
    }
    places |= {} if telemetry.prometheus is None else {"telemetry.prometheus": telemetry.prometheus}
    seen: dict[str, str] = {}
    for key, place in places.items():
        host, port = address_of(place)
        other = seen.setdefault(f"{host}:{port}", key)
        if other != key:
            raise ConfigError(f"is the address of {other}, too", where=f"{where}: $.{key}")
    for key, path in files.items():
        other = seen.setdefault(os.path.normpath(path), key)
        if other != key:
            raise ConfigError(f"is the file of {other}, too", where=f"{where}: $.{key}")


def _endings(sink: JsonLinesSink | SqliteSink) -> list[str]:
    """Return what is put behind a sink's path to name the files that it makes."""
    match sink:
        case SqliteSink():
            return [f"{k}{part}" for k in ("", ".damaged") for part in ("", "-wal", "-shm")]
        case JsonLinesSink(max_bytes=None, max_age_s=None, keep_days=None):
            return [""]
        case JsonLinesSink(keep=keep):
            return ["", *(f".{number}" for number in range(1, keep + 1))]


def _check_links(config: Config, *, where: str) -> None:
    """Check that what needs the broker has one, and that outcomes go there once."""
    sinks = [place for place, sink in enumerate(config.sink) if isinstance(sink, MqttSinkConfig)]
    if len(sinks) > 1:
        raise ConfigError("a second sink of kind mqtt", where=f"{where}: $.sink[{sinks[1]}]")
    needs = {"sink of kind mqtt": bool(sinks), "telemetry.every_s": config.telemetry.every_s}
    for what, wanted in needs.items():
        if wanted and config.uplink is None:
            raise ConfigError(
                f"{what} needs a broker", where=where, hint='add [uplink] with broker = "mqtt://…"'
            )
