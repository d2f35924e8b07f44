"""Reads what `hedge bench run --json` wrote, and keeps it from being overwritten."""

from __future__ import annotations

from collections.abc import Iterable
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


def check_apart(outputs: Iterable[Path | None], *, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse to write over what is read, or twice in the same place.

    Raises:
        ConfigError: a file to be written is one of ``inputs``, lies in one, or is there twice.
    """
    inputs = tuple(inputs)
    taken = {_place(path): path for path in inputs if path is not None}
    for path in outputs:
        if path is None or (path.exists() and not path.is_file()):  # a terminal, a pipe
            continue
        inside = (one for one in inputs if one is not None and one.is_dir())
        whole = next((one for one in inside if path.resolve().is_relative_to(one.resolve())), None)
        first = whole or taken.setdefault(_place(path), path)
        if first is not path:
            raise ConfigError(
                f"would overwrite {first}", where=str(path), hint="name another file to write"
            )


def _place(path: Path) -> tuple[int, int] | Path:
    """Return what two names of the same file have in common, links too."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino
