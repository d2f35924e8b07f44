"""What adaptation is worth: an edge that meets new people, and learns from the cloud's answers.

The bundle is that of hedge's own recipe `har`, from 6 people, calibrated on 2. Of what 7 new people
do of each activity a device sees the first half: what its gate lets escalate goes through the
responder that a worker has, which keeps pairs. They are released, and teach. Labelled are the
rows of the 6 people, which the bundle has seen, and the next quarter of the 7, by which the
command judges itself. The figures are of rows that none of this has touched: the last quarter of
the 7, and 6 people who were never met. Beside it stands the same training without the pairs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
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

from .tables import spread, table
from .task import Place
from .without_pairs import adapt_without

NAME = "adaptation"
SEEDS = 3
_VERSION = "1"
_BOUNDS = (6, 8, 15)  # of 21 people: taught, calibrated, met; the others held out
_LIMIT = 0.5
_PAIRS_BYTES = 64 << 20
_BATCH = 32
_WAYS = {"last layer": "last", "all layers": "all"}
_BUNDLE, _WITHOUT, _MADE = "har", "without", "made.json"


class Side(Struct, frozen=True, kw_only=True):
    """How often an edge is right, and the share that must escalate for the accuracy asked.

    That is the cooperative accuracy that the bundle had before, at the share that its gate let
    escalate.
    """

    edge: float
    needed: float


class Adapted(Struct, frozen=True, kw_only=True):
    """An edge ``before`` and ``after``, on ``rows`` rows ``of`` people "met" or "never met".

    ``written`` tells whether the command found the new edge better; where it did not, after is
    before. ``without`` has been taught as long and alike, but no pairs: it is shown in any case.
    ``pairs_right`` is how often the cloud was right in the pairs; ``cooperative`` the accuracy of
    both together before, where the gate let ``share`` escalate.
    """

    seed: int
    taught: str
    of: str
    rows: int
    pairs: int
    pairs_right: float
    written: bool
    cloud: float
    share: float
    cooperative: float
    before: Side
    after: Side
    without: Side


FOUND = tuple[Adapted, ...]
"""What `study` returns."""


class _Made(Struct, frozen=True, kw_only=True):
    """What a seed's training came to: the pairs that taught, and what was found better."""

    pairs: int
    pairs_right: float
    written: dict[str, bool]
    seconds: float


def study(place: Place) -> tuple[Adapted, ...]:
    """Return the figures of the last layer taught, and of all, of every seed."""
    found: list[Adapted] = []
    for seed in range(place.seed, place.seed + SEEDS):
        found += of_seed(dataclasses.replace(place, seed=seed))
        for one in found[-2 * len(_WAYS) :]:
            place.say(f"{NAME}: {line(one)}")
    return tuple(found)


def of_seed(place: Place) -> Iterator[Adapted]:
    """Yield the figures of one seed; teach only if nothing is kept."""
    people = People.of(place)
    folder = place.keep / f"{NAME}-{_VERSION}-{place.seed}-{place.effort}"
    if not (folder / _MADE).exists():
        _make(people, folder, place)
    made = msgspec.json.decode((folder / _MADE).read_bytes(), type=_Made)
    bundle = load_bundle(folder / _BUNDLE)
    for taught, short in _WAYS.items():
        after = load_bundle(folder / short) if made.written[taught] else bundle
        without = load_bundle(folder / f"{short}-{_WITHOUT}")
        for of, data in people.tests().items():
            before = _On.of(bundle, data)
            yield Adapted(
                seed=place.seed,
                taught=taught,
                of=of,
                rows=len(before.asks),
                pairs=made.pairs,
                pairs_right=made.pairs_right,
                written=made.written[taught],
                cloud=float(before.far.mean()),
                share=float(before.asks.mean()),
                cooperative=before.together,
                before=before.side(before.together),
                after=_On.of(after, data).side(before.together),
                without=_On.of(without, data).side(before.together),
            )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class People:
    """The windows of 21 people, and which rows (n,) are whose."""

    rows: Dataset
    taught: NDArray[np.intp]
    calibrated: NDArray[np.intp]
    met: NDArray[np.intp]
    held: NDArray[np.intp]

    @classmethod
    def of(cls, place: Place) -> People:
        """Draw who is who."""
        rows = load_dataset(place.data / "har_windows" / "har_windows_train.npz")
        rows = dataclasses.replace(rows, x=rows.x.astype(np.float16))
        assert rows.group is not None
        order = np.random.default_rng(place.seed).permutation(np.unique(rows.group))
        taught, calibrated, met, held = (
            np.flatnonzero(np.isin(rows.group, people)) for people in np.split(order, _BOUNDS)
        )
        return cls(rows=rows, taught=taught, calibrated=calibrated, met=met, held=held)

    @property
    def split(self) -> Split:
        """What teaches and calibrates the bundle, and what it has not seen."""
        return Split(self.taught, self.calibrated, np.concatenate((self.met, self.held)))

    def quarters(self, first: int, last: int) -> NDArray[np.intp]:
        """Return the rows of the people met from the ``first`` to the ``last`` of the quarters.

        They are, from 0, those of what each person does of each activity, in time.
        """
        assert self.rows.group is not None
        assert self.rows.y is not None
        person, activity = self.rows.group[self.met], self.rows.y[self.met]
        quarter = np.zeros(len(self.met), np.intp)
        for mine in {*zip(person.tolist(), activity.tolist(), strict=True)}:
            at = np.flatnonzero((person == mine[0]) & (activity == mine[1]))
            quarter[at] = 4 * np.arange(len(at)) // len(at)
        return self.met[(quarter >= first) & (quarter <= last)]

    def tests(self) -> dict[str, Dataset]:
        """Return what nothing has touched."""
        return {"met": self.rows.rows(self.quarters(3, 3)), "never met": self.rows.rows(self.held)}


