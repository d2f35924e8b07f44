"""The power reader: which one the device will use, and whether it yields a reading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ...telemetry.boards.detect import Detected
from ...telemetry.power.opening import KEY, find_reader
from ...telemetry.power.options import PowerOptions
from ...telemetry.power.reader import PowerReader, PowerSource
from .finding import Finding, ok, warning

_PAUSE_S = 0.05  # a counter tells energy from its second reading on
_UNITS = {"power": "W", "energy": "J"}


def check_power(
    options: PowerOptions, board: Detected, *, base: Path, root: Path
) -> Iterator[Finding]:
    """Yield what the device will read its power with.

    Raises:
        HedgeError: the reader that the configuration names yields no reading.
    """
    found = find_reader(options, board=board, base=base, root=root)
    try:
        source = found.reader.source
        subject = f"{KEY}.reader"
        if options.reader == "none":
            yield ok("sensors", subject, "none: no power is read, as the configuration says")
        elif not source.rails:
            yield warning(
                "sensors",
                subject,
                f"no energy is measured: {'; '.join(found.passed)}",
                where=subject,
                todo='docs/power.md; `reader = "none"` says that it is meant so',
            )
        else:
            yield _tell(found.reader, options)
    finally:
        found.reader.close()


def _tell(reader: PowerReader, options: PowerOptions) -> Finding:
    source = reader.source
    values = reader.read()
    if source.kind == "energy":
        time.sleep(_PAUSE_S)
        values = reader.read()
    by_rail = dict(zip(source.rails, values, strict=True))
    silent = [label for label in source.total or source.rails if by_rail[label] is None]
    text = "; ".join(_facts(source, options.rate_hz))
    if silent:
        return warning(
            "sensors",
            source.name,
            f"{text}; no reading now of {', '.join(silent)}",
            where=f"{KEY}.reader",
            todo="a battery tells nothing on mains; of others see the rails above",
        )
    known = [by_rail[label] or 0.0 for label in source.total]
    now = f"; {sum(known):.3g} {_UNITS[source.kind]} now" if source.kind == "power" else ""
    return ok("sensors", source.name, text + (now if known else ""))


def _facts(source: PowerSource, rate_hz: float) -> Iterator[str]:
    yield "this reader is used" + ", of recorded values" * source.replayed
    total = " + ".join(source.total)
    yield f"{source.scope}: {total}" if total else "no total is known, only rails"
    yield f"read {min(rate_hz, source.fastest_hz or rate_hz):.3g} times a second"
    if source.step is not None:
        yield f"in steps of {source.step:.3g} {_UNITS[source.kind]}"
