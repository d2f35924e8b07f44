"""Figures as files, and the report of a device's run, written when the run ends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from ..models.bundle import SUFFIX, bundle_around
from ..models.errors import ConfigError
from ..telemetry.energy.figures import EnergyReport
from ..telemetry.ledger import StreamReport
from ..telemetry.whole_file import write_whole


class RunReport(Struct, frozen=True, kw_only=True):
    """A run's figures: its streams' ledgers, the uplink's counters, what the process took.

    ``counts`` holds the loop's own counters (late answers, sink errors). ``energy`` is None
    where no sensor is read. Bytes, seconds.
    """

    device: str
    site: str
    session: int
    seconds: float
    streams: tuple[StreamReport, ...]
    uplink: dict[str, int]
    counts: dict[str, int]
    rss_bytes: int
    cpu_s: float
    energy: EnergyReport | None


def check_place(path: Path | None) -> None:
    """Refuse at once what could not be written after minutes of work.

    Raises:
        ConfigError: the folder is not there, or neither it nor the file can be written, or it
            would spoil a bundle.
    """
    if path is None:
        return
    _check_no_bundle(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError("is a folder, or lies in none that exists", where=str(path))
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError("cannot be written", where=str(path))


def check_apart(outputs: Iterable[Path | None], *, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse to write over what is read, or twice in the same place.

    Both may be files or folders, or be still to come.

    Raises:
        ConfigError: what is to be written is one of ``inputs``, lies in one, or is there twice.
    """
    inputs = tuple(inputs)
    taken = {_place(path): path for path in inputs if path is not None}
    for path in outputs:
        if path is None or _is_special(path):
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


def _is_special(path: Path) -> bool:
    """Tell whether it is a terminal or a pipe, say."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _check_no_bundle(path: Path) -> None:
    around = bundle_around(path)
    if around is not None or path.suffix == SUFFIX:
        what = f"lies in the bundle {around}" if around is not None else "has a bundle's name"
        raise ConfigError(what, where=str(path), hint="name another file to write")


def write_json(path: Path | None, record: Struct) -> None:
    """Write a record as indented JSON, whole or not at all; nowhere if ``path`` is None.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        write_output(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def write_output(path: Path, data: bytes) -> None:
    """Write a file that was asked for; what was there stays if that fails.

    Raises:
        ConfigError: the file cannot be written.
    """
    _check_no_bundle(path)
    try:
        if _is_special(path) or not os.access(path.resolve().parent, os.W_OK):
            path.write_bytes(data)
        else:
            write_whole(path.resolve(), data, mode=0o666)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", where=str(path)) from error
