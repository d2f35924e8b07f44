"""What reads a board's power, as commands that measure take it on their line."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..models.errors import ConfigError
from ..models.toml import read_toml
from ..telemetry.boards.detect import Detected
from ..telemetry.power.opening import open_reader
from ..telemetry.power.options import PowerOptions
from ..telemetry.power.reader import PowerReader

_MOST_BYTES = 1 << 20
_READERS = ("auto", "none", "ina", "rapl", "pmic", "battery", "nvml")


def add_power(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    power = parser.add_mutually_exclusive_group()
    power.add_argument(
        "--power",
        metavar="READER|FILE.toml",
        default="auto",
        help=f"what reads the board's power: {', '.join(_READERS)}, or a file with the keys of "
        "[telemetry.power] (default: auto)",
    )
    power.add_argument(
        "--power-recording",
        type=Path,
        metavar="FILE.csv",
        help="replay this recording instead; the figures then say so",
    )


def opened_power(options: argparse.Namespace, *, board: Detected) -> PowerReader:
    """Open the reader that the flags mean; the caller closes it.

    Raises:
        ConfigError: there is no such reader, or it yields no reading.
        MissingExtraError: its library is not installed.
    """
    file = power_file(options)
    base = Path() if file is None else file.parent
    return open_reader(power_options(options), board=board, base=base)


def power_options(options: argparse.Namespace) -> PowerOptions:
    """Return what the flags mean as options.

    Raises:
        ConfigError: there is no such reader, or the file is none.
    """
    file = power_file(options)
    if file is not None:
        return read_toml(bytes_of(file), PowerOptions, where=str(file), error=ConfigError)
    if options.power_recording is not None:
        return PowerOptions(reader="replay", path=str(options.power_recording))
    if options.power not in _READERS:
        raise ConfigError(
            f"{options.power!r} is no reader",
            where="--power",
            hint=f"one of {', '.join(_READERS)}, or FILE.toml",
        )
    return PowerOptions(reader=options.power)


def power_file(options: argparse.Namespace) -> Path | None:
    """Return the file that says what reads the power, if one does."""
    is_file = options.power_recording is None and options.power.endswith(".toml")
    return Path(options.power) if is_file else None


def bytes_of(path: Path) -> bytes:
    """Return a small file's content.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > _MOST_BYTES:
        raise ConfigError("is too large", where=str(path))
    return data
