"""What uncertainty costs, and what cooperation saves: times in one thread, in turn in one run.

The machine is shared, so what is compared is run in turn, many times, and ratios are of what ran
in the same turn; uncertainty is timed in the processor's time of this thread (`timing`). Only
computing is timed: no network lies between the models.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, get_args

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import nn

from hedge.models.bundle import load_bundle
from hedge.models.calibration import threshold_for_rate
from hedge.models.evidence import Array
from hedge.models.manifest import Cloud, Head, Score
from hedge.models.measures import accuracy, escalation_curve, hits
from hedge.models.model import Model
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.training.export import to_onnx
from hedge.runtime.backends import open_model, open_part
from hedge.runtime.backends.options import BackendOptions

from . import minilm, tables, texts, timing
from .figures import Figures, calibrated, figures
from .kept import PASSES, tasks
from .makers import TASKS, maker
from .promises import score_of
from .task import Place, Task
from .teaching import dropping
from .timing import turns

NAME = "costs"
CLASSES = (3, 10, 100)
EQUAL = 0.01
"""Accuracies that differ by less are equal."""

_ONE_THREAD = BackendOptions(threads=1)
_SCORES: tuple[Score, ...] = get_args(Score)
_CALLS, _TURNS = 200, 60
_NETS_TURNS = 40
_ROWS, _CHUNK = 400, 20


class Scoring(Struct, frozen=True, kw_only=True):
    """What a score costs at ``classes`` classes, and all three uncertainties: medians, in µs.

    ``score_us`` is all from raw outputs to an opinion with the gate's score, ``softmax_us`` what
    of it the probabilities alone take; ``three_us`` is vacuity, aleatoric and epistemic (None:
    it has no evidence).
    """

    classes: int
    score: str
    softmax_us: float
    score_us: float
    three_us: float | None


class Passes(Struct, frozen=True, kw_only=True):
    """The same net, with softmax entropy, with evidence, and with dropout ``passes`` times.

    Medians in ms; the ratios to entropy are medians over the turns, ``share`` is what evidence
    adds to the net alone.
    """

    net: str
    passes: int
    turns: int
    alone_ms: float
    entropy_ms: float
    evidence_ms: float
    dropout_ms: float
    evidence_ratio: float
    dropout_ratio: float
    share: float


class Speed(Struct, frozen=True, kw_only=True):
    """Cooperation beside the cloud alone, one sample after the other.

    ``rate`` of the samples went to the cloud; the threshold is from calibration rows, where both
    are equally right but for a point. ``faster`` is the ratio of all the time, ``low`` and
    ``high`` its quartiles over the turns.
    """

    task: str
    taught: str
    rows: int
    rate: float
    cloud_accuracy: float
    accuracy: float
    cloud_ms: float
    both_ms: float
    faster: float
    low: float
    high: float


class Costs(Struct, frozen=True, kw_only=True):
    """All that was timed."""

    scoring: tuple[Scoring, ...]
    passes: tuple[Passes, ...]
    speed: tuple[Speed, ...]


FOUND = Costs
"""What `study` returns."""


def study(place: Place, *, names: Iterable[str] = TASKS) -> Costs:
    """Return what uncertainty costs and cooperation saves; the pairs are those of the tables."""
    place.say(f"{NAME}: uncertainty")
    scoring = tuple(scored(classes, score) for classes in CLASSES for score in _SCORES)
    place.say(f"{NAME}: dropout")
    net = passes("MiniLM with its head", text_net())
    speed = []
    for name in names:
        there = dataclasses.replace(place, acceptance=None)
        task = best(tasks(maker(name), there))
        x = maker(name).material(there).test.x
        some = np.random.default_rng(place.seed).permutation(len(x))[:_ROWS]
        speed.append(speed_of(task, x[some]))
        place.say(f"{NAME}: {told(speed[-1])}")
    return Costs(scoring=scoring, passes=(net,), speed=tuple(speed))


def best(found: Iterable[Task]) -> Task:
    """Return the pair whose edge the tables recommend, by the calibration rows."""
    pairs: list[tuple[Task, Figures]] = [(task, figures(task)) for task in found]
    taught = tables.recommended([one for _, one in pairs])[0].taught
    return next(task for task, one in pairs if one.taught == taught)


def scored(classes: int, score: Score) -> Scoring:
    """Return what a score costs on seeded outputs."""
    given = timing.rows(classes)
    head: Head = "evidential" if score == "vacuity" else "softmax"
    assessor = timing.assessor(score, classes=classes, head=head)

    def three(row: Array) -> object:
        return assessor.deepen(assessor.assess(row))

    works: dict[str, Callable[[Array], object]] = {
        "softmax": timing.softmax,
        "score": assessor.assess,
    }
    if head == "evidential":
        works["three"] = three
    medians = turns(
        {name: [functools.partial(work, row) for row in given] for name, work in works.items()},
        calls=_CALLS,
        count=_TURNS,
    )
    took = {name: float(np.median(values)) * 1e6 for name, values in medians.items()}
    return Scoring(
        classes=classes,
        score=score,
        softmax_us=took["softmax"],
        score_us=took["score"],
        three_us=took.get("three"),
    )


def text_net() -> nn.Module:
    """Return MiniLM with a head that was taught nothing: a net of ten milliseconds has dropout."""
    like = np.random.default_rng(0).normal(size=(16, minilm.FIGURES)).astype(np.float32)
    return nn.Sequential(minilm.Trunk(), texts.Head(torch.from_numpy(like))).eval()


def passes(
    name: str, net: nn.Module, *, sample: NDArray[Any] | None = None, count: int = _NETS_TURNS
) -> Passes:
    """Time a net of ``sample`` (1, *shape); None: a text of 28 pieces.

    Both nets are ONNX graphs in one thread, and the passes of MC dropout one batch: the least that
    they can cost.
    """
    x = _text() if sample is None else sample
    with opened(net, x, name=name) as (plain, drops):
        wide: NDArray[Any] = x.astype(plain.spec.inputs[0].dtype)
        ten = np.repeat(wide, PASSES, axis=0)
        classes = plain.infer(wide).shape[1]
        entropy = Assessor.of(Cloud(file=name), classes=classes, score="entropy")
        evidence = Assessor.of(Cloud(file=name, head="evidential"), classes=classes)
        took = turns(
            {
                "alone": [lambda: plain.infer(wide)],
                "entropy": [lambda: entropy.assess(plain.infer(wide)[0])],
                "evidence": [lambda: evidence.deepen(evidence.assess(plain.infer(wide)[0]))],
                "dropout": [lambda: _mean_entropy(drops.infer(ten))],
            },
            calls=1,
            count=count,
        )
        adds = turns(
            {"evidence": [lambda: evidence.deepen(evidence.assess(_OUTPUTS[:classes]))]},
            calls=_CALLS,
            count=count,
        )
    medians = {what: float(np.median(values)) for what, values in took.items()}
    return Passes(
        net=name,
        passes=PASSES,
        turns=count,
        alone_ms=medians["alone"] * 1e3,
        entropy_ms=medians["entropy"] * 1e3,
        evidence_ms=medians["evidence"] * 1e3,
        dropout_ms=medians["dropout"] * 1e3,
        evidence_ratio=float(np.median(took["evidence"] / took["entropy"])),
        dropout_ratio=float(np.median(took["dropout"] / took["entropy"])),
        share=float(np.median(adds["evidence"])) / medians["alone"],
    )


_OUTPUTS = np.linspace(-2.0, 3.0, 1000, dtype=np.float32)


@contextmanager
def opened(net: nn.Module, x: NDArray[Any], *, name: str) -> Iterator[tuple[Model, Model]]:
    """Open a net that takes ``x`` (1, *shape) as a graph, and as one whose dropout stays on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphs = [
            to_onnx(one, shape=x.shape[1:], dtype=x.dtype.name) for one in (net, dropping(net))
        ]
    plain, drops = (
        open_model(graph, format="onnx", where=name, options=_ONE_THREAD) for graph in graphs
    )
    with closing(plain), closing(drops):
        yield plain, drops


