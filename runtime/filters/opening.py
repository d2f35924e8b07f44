"""A bundle's filters, opened for one stream."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from ...models.bundle import Bundle
from ...models.errors import ConfigError
from ...models.filtering.rules import Rule, labels_text, rule_of
from ...models.manifest import Filter
from ...models.model import Model
from ...models.prepare import Prepare
from ...telemetry.clock import Clock
from .key_cache import KeyCache
from .label_options import LabelOptions
from .least_certain import LeastCertain
from .reuse import ReuseFilter
from .screen import Screen
from .skip import SkipFilter

_log = logging.getLogger(__name__)

Open = Callable[[Filter], tuple[Model, Prepare]]
"""Gives a filter's model, and what makes of samples what it takes."""


def open_screens(
    bundle: Bundle,
    open_model: Open,
    *,
    clock: Clock,
    stream: str = "",
    share: float = 0.0,
    labels: LabelOptions | None = None,
    failed: Callable[[Exception], None] | None = None,
    broken: Callable[[str, str], None] | None = None,
) -> Sequence[Screen]:
    """Open all filters of ``bundle``, in the order in which they are asked.

    ``share`` of what they rule out is drawn for their shadow, and of what each is least certain of
    as much as ``labels`` says for labels (None: nothing). ``failed`` hears of what fails on a
    sample; by default it is logged, and counted anyway. ``broken`` hears which filter switches
    itself off, and why.

    Raises:
        HedgeError: a model cannot be opened.
    """
    found: list[Screen] = []
    if labels is not None and not (labels.share and labels.most_per_hour):
        labels = None
    filters = bundle.manifest.filter
    for one, name in zip(filters, filter_names(filters), strict=True):
        model, prepare = open_model(one)
        asked: SkipFilter | ReuseFilter = (
            SkipFilter(model, threshold=one.threshold, thresholds=one.thresholds, prepare=prepare)
            if one.kind == "skip"
            else _reuse(one, model, prepare, bundle=bundle, clock=clock, weighs=labels is not None)
        )
        screen = Screen(
            asked,
            name=name,
            kind=one.kind,
            stream=stream,
            rule=_rule(one, bundle, stream=stream) if share and _is_ruled(one) else None,
            tuned=one.tuned,
            share=share,
            labels=None if labels is None else LeastCertain(labels, rng=Random(), clock=clock),  # noqa: S311 -- no secret
            failed=failed,
            broken=None if broken is None else partial(broken, name),
        )
        found.append(screen)
    return found


def filter_names(filters: Sequence[Filter]) -> list[str]:
    """Return what the filters of a bundle are called: by their kinds, and numbered from 2 on.

    >>> filter_names([Filter(kind="skip", file=name) for name in "ab"])
    ['skip', 'skip-2']
    """
    kinds = [one.kind for one in filters]
    numbers = [kinds[:place].count(kind) + 1 for place, kind in enumerate(kinds)]
    return [
        kind if number == 1 else f"{kind}-{number}"
        for kind, number in zip(kinds, numbers, strict=True)
    ]


def _is_ruled(one: Filter) -> bool:
    """Tell whether its bundle's word is of what matters, which a rule has to say."""
    return one.kind == "skip" or (one.tuned is not None and one.tuned.aim == "recall")


def _reuse(
    one: Filter, model: Model, prepare: Prepare, *, bundle: Bundle, clock: Clock, weighs: bool
) -> ReuseFilter:
    options = one.reuse
    assert options is not None  # noqa: S101 -- `consistency` has looked
    cache = KeyCache(options, classes=len(bundle.labels), clock=clock)
    return ReuseFilter(model, cache=cache, width=options.width, prepare=prepare, weighs=weighs)


def _rule(one: Filter, bundle: Bundle, *, stream: str) -> Rule | None:
    """Return what is redundant by the bundle's word; None: it gives none that can be believed."""
    if one.rule is None:
        places = tuple(sorted(bundle.labels.index(label) for label in one.redundant))
        text = labels_text(one.redundant)
        if not places and one.kind == "reuse":
            _log.warning("%s: nothing says of what the reuse filter promises a recall", stream)
        return Rule(text=text, kind="labels", labels=places) if places else None
    try:
        return rule_of(one.rule, bundle.labels)
    except ConfigError as error:
        _log.warning("%s: the %s filter cannot be watched: %s", stream, one.kind, error)
        return None
