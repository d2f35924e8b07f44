"""Figures of energy, as they are reported: each with what it rests on."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

NOT_RESOLVABLE = "not resolvable"
Joules = float | Literal["not resolvable"] | None
"""Joules; "not resolvable" where they are fewer than the sensor can tell; None: not measured."""


class Share(Struct, frozen=True, kw_only=True):
    """What one stage or one route has taken of a stream's net energy.

    ``busy_s`` is how long it was at work, ``count`` how often: samples of the route, calls of
    the stage. ``each_j`` is the mean of one, over the time that is covered. Both are None
    where there is no baseline, and for what was never at work while a sensor was read.
    """

    joules: Joules
    busy_s: float
    count: int
    each_j: Joules


class StreamEnergy(Struct, frozen=True, kw_only=True):
    """The energy of one stream: the same joules once by stage and once by route."""

    stages: dict[str, Share]
    routes: dict[str, Share]


class EnergyReport(Struct, frozen=True, kw_only=True):
    """The energy of a run, and what the figures rest on.

    ``source`` names the sensor, ``scope`` what it covers; ``replayed`` says that its values
    were recorded elsewhere. In ``window_s`` seconds it was read ``samples`` times; ``coverage``
    (0 to 1) is the share of the window between readings that count: all joules are of that
    time only. ``resolution_j`` is the least energy that the sensor can tell from nothing in
    it, ``net_resolution_j`` that with the uncertainty of the baseline, which net figures and
    shares are held against. ``total_j`` is all that the total rails took, ``net_j`` what is
    left of it without ``idle_w``, the baseline measured before, None where there is none; it
    is negative where less was taken than when idle. ``power_w`` is the last reading of the
    total. ``other_j`` is the net energy that no stream's work accounts for. ``faults``
    counts readings that do not count, by reason: "vanished", "frozen", "negative", "jumped",
    "gap", "wrapped".
    ``unchanged_s`` of the covered time every rail said the same to the last digit for so long
    that it may have been frozen; the sensor is too coarse to tell.
    """

    source: str
    scope: str
    replayed: bool
    window_s: float
    samples: int
    coverage: float
    resolution_j: float | None
    power_w: float | None
    idle_w: float | None
    total_j: Joules
    net_j: Joules
    other_j: Joules
    rails_j: dict[str, Joules]
    faults: dict[str, int]
    net_resolution_j: float | None = None
    unchanged_s: float = 0.0
