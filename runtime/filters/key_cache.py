"""What a reuse filter knows: keys of samples that were answered, and a vote among the nearest.

Source: InFi, chapter 3 (H-KNN). The thesis leaves open when its vote is sure: here the share of the
majority's label among the K nearest must reach a bound, and their mean distance must not exceed
another one. It answers as soon as there are K keys.

Keys are forgotten after a while, and the least used ones where there is no more room, of those the
one that was used longest ago. Uses count half after as many keys have given way as there are: else
a stream that has changed could never be learnt, each new key being the next to go.
"""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...models.errors import BundleError, DataError
from ...models.manifest import Reuse
from ...models.records import Probs
from ...telemetry.clock import Clock
from .nearest import Key, Near, Nearest

_ID_BYTES = 96  # of a Python string of 40 characters
_LONGEST = 1 << 60
_LONGEST_ID = 40
_ROUNDING = 1e-9


class Vote(NamedTuple):
    """An answer: ``probs`` (classes,) and ``label``, and the sample that is nearest of its kind."""

    probs: Probs
    label: int
    nearest: str


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cache holds, the oldest first: n keys float32, n answers float32, as bytes.

    ``ages_ns`` says how long each has been there; ``used`` orders them by their last use.
    """

    width: int
    classes: int
    keys: bytes
    probs: bytes
    ages_ns: tuple[int, ...]
    uses: tuple[int, ...]
    used: tuple[int, ...]
    ids: tuple[str, ...]


class KeyCache:
    """Keys with the probabilities that were answered, ``classes`` of them, in constant memory.

    All of it, buffers too, takes the options' ``capacity_bytes`` at most.

    Raises:
        BundleError: that is less than one vote takes.
    """

    def __init__(self, options: Reuse, *, classes: int, clock: Clock) -> None:
        beside = 4 * classes + 8 + 4 * 8 + _ID_BYTES
        most = Nearest.most_in(options.capacity_bytes, width=options.width, beside_bytes=beside)
        if most < options.neighbours:
            raise BundleError(
                f"{options.capacity_bytes} bytes are {most} keys, fewer than the "
                f"{options.neighbours} neighbours",
                where="filter.reuse.capacity_bytes",
            )
        self._options = options
        self._ttl_ns = None if options.ttl_s is None else int(options.ttl_s * 1e9)
        self._clock = clock
        self._nearest = Nearest(width=options.width, most=most)
        self._probs = np.zeros((most, classes), np.float32)
        # arrays of Python's own, of which one number at a time is cheap
        self._labels, self._since_ns, self._uses, self._used = (
            array("q", bytes(8 * most)) for _ in range(4)
        )
        self._ids = [""] * most
        self._weights = [
            np.full(votes, 1 / max(1, votes), np.float32) for votes in range(options.neighbours + 1)
        ]
        self._oldest_ns = 0  # no key is older
        self._turn = 0
        self.certainty: float | None = None
        self.evicted = 0
        self.expired = 0

    @property
    def capacity_bytes(self) -> int:
        """What all of it takes at most."""
        return self._options.capacity_bytes

    @property
    def ages(self) -> bool:
        """Whether keys are forgotten after a while."""
        return self._ttl_ns is not None

    def __len__(self) -> int:
        """Return how many keys there are."""
        return self._nearest.count

    @property
    def most(self) -> int:
        """How many there can be."""
        return self._nearest.most

    def find(self, key: Key, *, weigh: bool = False) -> Vote | None:
        """Return the answer that the nearest keys agree on; None: they do not, or are too far.

        Of labels with as many votes that of the nearest key wins. To ``weigh`` a vote takes a
        longer search: its ``certainty`` is less the fewer keys are of the majority, and of votes
        with as many the further away they are; None: there are fewer keys than it takes.

        Raises:
            DataError: ``key`` (width,) float32 is not finite.
        """
        self._expire()
        options, k = self._options, self._options.neighbours
        if weigh:
            self.certainty = None
        within = math.inf if weigh else options.distance
        near = self._nearest.find(key, k=k, within=within)
        if near is None:
            return None
        if weigh and not self._weigh(near):
            return None
        slots: list[int] = near.slots.tolist()
        labels = [self._labels[slot] for slot in slots]
        label = labels[0]
        votes = labels.count(label)
        if votes < k:
            label = max(labels, key=labels.count)  # the first one of those, which is the nearest
            votes = labels.count(label)
            if votes < options.share * k - _ROUNDING:
                return None
            slots = [slot for slot, one in zip(slots, labels, strict=True) if one == label]
        return self._answer(slots, label)

    def _weigh(self, near: Near) -> bool:
        """Say how certain a vote of these is; return whether they are near enough."""
        labels = [self._labels[slot] for slot in near.slots.tolist()]
        away: float = sum(near.distances.tolist())
        self.certainty = max(map(labels.count, labels)) - away / (1.0 + away)
        return away <= self._options.distance * self._options.neighbours

    def insert(self, key: Key, probs: Probs, *, sample_id: str) -> None:
        """Take in that the sample of ``key`` was answered so.

        Raises:
            DataError: the key is not finite.
        """
        self._expire()
        slot = self._nearest.count
        if slot == self._nearest.most:
            slot = self._least_used()
            self.evicted += 1
            if self.evicted % self._nearest.most == 0:
                uses = _numbers(self._uses)
                uses >>= 1
        now_ns = self._clock()
        if not self._nearest.count:
            self._oldest_ns = now_ns
        self._turn += 1
        self._nearest.put(slot, key, age=self._turn)
        self._probs[slot] = probs
        self._labels[slot] = int(probs.argmax())
        self._since_ns[slot] = now_ns
        self._uses[slot] = 0
        self._used[slot] = self._turn
        self._ids[slot] = sample_id

    def contents(self) -> Contents:
        """Return all that it holds."""
        self._expire()
        near, now_ns = self._nearest, self._clock()
        order = np.argsort(near.age[: near.count])
        return Contents(
            width=near.width,
            classes=self._probs.shape[1],
            keys=near.keys[order].tobytes(),
            probs=self._probs[order].tobytes(),
            ages_ns=tuple((now_ns - _numbers(self._since_ns)[order]).tolist()),
            uses=tuple(_numbers(self._uses)[order].tolist()),
            used=tuple(_numbers(self._used)[order].argsort().argsort().tolist()),
            ids=tuple(self._ids[slot] for slot in order),
        )

    def restore(self, contents: Contents, *, away_ns: int) -> None:
        """Take in what another one held ``away_ns`` ago; this one is empty.

        Raises:
            DataError: it does not fit, or contradicts itself; then nothing is taken in.
        """
        n, classes = len(contents.ids), self._probs.shape[1]
        lists = contents.ages_ns, contents.uses, contents.used
        if (contents.width, contents.classes) != (self._nearest.width, classes):
            raise DataError("is of keys or answers of another width")
        if n > self._nearest.most or any(len(one) != n for one in lists):
            raise DataError("holds more keys than there is room, or less of one than of another")
        if (len(contents.keys), len(contents.probs)) != (4 * n * contents.width, 4 * n * classes):
            raise DataError("has not as many keys or answers as it says")
        keys = np.frombuffer(contents.keys, np.float32).reshape(n, contents.width)
        probs = np.frombuffer(contents.probs, np.float32).reshape(n, classes)
        with np.errstate(all="ignore"):
            squares = np.einsum("ij,ij->i", keys, keys)
        if not (np.isfinite(squares).all() and ((probs >= 0) & (probs <= 1)).all()):
            raise DataError("has a key that is not finite, or an answer that is none")
        if any(not 0 <= one < _LONGEST for each in lists for one in each):
            raise DataError("has an age or a count that cannot be")
        if any(len(one) > _LONGEST_ID for one in contents.ids):
            raise DataError("has an id that is none")
        now_ns = self._clock()
        for slot, one in enumerate(zip(contents.ids, *lists, strict=True)):
            sample_id, age_ns, uses, used = one
            self._nearest.put(slot, keys[slot], age=slot)
            self._since_ns[slot] = now_ns - away_ns - age_ns
            self._uses[slot], self._used[slot], self._ids[slot] = uses, used, sample_id
        self._probs[:n] = probs
        _numbers(self._labels)[:n] = probs.argmax(axis=1)
        self._turn = n
        self._oldest_ns = int(_numbers(self._since_ns)[:n].min()) if n else now_ns

    def _answer(self, chosen: list[int], label: int) -> Vote:
        self._turn += 1
        for slot in chosen:
            self._uses[slot] += 1
            self._used[slot] = self._turn
        probs: Probs = self._weights[len(chosen)].dot(self._probs[chosen])
        return Vote(probs, label, self._ids[chosen[0]])

    def _least_used(self) -> int:
        uses = _numbers(self._uses)
        least = np.flatnonzero(uses == uses.min())
        return int(least[_numbers(self._used)[least].argmin()])

    def _expire(self) -> None:
        """Forget what is too old; mostly one look at the clock."""
        if self._ttl_ns is None or not self._nearest.count:
            return
        first_ns = self._clock() - self._ttl_ns
        if self._oldest_ns >= first_ns:
            return
        old = np.flatnonzero(_numbers(self._since_ns)[: self._nearest.count] < first_ns)
        for slot in reversed(old.tolist()):
            last = self._nearest.remove(slot)
            self._probs[slot] = self._probs[last]
            for column in (self._labels, self._since_ns, self._uses, self._used):
                column[slot] = column[last]
            self._ids[slot] = self._ids[last]
        self.expired += len(old)
        count = self._nearest.count
        if count:
            self._oldest_ns = int(_numbers(self._since_ns)[:count].min())


def _numbers(column: array[int]) -> NDArray[np.int64]:
    """Return the same numbers, to be reckoned with all at once."""
    return np.frombuffer(column, np.int64)
