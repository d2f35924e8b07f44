"""Reads what `hedge bench run --json` wrote."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...models.errors import ConfigError
from .record import READABLE, BenchReport

_MOST_BYTES = 16 << 20


def read_report(path: Path) -> BenchReport:
    """Read what `hedge bench run --json` wrote.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    where = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=where) from error
    if not data:
        raise ConfigError("is empty", where=where)
    if len(data) > _MOST_BYTES:
        raise ConfigError("is too large for a report of hedge bench run", where=where)
    try:
        report = msgspec.json.decode(data, type=BenchReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no report of hedge bench run: {error}", where=where) from error
    if report.format not in READABLE:
        formats = " and ".join(map(str, READABLE))
        raise ConfigError(f"has format {report.format}, this hedge reads {formats}", where=where)
    return report
