"""The figures as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from ..bench.page.units import OF_MS, shown
from .record import Estimate, EvidenceReport, Scored, Speed

_NONE = "-"


def lines(found: EvidenceReport) -> Iterator[str]:
    """Yield the report, line by line."""
    yield f"{found.bundle} {found.version}, edge {found.variant}, digest {found.digest[:16]}"
    yield f"  {rows_line(found)}"
    yield from (f"  warning: {one}" for one in found.concerns)
    yield ""
    yield from _sides(found)
    yield ""
    yield from _scores(found)
    yield ""
    yield from (f"  {one}" for one in speed_lines(found.speed))
    yield f"  {apart_line(found)}"
    if found.maps.missing is not None:
        yield f"  no uncertainty map: {found.maps.missing}"
    yield ""
    yield from found.findings


def rows_line(found: EvidenceReport) -> str:
    """Return which rows were judged, and how the intervals came about."""
    left_out = [
        f"{count} left out that {why}"
        for count, why in (
            (found.seen_left_out, "training or calibration saw"),
            (found.dropped, "a filter drops"),
        )
        if count
    ]
    drawn = f"{found.resamples} bootstraps of {found.units} {found.resampled}s"
    intervals = f"intervals: 95 %, {drawn}, seed {found.seed}"
    return "; ".join((f"{found.rows} rows of {found.data}", *left_out, intervals))


def _sides(found: EvidenceReport) -> Iterator[str]:
    heads = ("accuracy", "ECE max p", "ECE 1-u", "Brier", "log score", "AURC", "AUGRC")
    yield f"  {'':<13}" + "".join(f"{head:>11}" for head in heads)
    for one in found.sides:
        cells = (
            f"{one.accuracy.value:.2%}",
            f"{one.ece_prob.value:.4f}",
            _NONE if one.ece_vacuity is None else f"{one.ece_vacuity.value:.4f}",
            f"{one.brier.value:.4f}",
            f"{one.log_score_nats.value:.4f}",
            f"{one.aurc.value:.4f}",
            f"{one.augrc.value:.4f}",
        )
        yield f"  {one.side:<13}" + "".join(f"{cell:>11}" for cell in cells)
        ends = (one.accuracy, one.ece_prob, one.ece_vacuity, one.brier, one.log_score_nats)
        yield f"  {'':<13}" + "".join(f"{_half(end):>11}" for end in (*ends, one.aurc, one.augrc))
    if found.gate is not None:
        gate = found.gate
        right = (
            ""
            if gate.accepted_accuracy is None
            else (f"; what the edge answers alone is right in {gate.accepted_accuracy.value:.2%}")
        )
        yield f"  the gate ({gate.score}) escalates {gate.escalated.value:.1%}{right}"


def _half(found: Estimate | None) -> str:
    """Return half the width of an interval."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"±{(found.high - found.low) / 2:.4f}"


def _scores(found: EvidenceReport) -> Iterator[str]:
    shares = [at.share for one in found.scores if one.own for at in one.at]
    gate = next((one.at_gate for one in found.scores if one.own), None)
    heads = [f"at {share:.0%}" for share in shares]
    heads += [] if gate is None else [f"gate {gate.share:.1%}"]
    yield (
        f"  {'gap recovered':<24}"
        + "".join(f"{head:>12}" for head in heads)
        + (f"{'AURC':>9}{'AUGRC':>9}")
    )
    for one in found.scores:
        yield f"{'* ' if one.own else '  '}{one.title:<24}" + _score(one, columns=len(heads))


def _score(one: Scored, *, columns: int) -> str:
    if one.missing is not None or one.aurc is None or one.augrc is None:
        return f"{_NONE:>12}   {one.missing}"
    at = (*one.at, *(() if one.at_gate is None else (one.at_gate,)))
    cells = [_NONE if share.recovered is None else f"{share.recovered.value:.2f}" for share in at]
    better = " better" if one.better else ""
    return (
        "".join(f"{cell:>12}" for cell in cells[:columns])
        + f"{one.aurc.value:>9.4f}{one.augrc.value:>9.4f}{better}"
    )


def speed_lines(speed: Speed) -> Iterator[str]:
    """Yield what a sample takes, here."""
    told = f"a sample takes the edge {shown(speed.edge_ms, OF_MS)}"
    if speed.cloud_ms is not None:
        told += f", the cloud model {shown(speed.cloud_ms, OF_MS)}"
    if speed.cooperative_ms is not None and speed.times is not None:
        told += (
            f", cooperation {shown(speed.cooperative_ms, OF_MS)} with "
            f"{speed.cooperative_share:.1%} escalated: {speed.times.value:.2f} times as many as "
            "the cloud alone"
        )
    yield f"{told} ({speed.rows} samples, here, without a network)"
    if speed.equal_share is not None and speed.equal_times is not None:
        yield (
            f"within a point of the cloud's accuracy from {speed.equal_share:.0%} escalated on: "
            f"{speed.equal_times:.2f} times as many as the cloud alone"
        )


def apart_line(found: EvidenceReport) -> str:
    """Return what tells rows of another kind from the own ones."""
    apart = found.apart
    told = ", ".join(f"{name} {value:.3f}" for name, value in apart.auroc.items())
    asked = "" if apart.escalated is None else f"; {apart.escalated:.1%} of them escalate"
    return f"{apart.outside_rows} rows of another kind ({apart.source}): AUROC {told}{asked}"
