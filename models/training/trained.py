"""What a recipe reports: a bundle, and what it achieves on rows that it has not seen."""

from __future__ import annotations

from msgspec import Struct


class Figures(Struct, frozen=True, kw_only=True):
    """What a bundle achieves on ``rows`` rows, of which ``passed`` pass the filter.

    Accuracies and the escalated share are of the passed rows; ``edge_accuracy_all`` and
    ``dropped_share`` are of all. ``accuracy`` is that of both together, the cloud's answer
    standing where the edge asks (no fusion). Of the rows that matter by the edge's own label
    ``filter_recall`` pass; in ``filter_agreement`` of all, the filter does as that label says.
    Both are None where there is no filter.
    """

    rows: int
    passed: int
    edge_accuracy_all: float
    edge_accuracy: float
    cloud_accuracy: float
    accuracy: float
    gap_recovered: float | None
    escalated_share: float
    dropped_share: float
    filter_agreement: float | None
    filter_recall: float | None


class Trained(Struct, frozen=True, kw_only=True):
    """A trained bundle: where it is, what it took, and its figures on the unseen rows.

    ``score`` is what it gates on; ``bytes`` are the sizes of its files.
    """

    bundle: str
    digest: str
    unseen_file: str
    rows_trained: int
    rows_calibrated: int
    score: str
    figures: Figures
    bytes: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        found = self.figures
        gap = "" if found.gap_recovered is None else f", {found.gap_recovered:.0%} of the gap"
        sizes = ", ".join(f"{name} {size}" for name, size in self.bytes.items())
        return (
            f"{self.bundle}: {self.rows_trained} rows trained on, {self.rows_calibrated} "
            f"calibrated on, {self.seconds:.0f} s\n"
            f"  unseen rows  {found.rows}, in {self.unseen_file}\n"
            f"{_filter(found)}"
            f"  edge         {found.edge_accuracy:.1%} of the {found.passed} that pass, "
            f"{found.edge_accuracy_all:.1%} of all\n"
            f"  cloud        {found.cloud_accuracy:.1%}\n"
            f"  cooperative  {found.accuracy:.1%} with {found.escalated_share:.1%} escalated "
            f"by {self.score}{gap}\n"
            f"  bytes        {sizes}"
        )


def _filter(found: Figures) -> str:
    if found.filter_agreement is None or found.filter_recall is None:
        return ""
    return (
        f"  filter       drops {found.dropped_share:.1%}, agrees with the edge on "
        f"{found.filter_agreement:.1%}, passes {found.filter_recall:.1%} of what matters\n"
    )
