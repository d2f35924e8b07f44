"""Both halves of a model tried: whether they give together what the whole gives, and how fast."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import Model
from ...models.splitting.onnx_cut import Halves
from ..backends import open_model

_TOLERANCE = 1e-3  # of the greatest output: other kernels round otherwise, by far less
_ROUNDS = 200
_WARM_UP = 5
_MOST_NS = 2_000_000_000


class Agreement(Struct, frozen=True, kw_only=True):
    """What head and tail give together, against the whole, on ``rows`` rows.

    ``difference`` is the greatest of any output where features travel as they are computed,
    ``sent_difference`` where they travel as ``dtype``; ``same_label`` the share of rows with the
    same greatest output then. ``largest`` is the features' largest magnitude.
    """

    rows: int
    dtype: str
    difference: float
    sent_difference: float
    same_label: float
    largest: float


class Speed(Struct, frozen=True, kw_only=True):
    """Medians of bare calls in turn, one sample and one thread, over ``rounds`` rounds."""

    whole_us: float
    head_us: float
    tail_us: float
    rounds: int


class Tried(NamedTuple):
    """What was found of both halves."""

    agreement: Agreement
    speed: Speed


def tried(
    whole: bytes,
    halves: Halves,
    fed: NDArray[Any],
    *,
    dtype: str,
    where: str,
    output: str | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Tried:
    """Run the whole and both halves on ``fed`` (n, …), whose features travel as ``dtype``.

    Raises:
        ModelError: one is refused or fails, they do not agree, or the features are too large.
    """
    with ExitStack() as stack:

        def opened(data: bytes, of: str, name: str | None) -> Model:
            model = open_model(data, format="onnx", where=f"{where}{of}", output=name)
            return stack.enter_context(closing(model))

        models = (
            opened(whole, "", output),
            opened(halves.head, ": head", halves.head_output),
            opened(halves.tail, ": tail", halves.tail_output),
        )
        agreement = _agreement(*models, fed, dtype=dtype, where=where)
        return Tried(agreement, _speed(*models, fed[:1], clock=clock))


def _agreement(
    whole: Model, head: Model, tail: Model, fed: NDArray[Any], *, dtype: str, where: str
) -> Agreement:
    expected = whole.infer(fed)
    features = head.infer(fed)
    with np.errstate(over="ignore"):
        sent = features.astype(dtype)
    if not np.isfinite(sent).all():
        raise ModelError(
            f"its features reach {np.abs(features).max():.4g}, which {dtype} does not hold",
            where=where,
            hint="--dtype float32, or cut elsewhere",
        )
    plain, given = tail.infer(features), tail.infer(sent.astype(np.float32))
    difference = float(np.abs(plain - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"its halves give other outputs than the whole: by up to {difference:.3g}", where=where
        )
    return Agreement(
        rows=len(fed),
        dtype=dtype,
        difference=difference,
        sent_difference=float(np.abs(given - expected).max()),
        same_label=float((given.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        largest=float(np.abs(features).max()),
    )


def _speed(
    whole: Model, head: Model, tail: Model, row: NDArray[Any], *, clock: Callable[[], int]
) -> Speed:
    features = head.infer(row)
    calls = ((whole, row), (head, row), (tail, features))
    for _ in range(_WARM_UP):
        for model, batch in calls:
            model.infer(batch)
    took: list[list[int]] = []
    begin = clock()
    while len(took) < _ROUNDS and (not took or clock() - begin < _MOST_NS):
        marks = [clock()]
        for model, batch in calls:
            model.infer(batch)
            marks.append(clock())
        took.append([after - before for before, after in itertools.pairwise(marks)])
    whole_us, head_us, tail_us = (np.median(took, axis=0) / 1e3).tolist()
    return Speed(whole_us=whole_us, head_us=head_us, tail_us=tail_us, rounds=len(took))
