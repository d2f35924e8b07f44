"""What a report says in words: what is better, what is doubtful, and the command to change it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from .candidates import TITLES
from .record import Apart, Estimate, Gate, Scored, Side

_TOLD_APART = 0.6  # an AUROC; chance is one half
_USUAL = 0.2  # to escalate, where nothing is known


def findings(
    scores: Sequence[Scored],
    gate: Gate | None,
    sides: Sequence[Side],
    *,
    apart: Apart,
    bundle: str,
    area_up_to: float,
) -> Iterator[str]:
    """Yield what follows from the figures."""
    own = next(one for one in scores if one.own)
    command = _command(bundle, gate)
    if gate is None:
        yield f"the bundle has no gate yet: {command} finds one"
    else:
        yield from _promise(gate)
    yield from _cooperation(sides, gate)
    yield from _rivals(own, scores, command=command, area_up_to=area_up_to)
    yield from _apart(apart, own)


def _command(bundle: str, gate: Gate | None) -> str:
    """Return the command that finds score and threshold anew."""
    share = _USUAL if gate is None else min(max(gate.escalated.value, 0.01), 0.99)
    return f"hedge calibrate {shlex.quote(bundle)} ROWS.npz --rate {share:.2g} --out NEW"


def _promise(gate: Gate) -> Iterator[str]:
    """Yield whether the promise is kept here, where there is one."""
    found, promised = gate.accepted_accuracy, gate.promised
    if promised is None or found is None:
        return
    said = f"{promised:.2%} was promised of what the edge answers alone; it is {_share(found)}"
    if found.high is not None and found.high < promised:
        yield f"the promise is BROKEN on these rows: {said}"
    elif found.value < promised:
        yield f"the promise is not kept on these rows, though by no clear margin: {said}"
    else:
        yield f"the promise is kept on these rows: {said}"


def _cooperation(sides: Sequence[Side], gate: Gate | None) -> Iterator[str]:
    by_name = {one.side: one for one in sides}
    both, edge = by_name.get("cooperative"), by_name["edge"]
    if gate is None or both is None:
        return
    part = gate.recovered
    gap = "" if part is None else f", {_percent(part)} of the gap to the cloud"
    yield (
        f"cooperation is right in {both.accuracy.value:.2%}, the edge alone in "
        f"{edge.accuracy.value:.2%}{gap}, with {gate.escalated.value:.1%} escalated"
    )


def _rivals(
    own: Scored, scores: Sequence[Scored], *, command: str, area_up_to: float
) -> Iterator[str]:
    """Yield which score is clearly better than the bundle's own."""
    gates = [one for one in scores if "area" in one.better]
    if gates:
        best = max(gates, key=lambda one: 0.0 if one.area is None else one.area.value)
        more = best.area_more
        yield (
            f"{best.title} gates clearly better than {own.title}: {_points(more)} points of mean "
            f"accuracy while up to {area_up_to:.0%} escalate; {command} chooses anew (on other "
            "rows than these, or these are no test any more)"
        )
        return
    tells = [one for one in scores if "augrc" in one.better]
    if tells:
        best = min(tells, key=lambda one: 1.0 if one.augrc is None else one.augrc.value)
        yield (
            f"{best.title} tells the edge's wrong answers clearly better than {own.title} "
            f"(AUGRC {_figure(best)} against {_figure(own)}), if not what the cloud would mend; "
            f"{command} chooses anew"
        )
        return
    yield f"no score that the bundle holds is clearly better than its own, {own.title}"


def _apart(apart: Apart, own: Scored) -> Iterator[str]:
    """Yield that rows of another kind look like the own ones, where they do."""
    found = apart.auroc[own.name]
    if found < _TOLD_APART:
        best = max(apart.auroc, key=lambda name: apart.auroc[name])
        yield (
            f"{own.title} does not tell rows of another kind ({apart.source}) from its own: AUROC "
            f"{found:.3f}; the best of the bundle, {TITLES[best]}, has {apart.auroc[best]:.3f}"
        )


def doubts(sides: Sequence[Side], scores: Sequence[Scored], gap: Estimate | None) -> Iterator[str]:
    """Yield what makes figures mean little."""
    if gap is not None and (gap.low is None or gap.low <= 0):
        yield (
            "the cloud is not clearly better than the edge: parts of such a gap mean little "
            f"({100 * gap.value:+.2f} points)"
        )
    own = next(one for one in scores if one.own)
    chance = next((one for one in scores if one.name == "random"), None)
    if chance is not None and chance.area_more is not None and own.area is not None:
        low = chance.area_more.low
        if low is not None and low > 0:
            yield f"{own.title} gates worse than chance"
    if not any(one.side == "cloud" for one in sides):
        yield "the bundle has no cloud model: what cooperation buys cannot be told"


def _figure(one: Scored) -> str:
    return "-" if one.augrc is None else f"{one.augrc.value:.4f}"


def _share(found: Estimate) -> str:
    return f"{found.value:.2%} {_interval(found)}"


def _percent(found: Estimate) -> str:
    ends = (
        "" if found.low is None or found.high is None else f" [{found.low:.0%}, {found.high:.0%}]"
    )
    return f"{found.value:.0%}{ends}"


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"[{found.low:.2%}, {found.high:.2%}]"


def _points(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "more"
    ends = f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    return f"{100 * found.value:+.2f} {ends}"
