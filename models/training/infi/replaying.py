"""A reuse filter over rows in the order in which they came, and where its distance is placed.

Source: InFi, chapter 3 (H-KNN). The keys of rows that the model answered are kept; a row whose
nearest keys agree, and are near, gets their label. Here every key is compared with every other,
and the oldest gives way: what a device does is faster, and forgets otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ...manifest import Reuse
from ...measures import Flags

_STEPS = np.geomspace(0.03, 2.0, 24)  # of the distance that separates
_MOST = 3000  # rows by which it is placed: their distances are all kept
_LEAST_ALONE = 20  # fewer would fail by a single row
_BEGINNINGS = 4
_NEIGHBOURS: Sequence[tuple[int, float]] = ((1, 1.0), (3, 0.6), (3, 1.0), (5, 0.6), (5, 1.0))

Labels = NDArray[np.int64]


class Replayed(NamedTuple):
    """Which rows (N,) were not asked, and the labels (N,) that all got."""

    reused: Flags
    labels: Labels

    def rate(self) -> float:
        """Return the share of the rows that were not asked."""
        return float(self.reused.mean())

    def accuracy(self, answers: Labels) -> float:
        """Return the share of the rows that got the model's own label."""
        return float((self.labels == answers).mean())


def replay(
    keys: NDArray[np.float32],
    answers: Labels,
    reuse: Reuse,
    *,
    far: NDArray[np.float32] | None = None,
) -> Replayed:
    """Return what the filter makes of rows with ``keys`` (N, width), in their order.

    ``answers`` (N,) are what the model says when it is asked; ``far`` (N, N) the distances of all
    keys (`distances`), where they are known.
    """
    k, least = reuse.neighbours, reuse.share * reuse.neighbours - 1e-9
    kept = np.zeros(min(max(k, reuse.capacity_bytes // (4 * keys.shape[1])), len(keys)), np.intp)
    count, reused, labels = 0, np.zeros(len(keys), np.bool_), answers.copy()
    for row in range(len(keys)):
        cached = kept[: min(count, len(kept))]
        if len(cached) >= k:
            away = _away(keys[cached], keys[row]) if far is None else far[row, cached]
            near = away.argmin(0, keepdims=True) if k == 1 else away.argpartition(k - 1)[:k]
            told: list[int] = answers[cached[near]].tolist()
            label = max(told, key=told.count)
            if told.count(label) >= least and away[near].sum() <= reuse.distance * k:
                reused[row], labels[row] = True, label
                continue
        kept[count % len(kept)] = row
        count += 1
    return Replayed(reused, labels)


def distances(keys: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the L1 distances (N, N) of ``keys`` (N, width)."""
    return np.stack([_away(keys, key) for key in keys])


def place_reuse(
    keys: NDArray[np.float32],
    answers: Labels,
    *,
    apart: float,
    accuracy: float,
    alone: Sequence[tuple[NDArray[np.float32], Labels]] = (),
) -> Reuse:
    """Return where the filter reuses most of the rows and keeps the ``accuracy``.

    ``apart`` is the distance of keys that separates by what was learnt. It is kept in each of
    ``alone``, too: keys and answers of one person, or machine, for whom the cache begins empty.
    Where nothing keeps it, or is of more use than the commonest answer, the distance is 0: only
    what is equal is answered. Of many rows the first are looked at.
    """
    keys, answers = keys[:_MOST], answers[:_MOST]
    orders = [*_orders(keys, answers), *_each(alone)]
    plain = Reuse(width=keys.shape[1], distance=0.0)
    best, most = plain, 0.0
    for reuse in _candidates(plain, apart=apart):
        right, rate = _least(orders, reuse, accuracy=accuracy)
        if right >= accuracy and rate > most and _says_something(orders[0], reuse):
            best, most = reuse, rate
    return best


class _Order(NamedTuple):
    """Rows in one order, with the distances of their keys."""

    keys: NDArray[np.float32]
    answers: Labels
    far: NDArray[np.float32]


def _orders(keys: NDArray[np.float32], answers: Labels) -> list[_Order]:
    """Return the rows from some beginnings on.

    The few rows that come first decide much of what follows; one order of them says little.
    """
    far, found = distances(keys), []
    for start in range(0, len(keys), -(-len(keys) // _BEGINNINGS)):
        order = np.roll(np.arange(len(keys)), -start)
        found.append(_Order(keys[order], answers[order], far[np.ix_(order, order)]))
    return found


def _says_something(order: _Order, reuse: Reuse) -> bool:
    """Return whether its answers are right more often than the commonest one for all would be.

    The accuracy counts what the model was asked, too: few answers may all be wrong.
    """
    told = replay(order.keys, order.answers, reuse, far=order.far)
    right = (told.labels == order.answers)[told.reused]
    commonest = np.unique(order.answers, return_counts=True)[1].max() / len(order.answers)
    return bool(len(right)) and float(right.mean()) >= commonest


def _each(alone: Sequence[tuple[NDArray[np.float32], Labels]]) -> Iterator[_Order]:
    """Yield each of those who come alone, as long as they are not too many rows, nor too few."""
    left = _MOST
    for keys, answers in alone:
        if _LEAST_ALONE <= len(keys) <= left:
            left -= len(keys)
            yield _Order(keys, answers, distances(keys))


def _least(orders: list[_Order], reuse: Reuse, *, accuracy: float) -> tuple[float, float]:
    """Return the least accuracy and the least rate over all orders, up to the first that fails."""
    right = rate = 1.0
    for keys, answers, far in orders:
        told = replay(keys, answers, reuse, far=far)
        right, rate = min(right, told.accuracy(answers)), min(rate, told.rate())
        if right < accuracy:
            break
    return right, rate


def _away(keys: NDArray[np.float32], key: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.abs(keys - key).sum(axis=1)
    return found


def _candidates(plain: Reuse, *, apart: float) -> Iterator[Reuse]:
    scale = apart if apart > 0 else 1.0
    for neighbours, share in _NEIGHBOURS:
        for step in _STEPS:
            yield replace(plain, neighbours=neighbours, share=share, distance=float(scale * step))
