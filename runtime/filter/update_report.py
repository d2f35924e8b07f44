"""What updating a filter found, as a record and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from ...models.filtering.comparing import Change
from ...models.filtering.operating_point import Point, TaskPoint
from .train_report import task_line


class UpdateReport(Struct, frozen=True, kw_only=True):
    """A filter before and after ``labels`` released labels and ``older`` rows taught it anew.

    ``fresh`` is the change on labels that taught neither, at the ``aim``; ``kept`` that on older
    rows that taught neither (None: the present filter has seen them, or they are too few).
    ``stands`` is where the new one is put, on ``placed_by`` of the rows that judge, ``tasks`` what
    that is for each where there are several. ``why`` it was
    not written; ``version`` and ``digest`` are those of ``bundle``, which then is the one that was
    given.
    """

    bundle: str
    version: str
    digest: str
    kind: Literal["skip", "reuse"]
    rule: str | None
    aim: str
    labels: int
    waiting: int
    damaged: int
    older: int
    taught: int
    judged: int
    placed_by: int | None
    epochs: int
    seed: int
    seconds: float
    fresh: Change
    kept: Change | None
    stands: Point | None
    why: tuple[str, ...]
    tasks: tuple[TaskPoint, ...] = ()

    @property
    def written(self) -> bool:
        """Whether there is a new bundle."""
        return not self.why

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        waiting = f", {self.waiting} are in quarantine" if self.waiting else ""
        damaged = f", {self.damaged} are damaged" if self.damaged else ""
        yield (
            f"{self.kind} filter, taught anew by {self.labels} labels and {self.older} older rows"
            f"{waiting}{damaged}; {self.epochs} epochs, {self.seconds:.0f} s, seed {self.seed}"
        )
        yield f"filtered at {self.aim}, on rows that taught neither:"
        yield _change("labels", self.fresh)
        if self.kept is not None:
            yield _change("older", self.kept)
        else:
            yield (
                "careful: there are too few older rows that neither has seen, so that nothing says "
                "what the new one has forgotten: give new ones"
            )
        if self.stands is not None:
            point = self.stands
            yield (
                f"it stands at {point.threshold:.6g}: of the {self.placed_by} rows that place it "
                f"{point.rate:.1%} are filtered, recall {point.recall:.2%}, "
                f"accuracy {point.accuracy:.2%}"
            )
        yield from map(task_line, self.tasks)
        if self.written:
            yield f"{self.bundle}: version {self.version}, digest {self.digest}"


def against(change: Change, kept: Change | None, aim: str) -> Iterator[str]:
    """Yield why the new filter is not better."""
    if not change.is_better:
        yield (
            f"on {change.rows} labels it filters {change.after:.1%} at {aim}, and the present one "
            f"{change.before:.1%}: the change is {change.low:+.1%} to {change.high:+.1%}, which is "
            "not clearly more"
        )
    if kept is not None and kept.is_worse:
        yield (
            f"on {kept.rows} older rows it filters {kept.after:.1%} at {aim}, and the present one "
            f"{kept.before:.1%}: the change is {kept.low:+.1%} to {kept.high:+.1%}, clearly less"
        )


def _change(name: str, found: Change) -> str:
    at = ""
    if found.recall_before is not None and found.recall_after is not None:
        at = (
            f"; for as much as before the recall is {found.recall_after:.1%}, "
            f"and was {found.recall_before:.1%}"
        )
    return (
        f"  {name:<8} {found.before:>6.1%} before, {found.after:>6.1%} after "
        f"(change {found.low:+.1%} to {found.high:+.1%}; {found.rows} rows, "
        f"{found.matter} matter){at}"
    )
