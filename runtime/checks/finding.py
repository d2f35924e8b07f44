"""What a check has found, and what the user is to do about it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from ...models.errors import HedgeError

_log = logging.getLogger(__name__)

Level = Literal["ok", "warning", "error"]
Area = Literal[
    "config",
    "bundle",
    "model",
    "backend",
    "board",
    "sensors",
    "heat",
    "memory",
    "disk",
    "state",
    "clock",
    "broker",
    "source",
    "privacy",
    "gate",
    "filter",
    "event",
    "sink",
]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    ``subject`` is which one of its ``area`` (a stream, a file); ``where`` the file or key in
    which something is wrong, ``todo`` what helps.
    """

    area: Area
    subject: str
    level: Level
    text: str
    where: str | None = None
    todo: str | None = None


def ok(area: Area, subject: str, text: str, *, todo: str | None = None) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(area=area, subject=subject, level="ok", text=text, todo=todo)


def warning(
    area: Area, subject: str, text: str, *, where: str | None = None, todo: str | None = None
) -> Finding:
    """Return a finding that the device runs with, though not as it should."""
    return Finding(area=area, subject=subject, level="warning", text=text, where=where, todo=todo)


def error(
    area: Area, subject: str, text: str, *, where: str | None = None, todo: str | None = None
) -> Finding:
    """Return a finding that keeps the device from running, or from doing what it is told."""
    return Finding(area=area, subject=subject, level="error", text=text, where=where, todo=todo)


def refusal(area: Area, subject: str, caught: HedgeError) -> Finding:
    """Return what an error of ours says, as a finding."""
    return error(area, subject, caught.what, where=caught.where, todo=caught.hint)


def guarded(area: Area, subject: str, found: Iterable[Finding]) -> Iterator[Finding]:
    """Pass findings on; what goes wrong on the way is one more, and hides no other area."""
    try:
        yield from found
    except HedgeError as caught:
        yield refusal(area, subject, caught)
    except OSError as caught:
        reason = caught.strerror or str(caught)
        yield error(area, subject, f"cannot be read: {reason}", where=caught.filename)
    except Exception as caught:  # noqa: BLE001 -- a check that fails must not hide the others
        _log.debug("the check of %s failed", area, exc_info=True)
        what = f"could not be checked: {type(caught).__name__}: {caught}"
        yield error(area, subject, what.partition("\n")[0], todo="report this; -v tells more")
