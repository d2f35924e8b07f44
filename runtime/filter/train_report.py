"""What training a filter found, as a record and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from ...models.filtering.operating_point import Point, TaskPoint
from ...models.manifest import Filter


class TrainReport(Struct, frozen=True, kw_only=True):
    """The bundle that was written, and what its new filter does on rows that judge it.

    Of ``rows`` a part taught, a part stopped and placed it, ``judged`` rows it had not seen, and of
    those the model itself had in its training ``known``. ``divided_by`` says what was kept
    together. ``point`` is what it does where it stands, ``at_accuracy`` and ``at_recall`` what it
    could do at 90 % accuracy and at 95 % recall on these very rows (None: it cannot, or it is a
    reuse filter, which has no such curve); ``optimum`` the greatest rate at 90 % accuracy.
    ``constant`` is the accuracy of dropping everything, of a reuse filter that of always giving
    the commonest result; ``tasks`` are there where there are several. ``careful`` are what is
    wrong with it, ``next`` what is to be done, with lines that can be pasted.
    """

    bundle: str
    version: str
    digest: str
    filter: Filter
    modality: tuple[str, ...]
    seed: int
    rows: int
    filtered_before: int
    taught: int
    held: int
    judged: int
    known: int
    divided_by: Literal["group", "time", "row"]
    redundant_share: float | None
    point: Point
    optimum: float | None
    tasks: tuple[TaskPoint, ...]
    at_accuracy: Point | None
    at_recall: Point | None
    constant: float
    epochs: int
    bytes: int
    seconds: float
    gate_is_stale: bool
    rest: str | None = None
    careful: tuple[str, ...] = ()
    next: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        point, kind = self.point, self.filter.kind
        yield (
            f"{kind} filter for {', '.join(self.modality)}, "
            f"by: {self.filter.rule or 'its labels'}; "
            f"{self.epochs} epochs, {self.seconds:.0f} s, {self.bytes} bytes, seed {self.seed}"
        )
        yield (
            f"{self.taught} rows taught it, {self.held} placed it, {self.judged} judge it "
            f"(kept together by {self.divided_by})"
        )
        if self.filtered_before:
            yield f"{self.filtered_before} of {self.rows} rows do not get past the other filters"
        if self.known:
            yield (
                f"careful: {self.known} of the rows that judge taught or calibrated the model, "
                "too; on new ones it may say other things"
            )
        word = "skips" if kind == "skip" else "reuses an answer for"
        plain = "skipping everything" if kind == "skip" else "the commonest result alone"
        yield (
            f"it {word} {point.rate:.1%}; recall of what matters {point.recall:.2%}, "
            f"accuracy {point.accuracy:.2%} ({plain}: {self.constant:.1%})"
        )
        yield from map(task_line, self.tasks)
        yield from self._curve()
        yield from (f"careful: {text}" for text in self.careful)
        yield f"{self.bundle}: version {self.version}, digest {self.digest}"
        if self.gate_is_stale:
            yield (
                "its gate was calibrated on other samples than pass now: the promise and the "
                "reference for drift are gone, until hedge calibrate makes them anew"
            )
        yield from self.next

    def _curve(self) -> Iterator[str]:
        if self.redundant_share is not None:
            most = ""
            if self.optimum is not None:
                most = f"; at 90 % accuracy {self.optimum:.1%} could be filtered at most"
            yield f"{self.redundant_share:.1%} are redundant{most}"
        word = "threshold" if self.filter.kind == "skip" else "distance"
        for what, found in (("accuracy 90 %", self.at_accuracy), ("recall 95 %", self.at_recall)):
            if found is not None:
                yield (
                    f"at {what}: {found.rate:.1%} filtered, recall {found.recall:.1%}, "
                    f"accuracy {found.accuracy:.1%}, "
                    f"{word} {found.threshold:.6g}"
                )


def task_line(task: TaskPoint) -> str:
    """Return what a filter keeps of one of several tasks."""
    return (
        f"  recall {task.recall:.2%} of {task.matter} rows that matter, threshold "
        f"{task.threshold:.6g}, of: {task.rule}"
    )
