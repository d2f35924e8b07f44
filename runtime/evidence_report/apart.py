"""Rows of another kind beside the bundle's own: does the edge's uncertainty tell them apart?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.dataset import Dataset, load_dataset
from ...models.evidence import Array, Figures
from ...models.manifest import Edge
from ...models.measures import auroc
from ...models.unseen import unseen
from ..both_models import part_outputs
from .answers import decided, edge_assessor
from .candidates import candidates
from .record import Apart, Histogram

_BINS = 40
_MOST_MADE = 2000


class Others(NamedTuple):
    """Rows of another kind: where they come from."""

    data: Dataset
    how: Literal["other", "permuted"]
    source: str
    seen_left_out: int = 0


def other_rows(path: Path, bundle: Bundle) -> Others:
    """Return the rows of ``path``, whatever their classes.

    Raises:
        DataError: they do not fit the bundle's input, or the bundle has seen them all.
    """
    where = str(path)
    found = load_dataset(path).fitted(bundle.input, where=where)
    data, left_out = unseen(Dataset(x=found.x), bundle, where=where)
    return Others(data, "other", path.name, left_out)


def permuted_rows(x: NDArray[Any], *, seed: int) -> Others:
    """Return rows that look like none of ``x`` (N, *shape), though their values do.

    Each value is taken from another row, at the same place, so that every feature keeps its
    distribution and what holds features together is gone. At most 2,000.
    """
    random = np.random.default_rng(seed)
    chosen = x[random.permutation(len(x))[:_MOST_MADE]]
    made = random.permuted(chosen.reshape(len(chosen), -1), axis=0).reshape(chosen.shape)
    return Others(Dataset(x=made), "permuted", "its own rows, each value from another row")


def apart(bundle: Bundle, inside: Array, others: Others, *, edge: Edge, own: str) -> Apart:
    """Return how the scores of the edge's outputs ``inside`` (N, K) differ from ``others``'.

    Raises:
        ModelError: the model fails on them.
    """
    calibration = bundle.manifest.calibration
    outside = part_outputs(bundle, edge, others.data)
    pairs = {
        here.name: (here.score, there.score)
        for here, there in zip(
            candidates(inside, edge=edge, calibration=calibration),
            candidates(outside, edge=edge, calibration=calibration),
            strict=True,
        )
        if here.score is not None and there.score is not None
    }
    escalated = None
    if calibration is not None:
        assessor = edge_assessor(edge, calibration, classes=inside.shape[1])
        escalated = float(decided(outside, assessor, calibration).escalated.mean())
    return Apart(
        how=others.how,
        source=others.source,
        inside_rows=len(inside),
        outside_rows=len(outside),
        seen_left_out=others.seen_left_out,
        escalated=escalated,
        auroc={name: auroc(*pair) for name, pair in pairs.items()},
        histograms=tuple(_histograms(pairs, _shown(own, pairs))),
    )


def _shown(own: str, pairs: dict[Any, Any]) -> Sequence[str]:
    """Return the scores to draw: the bundle's own, and its evidence's or the plainest."""
    second = next(one for one in ("vacuity", "max_prob", "margin") if one in pairs and one != own)
    return own, second


def _histograms(
    pairs: dict[Any, tuple[Figures, Figures]], shown: Sequence[str]
) -> Iterator[Histogram]:
    for name in shown:
        both = np.concatenate(pairs[name])
        low, high = float(both.min()), float(both.max())
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        inside, outside = (np.histogram(one, bins=edges)[0] for one in pairs[name])
        yield Histogram(
            score=name,
            edges=tuple(edges.tolist()),
            inside=tuple(inside.tolist()),
            outside=tuple(outside.tolist()),
            auroc=auroc(*pairs[name]),
        )
