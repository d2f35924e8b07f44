"""The device under fault: a child process that puts, sends and settles until it is killed.

What it has done it says over a pipe, one line per step, before and after; where it is, it
writes to memory that its parent shares. Everything about an ask follows from its id, so
that its parent can tell whether a payload is right.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from hedge.telemetry.clock import boottime_ns
from hedge.uplink import record_log, wire
from hedge.uplink.durable_outbox import DurableOutbox
from hedge.uplink.outbox import Record

STARTING, IDLE, PUT, COMMIT, SEND, ACKNOWLEDGE = range(6)
"""Where a device is: the first byte of the shared memory; the second: it has opened."""

PHASES = ("starting", "idle", "put", "commit", "send", "acknowledge")
_ALIVE = 150  # asks that a device lets pile up before it settles more than it puts
_NEVER_NS = 1 << 62
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
    return DurableOutbox(folder, max_bytes=max_bytes, min_free_bytes=0, max_sends=1 << 15)


class Device:
    """One life: ``cycle`` makes its ids unique, ``seed`` its choices."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        cycle: int,
        seed: int,
        said: int,
        shared: mmap.mmap,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._cycle = cycle
        self._random = random.Random(seed)  # noqa: S311 -- choices, not secrets
        self._said = said
        self._shared = shared
        self._made = 0
        self._unfinal: set[str] = set()
        self._waiting: list[str] = []

    def live(self, *, steps: int | None = None, ballast: Path | None = None) -> None:
        """Open the outbox and work: until killed, or for so many steps.

        With ``ballast``, a file, it also fills its disk up now and then, and frees it.
        """
        self._watch_commits()
        outbox = opened(self._folder, max_bytes=self._max_bytes)
        self._say("u", ())
        self._shared[1] = 1
        self._waiting = [record.id for record in outbox.due(1 << 30)]
        self._unfinal = {record.id for record in outbox.recovered()}
        moves: list[Callable[[DurableOutbox], None]] = [
            *(self._put, self._put, self._put, self._send, self._send),
            *(self._settle, self._settle, self._finish, self._finish, self._sync),
        ]
        number = 0
        while steps is None or number < steps:
            number += 1
            if ballast is not None and self._random.random() < 0.1:
                _weigh(ballast, heavy=not ballast.exists())
            self._random.choice(moves)(outbox)
            self._shared[0] = IDLE

    def _put(self, outbox: DurableOutbox) -> None:
        if len(self._waiting) > _ALIVE:
            self._settle(outbox)
            return
        ids = []
        for _ in range(self._random.choice((1, 1, 2, 5, 20))):
            self._made += 1
            ids.append(f"{self._cycle}-{self._made}")
        records = [record_of(ask_id) for ask_id in ids]
        self._say("o", ids)
        self._shared[0] = PUT
        placed = outbox.put(records)
        self._shared[0] = IDLE
        stored = [ask_id for ask_id in ids if ask_id not in placed.refused]
        self._say("c", stored)
        self._say("r", placed.refused)
        self._waiting += stored
        self._unfinal |= {ask_id for ask_id in stored if waits(ask_id)}

    def _send(self, outbox: DurableOutbox) -> None:
        self._shared[0] = SEND
        for record in outbox.due(4):
            if record.request.body != body_of(record.id):
                self._say("x", [f"wrong-body-{record.id}"])
            wire.encode(record.request)
            outbox.sent(record.id, lease_until_ns=_NEVER_NS)
        if self._random.random() < 0.2:
            outbox.requeue()

    def _settle(self, outbox: DurableOutbox) -> None:
        count = min(len(self._waiting), self._random.choice((1, 2, 8, 30)))
        ids = self._random.sample(self._waiting, count)
        self._say("s", ids)
        self._shared[0] = ACKNOWLEDGE
        outbox.settle(dict.fromkeys(ids, "answered"))
        self._shared[0] = IDLE
        self._say("S", ids)
        self._waiting = [ask_id for ask_id in self._waiting if ask_id not in set(ids)]

    def _finish(self, outbox: DurableOutbox) -> None:
        count = min(len(self._unfinal), self._random.choice((1, 2, 8, 30)))
        ids = self._random.sample(sorted(self._unfinal), count)
        self._say("f", ids)
        self._shared[0] = ACKNOWLEDGE
        outbox.final(ids)
        self._shared[0] = IDLE
        self._say("F", ids)
        self._unfinal -= set(ids)

    def _sync(self, outbox: DurableOutbox) -> None:
        """Do what a device does every tenth of a second."""
        before = outbox.counters()["disk_errors"]
        outbox.expire(now_ns=_NEVER_NS - 1)
        if outbox.counters()["disk_errors"] == before:
            self._say("y", ())

    def _say(self, what: str, ids: Iterable[str]) -> None:
        os.write(self._said, f"{what} {' '.join(ids)}\n".encode())

    def _watch_commits(self) -> None:
        """Note in the shared memory when a commit is under way."""
        real, shared = os.fdatasync, self._shared

        def watched(fd: int) -> None:
            before = shared[0]
            shared[0] = COMMIT
            real(fd)
            shared[0] = before

        record_log.os.fdatasync = watched  # type: ignore[attr-defined]


def tear(at: int, *, seed: int) -> None:
    """Let this process die in its ``at``-th write: a prefix of it lands, or some sectors."""
    real = record_log._write
    rng = random.Random(seed)  # noqa: S311 -- choices, not secrets
    count = 0

    def torn(fd: int, data: bytes, offset: int) -> None:
        nonlocal count
        count += 1
        if count < at:
            real(fd, data, offset)
            return
        if rng.random() < 0.5:
            os.pwrite(fd, data[: rng.randrange(len(data))], offset)
        else:
            end = offset + len(data)
            for begin in range(offset - offset % 512, end, 512):
                if rng.random() < 0.5:
                    first, last = max(begin, offset), min(begin + 512, end)
                    os.pwrite(fd, data[first - offset : last - offset], first)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    record_log._write = torn


def fail_syncs(probability: float, *, seed: int) -> None:
    """Let syncs of this process fail with EIO, where strace is not there to do it."""
    rng = random.Random(seed)  # noqa: S311 -- choices, not secrets
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
