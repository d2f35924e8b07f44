"""Which sensors a device reads: what its configuration names, or what there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...models.errors import ConfigError
from ..boards.detect import Detected
from ..boards.profile import Power
from ..clock import Clock, boottime_ns
from .battery import open_battery
from .ina import DRIVERS, open_ina
from .null import NullReader
from .nvml import open_nvml
from .options import PowerOptions
from .pmic import open_pmic
from .rapl import open_rapl
from .reader import PowerReader
from .replay import open_replay

_log = logging.getLogger(__name__)

KEY = "telemetry.power"


class Found(NamedTuple):
    """The reader, and why each that would have come before it does not read here."""

    reader: PowerReader
    passed: tuple[str, ...] = ()


def open_reader(
    options: PowerOptions,
    *,
    board: Detected,
    base: Path,
    root: Path = Path("/"),
    clock: Clock = boottime_ns,
) -> PowerReader:
    """Return the reader that the options mean; the caller closes it.

    ``base`` is the folder from which a recording's path goes, ``root`` where /sys and /usr lie.

    Raises:
        ConfigError: the reader that is named yields no reading, or ``path`` is wrong.
        MissingExtraError: its library is not installed.
    """
    return find_reader(options, board=board, base=base, root=root, clock=clock).reader


def find_reader(
    options: PowerOptions,
    *,
    board: Detected,
    base: Path,
    root: Path = Path("/"),
    clock: Clock = boottime_ns,
) -> Found:
    """Return what `open_reader` does, and why it is not another.

    Raises:
        ConfigError: the reader that is named yields no reading, or ``path`` is wrong.
        MissingExtraError: its library is not installed.
    """
    if (options.path is not None) != (options.reader == "replay"):
        what = "names no recording" if options.path is None else "is for the reader 'replay' alone"
        raise ConfigError(what, where=f"{KEY}.path")
    power = board.profile.power if board.profile is not None else Power()
    openers = _openers(options, power, base=base, root=root, clock=clock)
    if options.reader == "auto":
        return _first(_offered(power), openers)
    try:
        return Found(openers[options.reader]())
    except ConfigError as error:
        what = f"{options.reader!r} yields no reading: {_in_words(error)}"
        raise ConfigError(what, where=f"{KEY}.reader", hint=error.hint) from error


def _openers(
    options: PowerOptions, power: Power, *, base: Path, root: Path, clock: Clock
) -> dict[str, Callable[[], PowerReader]]:
    return {
        "none": NullReader,
        "ina": partial(open_ina, power, root=root, clock=clock),
        "pmic": partial(open_pmic, power, root=root),
        "rapl": partial(open_rapl, root=root, clock=clock),
        "battery": partial(open_battery, root=root, on_battery=options.reader == "auto"),
        "nvml": open_nvml,
        "replay": partial(open_replay, base / (options.path or ""), clock=clock),
    }


def _offered(power: Power) -> Iterator[str]:
    """Yield what the board's profile names, then what a machine of any kind may have.

    NVML is not among it: what is read must not depend on what happens to be installed.
    """
    drivers = {rail.driver for rail in power.rail}
    if drivers & set(DRIVERS):
        yield "ina"
    if "vcgencmd" in drivers:
        yield "pmic"
    yield from ("rapl", "battery")


def _first(names: Iterable[str], openers: Mapping[str, Callable[[], PowerReader]]) -> Found:
    passed: list[str] = []
    for name in names:
        try:
            return Found(openers[name](), tuple(passed))
        except ConfigError as error:
            _log.debug("no power from %s: %s", name, error)
            passed.append(f"{name}: {_in_words(error)}")
    return Found(NullReader(), tuple(passed))


def _in_words(error: ConfigError) -> str:
    """Return what is wrong and where, without what to do."""
    return error.what if error.where is None else f"{error.where}: {error.what}"
