"""What a demo achieved: the sums over its outcomes, and the table that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..models.bundle import Bundle
from ..models.dataset import Dataset
from ..models.manifest import Cloud, Edge
from ..models.measures import gap_recovered
from ..models.model import infer_all
from ..models.prepare import preparer
from ..telemetry.energy.figures import EnergyReport
from .backends import open_part
from .report import RunReport
from .sinks.sink import Line

_BATCH = 256


class Percentiles(Struct, frozen=True):
    """Latency percentiles in milliseconds."""

    p50: float | None
    p99: float | None


class LatencyMs(Struct, frozen=True):
    """From capture to the first and to the final outcome, of what passed the filter."""

    first: Percentiles
    final: Percentiles


class Figures(Struct, frozen=True, kw_only=True):
    """A demo's figures.

    Shares and accuracies are of the ``passed`` samples (those that no filter dropped), but
    for ``dropped_share``, which is of all. ``accuracy`` is that of the final outcomes; a
    failed sample and one without an answer count as wrong. Accuracies are None where the
    data has no classes.
    """

    bundle: str
    version: str
    digest: str
    seen_rows_left_out: int
    samples: int
    passed: int
    edge_accuracy: float | None
    cloud_accuracy: float | None
    accuracy: float | None
    gap_recovered: float | None
    escalated_share: float
    dropped_share: float
    filter_agreement: float | None
    filter_recall: float | None
    degraded: int
    reused: int
    failed: int
    unanswered: int
    bytes_up: int
    bytes_up_if_all: int | None
    latency_ms: LatencyMs
    energy: EnergyReport | None


class Tally:
    """Follows a device's outcomes and keeps, for each row, its last outcome."""

    def __init__(self, data: Dataset, labels: tuple[str, ...]) -> None:
        self._data = data
        self._labels = {name: place for place, name in enumerate(labels)}
        self._decoder = msgspec.json.Decoder(Line)
        self._read = 0
        self._rest = b""
        count = len(data.x)
        self.first = np.full(count, -1)
        self.label = np.full(count, -1)
        self.final = np.zeros(count, dtype=np.bool_)
        self.route = np.full(count, "", dtype="<U8")
        self.asked = np.zeros(count, dtype=np.bool_)
        self.degraded = np.zeros(count, dtype=np.bool_)

    def follow(self, file: Path) -> None:
        """Read the lines that were added to ``file`` since the last call."""
        try:
            with file.open("rb") as stream:
                stream.seek(self._read)
                added = stream.read()
        except FileNotFoundError:
            return
        self._read += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            self._take(self._decoder.decode(line))

    def _take(self, line: Line) -> None:
        row = int(line.id.rpartition("-")[2])
        label = -1 if line.label is None else self._labels[line.label]
        if not line.final:
            self.asked[row] = True
        if not self.asked[row] or not line.final:
            self.first[row] = label
        self.label[row] = label
        self.final[row] = line.final
        self.route[row] = line.route
        self.degraded[row] = line.degraded is not None

    @property
    def passed(self) -> NDArray[np.bool_]:
        """Which rows have an outcome that is not "dropped", (n,) bool."""
        seen: NDArray[np.bool_] = self.route != ""
        seen &= self.route != "dropped"
        return seen

    def line(self) -> str:
        """Return the state of things in one line."""
        done, passed = int((self.route != "").sum()), self.passed
        text = (
            f"{done}/{len(self.route)} samples  dropped {_share(self.route == 'dropped', done)}  "
            f"asked {_share(self.asked, int(passed.sum()))}  "
            f"waiting {int((self.asked & ~self.final).sum())}"
        )
        if self._data.y is None or not passed.any():
            return text
        right = self._data.y[passed]
        return (
            f"{text}  right {(self.label[passed] == right).mean():.1%} "
            f"(edge alone {(self.first[passed] == right).mean():.1%})"
        )


def _share(which: NDArray[np.bool_], of: int) -> str:
    return f"{which.sum() / of:.0%}" if of else "-"


