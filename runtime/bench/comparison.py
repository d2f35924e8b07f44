"""What `hedge bench compare` found, as it stands in its JSON."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from .latency import Ratio

FORMAT = 1
Verdict = Literal["worse", "better", "same", "unsure", "not judged"]


class Margins(Struct, frozen=True, kw_only=True):
    """What counts as a change: a part of a latency or of an energy, and a share of the rows.

    ``tails``: 99th percentiles are judged, too.
    """

    ratio: float = 0.05
    accuracy: float = 0.01
    tails: bool = False


class Change(Struct, frozen=True, kw_only=True):
    """One figure of both runs.

    ``kind`` says what ``value``, ``low`` and ``high`` are: how many times as much, or how
    much more. ``beside_floor`` is the ratio of a latency less what the machine moved.
    ``why`` says why a figure was not judged, or how it was.
    """

    what: str
    unit: str
    before: float | None
    after: float | None
    kind: Literal["ratio", "difference"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    beside_floor: Ratio | None = None
    verdict: Verdict = "not judged"
    why: str | None = None


class Pair(Struct, frozen=True, kw_only=True):
    """One variant with so many threads, in both runs; ``same_model``: of the same file."""

    variant: str
    threads: int
    same_model: bool
    changes: tuple[Change, ...]


class Comparison(Struct, frozen=True, kw_only=True):
    """What became of each variant; ``worse`` is true if any figure is, or a variant failed.

    ``failed`` are those that were measured before and cannot be measured any more, each with
    its reason; ``only_before`` and ``only_after`` have no partner. ``judged`` and
    ``not_judged`` count figures, and each of ``only_before`` as one that is not judged;
    ``latencies_judged`` and ``unsure`` are those among the judged. ``differs`` says what else
    differs between the runs. ``seed`` is that of the bootstrap.
    """

    format: int
    before: str
    after: str
    margins: Margins
    seed: int
    differs: tuple[str, ...]
    pairs: tuple[Pair, ...]
    failed: tuple[str, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    judged: int
    not_judged: int
    latencies_judged: int
    unsure: int
    worse: bool
