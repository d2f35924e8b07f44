"""What a quantisation reports: the record, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ...models.manifest import Quantised
from ..paired_latency import Latency
from .comparison import Change, Comparison


class Gate(Struct, frozen=True, kw_only=True):
    """Where the bundle's gate stands, and where it would have to for the int8 variant.

    ``same_share`` lets as many of the rows that gave ranges escalate as ``total`` does with
    the float variant; of the measured rows that is ``escalated``.
    """

    score: str
    total: float
    same_share: float
    escalated: float


class QuantizeReport(Struct, frozen=True, kw_only=True):
    """An int8 variant beside the float one that it was made from.

    ``out`` and ``digest`` are None where nothing was written, since there are ``concerns``.
    ``seen_rows_left_out`` were not measured on because the bundle's training saw them.
    """

    bundle: str
    version: str
    out: str | None
    digest: str | None
    variant: str
    made_from: Quantised
    divided_by: str
    seen_rows_left_out: int
    size_before_bytes: int
    size_after_bytes: int
    comparison: Comparison
    gate: Gate | None
    latency: Latency
    concerns: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(_text(self))


def _text(report: QuantizeReport) -> Iterator[str]:
    found, made = report.comparison, report.made_from
    yield f"{report.bundle} {report.version}: {made.variant} made {report.variant} by {made.method}"
    left_out = (
        f"; {report.seen_rows_left_out} left out that training saw"
        if report.seen_rows_left_out
        else ""
    )
    yield (
        f"  ranges from {made.rows} rows, measured on {found.rows} others, "
        f"divided by {report.divided_by}{left_out}"
    )
    yield f"  {'':<22}{'float':>10}{'int8':>10}{'change':>10}   95 % interval"
    yield from _figures(report)
    yield f"  both give the same label on {found.same_label:.1%}"
    if report.gate is not None:
        yield (
            f"  a gate of {report.gate.same_share:.4g} would ask as often as before: of the "
            f"measured rows {report.gate.escalated:.1%}"
        )


def _figures(report: QuantizeReport) -> Iterator[str]:
    found, latency = report.comparison, report.latency
    yield _percent("accuracy", found.accuracy)
    yield _number("ECE", found.ece, digits=4)
    if found.ece_vacuity is not None:
        yield _number("ECE of 1 - vacuity", found.ece_vacuity, digits=4)
    yield _number("AUGRC", found.augrc, digits=5)
    if found.escalated is not None:
        yield _percent("escalated", found.escalated)
    if found.accepted_accuracy is not None:
        yield _percent("accuracy of accepted", found.accepted_accuracy)
    before, after = report.size_before_bytes, report.size_after_bytes
    yield _row("size, bytes", f"{before}", f"{after}", f"x {after / before:.2f}")
    yield _row(
        "bare latency, us",
        f"{latency.before_us:.1f}",
        f"{latency.after_us:.1f}",
        f"x {latency.ratio:.2f}",
    )


def _percent(name: str, figure: Change) -> str:
    interval = f"   [{100 * figure.low:+.2f}, {100 * figure.high:+.2f}] points"
    change = f"{100 * figure.change:+.2f}"
    return _row(name, f"{figure.before:.2%}", f"{figure.after:.2%}", change) + interval


def _number(name: str, figure: Change, *, digits: int) -> str:
    interval = f"   [{figure.low:+.{digits}f}, {figure.high:+.{digits}f}]"
    before, after = f"{figure.before:.{digits}f}", f"{figure.after:.{digits}f}"
    return _row(name, before, after, f"{figure.change:+.{digits}f}") + interval


def _row(name: str, before: str, after: str, change: str) -> str:
    return f"  {name:<22}{before:>10}{after:>10}{change:>10}"
