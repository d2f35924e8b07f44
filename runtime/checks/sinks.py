"""The sinks and the report: whether what comes out can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config import Config, JsonLinesSink
from ..report import check_place
from .finding import Finding, error, guarded, ok
from .places import why_no_folder

_BEGIN = b'{"stream":'


def check_sinks(config: Config, *, base: Path) -> Iterator[Finding]:
    """Yield whether each file that the device is to write can be written."""
    for sink in config.sink:
        if isinstance(sink, JsonLinesSink):
            yield from guarded("sink", sink.path, _outcomes(base / sink.path))
    report = config.telemetry.report
    if report is not None:
        yield from guarded("sink", report, _report(base / report))


def _outcomes(path: Path) -> Iterator[Finding]:
    if not path.exists():
        why = why_no_folder(path.parent)
    elif not path.is_file() or not _holds_outcomes(path):
        why = "it is there already, and is no file of outcomes"
    else:
        why = None if os.access(path, os.W_OK) else "this user may not write it"
    if why is None:
        yield ok("sink", str(path), "can be written")
    else:
        yield error("sink", str(path), why, where="sink.path", todo="name another file")


def _holds_outcomes(path: Path) -> bool:
    with path.open("rb") as stream:
        return _BEGIN.startswith(stream.read(len(_BEGIN)))


def _report(path: Path) -> Iterator[Finding]:
    check_place(path)
    yield ok("sink", str(path), "the report can be written")
