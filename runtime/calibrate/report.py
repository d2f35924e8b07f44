"""What a calibration found, as a record and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ...models.calibration.repeats import copies_sentence
from ...models.manifest import Calibration, Promise, Score

OF_LOGITS = frozenset({"p_norm", "temperature", "router"})
_MANY_GROUPS = 10
_TIED = 0.02  # of the rows; fewer that score the same are not worth a word


class CalibrateReport(Struct, frozen=True, kw_only=True):
    """The bundle that was written, and how its gate was found.

    ``rows`` were given, ``passed`` of them reach the edge past the filters; of those ``copies``
    are equal to others, and ``torn`` of these others are there under more than one class. The
    shares and accuracies are of the ``counted`` ones: of all that passed, or where accuracy is
    promised without the copies. The candidates' figures are of ``compared`` of them: a promise by
    row tests on the rest. ``escalated_share`` is what is to be expected of samples like them,
    ``accepted_accuracy`` how right the edge is in the ``accepted`` others on these very rows
    (None: there are none). Without a ``cloud_accuracy``, the candidates' ``area`` and
    ``recovered`` are those beside a cloud that is always right. ``by_hand`` says that the score
    was asked for, ``own_logits`` that the edge's logits stand for evidence, and are no softmax's.
    ``tied`` rows, the most that do, score the same. ``further`` is the score by which a promise by
    group covers clearly more, with what it covers.
    """

    bundle: str
    version: str
    digest: str
    variant: str
    seed: int
    rows: int
    passed: int
    copies: int
    torn: int
    counted: int
    compared: int
    edge_accuracy: float
    cloud_accuracy: float | None
    escalated_share: float
    accepted: int
    accepted_accuracy: float | None
    by_hand: bool
    further: tuple[Score, float] | None
    own_logits: bool
    tied: int
    calibration: Calibration

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.calibration
        yield from self._rows()
        yield f"  {'score':<12} {'AUGRC':>9} {'area':>9} {'gap recovered':>14}"
        for one in found.candidates:
            mark = "*" if one.score == found.score else " "
            recovered = "-" if one.recovered is None else f"{one.recovered:.1%}"
            yield f"{mark} {one.score:<12} {one.augrc:>9.5f} {one.area:>9.5f} {recovered:>14}"
        yield from self._notes()
        yield (
            f"gate: {found.score} at {found.total:g} or above escalates, "
            f"to be expected of {self.escalated_share:.1%}"
        )
        if self.accepted_accuracy is not None:
            yield (
                f"what the edge answers alone is right in {self.accepted_accuracy:.1%} here, "
                f"{self.accepted} of {self.counted} rows"
            )
        if found.promise is not None:
            yield promise_sentence(found.promise)
        if self.further is not None:
            score, covers = self.further
            yield f"  by {score} it would cover {covers:.1%}: --score {score} has it gate"
        gain = "unknown" if found.fusion_gain is None else f"{found.fusion_gain:+.1%}"
        yield f"fusion {'on' if found.fusion else 'off'}: gain {gain} where both would be asked"
        yield f"how: {found.method}; seed {self.seed}"
        yield f"{self.bundle}: version {self.version}, digest {self.digest}"

    def _rows(self) -> Iterator[str]:
        """Yield which rows all of this is of."""
        cloud = "no cloud" if self.cloud_accuracy is None else f"cloud {self.cloud_accuracy:.1%}"
        both = f"edge {self.variant} {self.edge_accuracy:.1%}, {cloud}"
        if self.copies:
            yield f"{self.passed} of {self.rows} rows pass the filters"
            said = copies_sentence(self.copies, self.torn, rows=self.passed)
            alone = self.counted < self.passed
            yield f"{said}: {'each row counts once' if alone else 'they count as given'}; {both}"
        else:
            yield f"{self.passed} of {self.rows} rows pass the filters; {both}"
        if self.compared < self.counted:
            yield (
                f"scores compared on {self.compared} rows, drawn to choose by; "
                f"the promise is tested on the other {self.counted - self.compared}"
            )

    def _notes(self) -> Iterator[str]:
        """Yield what the table does not say of itself."""
        found = self.calibration
        if self.by_hand:
            least = min(found.candidates, key=lambda one: one.augrc)
            better = "" if least.score == found.score else f"; by AUGRC it would be {least.score}"
            yield f"  * chosen by hand{better}"
        if self.cloud_accuracy is None:
            yield "  area and gap recovered are as if there were a cloud that is always right"
        if self.tied > _TIED * self.counted:
            yield (
                f"  {self.tied} of {self.counted} rows score the same by {found.score}: "
                "a gate lets all of them escalate or none, which may miss what was asked by as many"
            )
        logits = [one.score for one in found.candidates if one.score in OF_LOGITS]
        if self.own_logits and logits:
            yield f"  {', '.join(logits)}: of the evidence's logits, which are no softmax's"


def promise_sentence(promise: Promise) -> str:
    """Return the promise in one sentence that says what it is worth."""
    what = (
        f"what the edge answers alone ({promise.coverage:.1%} here) "
        f"is right in at least {promise.accuracy:.4g}"
    )
    if promise.by == "row":
        return (
            f"promised: of samples like these, {what}; "
            f"guaranteed with confidence {promise.confidence:g} by a test on {promise.rows} rows"
        )
    odd = "" if (promise.groups or 0) >= _MANY_GROUPS else "; so few may hold none that is odd"
    return (
        f"promised: of a new group, {what}; empirical, not guaranteed, "
        f"at confidence {promise.confidence:g} from {promise.groups} groups{odd}"
    )
