"""What tuning a filter found, as a record and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from ...models.filtering.operating_point import Point, TaskPoint
from ...models.filtering.worth import Verdict
from .compared import At
from .energy import EnergyCosts, energy_words, verdict_of
from .time_costs import TimeCosts, time_lines
from .train_report import task_line


class TuneReport(Struct, frozen=True, kw_only=True):
    """Where a filter was put, and what it is worth there.

    Of the rows ``given``, ``seen`` were known already, and ``reached`` get past the filters before
    this one; ``rows`` are new and reach it, and all figures are of these; a recall that is held
    leaves out ``copies`` of those that matter, being equal to another. ``redundant_share`` is
    r_N by the ``rule``; ``taught_by`` is that by which the bundle has judged the filter until now,
    where it was another one, and ``says_rule`` whether it can say this one. ``point`` is what the
    filter does on these very rows, ``optimum`` the greatest rate at that point's accuracy;
    ``compared`` are rates at ``accuracy`` and at ``recall``, both reached on these rows, without a
    bound. The recall is of a new group where it rests on so many ``groups``. ``tasks`` are there
    where there are several. ``energy`` None: nothing reads the board's power. ``spared`` are the
    bytes that a filtered sample does not send, where the far end alone answers (None: the edge
    does). Where nothing was ``written``, ``bundle`` is the one that was given.
    """

    bundle: str
    version: str
    digest: str
    rule: str
    rows: int
    redundant_share: float
    aim: Literal["recall", "accuracy"]
    confidence: float | None
    point: Point
    optimum: float
    recall: float
    accuracy: float
    compared: tuple[At, ...]
    time: TimeCosts
    written: bool
    given: int = 0
    seen: int = 0
    reached: int = 0
    copies: int = 0
    groups: int | None = None
    taught_by: str | None = None
    says_rule: bool = True
    tasks: tuple[TaskPoint, ...] = ()
    energy: EnergyCosts | None = None
    spared: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether it pays: in time, in energy, or, where the far end answers, on the link."""
        if self.spared is not None:
            return "pays" if self.point.rate > 0 else "does not pay"
        return "pays" if verdict_of(self.energy) == "pays" else self.time.saving.verdict

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self._rows()
        yield (
            f"  {'':<18} {f'at accuracy {self.accuracy:g}':>28}   "
            f"{f'at recall {self.recall:g}':>24}"
        )
        yield (
            f"  {'':<18} {'filtered':>9} {'optimum':>9} {'recall':>8}   "
            f"{'filtered':>11} {'accuracy':>12}"
        )
        for one in self.compared:
            yield f"  {one.name:<18} {_accuracy(one)}   {_recall(one)}"
        yield self._stands()
        if self.groups is not None:
            yield (
                f"  that is empirical, not guaranteed, from {self.groups} groups: people differ, "
                "and rows of one are no independent tests; with few groups a new one is below "
                "it oftener than the confidence says"
            )
        yield from map(task_line, self.tasks)
        ratio = self.point.rate / self.optimum if self.optimum else 0.0
        yield (
            f"of the {self.optimum:.1%} that could be filtered at that accuracy: {ratio:.1%} "
            "(filterability)"
        )
        yield from self._pays()
        if self.written:
            yield f"{self.bundle}: version {self.version}, digest {self.digest}"

    def _rows(self) -> Iterator[str]:
        if self.seen:
            yield (
                f"{self.seen} of {self.given} rows are left out: training or calibration saw them, "
                "or others that are equal"
            )
        if self.reached < self.given:
            yield f"{self.reached} of {self.given} rows get past the filters before this one"
        yield f"{self.rows} rows, {self.redundant_share:.1%} of them redundant by: {self.rule}"
        if self.copies:
            yield (
                f"{self.copies} that matter are copies of others: each counts once for the recall, "
                "and as given for all else"
            )
        if not self.says_rule:
            yield "  which a bundle cannot say: a device will not watch the filter"
        elif self.taught_by is not None:
            yield f"  by which a device judges it from now on, in place of: {self.taught_by}"

    def _stands(self) -> str:
        point = self.point
        if self.aim == "recall":
            kind = "held" if self.groups is None else "to be expected of a new group"
            of = f" of each of {len(self.tasks)} tasks" if self.tasks else ""
            how = f"a recall of {self.recall:g}{of} is {kind} with confidence {self.confidence:g}"
        else:
            how = f"an accuracy of {self.accuracy:g} on these rows, without a bound"
        return (
            f"{self._where()}: {how}; here {point.rate:.1%} are filtered, "
            f"recall {point.recall:.2%}, accuracy {point.accuracy:.2%}"
        )

    def _where(self) -> str:
        if self.point.thresholds:
            return f"thresholds {', '.join(f'{one:.6g}' for one in self.point.thresholds)}"
        return f"threshold {self.point.threshold:.6g}"

    def _pays(self) -> Iterator[str]:
        spent = self.time
        if self.spared is not None:
            yield (
                f"pays on the link: the far end answers, and {self.point.rate:.1%} of the samples "
                f"are not sent, of {self.spared} bytes each; the filter takes "
                f"{spent.filter_us:.1f} us here, the model would {spent.model_us:.1f} us"
            )
            return
        yield from time_lines(spent, rate=self.point.rate)
        yield energy_words(self.energy, rate=self.point.rate)
        verdict = verdict_of(self.energy)
        if verdict is not None and verdict != spent.saving.verdict:
            yield "careful: time and energy say different things; what counts here is yours to say"


def _accuracy(one: At) -> str:
    found = one.at_accuracy
    if found is None:
        return f"{'-':>9} {one.optimum:>9.1%} {'-':>8}"
    return f"{found.rate:>9.1%} {one.optimum:>9.1%} {found.recall:>8.1%}"


def _recall(one: At) -> str:
    found = one.at_recall
    if found is None:
        return f"{'-':>11} {'-':>12}"
    return f"{found.rate:>11.1%} {found.accuracy:>12.1%}"
