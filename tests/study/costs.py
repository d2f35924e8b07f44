"""What uncertainty costs, and what cooperation saves: times in one thread, in turn in one run.

The machine is shared, so what is compared is run in turn, many times, ratios are of what ran in
the same turn, and times are the processor's of this thread (`timing`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, get_args

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from torch import nn

from hedge.models.evidence import Array
from hedge.models.manifest import Cloud, Head, Score
from hedge.models.model import Model
from hedge.models.opinion import Assessor
from hedge.models.records import Opinion
from hedge.models.training.export import to_onnx
from hedge.runtime.backends import open_model
from hedge.runtime.backends.options import BackendOptions

from . import minilm, tables, texts, timing
from .figures import Figures, figures
from .kept import PASSES, tasks
from .makers import TASKS, maker
from .speed import Speed, speed_of, speeds, told
from .task import Place, Task
from .teaching import dropping
from .timing import turns

NAME = "costs"
CLASSES = (3, 10, 100)
_ONE_THREAD = BackendOptions(threads=1)
_SCORES: tuple[Score, ...] = get_args(Score)
_CALLS, _TURNS = 200, 60
_NETS_TURNS = 40


class Scoring(Struct, frozen=True, kw_only=True):
    """What a score costs at ``classes`` classes, and all three uncertainties: least and median, µs.

    ``score_us`` is all from raw outputs to an opinion with the gate's score, ``softmax_us`` what
    of it the probabilities alone take; ``three_us`` is vacuity, aleatoric and epistemic (None:
    it has no evidence).
    """

    classes: int
    score: str
    softmax_us: tuple[float, float]
    score_us: tuple[float, float]
    three_us: tuple[float, float] | None


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
        speed.append(speed_of(task, maker(name).material(there).test.x))
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

    works: dict[str, Callable[[Array], object]] = {
        "softmax": timing.softmax,
        "score": assessor.assess,
    }
    if head == "evidential":
        works["three"] = functools.partial(_deep, assessor)
    every = turns(
        {name: [functools.partial(work, row) for row in given] for name, work in works.items()},
        calls=_CALLS,
        count=_TURNS,
    )
    took = {
        name: (float(values.min()) * 1e6, float(np.median(values)) * 1e6)
        for name, values in every.items()
    }
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
                "evidence": [lambda: _deep(evidence, plain.infer(wide)[0])],
                "dropout": [lambda: _mean_entropy(drops.infer(ten))],
            },
            calls=1,
            count=count,
        )
        adds = turns(
            {"evidence": [lambda: _deep(evidence, _OUTPUTS[:classes])]},
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


def _deep(assessor: Assessor, outputs: Array) -> Opinion:
    return assessor.deepen(assessor.assess(outputs), outputs)


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


def page(found: Costs) -> str:
    """Return the tables for the page."""
    return "\n\n".join((_scoring(found.scoring), _passes(found.passes), speeds(found.speed)))


def _scoring(found: Iterable[Scoring]) -> str:
    rows = [
        f"| {one.classes} | {one.score} | {_both(one.softmax_us)} | {_both(one.score_us)} | "
        f"{'' if one.three_us is None else _both(one.three_us)} |"
        for one in found
    ]
    head = "| classes | score | softmax alone (µs) | with the score | all three uncertainties |"
    return "\n".join([head, "|---:|---|---:|---:|---:|", *rows])


def _both(least_median: tuple[float, float]) -> str:
    return " / ".join(f"{one:.1f}" for one in least_median)


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
