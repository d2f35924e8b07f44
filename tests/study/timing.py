"""How long it takes to know how sure a model is, in the processor's time of this thread.

Time on the wall says little on a machine that others use: a call of ten milliseconds is put aside
at least once, one of a microsecond hardly ever. What is compared takes turns in one run.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.evidence import Array
from hedge.models.manifest import EvidenceHead, Head, Output, Router, Score, Scoring
from hedge.models.opinion import Assessor

SEED = 20267
_ROWS = 64
_LEARNT = EvidenceHead(weights=(0.4, 0.6, 0.0), bias=-0.3, temperature=1.4, data_sha256="0" * 64)
_KINDS: tuple[tuple[str, Output, Head, EvidenceHead | None], ...] = (
    ("logits", "logits", "softmax", None),
    ("probabilities", "probabilities", "softmax", None),
    ("evidence", "logits", "evidential", None),
    ("learnt, logits", "logits", "evidential", _LEARNT),
    ("learnt, probabilities", "probabilities", "evidential", _LEARNT),
)
Works = Mapping[str, list[Callable[[], object]]]


class Cost(Struct, frozen=True, kw_only=True):
    """What a call of one kind takes: least and median over the turns, in µs.

    ``share`` is that of one inference, a median over the turns; None: none was run beside it.
    """

    classes: int
    name: str
    least_us: float
    median_us: float
    share: float | None


def turns(
    works: Works, *, calls: int, count: int, few: Mapping[str, int] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return the seconds per call (count,) of each kind of work, all kinds in turn.

    Each turn runs ``calls`` of a kind, or as ``few`` has it for those that take long.
    """
    there = {name: work for name, work in works.items() if work}
    took: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(count + 1):
        for name, work in there.items():
            times = calls if few is None else few.get(name, calls)
            began = time.thread_time_ns()
            for call in range(times):
                work[call % len(work)]()
            took[name].append((time.thread_time_ns() - began) / times / 1e9)
    return {name: np.array(values[1:]) for name, values in took.items()}  # the first warms up


def rows(classes: int, output: Output = "logits") -> Array:
    """Return some seeded outputs (64, K) of a model."""
    random = np.random.default_rng((SEED, classes))
    logits = random.normal(0.0, 3.0, (_ROWS, classes)).astype(np.float32)
    if output == "logits":
        return logits
    shares: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def assessor(
    score: Score,
    *,
    classes: int,
    output: Output = "logits",
    head: Head = "softmax",
    evidence: EvidenceHead | None = None,
) -> Assessor:
    """Return an assessor of a score with some temperature and some router."""
    weights = (0.9, *np.linspace(-1.0, 1.0, classes).tolist())
    scoring = Scoring(score=score, temperature=1.4, router=Router(weights=weights, bias=0.1))
    return Assessor(output=output, head=head, classes=classes, score=scoring, evidence=evidence)


def scores(classes: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    """Give each score of each kind of outputs as work; where vacuity gates, what follows too."""
    for kind, output, head, evidence in _KINDS:
        given = rows(classes, output)
        for score in get_args(Score):
            if (score == "vacuity" and head != "evidential") or (score, classes) == ("p_norm", 2):
                continue
            one = assessor(score, classes=classes, output=output, head=head, evidence=evidence)
            yield f"{kind}: {score}", _calls(one.assess, given)
            if score == "vacuity":
                yield f"{kind}: all three", _calls(functools.partial(_all_three, one), given)


def past_the_gate(classes: int) -> list[Callable[[], object]]:
    """Return as work what comes past the gate: the two uncertainties that cost more."""
    one = assessor("vacuity", classes=classes, head="evidential")
    return [functools.partial(one.deepen, one.assess(row), row) for row in rows(classes)]


def softmax(row: Array) -> Array:
    """Return the softmax of a row (K,) as one would write it."""
    shares: Array = np.exp(row - row[row.argmax()])
    shares /= float(np.add.reduce(shares))
    return shares


def nothing() -> None:
    """Do nothing: the floor of all that is timed."""


def _calls(work: Callable[[Array], object], given: Array) -> list[Callable[[], object]]:
    return [functools.partial(work, row) for row in given]


def _all_three(one: Assessor, row: Array) -> object:
    return one.deepen(one.assess(row), row)


def costs_of(
    classes: int, *, infer: Callable[[], object] | None, calls: int, count: int
) -> tuple[Cost, ...]:
    """Time all there is for K classes, in turn with ``infer``, one inference, if it is given."""
    works: dict[str, list[Callable[[], object]]] = {
        "an empty call": [nothing],
        "one inference": [] if infer is None else [infer],
        "softmax alone": _calls(softmax, rows(classes)),
        **dict(scores(classes)),
        "past the gate": past_the_gate(classes),
    }
    took = turns(works, calls=calls, count=count, few={"one inference": max(calls // 20, 1)})
    model = took.get("one inference")
    return tuple(
        Cost(
            classes=classes,
            name=name,
            least_us=float(values.min()) * 1e6,
            median_us=float(np.median(values)) * 1e6,
            share=None if model is None else float(np.median(values / model)),
        )
        for name, values in took.items()
    )
