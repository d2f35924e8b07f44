"""A model and its filter, opened side by side, as a device runs them: so that both can be timed.

Where the filter takes the features of a [split] it depends on the model who makes them. A model
that takes them, too, is a tail: the head runs in any case, and counts for neither. Else the head
counts as that one's for whom alone it runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.manifest import Cloud, Edge, Filter
from ...models.model import Model
from ...models.opinion import Assessor
from ...models.prepare import Prepare, preparer
from ..backends import open_part
from ..both_models import takes_features
from ..filters.key_cache import KeyCache
from ..filters.reuse import ReuseFilter
from ..filters.skip import SkipFilter
from ..split_head import SplitHead, head_of
from .load import Load

Batch = NDArray[Any]


class Pair(NamedTuple):
    """What a device does with one sample (1, …): all of the ``model``, all of the ``filter``.

    That is to prepare, infer and assess it; and to prepare and judge it, where the filter tells
    whether the sample is ruled out, and a reuse filter takes in the answer to one that is not.
    """

    model: Callable[[Batch], object]
    filter: Callable[[Batch], bool]


def open_pair(
    bundle: Bundle, part: Filter, model: Edge | Cloud, load: Load, *, stack: contextlib.ExitStack
) -> Pair:
    """Open a bundle's model and one of its filters, as ``part`` says where it stands.

    ``load`` has the samples, as `samples_of` gives them, and what a reuse filter knows; ``stack``
    closes both.

    Raises:
        ModelError: one cannot be opened.
        BundleError: the cache of a reuse filter has no room for one vote.
    """
    shared = shares_features(bundle, part, model)
    takes, prepare = _opened(bundle, model, shared=shared, stack=stack)
    scoring = None if bundle.manifest.calibration is None else bundle.manifest.calibration.scoring
    score = scoring if isinstance(model, Edge) else None
    assess = Assessor.of(model, classes=len(bundle.labels), score=score).assess

    def served(batch: Batch) -> object:
        return assess(takes.infer(prepare(batch))[0])

    return Pair(served, _judging(bundle, part, load, shared=shared, stack=stack))


def shares_features(bundle: Bundle, part: Filter, model: Edge | Cloud) -> bool:
    """Tell whether filter and model both take the features of the bundle's [split]."""
    return takes_features(bundle, part) and takes_features(bundle, model)


def _opened(
    bundle: Bundle, part: Edge | Filter | Cloud, *, shared: bool, stack: contextlib.ExitStack
) -> tuple[Model, Prepare]:
    """Open a part with what feeds it; features that both take are there, and need no head."""
    model = stack.enter_context(contextlib.closing(open_part(bundle, part)))
    split = bundle.manifest.split
    if split is None or not takes_features(bundle, part):
        return model, preparer(bundle.input, model.spec.inputs[0])
    prepare = preparer(split.features, model.spec.inputs[0])
    if shared:
        return model, prepare
    head = stack.enter_context(contextlib.closing(open_part(bundle, head_of(split))))
    first = SplitHead(head, preparer(bundle.input, head.spec.inputs[0]), dtype=split.dtype)
    feeding = first.feeding(prepare)
    return model, lambda batch: feeding(batch[:])  # a new object, of which no features are kept


def _judging(
    bundle: Bundle, part: Filter, load: Load, *, shared: bool, stack: contextlib.ExitStack
) -> Callable[[Batch], bool]:
    model, prepare = _opened(bundle, part, shared=shared, stack=stack)
    if part.reuse is None or load.known is None:
        skip = SkipFilter(
            model, threshold=part.threshold, thresholds=part.thresholds, prepare=prepare
        )
        return lambda batch: not skip.keep(batch)
    classes = len(bundle.labels)
    knows, learns = (
        KeyCache(part.reuse, classes=classes, clock=time.monotonic_ns) for _ in range(2)
    )
    knows.restore(load.known, away_ns=0)
    learns.restore(load.known, away_ns=0)  # apart, so that the same samples can come again
    reuse = ReuseFilter(model, cache=knows, width=part.reuse.width, prepare=prepare)
    answer = np.full(classes, 1.0 / classes, np.float32)

    def judged(batch: Batch) -> bool:
        if reuse.judge(batch) is not None:
            return True
        if reuse.key is not None:
            learns.insert(reuse.key, answer, sample_id="row")
        return False

    return judged
