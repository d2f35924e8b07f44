"""The figures as the page shows them: mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from .figures import MOST, ORACLE, RANDOM, RATES, Against, Figures, Scored
from .results import Ran

_DASH = "-"
Found = Sequence[Figures]


def summary(tasks: dict[str, tuple[Figures, ...]]) -> str:
    """Return one row for each task, of the edge that calibration recommends."""
    head = [
        "task",
        "edge (taught)",
        "edge",
        "cloud",
        "gap recovered at the calibrated threshold",
        "at 30 %",
        "most, at ≤ 30 %",
        "oracle at 30 %",
        "AUGRC not worse",
    ]
    return table(head, (_summary_row(recommended(found)) for found in tasks.values()))


def recommended(found: Found) -> Found:
    """Return the seeds of the edge that reached the most on the calibration rows, on average.

    Of two that reached the same, the plain softmax.
    """
    return max(
        by_teaching(found).values(),
        key=lambda seeds: (_mean(one.area for one in seeds), seeds[0].taught == "softmax"),
    )


def by_teaching(found: Found) -> dict[str, list[Figures]]:
    """Return the figures by how the edge was taught, the seeds in order."""
    ways: dict[str, list[Figures]] = {}
    for one in sorted(found, key=lambda one: one.seed):
        ways.setdefault(one.taught, []).append(one)
    return ways


def page(found: Found, ran: Ran) -> str:
    """Return the tables of one task."""
    best = recommended(found)
    return "\n\n".join((_facts(best, ran), _ways(found, best), _scores(best)))


def _summary_row(seeds: Found) -> list[str]:
    one = seeds[0]
    oracle = [_named(figures, ORACLE) for figures in seeds]
    chosen = [_named(figures, figures.chosen) for figures in seeds]
    worse = sum(one.low > 0.0 for one in _rivalry(seeds))
    rate = _mean(figures.rate for figures in seeds)
    return [
        one.task,
        f"{one.edge} ({one.taught})",
        spread(figures.edge_accuracy for figures in seeds),
        spread(figures.cloud_accuracy for figures in seeds),
        f"{spread(figures.recovered for figures in seeds)}, {rate:.0%} escalate",
        spread(score.recovered[RATES.index(MOST)] for score in chosen),
        spread(score.best for score in chosen),
        spread(score.recovered[RATES.index(MOST)] for score in oracle),
        f"{len(seeds) - worse} of {len(seeds)} seeds",
    ]


def _facts(seeds: Found, ran: Ran) -> str:
    one = seeds[0]
    people = "" if one.groups is None else f" of {one.groups} groups"
    return (
        f"Edge: {one.edge}, {spread((s.edge_ms for s in seeds), 3)} ms a sample; cloud: "
        f"{one.cloud}, {spread((s.cloud_ms for s in seeds), 3)} ms (one thread). "
        f"Seeds {', '.join(str(s.seed) for s in seeds)}; {one.calibrated} rows to calibrate on, "
        f"{_rows(seeds)} to test on{people} ({one.test_from}); "
        f"{_mean(s.seconds for s in seeds):.0f} s of training a seed. {ran.date}, {ran.machine}."
    )


def _rows(seeds: Found) -> str:
    return " / ".join(dict.fromkeys(str(one.tested) for one in seeds))


def _ways(found: Found, best: Found) -> str:
    """Return the ways in which the edge was taught, side by side, by their chosen scores."""
    ways = by_teaching(found)
    rows: dict[str, Callable[[Figures], float | None]] = {
        "edge accuracy": lambda one: one.edge_accuracy,
        "cloud accuracy": lambda one: one.cloud_accuracy,
        "both, at the calibrated threshold": lambda one: one.accuracy,
        f"escalated there (asked: {MOST:g})": lambda one: one.rate,
        "gap recovered there": lambda one: one.recovered,
        "area on the calibration rows": lambda one: one.area,
        "AUGRC in ‰": lambda one: 1e3 * _named(one, one.chosen).augrc,
        "rates worse than chance": lambda one: one.every_rate.below_random,
        "rates worse than the best single score": lambda one: one.every_rate.below_best,
        "… clearly": lambda one: one.every_rate.clearly,
        "… by at most (accuracy)": lambda one: one.every_rate.shortfall,
        "ECE of max p": lambda one: one.ece_prob,
        "ECE of 1 - u": lambda one: one.ece_vacuity,
        "Brier": lambda one: one.brier,
        "log score (nats)": lambda one: one.log_score_nats,
    }
    head = ["", *(f"**{way}**" if ways[way][0] is best[0] else way for way in ways)]
    chosen = ["score chosen", *(_often(one.chosen for one in seeds) for seeds in ways.values())]
    rivals = [_rivalry(seeds) for seeds in ways.values()]
    more = [
        ["best baseline", *(seeds[0].baseline for seeds in rivals)],
        ["AUGRC less its, in ‰", *(spread(1e3 * s.difference for s in seeds) for seeds in rivals)],
        [f"… 95 %, by {best[0].drawn}", *map(_intervals, rivals)],
    ]
    lines = ([name, *_each(ways.values(), take)] for name, take in rows.items())
    return table(head, [chosen, *lines, *more])


def _each(ways: Iterable[Found], take: Callable[[Figures], float | None]) -> Iterator[str]:
    for seeds in ways:
        yield spread(map(take, seeds))


def _rivalry(seeds: Found) -> list[Against]:
    """Return, of each seed, the chosen score beside the baseline that is best on average."""
    names = [one.baseline for one in seeds[0].against]
    means = {name: _mean(_named(one, name).augrc for one in seeds) for name in names}
    best = min(means, key=means.__getitem__)
    return [one for figures in seeds for one in figures.against if one.baseline == best]


def _intervals(seeds: Sequence[Against]) -> str:
    return ", ".join(f"{1e3 * one.low:+.2f}…{1e3 * one.high:+.2f}" for one in seeds)


def _scores(seeds: Found) -> str:
    """Return every score of the recommended edge, in the order of AUGRC."""
    names = [score.score for score in seeds[0].scores]
    means = {name: _mean(_named(one, name).augrc for one in seeds) for name in names}
    last = (RANDOM, ORACLE)
    ordered = sorted(names, key=lambda name: (name in last and last.index(name) + 1, means[name]))
    head = [f"score ({seeds[0].taught})", *(f"gap at {rate:.0%}" for rate in RATES)]
    return table(
        [*head, f"most ≤ {MOST:.0%}", "AUGRC in ‰", "AURC in ‰"],
        (_score_row(name, [_named(one, name) for one in seeds], seeds) for name in ordered),
    )


def _score_row(name: str, scores: Sequence[Scored], seeds: Found) -> list[str]:
    times = sum(one.chosen == name for one in seeds)
    mark = f" (chosen: {times} of {len(seeds)})" if times else ""
    return [
        f"{name}{mark}",
        *(spread(one.recovered[at] for one in scores) for at in range(len(RATES))),
        spread(one.best for one in scores),
        *((_DASH, _DASH) if name == ORACLE else _areas(scores)),
    ]


def _areas(scores: Sequence[Scored]) -> Iterator[str]:
    yield spread((1e3 * one.augrc for one in scores), 2)
    yield spread((1e3 * one.aurc for one in scores), 2)


def _named(figures: Figures, name: str) -> Scored:
    return next(one for one in figures.scores if one.score == name)


def _often(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Return mean ± standard deviation; a dash where a seed has no figure."""
    found = [*values]
    known = [value for value in found if value is not None]
    if len(known) < len(found) or not known:
        return _DASH
    mean = f"{_mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is of words, and the others of figures."""
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
