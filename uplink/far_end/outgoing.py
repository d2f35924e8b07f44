"""Replies on their way to the broker, and what is acknowledged when it has them."""

from __future__ import annotations

from collections.abc import Iterable

from ...telemetry.clock import Clock
from .. import topics, wire
from ..link.link import Delivered, Link, Properties, Token
from ..tally import Tally
from .responder import reply
from .traces import Traces
from .worker_memory import Job


class Outgoing:
    """Sends the replies of a worker; its length is how many the broker does not have yet."""

    def __init__(self, link: Link, *, tally: Tally, traces: Traces, clock: Clock) -> None:
        self._link = link
        self._tally = tally
        self._traces = traces
        self._clock = clock
        self._owed: dict[int, list[Token]] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def publish(self, job: Job, payload: bytes) -> None:
        """Send an ask's answer."""
        self.send(job.device, job.request.id, payload, job.tokens)

    def refuse(self, job: Job, detail: str, *, error: BaseException | None = None) -> None:
        """Answer an ask with an error."""
        self._tally.drop("errors", detail, error=error)
        self.publish(job, wire.encode(reply(job.request, "error", detail=detail)))
        self._traces.refused(job, why=detail, ended_ns=self._clock())

    def refuse_notice(
        self, device: topics.Device, notice: wire.Notice, tokens: list[Token], detail: str
    ) -> None:
        """Refuse a request that has not come, or not whole."""
        self._tally.drop("errors", detail)
        self.send(device, notice.id, wire.encode(reply(notice, "error", detail=detail)), tokens)

    def send(self, device: topics.Device, ask_id: str, payload: bytes, tokens: list[Token]) -> None:
        """Send a reply; ``tokens`` are acknowledged when the broker has it."""
        beside = Properties(content_type=wire.CONTENT_TYPE, correlation=ask_id.encode())
        mid = self._link.send(device.answer, payload, properties=beside)
        if mid is not None:
            self._tally.add("bytes_up", len(device.answer) + len(payload))
            self._owed[mid] = tokens

    def await_word(self, topic: str) -> None:
        """Owe the broker a message: when it has that, what it sent before has come, too."""
        mid = self._link.send(topic, b"")
        if mid is not None:
            self._owed[mid] = []

    def delivered(self, event: Delivered) -> None:
        """Acknowledge what was answered by a message that the broker has now."""
        if event.refused is not None:
            self._tally.drop("undelivered", event.refused)
        self.ack(self._owed.pop(event.mid, ()))

    def ack(self, tokens: Iterable[Token]) -> None:
        """Acknowledge messages for which nothing is owed any more."""
        for token in tokens:
            self._link.ack(token)

    def forget(self) -> None:
        """Forget what was under way when the connection ended: it will come again."""
        self._owed.clear()
