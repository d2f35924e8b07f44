"""Compares two reports of `hedge bench run`, variant by variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ...models.errors import ConfigError
from .changes import LATENCIES, SEED, changes_of
from .comparison import FORMAT, Comparison, Margins, Pair
from .lines import printable
from .measure import named
from .record import BenchReport, Failed, Measured


def compare(
    before: BenchReport,
    after: BenchReport,
    *,
    names: tuple[str, str] = ("before", "after"),
    margins: Margins | None = None,
    anyway: bool = False,
) -> Comparison:
    """Compare two reports of the same bundle on the same kind of machine.

    Raises:
        ConfigError: they are of other bundles, boards, power modes or processors, and not
            to be compared ``anyway``; or no variant is in both, not even as a failure.
    """
    margins = margins or Margins()
    apart = tuple(_apart(before, after))
    if apart and not anyway:
        raise ConfigError(
            f"is not to be compared with {names[0]}: {'; '.join(apart)}",
            where=names[1],
            hint="--anyway compares them still",
        )
    olds = {(one.variant, one.threads): one for one in before.measured}
    news = {(one.variant, one.threads): one for one in after.measured}
    failed = tuple(one for one in after.failed if (one.variant, one.threads) in olds)
    both = [key for key in olds if key in news]
    if not both and not failed:
        raise ConfigError(f"has no variant in common with {names[0]}", where=names[1])
    pairs = tuple(_pair((before, after), olds[key], news[key], margins) for key in both)
    gone = olds.keys() - news.keys() - {(one.variant, one.threads) for one in failed}
    changes = [change for pair in pairs for change in pair.changes]
    verdicts = Counter(change.verdict for change in changes)
    return Comparison(
        format=FORMAT,
        before=names[0],
        after=names[1],
        margins=margins,
        seed=SEED,
        differs=(*apart, *_doubts(before, after)),
        pairs=pairs,
        failed=tuple(f"{_named(one)}: {one.reason}" for one in failed),
        only_before=tuple(_named(olds[key]) for key in olds if key in gone),
        only_after=tuple(_named(news[key]) for key in news if key not in olds),
        judged=len(changes) - verdicts["not judged"],
        not_judged=verdicts["not judged"] + len(gone),
        latencies_judged=sum(
            change.what in LATENCIES and change.verdict != "not judged" for change in changes
        ),
        unsure=verdicts["unsure"],
        worse=bool(failed or verdicts["worse"]),
    )


def _apart(before: BenchReport, after: BenchReport) -> Iterator[str]:
    """Yield what makes two reports incomparable."""
    for what, one, other in (
        ("bundle", before.bundle, after.bundle),
        ("board", before.board, after.board),
        ("power mode", before.power_mode, after.power_mode),
        ("architecture", before.machine.architecture, after.machine.architecture),
        ("processor", before.machine.processor, after.machine.processor),
        ("CPUs", before.machine.cpus, after.machine.cpus),
    ):
        if one != other:
            yield printable(f"{what} {one or 'unknown'} against {other or 'unknown'}")


def _doubts(before: BenchReport, after: BenchReport) -> Iterator[str]:
    """Yield what differs, and may be why the figures do."""
    machines = before.machine, after.machine
    for what, one, other in (
        ("version", before.version, after.version),
        ("digest", before.digest[:16], after.digest[:16]),
        ("seed", before.seed, after.seed),
        ("system", machines[0].system, machines[1].system),
        ("Python", machines[0].python, machines[1].python),
    ):
        if one != other:
            yield f"{what} {one} against {other}"
    libraries = [machine.libraries for machine in machines]
    for name in sorted(libraries[0].keys() | libraries[1].keys()):
        one, other = (of.get(name, "none") for of in libraries)
        if one != other:
            yield f"{name} {one} against {other}"
    if abs(machines[0].load - machines[1].load) > max(1.0, machines[0].cpus / 2):
        yield f"load {machines[0].load:g} against {machines[1].load:g}"
    for when, report in (("first", before), ("second", after)):
        found = report.warnings
        yield from (f"in the {when} run: {warning}" for warning in found)


def _pair(
    reports: tuple[BenchReport, BenchReport], one: Measured, other: Measured, margins: Margins
) -> Pair:
    return Pair(
        variant=one.variant,
        threads=one.threads,
        same_model=one.sha256 == other.sha256,
        changes=tuple(changes_of(reports, one, other, margins)),
    )


def _named(one: Measured | Failed) -> str:
    return f"{one.variant}, {named(one.threads)}"
