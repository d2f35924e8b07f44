"""A recording of power: a CSV file that says where it comes from.

::

    # hedge power recording 1
    # board: jetson-orin-nano-nx
    # image: JetPack 6.2
    # source: ina3221
    # scope: module
    # total: VDD_IN
    # step: 0.04
    # negative: false
    # note: ...
    t_s,VDD_IN,VDD_SOC
    0.000,5.502,1.513
    0.100,5.542,

Times are seconds, rising; values are watts, and an empty cell is a reading that failed. ``step``
may be missing, where it is not known; ``note`` too. Of a sensor that counts energy, a row holds
the mean power since the row before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from msgspec import Struct, structs

from ...models.errors import ConfigError
from ..boards.small_file import read_small
from .reader import Scope

HEAD = "# hedge power recording 1"
MAX_BYTES = 32 << 20
MAX_ROWS = 500_000
MAX_RAILS = 64
_MAX_LABEL = 64
_MAX_W = 1e6
_NEEDED = ("board", "image", "source", "scope", "total")
_KNOWN = (*_NEEDED, "step", "negative", "note")

Row = tuple[float, tuple[float | None, ...]]
"""Seconds, and the watts of each rail."""


class Recording(Struct, frozen=True, kw_only=True):
    """What was recorded: where, of what, and the rows by rising time.

    ``board`` and ``image`` name the board's profile and its system, ``source`` the sensor,
    ``total`` the rails that add up to what ``scope`` says, ``step`` watts of the coarsest.
    """

    board: str
    image: str
    source: str
    scope: Scope
    rails: tuple[str, ...]
    total: tuple[str, ...]
    step: float | None = None
    negative: bool = False
    note: str | None = None
    rows: tuple[Row, ...]


def write_recording(path: Path, recording: Recording) -> None:
    """Write a recording; one that could not be read again is refused.

    Raises:
        ConfigError: a label, a text or a row is no good, or the file cannot be written.
    """
    text = "".join(f"{line}\n" for line in _lines(recording))
    read_back = _parsed(text, where=str(path))
    if structs.replace(read_back, rows=()) != structs.replace(recording, rows=()):
        raise ConfigError("a text of its head has line breaks or blanks around", where=str(path))
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error


def read_recording(path: Path) -> Recording:
    """Return the recording in a file.

    Raises:
        ConfigError: it cannot be read, is too large, or is none; says which line.
    """
    data = read_small(path, max_bytes=MAX_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError("is no UTF-8 text", where=str(path)) from error
    return _parsed(text, where=str(path))


def _lines(recording: Recording) -> Iterator[str]:
    yield HEAD
    for key in ("board", "image", "source", "scope"):
        yield f"# {key}: {getattr(recording, key)}"
    yield f"# total: {','.join(recording.total)}"
    if recording.step is not None:
        yield f"# step: {recording.step!r}"
    yield f"# negative: {str(recording.negative).lower()}"
    if recording.note is not None:
        yield f"# note: {recording.note}"
    yield ",".join(("t_s", *recording.rails))
    for t_s, powers in recording.rows:
        cells = ("" if power_w is None else f"{power_w:.6g}" for power_w in powers)
        yield ",".join((f"{t_s:.6f}", *cells))


def _parsed(text: str, *, where: str) -> Recording:
    lines = text.split("\n")
    if lines[0].rstrip("\r") != HEAD:
        raise ConfigError(f"is no power recording: it does not begin with {HEAD!r}", where=where)
    body = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = _head(lines[1:body], where=where)
    labels = lines[body].rstrip("\r").split(",") if body < len(lines) else []
    rails, total = tuple(labels[1:]), tuple(filter(None, head["total"].split(",")))
    _check_labels(labels, total, head["scope"], where=f"{where}: line {body + 1}")
    rows = tuple(_rows(lines[body + 1 :], rails=len(rails), where=where, first=body + 2))
    if len(rows) < 2:
        raise ConfigError("holds fewer than two rows", where=where)
    return Recording(
        board=head["board"],
        image=head["image"],
        source=head["source"],
        scope=_scope(head["scope"], where=where),
        rails=rails,
        total=total,
        step=_step(head.get("step"), where=where),
        negative=head.get("negative") == "true",
        note=head.get("note"),
        rows=rows,
    )


def _head(lines: Iterable[str], *, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        key, _, value = line.removeprefix("#").partition(":")
        key, value = key.strip(), value.strip()
        known = key in _KNOWN and key not in found and value.isprintable()
        if not known or (key == "negative" and value not in _BOOLEANS):
            raise ConfigError(f"{line[:80]!r} says nothing known", where=f"{where}: line {number}")
        found[key] = value
    missing = [key for key in _NEEDED if not found.get(key) and key != "total"]
    if missing or "total" not in found:
        raise ConfigError(f"does not say its {(*missing, 'total')[0]}", where=where)
    return found


_BOOLEANS = ("true", "false")


def _check_labels(labels: list[str], total: tuple[str, ...], scope: str, *, where: str) -> None:
    rails = labels[1:]
    if labels[:1] != ["t_s"] or not rails:
        raise ConfigError("is not 't_s' and the rails' labels", where=where)
    if len(rails) > MAX_RAILS or any(not 0 < len(one) <= _MAX_LABEL for one in rails):
        raise ConfigError(f"more than {MAX_RAILS} rails, or a label that is no good", where=where)
    if len(set(rails)) < len(rails) or not all(one.isprintable() for one in rails):
        raise ConfigError("a label stands twice, or cannot be printed", where=where)
    for label in total:
        if label not in rails:
            raise ConfigError(f"the total's {label!r} is no rail", where=where)
    if bool(total) != (scope != "none"):
        raise ConfigError("a total has a scope, and no total has none", where=where)


def _scope(text: str, *, where: str) -> Scope:
    known: tuple[Scope, ...] = get_args(Scope)
    for scope in known:
        if text == scope:
            return scope
    raise ConfigError(f"{text!r} is no scope", where=where, hint=f"known: {', '.join(known)}")


def _step(text: str | None, *, where: str) -> float | None:
    step = None if text is None else _number(text)
    if text is not None and (step is None or not 0 < step <= _MAX_W):
        raise ConfigError(f"{text[:40]!r} is no step in watts", where=where)
    return step


def _rows(lines: Iterable[str], *, rails: int, where: str, first: int) -> Iterator[Row]:
    before_s = -math.inf
    for number, line in enumerate(lines, first):
        if not line.rstrip("\r"):
            continue
        place = f"{where}: line {number}"
        if number - first >= MAX_ROWS:
            raise ConfigError(f"more than {MAX_ROWS} rows", where=where)
        cells = line.rstrip("\r").split(",")
        t_s = _number(cells[0])
        if len(cells) != rails + 1 or t_s is None or t_s <= before_s:
            raise ConfigError(f"is not a later time and {rails} values", where=place)
        yield t_s, tuple(_power(cell, where=place) for cell in cells[1:])
        before_s = t_s


def _power(cell: str, *, where: str) -> float | None:
    power_w = _number(cell) if cell else None
    if cell and (power_w is None or abs(power_w) > _MAX_W):
        raise ConfigError(f"{cell[:40]!r} is no power in watts", where=where)
    return power_w


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
