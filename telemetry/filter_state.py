"""How a stream's filters stand, as every exporter tells it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ShadowState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model says that saw a small share of what its filter had ruled out.

    ``drawn`` samples were, ``judged`` of them are known about, ``wrong`` of these mattered after
    all, or would have been answered otherwise. ``error`` is their share, with its anytime-valid
    bounds ``low`` and ``high``; beyond ``limit`` the bundle's word does not hold (None: it gives
    none, or it cannot be told yet).
    """

    drawn: int
    judged: int
    wrong: int
    error: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None


class CacheState(Struct, frozen=True, kw_only=True):
    """What a reuse filter knows: ``keys``, at ``most``; how many gave way, and grew too old."""

    keys: int
    most: int
    evicted: int
    expired: int


class LabelsState(Struct, frozen=True, kw_only=True):
    """Samples to teach the filter anew: the far end was ``asked`` of so many, ``by_lot`` of these.

    ``cut`` is how far from the threshold a sample may be now to be asked about, whatever lots say
    (of a reuse filter: how certain; None: too few seen). ``left`` are those that may be asked
    about at once, of what comes in with each hour.
    """

    asked: int
    by_lot: int = 0
    cut: float | None = None
    left: float = 0.0


class FilterState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A filter: of ``seen`` samples it has ruled out ``filtered``, ``failed`` went by it unjudged.

    ``state`` "off": it has broken the bundle's word, ``why`` says how, and filters no more.
    ``left_out`` samples went by it untried, since it had failed time after time. ``shadow`` is None
    where nothing is drawn, ``cache`` of a skip filter, ``labels`` where none are asked for.
    """

    name: str
    kind: Literal["skip", "reuse"]
    state: Literal["on", "off"]
    seen: int
    filtered: int
    failed: int
    left_out: int = 0
    why: str | None = None
    shadow: ShadowState | None = None
    cache: CacheState | None = None
    labels: LabelsState | None = None
