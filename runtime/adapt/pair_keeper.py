"""What a worker does with an answer once it is given: it keeps it as a pair, if it teaches.

The worker's thread only looks and hands over; a thread of its own writes, a group at a time. A
disk that is full or slow costs pairs, never answers: they are counted, and told once a minute.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...models.bundle import Bundle
from ...models.errors import DataError, HedgeError
from ...models.records import Probs
from ...uplink import wire
from ...uplink.far_end.responder import Answered
from ...uplink.tally import Tally
from ..sinks.sqlite_file import move_aside
from .pair_store import FILE, PairStore, key_of
from .pairs import About, Pair, doubt_of

_log = logging.getLogger(__name__)

_COUNTERS = ("kept", "repeated", "evicted", "overrun", "no_room", "failed")
_WAITING = 1024
_WAITING_BYTES = 32 << 20
_GATHER_S = 1.0  # one transaction each second at most
_RETRY_S = 5.0


class Terms(Protocol):
    """Which answers are kept, and what they are called: ``what``.

    ``bundle`` is the digest of the bundle that answers, ``counters`` name why one is not kept.
    """

    @property
    def what(self) -> str:
        """In the names of counters."""

    @property
    def counters(self) -> tuple[str, ...]:
        """Why an answer is not kept."""

    @property
    def about(self) -> About:
        """The contract."""

    @property
    def bundle(self) -> str:
        """The digest."""

    def against(self, one: Answered, *, doubt: float) -> str | None:
        """Return which counter an answer goes to, with this `doubt_of` the cloud; None: kept."""


class PairTerms(Struct, frozen=True, kw_only=True):
    """Which answers make a pair: the edge's ``score`` was ``total`` or more, the cloud sure.

    Sure is a `doubt_of` below ``limit``. ``bundle`` is the digest of the bundle that answers.
    """

    about: About
    bundle: str
    score: str
    total: float
    limit: float
    what: ClassVar[str] = "pairs"
    counters: ClassVar[tuple[str, ...]] = ("edge_sure", "cloud_unsure", "other_score")

    @classmethod
    def of(cls, bundle: Bundle, *, limit: float) -> PairTerms:
        """Return the terms of a calibrated ``bundle``.

        Raises:
            DataError: it is not calibrated, so that nobody knows when its edge is unsure.
        """
        calibration = bundle.manifest.calibration
        if calibration is None:
            raise DataError(
                "is not calibrated, so that pairs cannot be told",
                where=str(bundle.path),
                hint="hedge calibrate it, or leave --pairs away",
            )
        return cls(
            about=About.of(bundle),
            bundle=bundle.digest,
            score=calibration.score,
            total=calibration.total,
            limit=limit,
        )

    def against(self, one: Answered, *, doubt: float) -> str | None:
        """Return why an answer teaches an edge nothing."""
        opinion = one.request.opinion
        if opinion is None or opinion.score_name != self.score:
            return "other_score"
        if not opinion.score >= self.total:
            return "edge_sure"
        if _edge(one, classes=self.about.classes) is None:
            return "other_score"
        return None if doubt < self.limit else "cloud_unsure"


class LabelTerms(Struct, frozen=True, kw_only=True):
    """Which answers are labels for a filter: those to asks of kind "label", whatever they say."""

    about: About
    bundle: str
    what: ClassVar[str] = "labels"
    counters: ClassVar[tuple[str, ...]] = ("other_kind",)

    @classmethod
    def of(cls, bundle: Bundle) -> LabelTerms:
        """Return the terms of a ``bundle``."""
        return cls(about=About.of(bundle), bundle=bundle.digest)

    def against(self, one: Answered, *, doubt: float) -> str | None:
        """Return why an answer is no label; the doubt does not matter."""
        del doubt
        return None if one.request.kind == "label" else "other_kind"


class PairKeeper:
    """Keeps pairs in ``folder``, below the contract's own; a `responder.Keep`.

    A file there that is damaged is laid aside. ``wall`` is Unix time.

    Raises:
        HedgeError: something else is in the file's place, or it cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        terms: Terms,
        *,
        max_bytes: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder / terms.about.contract
        self._terms = terms
        self._max_bytes = max_bytes
        self._wall = wall
        self._tally = Tally((*_COUNTERS, *terms.counters), log=_log)
        self._waiting: deque[tuple[Pair, Answered]] = deque()
        self._waiting_bytes = 0
        self._store: PairStore | None = None
        self._retry_s = 0.0
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._closing = threading.Event()
        try:
            self._open()
        except sqlite3.OperationalError as error:  # a disk that is full may be so no more
            self._fail(0, error)
        self._thread = threading.Thread(target=self._run, name="pairs", daemon=True)
        self._thread.start()

    def __call__(self, answered: Sequence[Answered]) -> None:
        """Take what was answered; never waits for the disk."""
        for one in answered:
            pair = self._pair(one)
            if pair is None:
                continue
            with self._lock:
                room = _WAITING_BYTES - self._waiting_bytes
                if len(self._waiting) >= _WAITING or one.sample.nbytes > room:
                    self._tally.drop("overrun", "pairs come faster than they can be written")
                    continue
                self._waiting.append((pair, one))
                self._waiting_bytes += one.sample.nbytes
            self._bell.set()

    @property
    def what(self) -> str:
        """What it keeps: pairs, or labels."""
        return self._terms.what

    def counters(self) -> dict[str, int]:
        """Return what became of the answers, by name."""
        return self._tally.copy()

    def close(self) -> None:
        """Write what waits, and stop; closing twice is harmless."""
        self._closing.set()
        self._bell.set()
        self._thread.join()

    def _pair(self, one: Answered) -> Pair | None:
        """Return the pair that an answer makes; None: it is none that teaches."""
        terms = self._terms
        doubt = float(doubt_of(one.probs, one.alpha))
        against = terms.against(one, doubt=doubt)
        if against is not None:
            self._tally.add(against)
            return None
        edge = _edge(one, classes=terms.about.classes)
        told = one.request.opinion
        return Pair(
            key="",
            site=one.device.site,
            device=one.device.name,
            stream=one.stream,
            id=one.request.id,
            kind=one.request.kind,
            at_s=self._wall(),
            bundle=terms.bundle,
            score=None if edge is None or told is None else told.score,
            doubt=doubt,
            edge=edge,
            cloud=one.probs,
            alpha=one.alpha,
        )

    def _run(self) -> None:
        """Write, a group at a time, until it is closed and nothing waits."""
        while True:
            self._bell.wait()
            if not self._closing.is_set():
                self._closing.wait(_GATHER_S)
            self._bell.clear()
            with self._lock:
                group = list(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
            try:
                self._write(group)
            except Exception as error:  # noqa: BLE001 -- pairs must not end the service
                self._fail(len(group), error)
            if self._closing.is_set() and not self._waiting:
                break
        if self._store is not None:
            self._store.close()

    def _write(self, group: Sequence[tuple[Pair, Answered]]) -> None:
        if not group:
            return
        try:
            if self._store is None and time.monotonic() >= self._retry_s:
                self._open()
            if self._store is None:
                self._tally.add("failed", len(group))
                return
            bodies = [_body(one, dtype=self._terms.about.dtype) for _, one in group]
            pairs = [_keyed(pair, body) for (pair, _), body in zip(group, bodies, strict=True)]
            found = self._store.put(pairs, bodies)
        except (sqlite3.Error, OSError, HedgeError) as error:
            self._fail(len(group), error)
            return
        for name, count in found._asdict().items():
            self._tally.add(name, count)

    def _fail(self, count: int, error: Exception) -> None:
        """Count pairs that are lost; a file that may be at fault is opened anew after a while."""
        self._tally.add("failed", count - 1)  # `drop` counts one
        self._tally.drop("failed", f"pairs are not kept: {error}")
        full = isinstance(error, sqlite3.OperationalError) and "full" in str(error)
        if self._store is not None and not full:
            with contextlib.suppress(sqlite3.Error):
                self._store.close()
            self._store = None
            self._retry_s = time.monotonic() + _RETRY_S

    def _open(self) -> None:
        """Open the file, a new one where the one that is there is damaged."""
        try:
            self._store = self._opened()
        except DataError as error:
            if "is damaged" not in error.what:
                raise
            _log.warning("%s; laid aside as %s", error, move_aside(self._folder / FILE).name)
            self._store = self._opened()

    def _opened(self) -> PairStore:
        store = PairStore(self._folder, about=self._terms.about, max_bytes=self._max_bytes)
        try:
            store.check()
        except DataError:
            store.close()
            raise
        return store


def _edge(one: Answered, *, classes: int) -> Probs | None:
    """Return what the edge thought (K,); None: it was not asked, or what was sent is none."""
    if one.request.opinion is None:
        return None
    try:
        return wire.distribution(one.request.opinion.probs, classes=classes)
    except HedgeError:
        return None


def _keyed(pair: Pair, body: bytes) -> Pair:
    return replace(pair, key=key_of(pair.site, pair.device, pair.stream, pair.id, body))


def _body(one: Answered, *, dtype: str) -> bytes:
    return np.ascontiguousarray(one.sample, np.dtype(dtype).newbyteorder("<")).tobytes()
