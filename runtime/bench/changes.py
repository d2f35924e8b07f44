"""How each figure of a variant changed from one run to another, and whether that is chance.

A figure is worse only if its whole 95 % interval lies beyond a margin: what could as well be
noise is "unsure". Latencies are judged twice, in milliseconds and beside the null backend's of
the same run, and both must say so: the null backend is the same code in both runs, so what
moved with it is the machine. If it moved much, no latency is judged, unless the model went the
other way in both: no machine does that by being faster or slower. A quantile beyond which too
many calls were held up by other processes is not judged at all: calls of microseconds meet them
rarely, longer ones often, so the null backend does not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from .accuracy import Accuracy
from .comparison import Change, Margins, Verdict
from .energy_record import Energy
from .latency import Latency
from .proportions import difference, paired_difference
from .record import DISTURBED, BenchReport, Measured
from .scenario_record import ScenarioResult
from .spread import LEAST_SPANS, Compared, quantile_ratio

SEED = 0
TAIL = 0.99
_MOST_MOVED = 1.25
_LEAST_MS = 1e-6  # what no clock resolves
_QUANTILES: tuple[tuple[str, float, Callable[[Latency], float]], ...] = (
    ("median", 0.5, lambda one: one.median_ms),
    ("percentile(90%)", 0.9, lambda one: one.p90_ms),
    ("percentile(99%)", 0.99, lambda one: one.p99_ms),
)
LATENCIES = frozenset(what for what, _, _ in _QUANTILES)


def changes_of(
    reports: tuple[BenchReport, BenchReport], one: Measured, other: Measured, margins: Margins
) -> Iterator[Change]:
    """Yield every figure that both runs have of a variant."""
    yield from _latencies(reports, one, other, margins)
    yield from _accuracies(one.accuracy, other.accuracy, margins)
    yield from _energies(one.energy, other.energy, margins)
    yield from _scenarios(_scored(reports[0], one), _scored(reports[1], other))


def judged(low: float, high: float, *, worse_above: float, better_below: float) -> Verdict:
    """Return what an interval of a figure that is to be small says."""
    if low > worse_above:
        return "worse"
    if high < better_below:
        return "better"
    return "same" if better_below <= low and high <= worse_above else "unsure"


def _latencies(
    reports: tuple[BenchReport, BenchReport], one: Measured, other: Measured, margins: Margins
) -> Iterator[Change]:
    for what, share, of in _QUANTILES:
        before, after = of(one.latency), of(other.latency)
        found = _paired(reports, one, other, share=share)
        change = Change(
            what=what,
            unit="ms",
            before=before,
            after=after,
            kind="ratio",
            value=after / max(before, _LEAST_MS),
        )
        if found is None:
            why = f"fewer than {LEAST_SPANS} rounds, or none kept"
            yield msgspec.structs.replace(change, why=why)
            continue
        plain, beside = found.plain, found.beside_floor
        low, high = min(plain.low, beside.low), max(plain.high, beside.high)
        verdict = _ratio_verdict(low, high, margins)
        moved, against = _moved(reports), _against_floor(reports, verdict)
        doubt = _disturbed(reports, one, other, share=share)
        if moved is not None and not against:
            doubt = f"the machine was another: {moved}"
        if share >= TAIL and not margins.tails:
            doubt = doubt or "one run says too little of a tail: --tails judges it"
        yield msgspec.structs.replace(
            change,
            value=plain.median,
            low=plain.low,
            high=plain.high,
            beside_floor=beside,
            verdict=verdict if doubt is None else "not judged",
            why=doubt if doubt or moved is None else f"although {moved}",
        )


def _paired(
    reports: tuple[BenchReport, BenchReport], one: Measured, other: Measured, *, share: float
) -> Compared | None:
    floors = reports[0].floor_spread, reports[1].floor_spread
    if one.spread is None or other.spread is None or floors[0] is None or floors[1] is None:
        return None
    runs = one.spread, other.spread
    return quantile_ratio(runs, (floors[0], floors[1]), share=share, seed=SEED)


def _moved(reports: tuple[BenchReport, BenchReport]) -> str | None:
    """Say that what the null backend takes changed too much for the same machine."""
    times = _floor_times(reports)
    if 1 / _MOST_MOVED <= times <= _MOST_MOVED:
        return None
    return f"the null backend took x {times:.2f}"


def _against_floor(reports: tuple[BenchReport, BenchReport], verdict: Verdict) -> bool:
    """Return whether the model became slower where the floor became faster, or vice versa."""
    return verdict == ("worse" if _floor_times(reports) < 1 else "better")


def _floor_times(reports: tuple[BenchReport, BenchReport]) -> float:
    return reports[1].floor.median_ms / max(reports[0].floor.median_ms, _LEAST_MS)


def _disturbed(
    reports: tuple[BenchReport, BenchReport], one: Measured, other: Measured, *, share: float
) -> str | None:
    """Say why a quantile is not the model's own: others held up too many calls beyond it."""
    for when, report, of in (("first", reports[0], one), ("second", reports[1], other)):
        held_up = report.preempted_share(of.latency)
        if held_up > DISTURBED * (1 - share):
            return f"something else held up {held_up:.2%} of the calls of the {when} run"
    return None