def _make(people: People, folder: Path, place: Place) -> None:
    """Teach the bundle, adapt it in each way with pairs and without, and keep what came of it."""
    began = time.monotonic()
    place.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.keep, prefix=".making-") as name:
        room, new = Path(name), Path(name) / "new"
        plan = har.plan(len(people.rows.labels or ()), effort=place.effort)
        make(plan, people.rows, people.split, out=room / _BUNDLE, seed=place.seed, say=place.say)
        new.mkdir()
        (room / _BUNDLE).rename(new / _BUNDLE)
        bundle = load_bundle(new / _BUNDLE)
        right = _keep(bundle, people.rows.rows(people.quarters(0, 1)), room / "pairs")
        labelled = np.concatenate((people.taught, people.quarters(2, 2)))
        _save(room / "labelled.npz", people.rows.rows(labelled))
        pairs, written = _adapt(bundle, room, new, place)
        made = _Made(
            pairs=pairs,
            pairs_right=right,
            written=written,
            seconds=round(time.monotonic() - began, 1),
        )
        (new / _MADE).write_bytes(msgspec.json.encode(made))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _adapt(bundle: Bundle, room: Path, new: Path, place: Place) -> tuple[int, dict[str, bool]]:
    """Return how many pairs taught, and in which of the ways the edge became better."""
    pairs, written = 0, {}
    for taught, short in _WAYS.items():
        order = Order(all_layers=taught == "all layers", seed=place.seed)
        given = bundle, room / "pairs", room / "labelled.npz", order
        report = adapt_bundle(*given, out=new / short, say=place.say)
        place.say(str(report))
        adapt_without(*given, out=new / f"{short}-{_WITHOUT}", say=place.say)
        pairs, written[taught] = report.sources.pairs, report.out is not None
    return pairs, written


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _On:
    """Which rows edge and cloud have right, of those that pass the filter, and the gate."""

    near: Flags
    far: Flags
    score: Figures
    asks: Flags

    @classmethod
    def of(cls, bundle: Bundle, data: Dataset) -> _On:
        """Run a bundle on some rows."""
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
        return cls(
            near=hits(near.probs, data.y)[passes],
            far=hits(far.probs, data.y)[passes],
            score=near.score[passes],
            asks=near.score[passes] >= calibration.total,
        )

    @property
    def together(self) -> float:
        """How often both together are right at the gate."""
        return float(np.mean(np.where(self.asks, self.far, self.near)))

    def side(self, wanted: float) -> Side:
        """Return the edge's figures; both together are to be right as often as ``wanted``."""
        shares, reached = escalation_curve(self.score, self.near, self.far)
        enough = np.flatnonzero(reached >= wanted - 1e-9)
        needed = float(shares[enough[0]]) if len(enough) else 1.0
        return Side(edge=float(self.near.mean()), needed=needed)


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


def line(one: Adapted) -> str:
    """Return what a seed's adaptation came to, in a line."""
    written = "" if one.written else " (not better: not written)"
    return (
        f"seed {one.seed}, {one.taught}, people {one.of}: edge {one.before.edge:.1%}, "
        f"with {one.pairs} pairs {one.after.edge:.1%}{written}, without {one.without.edge:.1%}; "
        f"needed {one.before.needed:.1%}, {one.after.needed:.1%}, {one.without.needed:.1%}"
    )


def page(found: Iterable[Adapted]) -> str:
    """Return the tables for the page."""
    groups: dict[tuple[str, str], list[Adapted]] = {}
    for one in found:
        groups.setdefault((one.taught, one.of), []).append(one)
    first = next(iter(groups.values()))
    pairs = ", ".join(f"{one.pairs} ({one.pairs_right:.1%} right)" for one in first)
    head = [
        "taught",
        "people",
        "rows",
        "written",
        "cloud",
        "edge before",
        "adapted",
        "without the pairs",
        "both together, at the gate",
        "must escalate for that: before",
        "adapted",
        "without the pairs",
    ]
    seeds = ", ".join(str(one.seed) for one in first)
    return f"Seeds {seeds}; pairs that taught: {pairs}.\n\n" + table(
        head, (_row(*key, seeds) for key, seeds in groups.items())
    )


def _row(taught: str, of: str, seeds: list[Adapted]) -> list[str]:
    written = sum(one.written for one in seeds)
    share = statistics.fmean(one.share for one in seeds)
    return [
        taught,
        of,
        " / ".join(str(one.rows) for one in seeds),
        f"{written} of {len(seeds)}",
        spread(one.cloud for one in seeds),
        spread(one.before.edge for one in seeds),
        spread(one.after.edge for one in seeds),
        spread(one.without.edge for one in seeds),
        f"{spread(one.cooperative for one in seeds)}, {share:.0%} escalate",
        spread(one.before.needed for one in seeds),
        spread(one.after.needed for one in seeds),
        spread(one.without.needed for one in seeds),
    ]