def _text() -> NDArray[np.int32]:
    x = np.zeros((1, texts.TOKENS), np.int32)
    x[0, :28] = np.random.default_rng(0).integers(2000, 20_000, 28)
    return x


def _mean_entropy(outputs: Array) -> float:
    """Return the entropy of the mean distribution of some passes (T, K)."""
    probs = np.mean([timing.softmax(row) for row in outputs], axis=0)
    return -float(np.sum(probs * np.log(np.maximum(probs, 1e-12)))) / math.log(len(probs))


def speed_of(task: Task, x: Array, *, chunk: int = _CHUNK) -> Speed:
    """Time edge and cloud on some test rows ``x`` (n, *shape), in turn with the cloud alone."""
    calibration, total = calibrated(task), equal_total(task)
    bundle = load_bundle(task.bundle)
    assessor = Assessor.of(task.edge, classes=task.classes, score=calibration.scoring)
    with (
        closing(open_part(bundle, task.edge, options=_ONE_THREAD)) as edge,
        closing(open_part(bundle, task.cloud, options=_ONE_THREAD)) as cloud,
    ):
        near = preparer(bundle.manifest.input, edge.spec.inputs[0])
        far = preparer(bundle.manifest.input, cloud.spec.inputs[0])

        def alone(sample: Array) -> None:
            cloud.infer(far(sample))

        def both(sample: Array) -> None:
            if not assessor.assess(edge.infer(near(sample))[0]).score < total:
                cloud.infer(far(sample))

        chunks = [x[at : at + chunk] for at in range(0, len(x) - chunk + 1, chunk)]
        pairs = [[_seconds(work, part) for work in (alone, both)] for part in (chunks[0], *chunks)]
    took = np.array(pairs[1:])  # the first warms up
    sent = ~(score_of(task.edge, task.test.edge, calibration) < total)
    there = hits(task.test.cloud, task.test.y)
    return Speed(
        task=task.name,
        taught=task.edge.name,
        rows=chunk * len(chunks),
        rate=float(sent.mean()),
        cloud_accuracy=accuracy(there),
        accuracy=accuracy(np.where(sent, there, hits(task.test.edge, task.test.y))),
        cloud_ms=float(np.median(took[:, 0])) / chunk * 1e3,
        both_ms=float(np.median(took[:, 1])) / chunk * 1e3,
        faster=float(took[:, 0].sum() / took[:, 1].sum()),
        low=_quartile(took, 0.25),
        high=_quartile(took, 0.75),
    )


