"""What a calibration found, as a record and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ...models.manifest import Calibration, Promise


class CalibrateReport(Struct, frozen=True, kw_only=True):
    """The bundle that was written, and how its gate was found.

    ``rows`` were given, ``passed`` of them reach the edge past the filters: the shares and
    accuracies are of those. ``escalated_share`` is what is to be expected of samples like
    them, ``accepted_accuracy`` how right the edge is in the others on these very rows (None:
    there are none).
    """

    bundle: str
    version: str
    digest: str
    variant: str
    seed: int
    rows: int
    passed: int
    edge_accuracy: float
    cloud_accuracy: float | None
    escalated_share: float
    accepted_accuracy: float | None
    calibration: Calibration

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.calibration
        cloud = "no cloud" if self.cloud_accuracy is None else f"cloud {self.cloud_accuracy:.1%}"
        yield (
            f"{self.passed} of {self.rows} rows pass the filters; "
            f"edge {self.variant} {self.edge_accuracy:.1%}, {cloud}"
        )
        yield f"  {'score':<12} {'AUGRC':>9} {'area':>9} {'gap recovered':>14}"
        for one in found.candidates:
            mark = "*" if one.score == found.score else " "
            recovered = "-" if one.recovered is None else f"{one.recovered:.1%}"
            yield f"{mark} {one.score:<12} {one.augrc:>9.5f} {one.area:>9.5f} {recovered:>14}"
        yield (
            f"gate: {found.score} at {found.total:g} or above escalates, "
            f"to be expected of {self.escalated_share:.1%}"
        )
        if self.accepted_accuracy is not None:
            yield f"what the edge answers alone is right in {self.accepted_accuracy:.1%} here"
        if found.promise is not None:
            yield promise_sentence(found.promise)
        gain = "unknown" if found.fusion_gain is None else f"{found.fusion_gain:+.1%}"
        yield f"fusion {'on' if found.fusion else 'off'}: gain {gain} where both would be asked"
        yield f"how: {found.method}; seed {self.seed}"
        yield f"{self.bundle}: version {self.version}, digest {self.digest}"


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
    return (
        f"promised: of a new group, {what}; empirical, not guaranteed, "
        f"at confidence {promise.confidence:g} from {promise.groups} groups"
    )
