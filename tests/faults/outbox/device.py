"""The device under fault: a child process that puts, sends and settles until it is ended.

Everything about an ask follows from its id, so that its parent can tell whether a payload
is right.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hedge.telemetry.clock import boottime_ns
from hedge.uplink import wire
from hedge.uplink.outbox import record_log
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import Record

from ..witness import ACKNOWLEDGE, IDLE, OPEN, PUT, SEND, Witness

_ALIVE = 150  # asks that a device lets pile up before it settles more than it puts
_NEVER_NS = 1 << 62
_SECTOR = 512
_OPINION = wire.WireOpinion(np.array([0.25, 0.75], "<f4").tobytes(), 0.5, "vacuity", None)


def body_of(ask_id: str) -> bytes:
    """Return the body that belongs to an id: 1 to 1500 bytes."""
    digest = hashlib.sha256(ask_id.encode()).digest()
    return (digest * 47)[: 1 + int.from_bytes(digest[:2], "little") % 1500]


def waits(ask_id: str) -> bool:
    """Whether a user waits for the final outcome of an id: of half of them."""
    return hashlib.sha256(ask_id.encode()).digest()[2] % 2 == 0


def record_of(ask_id: str) -> Record:
    """Return the record that belongs to an id."""
    body = body_of(ask_id)
    now_ns = boottime_ns()
    request = wire.Request(
        v=1,
        id=ask_id,
        session=1,
        kind="decide",
        model="m",
        contract="0" * 16,
        entry="input",
        remaining_ms=None,
        dtype="uint8",
        shape=(len(body),),
        codec="raw",
        opinion=_OPINION,
        body=body,
    )
    return Record(
        request=request,
        stream="s",
        classes=2,
        score=0.5,
        deadline_ns=None,
        answer_by_ns=now_ns if waits(ask_id) else None,
        asked_at_ns=now_ns,
    )


def opened(folder: Path, *, max_bytes: int) -> DurableOutbox:
    """Return the outbox as a device has it."""
    return DurableOutbox(folder, max_bytes=max_bytes, min_free_bytes=0, max_strikes=1 << 15)


class Device:
    """One life: ``cycle`` makes its ids unique, ``rng`` its choices.

    It works until it is ended, or for so many ``steps``. With ``ballast``, a file, it also
    fills its disk up now and then, and frees it.
    """

    def __init__(
        self,
        folder: Path,
        witness: Witness,
        *,
        max_bytes: int,
        cycle: int,
        rng: random.Random,
        steps: int | None = None,
        ballast: Path | None = None,
    ) -> None:
        self._folder = folder
        self._witness = witness
        self._max_bytes = max_bytes
        self._cycle = cycle
        self._random = rng
        self._steps = steps
        self._ballast = ballast
        self._made = 0
        self._unfinal: set[str] = set()
        self._waiting: list[str] = []

    def live(self) -> None:
        """Open the outbox and work."""
        self._witness.watch_disk()
        outbox = opened(self._folder, max_bytes=self._max_bytes)
        counted = outbox.counters()
        self._witness.say("u", [counted["recovered"], counted["lost"]])
        self._waiting = [record.id for record in outbox.due(1 << 30)]
        self._unfinal = {record.id for record in outbox.recovered()}
        self._witness.shared[OPEN] = 1
        self._witness.shared.phase = IDLE
        moves: list[Callable[[DurableOutbox], None]] = [
            *(self._put, self._put, self._put, self._send, self._send),
            *(self._settle, self._settle, self._finish, self._finish, self._sync),
        ]
        number = 0
        while self._steps is None or number < self._steps:
            number += 1
            if self._ballast is not None and self._random.random() < 0.1:
                _weigh(self._ballast, heavy=not self._ballast.exists())
            self._random.choice(moves)(outbox)

    def _put(self, outbox: DurableOutbox) -> None:
        if len(self._waiting) > _ALIVE:
            self._settle(outbox)
            return
        ids = []
        for _ in range(self._random.choice((1, 1, 2, 5, 20))):
            self._made += 1
            ids.append(f"{self._cycle}-{self._made}")
        records = [record_of(ask_id) for ask_id in ids]
        self._witness.say("o", ids)
        with self._witness.during(PUT):
            placed = outbox.put(records)
        stored = [ask_id for ask_id in ids if ask_id not in placed.refused]
        self._witness.say("c", stored)
        self._witness.say("r", placed.refused)
        if placed.evicted:  # so few asks give way to none
            self._witness.say("x", ["evicted", *placed.evicted])
        self._waiting += stored
        self._unfinal |= {ask_id for ask_id in stored if waits(ask_id)}

    def _send(self, outbox: DurableOutbox) -> None:
        with self._witness.during(SEND):
            for record in outbox.due(4):
                if record.request.body != body_of(record.id):
                    self._witness.say("x", ["wrong body when sent:", record.id])
                wire.encode(record.request)
                outbox.sent(record.id, lease_until_ns=_NEVER_NS)
            if self._random.random() < 0.2:
                outbox.requeue()

    def _settle(self, outbox: DurableOutbox) -> None:
        count = min(len(self._waiting), self._random.choice((1, 2, 8, 30)))
        ids = self._random.sample(self._waiting, count)
        self._witness.say("s", ids)
        with self._witness.during(ACKNOWLEDGE):
            outbox.settle(dict.fromkeys(ids, "answered"))
        self._witness.say("S", ids)
        self._waiting = [ask_id for ask_id in self._waiting if ask_id not in set(ids)]

    def _finish(self, outbox: DurableOutbox) -> None:
        count = min(len(self._unfinal), self._random.choice((1, 2, 8, 30)))
        ids = self._random.sample(sorted(self._unfinal), count)
        self._witness.say("f", ids)
        with self._witness.during(ACKNOWLEDGE):
            outbox.final(ids)
        self._witness.say("F", ids)
        self._unfinal -= set(ids)

    def _sync(self, outbox: DurableOutbox) -> None:
        """Do what a device does every tenth of a second."""
        before = outbox.counters()["disk_errors"]
        outbox.expire(now_ns=_NEVER_NS - 1)
        if outbox.counters()["disk_errors"] == before:
            self._witness.say("y")


def tear(at: int, witness: Witness, *, rng: random.Random) -> None:
    """Let this process die in its ``at``-th write: a prefix of it lands, or some sectors."""
    real = record_log._write
    count = 0

    def torn(fd: int, data: bytes, offset: int) -> None:
        nonlocal count
        count += 1
        if count < at:
            real(fd, data, offset)
            return
        pieces = _pieces(len(data), offset, rng=rng)
        for begin, end in pieces:
            os.pwrite(fd, data[begin:end], offset + begin)
        landed = sum(end - begin for begin, end in pieces)
        told = "whole" if landed == len(data) else "in part" if landed else "nothing landed"
        witness.say("e", [f"torn:{told.replace(' ', '-')}"])
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    record_log._write = torn


def _pieces(size: int, offset: int, *, rng: random.Random) -> list[tuple[int, int]]:
    """Return what of a write lands on the disk: a prefix, or each sector or not."""
    if rng.random() < 0.5:
        return [(0, rng.randrange(size))]
    ends = [*range(_SECTOR - offset % _SECTOR, size, _SECTOR), size]
    sectors = zip([0, *ends], ends, strict=False)
    return [sector for sector in sectors if rng.random() < 0.5]


def fail_syncs(probability: float, *, rng: random.Random) -> None:
    """Let syncs of this process fail with EIO, where strace is not there to do it."""
    for name in ("fdatasync", "fsync"):
        real = getattr(os, name)

        def failing(fd: int, real: Callable[[int], None] = real) -> None:
            if rng.random() < probability:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)

        setattr(os, name, failing)


def _weigh(ballast: Path, *, heavy: bool) -> None:
    """Fill the disk up with a file, or remove it."""
    if not heavy:
        ballast.unlink()
        return
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
