"""A comparison as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from .comparison import Change, Comparison
from .lines import joules, plain_number, printable
from .measure import named


def lines(found: Comparison) -> Iterator[str]:
    """Yield the comparison, line by line; of names and reasons nothing but text."""
    yield from map(printable, _lines(found))


def _lines(found: Comparison) -> Iterator[str]:
    yield f"{found.before} -> {found.after}"
    margins = found.margins
    yield (
        f"margins: {margins.ratio:.0%} of latency and energy, {margins.accuracy * 100:g} points of "
        f"accuracy; 95 % intervals, bootstrap seed {found.seed}"
    )
    yield from (f"differs: {one}" for one in found.differs)
    for pair in found.pairs:
        model = "" if pair.same_model else ", another model"
        yield f"{pair.variant}, {named(pair.threads)}{model}"
        yield from (f"  {_change(one)}" for one in pair.changes)
    yield from (f"{one}: WORSE (it was measured in {found.before})" for one in found.failed)
    yield from (f"{one}: not judged (only in {found.before})" for one in found.only_before)
    yield from (f"{one}: only in {found.after}" for one in found.only_after)
    yield _outcome(found)


def _outcome(found: Comparison) -> str:
    if found.worse:
        return "WORSE"
    if not found.judged:
        return "nothing could be judged"
    other = "" if found.latencies_judged else " other"
    figures = f"no regression in {found.judged}{other} figure{'s' * (found.judged > 1)}"
    unsure = f", {found.unsure} of them unsure" if found.unsure else ""
    if not found.latencies_judged:
        return f"no latency could be judged; {figures}{unsure}"
    left = f"; {found.not_judged} could not be judged" if found.not_judged else ""
    return f"{figures}{unsure}{left}"


def _change(one: Change) -> str:
    before, after = (_value(value, one.unit) for value in (one.before, one.after))
    words = f"{one.what}: {before} -> {after}"
    if one.value is not None:
        words += f", {_effect(one)}"
    if one.beside_floor is not None:
        beside = one.beside_floor
        words += f"; beside the floor x {beside.median:.3f} [{beside.low:.3f}, {beside.high:.3f}]"
    verdict = one.verdict.upper() if one.verdict == "worse" else one.verdict
    return f"{words}: {verdict}" + ("" if one.why is None else f" ({one.why})")


def _effect(one: Change) -> str:
    value, low, high = one.value or 0.0, one.low, one.high
    if one.kind == "ratio":
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return f"x {value:.3f}{interval}"
    interval = "" if low is None or high is None else f" [{low * 100:+.2f}, {high * 100:+.2f}]"
    return f"{value * 100:+.2f}{interval} points"


def _value(value: float | None, unit: str) -> str:
    match unit:
        case _ if value is None:
            return "none"
        case "J":
            return joules(value)
        case "":
            return f"{value:.2%}"
        case _:
            return f"{plain_number(value)} {unit}"
