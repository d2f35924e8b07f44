"""Readings over a whole run, in bounded memory, for pictures."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

POINTS = 1200


class Trace(Struct, frozen=True, kw_only=True):
    """The power of each rail over a run; a point is the mean of ``every`` readings.

    ``t_s`` counts from ``begun_ns`` (the sampler's clock), the first reading. A point is None
    where none of its readings counts.
    """

    begun_ns: int
    every: int
    t_s: tuple[float, ...]
    power_w: dict[str, tuple[float | None, ...]]


class Series:
    """Keeps at most ``points`` points: when full, it makes one of every two."""

    def __init__(self, rails: Sequence[str], *, points: int = POINTS) -> None:
        self._rails = tuple(rails)
        self._most = points
        self._every = 1
        self._held: list[tuple[int, Sequence[float | None]]] = []
        self._points: list[tuple[int, Sequence[float | None]]] = []
        self._begun_ns: int | None = None

    def add(self, at_ns: int, power_w: Sequence[float | None]) -> None:
        """Take one reading: the watts of each rail."""
        if self._begun_ns is None:
            self._begun_ns = at_ns
        self._held.append((at_ns, power_w))
        if len(self._held) < self._every:
            return
        self._points.append(_mean(self._held))
        self._held.clear()
        if len(self._points) >= self._most:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            self._points = [_mean(pair) for pair in pairs]
            self._every *= 2

    def trace(self) -> Trace:
        """Return all points so far; the readings of one that is not full are left out."""
        begun_ns = self._begun_ns or 0
        columns = zip(*(watts for _, watts in self._points), strict=True)
        found = dict(zip(self._rails, columns, strict=False))
        return Trace(
            begun_ns=begun_ns,
            every=self._every,
            t_s=tuple((at_ns - begun_ns) / 1e9 for at_ns, _ in self._points),
            power_w={label: found.get(label, ()) for label in self._rails},
        )


def _mean(
    points: Sequence[tuple[int, Sequence[float | None]]],
) -> tuple[int, Sequence[float | None]]:
    if len(points) == 1:
        return points[0]
    at_ns = sum(at for at, _ in points) // len(points)
    return at_ns, tuple(map(_mean_known, zip(*(watts for _, watts in points), strict=True)))


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