def _quartile(took: NDArray[np.float64], at: float) -> float:
    return float(np.quantile(took[:, 0] / took[:, 1], at))


def equal_total(task: Task) -> float:
    """Return the threshold with the fewest escalations that cost less than a point of accuracy.

    It is found on the calibration rows: the share from which on both together are as right there
    as the cloud alone, less half of that point.
    """
    rows = task.calibration
    score = score_of(task.edge, rows.edge, calibrated(task))
    edge, cloud = hits(rows.edge, rows.y), hits(rows.cloud, rows.y)
    share, reached = escalation_curve(score, edge, cloud)
    enough = reached >= accuracy(cloud) - EQUAL / 2
    return threshold_for_rate(score, rate=float(share[np.argmax(enough)]))


def _seconds(work: Callable[[Array], None], x: Array) -> float:
    began = time.perf_counter_ns()
    for row in range(len(x)):
        work(x[row : row + 1])
    return (time.perf_counter_ns() - began) / 1e9


def told(one: Speed) -> str:
    """Return what cooperation saves, in a line."""
    return (
        f"{one.task}: {one.faster:.2f} times as fast ({one.low:.2f} to {one.high:.2f}) at "
        f"{one.accuracy:.1%}, the cloud {one.cloud_accuracy:.1%}; {one.rate:.0%} escalated"
    )


def page(found: Costs) -> str:
    """Return the tables for the page."""
    return "\n\n".join((_scoring(found.scoring), _passes(found.passes), _speed(found.speed)))


def _scoring(found: Iterable[Scoring]) -> str:
    rows = [
        f"| {one.classes} | {one.score} | {one.softmax_us:.1f} | {one.score_us:.1f} | "
        f"{'' if one.three_us is None else f'{one.three_us:.1f}'} |"
        for one in found
    ]
    head = "| classes | score | softmax alone (µs) | with the score | all three uncertainties |"
    return "\n".join([head, "|---:|---|---:|---:|---:|", *rows])


def _passes(found: Iterable[Passes]) -> str:
    rows = [
        f"| {one.net} | {one.alone_ms:.2f} | {one.entropy_ms:.2f} | {one.evidence_ms:.2f} | "
        f"{one.dropout_ms:.2f} | {one.evidence_ratio:.3f} | {one.dropout_ratio:.2f} | "
        f"{one.share:.2%} |"
        for one in found
    ]
    head = (
        f"| net | alone (ms) | softmax entropy | evidence, all three | MC dropout, {PASSES} "
        "passes in a batch | evidence/entropy | dropout/entropy | evidence adds |"
    )
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|---:|", *rows])


def _speed(found: Iterable[Speed]) -> str:
    rows = [
        f"| {one.task} | {one.taught} | {one.rate:.0%} | {one.accuracy:.3f} | "
        f"{one.cloud_accuracy:.3f} | {one.cloud_ms:.3f} | {one.both_ms:.3f} | "
        f"{one.faster:.2f} ({one.low:.2f} to {one.high:.2f}) |"
        for one in found
    ]
    head = (
        "| task | edge taught | escalated | both together | cloud alone | cloud (ms a sample) | "
        "both (ms) | times as fast |"
    )
    return "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|", *rows])
