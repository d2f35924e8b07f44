"""What an adaptation reports: the record, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from .judging import Shift, Verdict


class Sources(Struct, frozen=True, kw_only=True):
    """What was learnt from: ``pairs`` of ``devices`` devices, and ``learn`` labelled rows.

    Of the pairs that were released ``sure`` were left out since the edge is sure of them now,
    ``judged`` since they are among the rows that calibrate or judge, and ``damaged`` since they
    are not what was written. ``divided_by`` says what labelled rows were kept together.
    """

    pairs: int
    devices: int
    sure: int
    judged: int
    damaged: int
    learn: int
    calibrate: int
    judge: int
    divided_by: str


class AdaptReport(Struct, frozen=True, kw_only=True):
    """An edge taught by pairs beside the edge that it was.

    ``taught`` is which part of it, at the learning ``rate``, chosen on the rows that calibrate.
    ``out`` and ``digest`` are None where nothing was written, since it is not better: see the
    verdict's reasons. ``left_out`` are variants of the bundle that the new one has not, since
    they have the old weights.
    """

    bundle: str
    version: str
    bundle_digest: str
    variant: str
    taught: str
    rate: float
    seed: int
    sources: Sources
    verdict: Verdict
    out: str | None
    digest: str | None
    new_version: str
    left_out: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return "\n".join(_text(self))


def evidence(report: Sources, verdict: Verdict) -> str:
    """Return in one line what a manifest tells of an adaptation."""
    coop, edge = verdict.cooperative, verdict.edge
    return (
        f"{report.pairs} pairs of {report.devices} devices and {report.learn} labelled rows; "
        f"on {verdict.rows} unseen rows by {verdict.by}, {verdict.share:.1%} escalated: "
        f"cooperative {coop.before:.4f} to {coop.after:.4f} [{coop.low:+.4f}, {coop.high:+.4f}], "
        f"edge {edge.before:.4f} to {edge.after:.4f} [{edge.low:+.4f}, {edge.high:+.4f}], "
        f"AUGRC {verdict.augrc.before:.5f} to {verdict.augrc.after:.5f}"
    )


def _text(report: AdaptReport) -> Iterator[str]:
    source, verdict = report.sources, report.verdict
    yield (
        f"{report.bundle} {report.version}, variant {report.variant}: {report.taught} taught, "
        f"{source.pairs} pairs of {source.devices} devices, {source.learn} labelled rows"
    )
    for count, why in (
        (source.sure, "the edge is sure of them"),
        (source.judged, "they are among the rows that judge"),
        (source.damaged, "they are damaged"),
    ):
        if count:
            yield f"  {count} released pairs left out: {why}"
    yield (
        f"  calibrated on {source.calibrate} rows, judged on {verdict.rows} others, divided by "
        f"{source.divided_by}; intervals by {verdict.by} ({verdict.units})"
    )
    yield f"  {'':<24}{'before':>9}{'after':>9}{'change':>9}   95 % interval"
    yield _percent(f"cooperative at {verdict.share:.1%}", verdict.cooperative)
    yield _percent("edge alone", verdict.edge)
    augrc = verdict.augrc
    yield (
        f"  {'AUGRC (less is better)':<24}{augrc.before:>9.5f}{augrc.after:>9.5f}"
        f"{augrc.change:>+9.5f}   [{augrc.low:+.5f}, {augrc.high:+.5f}]"
    )
    yield (
        f"  the same cooperative accuracy needs {verdict.share_needed:.1%} escalated, not "
        f"{verdict.share:.1%}; the cloud alone has {verdict.cloud_accuracy:.1%}"
    )


def _percent(name: str, shift: Shift) -> str:
    p_value = "" if shift.p_value is None else f", McNemar p = {shift.p_value:.2g}"
    return (
        f"  {name:<24}{shift.before:>9.2%}{shift.after:>9.2%}{100 * shift.change:>+9.2f}   "
        f"[{100 * shift.low:+.2f}, {100 * shift.high:+.2f}] points{p_value}"
    )