def _ratio_verdict(low: float, high: float, margins: Margins) -> Verdict:
    return judged(low, high, worse_above=1 + margins.ratio, better_below=1 / (1 + margins.ratio))


def _accuracies(one: Accuracy | None, other: Accuracy | None, margins: Margins) -> Iterator[Change]:
    if one is None or one.accuracy is None:
        return
    if other is None or other.accuracy is None:
        yield Change(
            what="accuracy",
            unit="",
            before=one.accuracy,
            after=None,
            kind="difference",
            why="not measured any more",
        )
        return
    hits, others = one.hits(), other.hits()
    same_rows = one.data_sha256 == other.data_sha256 and one.rows == other.rows
    if hits is not None and others is not None and same_rows:
        found = paired_difference(hits, others)
    else:
        found = difference((one.accuracy, one.rows), (other.accuracy, other.rows))
    verdict = judged(
        -found.high,
        -found.low,
        worse_above=margins.accuracy,
        better_below=-margins.accuracy,
    )
    yield Change(
        what="accuracy",
        unit="",
        before=one.accuracy,
        after=other.accuracy,
        kind="difference",
        value=found.value,
        low=found.low,
        high=found.high,
        verdict=verdict,
        why="row by row" if found.paired else "of different rows",
    )


def _energies(one: Energy | None, other: Energy | None, margins: Margins) -> Iterator[Change]:
    """Yield the ratio of energies, its interval the widest that both intervals allow."""
    if one is None and other is None:
        return
    before = None if one is None else one.joules
    after = None if other is None else other.joules
    why = _why_no_energy(one, other)
    lows = [None if of is None else of.low_j for of in (one, other)]
    highs = [None if of is None else of.high_j for of in (one, other)]
    low = high = value = None
    if before and after and lows[0] and lows[1] and highs[0] and highs[1]:
        value, low, high = after / before, lows[1] / highs[0], highs[1] / lows[0]
    may = why is None and low is not None and high is not None
    yield Change(
        what="energy",
        unit="J",
        before=before,
        after=after,
        kind="ratio",
        value=value,
        low=low,
        high=high,
        verdict=_ratio_verdict(low or 0.0, high or 0.0, margins) if may else "not judged",
        why=why,
    )


def _why_no_energy(one: Energy | None, other: Energy | None) -> str | None:
    for when, of in (("first", one), ("second", other)):
        if of is None:
            return f"no power source in the {when} run"
        if of.replayed:
            return f"replayed in the {when} run"
        if of.joules is None:
            return f"not resolvable in the {when} run"
    if one and other and one.source != other.source:
        return f"{one.source} against {other.source}"
    return None


def _scored(report: BenchReport, of: Measured) -> dict[tuple[str, ...], ScenarioResult]:
    return {
        (one.scenario, *one.parts): one
        for one in report.scenarios
        if (one.variant, one.threads) == (of.variant, of.threads)
    }


def _scenarios(
    olds: dict[tuple[str, ...], ScenarioResult], news: dict[tuple[str, ...], ScenarioResult]
) -> Iterator[Change]:
    """Yield LoadGen's figures side by side: one figure a run says nothing of chance."""
    for key, one in olds.items():
        if key not in news:
            continue
        other = news[key]
        offline = one.scenario == "Offline"
        before = one.samples_per_s if offline else one.scored_ms
        after = other.samples_per_s if offline else other.scored_ms
        invalid = [when for when, of in (("first", one), ("second", other)) if not of.valid]
        yield Change(
            what=f"{one.scenario} of {' + '.join(one.parts)}",
            unit="samples/s" if offline else "ms",
            before=before,
            after=after,
            kind="ratio",
            value=after / before if before and after else None,
            why=f"INVALID in the {' and the '.join(invalid)} run" if invalid else "one run each",
        )
