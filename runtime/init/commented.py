"""A configuration as TOML that explains itself: every key, what it is for, what it could be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, inspect

from ...models.errors import ConfigError
from ...uplink.link.budget import Limits
from ..config import Config, Stream, Telemetry, TelemetryLogConfig, UplinkConfig
from ..events.options import ClipOptions, EventRule
from ..sinks.options import AnySink
from ..sources.options import AnySource, LiveOptions
from ..tracing.options import TracesOptions
from .notes import note_of

_COLUMN = 40  # where the remarks begin
_BROKER = "mqtt://127.0.0.1:1883"
Examples = Mapping[str, Any]


def commented(config: Config, *, labels: Sequence[str], examples: Examples) -> str:
    """Return ``config`` as TOML; what it does not set stands there as a comment.

    A line that begins with "#" and no space would be a key or a table. ``labels`` are the
    first stream's, ``examples`` values for keys of streams that have no default.
    """
    lines = [*_top(config), *_device(config)]
    for stream in config.stream:
        lines += _stream(stream, labels=labels, examples=examples)
    lines += [*_uplink(config.uplink), *_telemetry(config.telemetry), *_sinks(config)]
    return "\n".join(lines) + "\n"


def _top(config: Config) -> Iterator[str]:
    yield f"# Device {config.device.name!r}, as `hedge init` has made it; change what you like."
    yield "# Where a line begins with # and no space, a key or a table could be set: it has the"
    yield "# default, or an example where without it there is none."
    yield "# `hedge check FILE` says whether this runs here, `hedge run --dry FILE` what it sees."


def _device(config: Config) -> Iterator[str]:
    yield ""
    yield "[device]"
    yield from _keys(config.device)


def _stream(stream: Stream, *, labels: Sequence[str], examples: Examples) -> Iterator[str]:
    yield ""
    yield "[[stream]]"
    yield from _keys(stream, examples=examples)
    yield ""
    yield f"[stream.source]  # or another kind: {_kinds(AnySource)}"
    yield from _keys(stream.source)
    yield ""
    yield "# What may leave the device when it asks; without [uplink] nothing ever does."
    yield "[stream.privacy]"
    yield from _keys(stream.privacy)
    yield ""
    yield "# What may move the threshold from which it asks; all of it needs [uplink]."
    yield "[stream.gate]"
    yield from _keys(stream.gate)
    yield ""
    yield "# How many of the answers that the edge is sure of are checked all the same."
    yield "[stream.audit]"
    yield from _keys(stream.audit)
    yield ""
    yield "# How its models run here."
    yield "[stream.backend]"
    yield from _keys(stream.backend)
    yield ""
    yield "# What many outcomes mean together: told to the sinks when it begins, and when it ends."
    rule = EventRule(name="alarm", labels=tuple(labels[:1]))
    for event in stream.event:
        yield "[[stream.event]]"
        yield from _keys(event)
    if not stream.event:
        yield from _off("[[stream.event]]", rule)
        yield "# What is kept around each event, of video and audio."
        yield from _off("[stream.event.clip]", ClipOptions())


def _uplink(uplink: UplinkConfig | None) -> Iterator[str]:
    yield ""
    yield "# The broker by which unsure samples reach a larger model; without it the edge is alone."
    if uplink is None:
        yield from _off("[uplink]", UplinkConfig(broker=_BROKER))
        return
    yield "[uplink]"
    yield from _keys(uplink)
    yield ""
    yield "# What may go over a link that costs."
    yield from _off("[uplink.budget]", Limits())


def _telemetry(telemetry: Telemetry) -> Iterator[str]:
    yield ""
    yield "# What is told of the run itself: latency, energy, what waits."
    yield "[telemetry]"
    yield from _keys(telemetry)
    yield ""
    yield from _off("[telemetry.log]", TelemetryLogConfig(path="telemetry.jsonl"))
    yield ""
    yield "[telemetry.power]"
    yield from _keys(telemetry.power)
    yield ""
    yield from _off("[telemetry.traces]", TracesOptions(endpoint="http://127.0.0.1:4318"))


def _sinks(config: Config) -> Iterator[str]:
    yield ""
    yield f"# Where outcomes and events go: as many [[sink]] as you like, of {_kinds(AnySink)}."
    for sink in config.sink:
        yield "[[sink]]"
        yield from _keys(sink)
        yield ""
    if not config.sink:
        yield "# There is none, so nobody hears of them."


def _off(header: str, record: Struct) -> Iterator[str]:
    """Yield a table that is not there, as a comment."""
    yield f"#{header}"
    yield from _keys(record, off=True)


def _keys(record: Struct, *, examples: Examples | None = None, off: bool = False) -> Iterator[str]:
    """Yield the keys of one table; tables within it are the caller's."""
    tag = record.__struct_config__
    if tag.tag_field is not None:
        yield f"{tag.tag_field} = {toml_value(tag.tag)}"
    fields = msgspec.structs.fields(record)
    own = [one for one in fields if one.name not in LiveOptions.__struct_fields__]
    for field in (*own, *(one for one in fields if one not in own)):
        note = note_of(type(record), field.name)
        if note is None:
            continue
        value = getattr(record, field.name)
        is_set = field.default is NODEFAULT and field.default_factory is NODEFAULT
        is_set = is_set or value != _default(field)
        if not is_set and value in (None, (), {}):
            value = (examples or {}).get(field.name, note.example)
        text = f"{'#' if off or not is_set else ''}{field.encode_name} = {toml_value(value)}"
        yield f"{text:<{_COLUMN}}  # {note.why}"


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return field.default


def toml_value(value: Any) -> str:  # noqa: ANN401 -- whatever TOML can say
    """Return a value as TOML writes it.

    Raises:
        ConfigError: it is text that is no UTF-8.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ConfigError("is no UTF-8", where=ascii(value)) from error
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(toml_value(one) for one in value)}]"
        case dict():
            inner = ", ".join(
                f"{json.dumps(key)} = {toml_value(one)}" for key, one in value.items()
            )
            return f"{{ {inner} }}"
        case _:
            return repr(value)


def _kinds(union: Any) -> str:  # noqa: ANN401 -- a union has no better type
    """Return the kinds that a tagged union has."""
    info = inspect.type_info(union)
    options = info.types if isinstance(info, inspect.UnionType) else (info,)
    return ", ".join(str(one.tag) for one in options if isinstance(one, inspect.StructType))