def figures(
    bundle: Bundle, data: Dataset, tally: Tally, report: RunReport, *, seen: int
) -> Figures:
    """Do the sums: the device's outcomes beside what each model alone makes of the rows."""
    manifest, passed = bundle.manifest, tally.passed
    count, kept = len(data.x), int(passed.sum())
    assert manifest.cloud is not None  # noqa: S101 -- the demo has checked it
    edge = predict(bundle, manifest.edge[0], data.x)
    cloud = predict(bundle, manifest.cloud, data.x)
    edge_right, cloud_right, right = (
        _accuracy(guess, data.y, passed) for guess in (edge, cloud, tally.label)
    )
    redundant = [manifest.labels.index(name) for one in manifest.filter for name in one.redundant]
    done = tally.route != ""
    matters = ~np.isin(edge, redundant)[done]
    dropped = (tally.route == "dropped")[done]
    stream = report.streams[0]
    latency = {name: stream.latency_ms[name] for name in ("first", "final")}
    return Figures(
        bundle=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        seen_rows_left_out=seen,
        samples=count,
        passed=kept,
        edge_accuracy=edge_right,
        cloud_accuracy=cloud_right,
        accuracy=right,
        gap_recovered=(
            None
            if edge_right is None or right is None or cloud_right is None
            else gap_recovered(edge=edge_right, coop=right, cloud=cloud_right)
        ),
        escalated_share=float(tally.asked.sum() / kept) if kept else 0.0,
        dropped_share=float(dropped.mean()) if done.any() else 0.0,
        filter_agreement=(
            1 - float((dropped & matters).mean()) if manifest.filter and done.any() else None
        ),
        filter_recall=_recall(dropped, matters) if manifest.filter else None,
        degraded=int(tally.degraded.sum()),
        reused=int((tally.route == "reused").sum()),
        failed=int((tally.route == "failed").sum()),
        unanswered=int((~tally.final).sum()),
        bytes_up=report.uplink.get("bytes_up", 0),
        bytes_up_if_all=_bytes_if_all(report, count),
        latency_ms=LatencyMs(*(Percentiles(one.p50, one.p99) for one in latency.values())),
        energy=report.energy,
    )


def predict(bundle: Bundle, part: Edge | Cloud, x: NDArray[Any]) -> NDArray[np.intp]:
    """Return the label (n,) that one model of the bundle alone gives each row of ``x``."""
    model = open_part(bundle, part)
    prepare = preparer(bundle.manifest.input, model.spec.inputs[0])
    try:
        outputs = infer_all(
            model, (prepare(x[begin : begin + _BATCH]) for begin in range(0, len(x), _BATCH))
        )
    finally:
        model.close()
    labels: NDArray[np.intp] = outputs.argmax(axis=1)
    return labels


def _accuracy(
    guess: NDArray[Any], y: NDArray[np.int64] | None, rows: NDArray[np.bool_]
) -> float | None:
    return None if y is None or not rows.any() else float((guess[rows] == y[rows]).mean())


def _recall(dropped: NDArray[np.bool_], matters: NDArray[np.bool_]) -> float | None:
    return 1 - float(dropped[matters].mean()) if matters.any() else None


def _bytes_if_all(report: RunReport, count: int) -> int | None:
    sent = report.uplink.get("sent", 0)
    return round(report.uplink["bytes_up"] / sent * count) if sent else None


def table(found: Figures, bundle: Bundle) -> str:
    """Return the figures as a table for people."""
    rule = ", ".join(name for one in bundle.manifest.filter for name in one.redundant)
    first, final = found.latency_ms.first, found.latency_ms.final
    rows = [
        ("accuracy, edge only", _percent(found.edge_accuracy), "of the samples that passed"),
        ("accuracy, cloud only", _percent(found.cloud_accuracy), "of the same samples"),
        ("accuracy, cooperative", _percent(found.accuracy), "of their final outcomes"),
        ("gap recovered", _percent(found.gap_recovered), "(cooperative - edge) / (cloud - edge)"),
        (
            "dropped",
            _percent(found.dropped_share),
            f"of {found.samples} samples: {rule or 'nothing'} cannot matter",
        ),
        ("filter agreement", _percent(found.filter_agreement), "with the edge model, unfiltered"),
        ("escalated", _percent(found.escalated_share), f"of {found.passed} that passed"),
        ("degraded", str(found.degraded), "answered by the edge since no answer came"),
        ("failed", str(found.failed), "of which no model could make anything"),
        ("bytes up", _bytes(found.bytes_up), f"{_bytes(found.bytes_up_if_all)} if all were sent"),
        ("first outcome", _ms(first), "p50 / p99 from capture"),
        ("final outcome", _ms(final), "p50 / p99 from capture"),
        ("energy", *_energy(found.energy)),
    ]
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {name:<{names}}  {value:>{values}}  {note}" for name, value, note in rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _ms(latency: Percentiles) -> str:
    if latency.p50 is None or latency.p99 is None:
        return "-"
    return f"{latency.p50:.2f} / {latency.p99:.2f} ms"


def _energy(found: EnergyReport | None) -> tuple[str, str]:
    if found is None:
        return "-", "no sensor"
    note = f"of the {found.scope} by {found.source}, {found.coverage:.0%} of the run covered"
    if isinstance(found.total_j, float):
        return f"{found.total_j:.3g} J", note
    return found.total_j or "-", note
