"""Samples by which it is measured what a filter costs, and what it knows when they come."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.manifest import Reuse
from ..filters.key_cache import Contents, KeyCache

_MOST = 500  # samples
_LAST = 5  # of so many rows one comes at last
_FILLING = 20_000  # rows from which a cache is filled
_PARTS = 100  # into which the rate is divided
_SEED = 0

Places = NDArray[np.intp]
Batches = list[NDArray[Any]]


class Load(NamedTuple):
    """Samples ``kept`` and ``filtered``, each (1, …), and what is ``known`` when they come.

    None: it is no reuse filter.
    """

    kept: Batches
    filtered: Batches
    known: Contents | None = None

    def turns(self) -> Batches:
        """Return samples of both kinds by turns."""
        kinds = [one for one in (self.kept, self.filtered) if one]
        most = max(map(len, kinds))
        return [one[place % len(one)] for place in range(most) for one in kinds]

    def mixed(self, rate: float) -> Batches:
        """Return samples of which the share ``rate`` is filtered, in an order by lot."""
        if not self.kept or not self.filtered:
            return self.kept or self.filtered
        filtered = round(rate * _PARTS)
        kinds = [self.filtered] * filtered + [self.kept] * (_PARTS - filtered)
        order = np.random.default_rng(_SEED).permutation(_PARTS)
        return [kinds[place][at % len(kinds[place])] for at, place in enumerate(order.tolist())]


def skip_load(x: NDArray[Any], filtered: NDArray[np.bool_]) -> Load:
    """Return some of the samples ``x`` (N, …) of which a skip filter drops those ``filtered``."""
    kept, dropped = (_some(np.flatnonzero(which)) for which in (~filtered, filtered))
    return Load(_batches(x, kept), _batches(x, dropped))


def reuse_load(
    x: NDArray[Any],
    keys: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    reuse: Reuse,
    *,
    classes: int,
) -> Load:
    """Return the last samples of ``x`` (N, …), and what the filter knows when they come.

    ``keys`` (N, width) and the model's ``labels`` (N,) are those of all samples, in their order.

    Raises:
        BundleError: there is no room for one vote.
        DataError: a key is beyond what can be compared.
    """
    cache = KeyCache(reuse, classes=classes, clock=time.monotonic_ns)
    answers = np.eye(classes, dtype=np.float32)
    last = len(keys) - min(_MOST, max(1, len(keys) // _LAST))
    for row in range(max(0, last - _FILLING), last):
        if cache.find(keys[row]) is None:
            cache.insert(keys[row], answers[labels[row]], sample_id=str(row))
    known = cache.contents()
    found = np.array([cache.find(key) is not None for key in keys[last:]])
    kept, reused = (last + np.flatnonzero(which) for which in (~found, found))
    return Load(_batches(x, kept), _batches(x, reused), known)


def _some(places: Places) -> Places:
    """Return at most so many of the rows, from everywhere."""
    return places[:: -(-len(places) // _MOST)] if len(places) else places


def _batches(x: NDArray[Any], places: Places) -> Batches:
    return [x[place : place + 1] for place in places.tolist()]
