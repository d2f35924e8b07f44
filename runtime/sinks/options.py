"""Where outcomes and events go, as the configuration says it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Rate = Annotated[float, Meta(gt=0, le=1e6)]
Text = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]
Argument = Annotated[str, Meta(max_length=4000, pattern=r"^[^\x00]*\Z")]
Place = Annotated[str, Meta(pattern=r"^(?:[^\s/@]{1,255}:)?[0-9]{1,5}\Z")]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Which = Literal["events", "finals", "all"]
State = Literal["opened", "closed", "clip"]


class JsonLinesSink(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="jsonl"
):
    """Outcomes and events as JSON lines, appended to a file.

    It is changed for a new one before it grows beyond ``max_bytes`` or is older than
    ``max_age_s`` (None: never); of the earlier ones, ``PATH.1`` the youngest, ``keep`` stay,
    and none whose last line is older than ``keep_days``, after which a new one is begun, too.
    """

    path: Text
    which: Which = "all"
    max_bytes: Annotated[int, Meta(ge=1 << 12, le=1 << 44)] | None = None
    max_age_s: Annotated[float, Meta(ge=1, le=31_536_000)] | None = None
    keep: Annotated[int, Meta(ge=0, le=1000)] = 4
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None


class TerminalSink(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="terminal"
):
    """Outcomes and events on standard output."""


class MqttSinkConfig(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"
):
    """Outcomes and ``events`` on the device's own topics: "finals", or "all"; needs [uplink].

    ``keep`` says where finals wait for the broker's acknowledgement: what is on "disk"
    survives a kill and a power cut. ``max_rate_hz`` bounds how often each stream publishes;
    finals of escalated samples, and events, are never left out.
    """

    which: Literal["finals", "all"] = "finals"
    qos: Literal[0, 1] = 1
    max_rate_hz: Rate | None = None
    keep: Literal["disk", "memory"] = "disk"
    keep_count: Count = 10_000
    keep_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 16 << 20
    events: bool = True


class SqliteSink(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sqlite"
):
    """Outcomes and events as rows of an SQLite file, which other programs may read meanwhile.

    The oldest rows go where the file with its log would grow beyond ``max_bytes``, and at
    ``keep_days``. Rows are committed together, at the latest after ``commit_s``.
    """

    path: Text
    which: Which = "all"
    max_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 44)] = 256 << 20
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    commit_s: Annotated[float, Meta(gt=0, le=60)] = 1.0


class HttpSink(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="http"
):
    """The last ``keep`` outcomes and events of each stream, for whoever asks over HTTP.

    ``listen`` is "PORT" or "HOST:PORT"; without a host on the loopback only.
    """

    listen: Place = "9470"
    which: Which = "all"
    keep: Annotated[int, Meta(ge=1, le=1000)] = 100


class CommandSink(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="command"
):
    """A program that is started for each event, or outcome; no shell reads its arguments.

    In ``argv`` words in braces are replaced: {stream} {label} {id} {state} {event} {route}
    {probability} {clip}; the whole of it is on its standard input as one line of JSON. One runs
    at a time, for ``timeout_s`` at most; ``queue`` wait, and what comes beyond that is counted.
    ``states`` are those of an event that it is started for.
    """

    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=100)]
    which: Which = "events"
    states: Annotated[tuple[State, ...], Meta(min_length=1)] = ("opened", "closed", "clip")
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    queue: Annotated[int, Meta(ge=1, le=10_000)] = 100


AnySink = JsonLinesSink | TerminalSink | MqttSinkConfig | SqliteSink | HttpSink | CommandSink
