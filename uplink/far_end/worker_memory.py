"""What a worker has in hand, and the answers that it has given; both are bounded."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from .. import wire
from ..link.link import Token
from ..topics import Device

Key = tuple[str, str, str, str, bytes]


@dataclass(slots=True, eq=False)
class Job:
    """One ask in hand, of a device's ``stream``, with all the messages that brought it.

    ``tries`` counts the model's absences it has lived through.
    """

    device: Device
    request: wire.Request
    came_ns: int
    tokens: list[Token] = field(default_factory=list)
    stream: str = ""
    tries: int = 0
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        """Make what makes two asks the same one.

        Not the id alone: a device that has lost its state may count from the same again.
        """
        request = self.request
        body = hashlib.blake2b(request.body, digest_size=8).digest()
        self.key = (self.device.site, self.device.name, request.id, request.contract, body)

    @property
    def until_ns(self) -> int | None:
        """When nobody waits for it any more; None: never."""
        left_ms = self.request.remaining_ms
        return None if left_ms is None else self.came_ns + left_ms * 1_000_000


class Answers:
    """The answers last given, bounded in number and bytes; the oldest go first."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._count = count
        self._left_bytes = size_bytes
        self._answers: OrderedDict[Key, bytes] = OrderedDict()

    def get(self, key: Key) -> bytes | None:
        """Return the answer that was given to an ask, if it is remembered."""
        return self._answers.get(key)

    def put(self, key: Key, payload: bytes) -> None:
        """Remember an answer."""
        self._left_bytes += len(self._answers.pop(key, b""))
        self._answers[key] = payload
        self._left_bytes -= len(payload)
        while len(self._answers) > self._count or self._left_bytes < 0:
            self._left_bytes += len(self._answers.popitem(last=False)[1])


class _Queue:
    """The asks of one contract."""

    __slots__ = ("due_ns", "jobs", "model_ns", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.jobs: dict[Key, Job] = {}
        self.due_ns: int | None = None
        self.model_ns = 0


class Hand:
    """The asks that a worker has taken and not yet answered, by contract.

    ``sizes`` says how many of each make a batch. The first of a batch waits for it to fill,
    for ``wait_ns`` at most and never so long that the model would be too late for one of
    them, going by its last call. What would go beyond ``count`` or ``size_bytes`` is not taken.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, wait_ns: int, count: int, size_bytes: int
    ) -> None:
        self._queues = {contract: _Queue(size) for contract, size in sizes.items()}
        self._wait_ns = wait_ns
        self._count = count
        self._left_bytes = size_bytes

    def __len__(self) -> int:
        return sum(len(queue.jobs) for queue in self._queues.values())

    def add(self, job: Job) -> bool:
        """Take an ask, or the message of one that is here already; False: there is no room."""
        queue = self._queues[job.request.contract]
        known = queue.jobs.get(job.key)
        if known is not None:
            known.tokens += job.tokens
            return True
        if len(self) >= self._count or len(job.request.body) > self._left_bytes:
            return False
        self._left_bytes -= len(job.request.body)
        queue.jobs[job.key] = job
        self._hurry(queue, job)
        return True

    def due(self, now_ns: int, *, away: Container[str], all_of_them: bool) -> list[list[Job]]:
        """Take out the batches that are full or have waited long enough.

        Those of contracts that are ``away`` stay. One whose model has gone away under it
        before is a batch of its own: it may be what sends the model away.
        """
        batches: list[list[Job]] = []
        for contract, queue in self._queues.items():
            if contract in away:
                continue
            late = queue.due_ns is not None and now_ns >= queue.due_ns
            while queue.jobs and (all_of_them or late or len(queue.jobs) >= queue.size):
                batches.append(self._batch(queue))
            queue.due_ns = None
            for job in queue.jobs.values():
                self._hurry(queue, job)
        return batches

    def next_ns(self, *, away: Container[str]) -> int | None:
        """Return when the next batch is due; None: nothing waits."""
        dues = (one.due_ns for contract, one in self._queues.items() if contract not in away)
        return min((due for due in dues if due is not None), default=None)

    def took(self, contract: str, model_ns: int) -> None:
        """Note how long the model took for a batch."""
        self._queues[contract].model_ns = model_ns

    def _batch(self, queue: _Queue) -> list[Job]:
        batch: list[Job] = []
        while queue.jobs and len(batch) < queue.size:
            job = next(iter(queue.jobs.values()))
            if job.tries and batch:
                break
            del queue.jobs[job.key]
            self._left_bytes += len(job.request.body)
            batch.append(job)
            if job.tries:
                break
        return batch

    def _hurry(self, queue: _Queue, job: Job) -> None:
        due_ns = job.came_ns + self._wait_ns
        if job.until_ns is not None:
            due_ns = min(due_ns, job.until_ns - 2 * queue.model_ns)
        queue.due_ns = due_ns if queue.due_ns is None else min(queue.due_ns, due_ns)
