"""What adaptation is worth: an edge that meets new people, and learns from the cloud's answers.

The bundle is that of hedge's own recipe `har`, from 6 people, calibrated on 2. Of what 7 new people
do of each activity a device sees the first half: what its gate lets escalate goes through the
responder that a worker has, which keeps pairs. They are released, and teach. Labelled are the
rows of the 6 people, which the bundle has seen, and the next quarter of the 7, by which the
command judges itself. The figures are of rows that none of this has touched: the last quarter of
the 7, and 6 people who were never met.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.dataset import Dataset, load_dataset
from hedge.models.evidence import Figures
from hedge.models.measures import Flags, escalation_curve, hits
from hedge.models.opinion import Assessor, Opinions
from hedge.models.training import har
from hedge.models.training.making import make
from hedge.models.training.splits import Split
from hedge.runtime.adapt.adaptation import Order, adapt_bundle
from hedge.runtime.adapt.pair_store import stores_in
from hedge.runtime.both_models import outputs_of
from hedge.runtime.worker_models import Keeping, Servers, open_responders
from hedge.uplink import wire
from hedge.uplink.far_end.responder import Answered, Responder
from hedge.uplink.topics import Device

_BOUNDS = (6, 8, 15)  # of 21 people: taught, calibrated, met; the others held out
_LIMIT = 0.5
_PAIRS_BYTES = 64 << 20
_BATCH = 32


class Adapted(Struct, frozen=True, kw_only=True):
    """An edge before and after, on ``rows`` rows ``of`` people who are "met" or "held out".

    ``needed`` is the share that must escalate for the cooperative accuracy that the bundle had
    before, at the ``share`` that its gate let escalate. ``written`` tells whether the command
    found the new edge better; where it did not, after is before.
    """

    seed: int
    taught: str
    of: str
    rows: int
    pairs: int
    pairs_right: float
    written: bool
    edge_before: float
    edge_after: float
    cloud: float
    share: float
    cooperative: float
    needed_before: float
    needed_after: float


def run(data: Path, seed: int, say: Callable[[str], None]) -> list[Adapted]:
    """Return the figures of the last layer taught, and of all; ``data`` is HEDGE_DATA."""
    rows = load_dataset(data / "har_windows" / "har_windows_train.npz")
    rows = dataclasses.replace(rows, x=rows.x.astype(np.float16))
    assert rows.group is not None
    assert rows.labels is not None
    order = np.random.default_rng(seed).permutation(np.unique(rows.group))
    taught, calibrated, met, held = (
        np.flatnonzero(np.isin(rows.group, people)) for people in np.split(order, _BOUNDS)
    )
    with tempfile.TemporaryDirectory(prefix="hedge-adapt-") as folder:
        place = Path(folder)
        make(
            har.plan(len(rows.labels)),
            rows,
            Split(taught, calibrated, np.concatenate((met, held))),
            out=place / "har",
            seed=seed,
            say=say,
        )
        bundle = load_bundle(place / "har")
        quarter = _quarters(rows.rows(met))
        right = _keep(bundle, rows.rows(met[quarter < 2]), place / "pairs")
        file = place / "labelled.npz"
        _save(file, rows.rows(np.concatenate((taught, met[quarter == 2]))))
        tests = {"met": rows.rows(met[quarter > 2]), "held out": rows.rows(held)}
        return [
            one
            for all_layers in (False, True)
            for one in _adapted(
                bundle, place, file, tests, all_layers=all_layers, seed=seed, right=right, say=say
            )
        ]


def _adapted(
    bundle: Bundle,
    place: Path,
    file: Path,
    tests: dict[str, Dataset],
    *,
    all_layers: bool,
    seed: int,
    right: float,
    say: Callable[[str], None],
) -> list[Adapted]:
    out = place / ("all" if all_layers else "last")
    report = adapt_bundle(
        bundle,
        place / "pairs",
        file,
        Order(all_layers=all_layers, seed=seed),
        out=out,
        say=say,
    )
    say(str(report))
    made = bundle if report.out is None else load_bundle(out)
    found = []
    for of, data in tests.items():
        before, after = _sides(bundle, data), _sides(made, data)
        asks = before.score >= before.total
        together = float(np.mean(np.where(asks, before.far, before.near)))
        found.append(
            Adapted(
                seed=seed,
                taught=report.taught,
                of=of,
                rows=len(asks),
                pairs=report.sources.pairs,
                pairs_right=right,
                written=report.out is not None,
                edge_before=float(before.near.mean()),
                edge_after=float(after.near.mean()),
                cloud=float(before.far.mean()),
                share=float(asks.mean()),
                cooperative=together,
                needed_before=before.needed(together),
                needed_after=after.needed(together),
            )
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """Which rows edge and cloud have right, of those that pass the filter, and the gate."""

    near: Flags
    far: Flags
    score: Figures
    total: float

    def needed(self, accuracy: float) -> float:
        """Return the least share that must escalate for an accuracy of both together."""
        shares, reached = escalation_curve(self.score, self.near, self.far)
        enough = np.flatnonzero(reached >= accuracy - 1e-9)
        return float(shares[enough[0]]) if len(enough) else 1.0


def _sides(bundle: Bundle, data: Dataset) -> _Sides:
    outputs, calibration = outputs_of(bundle, data), bundle.manifest.calibration
    assert calibration is not None
    assert outputs.cloud is not None
    assert bundle.manifest.cloud is not None
    assert data.y is not None
    classes, passes = len(bundle.labels), outputs.passes
    near = Assessor.of(
        bundle.manifest.edge[0], classes=classes, score=calibration.scoring
    ).assess_batch(outputs.edge)
    far = Assessor.of(bundle.manifest.cloud, classes=classes).assess_batch(outputs.cloud)
    return _Sides(
        near=hits(near.probs, data.y)[passes],
        far=hits(far.probs, data.y)[passes],
        score=near.score[passes],
        total=calibration.total,
    )


def _quarters(data: Dataset) -> NDArray[np.intp]:
    """Return the quarter (n,), from 0, of what each person does of each activity, in time."""
    assert data.group is not None
    assert data.y is not None
    found = np.zeros(len(data.x), np.intp)
    for person in np.unique(data.group):
        for activity in np.unique(data.y):
            mine = np.flatnonzero((data.group == person) & (data.y == activity))
            found[mine] = 4 * np.arange(len(mine)) // max(1, len(mine))
    return found


def _keep(bundle: Bundle, data: Dataset, folder: Path) -> float:
    """Let a worker's responder answer what the gate lets escalate, and release what it keeps.

    Returns how often the cloud was right in that.
    """
    assert data.y is not None
    calibration = bundle.manifest.calibration
    assert calibration is not None
    outputs = outputs_of(bundle, data)
    opinions = Assessor.of(
        bundle.manifest.edge[0], classes=len(bundle.labels), score=calibration.scoring
    ).assess_batch(outputs.edge)
    asks = np.flatnonzero((opinions.score >= calibration.total) & outputs.passes)
    with contextlib.ExitStack() as stack:
        (responder,) = open_responders(
            [str(bundle.path)],
            servers=Servers(addresses={}, timeout_s=1.0),
            threads=1,
            stack=stack,
            keeping=[Keeping(folder=folder, max_bytes=_PAIRS_BYTES, limit=_LIMIT)],
        )
        for at in range(0, len(asks), _BATCH):
            _answer(responder, data, asks[at : at + _BATCH], opinions)
    right: dict[str, bool] = {}
    for store in stores_in(folder):
        with contextlib.closing(store):
            right |= {one.id: one.label == int(data.y[int(one.id)]) for one in store.pairs()}
            store.release([one.key for one in store.pairs()])
    return float(np.mean(list(right.values())))


def _answer(
    responder: Responder, data: Dataset, rows: NDArray[np.intp], opinions: Opinions
) -> None:
    """Answer one batch, as a worker does, each row as if its person wore a device."""
    assert data.group is not None
    assert responder.keep is not None
    contract = responder.contract
    probs, alpha = responder.respond(data.x[rows])
    answered = []
    for place, row in enumerate(rows.tolist()):
        request = wire.Request(
            *(1, str(row), 1, "decide", contract.name, contract.digest, responder.entry, None),
            *(contract.dtype, contract.shape, "raw"),
            wire.WireOpinion(
                wire.pack(opinions.probs[row], "float32"),
                float(opinions.score[row]),
                opinions.score_name,
                None,
            ),
            b"",
        )
        device = Device("study", f"person-{data.group[row]}")
        evidence = None if alpha is None else alpha[place]
        answered.append(Answered(device, "waist", request, data.x[row], probs[place], evidence))
    for keep in responder.keep:
        keep(answered)


def _save(file: Path, data: Dataset) -> None:
    assert data.y is not None
    assert data.group is not None
    assert data.labels is not None
    np.savez(
        file,
        allow_pickle=False,
        X=data.x,
        y=data.y,
        group=data.group,
        labels=np.array(data.labels),
    )
