"""Quiet hours: times of the day, on the device's own wall clock, when a link is to rest.

A window is ``22:00-06:00``; it may run over midnight, and 24:00 ends a day. Where summer
time takes an hour out of the day or gives it twice, a window holds whenever the clock on
the wall shows one of its times.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from ...models.errors import ConfigError

_DAY_S = 86_400
_WINDOW = re.compile(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)", re.ASCII)


def local_offset_s(wall_s: float) -> int:
    """Return how far this machine's wall time is ahead of UTC at a moment."""
    return time.localtime(wall_s).tm_gmtoff


class QuietHours:
    """Windows of local time; moments are seconds since 1970.

    ``where`` is the key of the windows in the configuration.

    Raises:
        ConfigError: a window cannot be read or is empty.
    """

    def __init__(
        self,
        windows: Sequence[str],
        *,
        where: str = "uplink.quiet_hours",
        offset_s: Callable[[float], int] = local_offset_s,
    ) -> None:
        self._offset_s = offset_s
        self._windows = [
            _window(text, where=f"{where}[{place}]") for place, text in enumerate(windows)
        ]

    def is_quiet(self, wall_s: float) -> bool:
        """Tell whether the link rests at a moment."""
        now_s = self._time_of_day_s(int(wall_s))
        return any(
            begin <= now_s < end if begin < end else now_s >= begin or now_s < end
            for begin, end in self._windows
        )

    def _time_of_day_s(self, wall_s: int) -> int:
        return (wall_s + self._offset_s(wall_s)) % _DAY_S


def _window(text: str, *, where: str) -> tuple[int, int]:
    """Return a window's begin and end, seconds of the day; an end of 24:00 is 86,400."""
    found = _WINDOW.fullmatch(text.strip())
    hours = (0, 0) if found is None else (int(found[1]), int(found[3]))
    if found is None or hours[0] > 23 or hours[1] > 24 or (hours[1] == 24 and found[4] != "00"):
        raise ConfigError(
            f"{text[:80]!r} is no time of the day", where=where, hint='for example "22:00-06:00"'
        )
    begin = 3600 * hours[0] + 60 * int(found[2])
    end = 3600 * hours[1] + 60 * int(found[4])
    if begin == end:
        raise ConfigError(f"{text!r} is empty", where=where, hint='all day is "00:00-24:00"')
    return begin, end
