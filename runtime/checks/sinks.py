"""The sinks and the report: whether what comes out can be written, asked for, or started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

from ...models.errors import ConfigError
from ...telemetry.line_file import begins_so
from ..config import Config
from ..local_server.endpoint import address_of
from ..local_server.server import tcp_listener
from ..report import check_place
from ..sinks.command_words import checked
from ..sinks.json_lines import BEGINS
from ..sinks.options import CommandSink, HttpSink, JsonLinesSink, SqliteSink
from .finding import Finding, error, guarded, ok, warning
from .places import why_no_folder


def check_sinks(config: Config, *, base: Path) -> Iterator[Finding]:
    """Yield whether each sink can do its work; nothing is written, and no program started."""
    for sink in config.sink:
        match sink:
            case JsonLinesSink():
                yield from guarded("sink", sink.path, _json_lines(sink, base / sink.path))
            case SqliteSink():
                yield from guarded("sink", sink.path, _sqlite(base / sink.path))
            case HttpSink():
                yield from guarded("sink", sink.listen, _http(sink.listen))
            case CommandSink():
                yield from guarded("sink", sink.argv[0], _command(sink, base=base))
            case _:
                continue
    report = config.telemetry.report
    if report is not None:
        yield from guarded("sink", report, _report(base / report))


def _json_lines(sink: JsonLinesSink, path: Path) -> Iterator[Finding]:
    if path.exists() and not (path.is_file() and _holds_outcomes(path)):
        why: str | None = "it is there already, and is no file of outcomes"
    else:
        why = _why_not_written(path)
    if why is not None:
        yield error("sink", str(path), why, where="sink.path", todo="name another file")
    elif sink.max_bytes is None:
        todo = "sink.max_bytes bounds it"
        yield ok("sink", str(path), "can be written, and grows as long as it is", todo=todo)
    else:
        yield ok("sink", str(path), "can be written")


def _sqlite(path: Path) -> Iterator[Finding]:
    from ..sinks.sqlite_file import check_ours  # noqa: PLC0415 -- some Pythons lack sqlite3

    sound, why = check_ours(path), _why_not_written(path)
    if why is not None:
        yield error("sink", str(path), why, where="sink.path", todo="name another file")
    elif not sound:
        yield warning("sink", str(path), "is damaged: it will be moved aside, and a new one begun")
    else:
        yield ok("sink", str(path), "can be written")


def _http(listen: str) -> Iterator[Finding]:
    host, port = address_of(listen)
    try:
        tcp_listener(host, port).close()
    except ConfigError as caught:
        if not isinstance(caught.__cause__, OSError):
            raise
        todo = "it is tried again until it can be had; is a device running?"
        yield warning("sink", listen, caught.what, where=caught.where, todo=todo)
        return
    if _is_loopback(host):
        yield ok("sink", listen, "can be listened on, by this machine only")
    else:
        text = "whoever reaches it reads the outcomes, without a password"
        yield warning("sink", listen, text, where="sink.listen", todo="name the port alone")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _command(sink: CommandSink, *, base: Path) -> Iterator[Finding]:
    program, *_ = checked(sink.argv, folder=base)
    yield ok("sink", sink.argv[0], f"can be run: {program}")


def _why_not_written(path: Path) -> str | None:
    if not path.exists():
        return why_no_folder(path.parent)
    return None if os.access(path, os.W_OK) else "this user may not write it"


def _holds_outcomes(path: Path) -> bool:
    with path.open("rb") as stream:
        return begins_so(stream.read(64), BEGINS)


def _report(path: Path) -> Iterator[Finding]:
    check_place(path)
    yield ok("sink", str(path), "the report can be written")
