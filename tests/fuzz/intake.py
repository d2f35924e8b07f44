"""Whole programs that read what a broker brings: the worker and the device's pump.

An input is one MQTT message: a byte of flags, the length of the topic, topic and payload.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.models.records import Opinion, Probs
from hedge.uplink import wire
from hedge.uplink.asks import Ask
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.link import Received
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump

from . import messages
from .mutator import Mutator

_RETAINED = 1
_WAYS = (
    *("stray", "oversized", "malformed", "forged", "late", "duplicate", "answered", "refused"),
    *("claims", "claims_deferred"),
)  # in which a message to the pump can be counted
_IDS = {f"7-{number}" for number in range(8)}
_HOUR_NS = 3600 * 10**9


def message(topic: str, payload: bytes, *, flags: int = 0) -> bytes:
    """Return an input."""
    name = topic.encode()
    return bytes((flags,)) + len(name).to_bytes(2, "big") + name + payload


def received(data: bytes) -> Received:
    """Return what an input would be as the link hands it on."""
    size = int.from_bytes(data[1:3], "big")
    try:
        topic = data[3 : 3 + size].decode()
    except UnicodeDecodeError:
        topic = "(no UTF-8)"  # as the link says it
    retained = bool(data[:1] and data[0] & _RETAINED)
    return Received(topic, data[3 + size :], retained=retained)


def changed(mutator: Mutator, seed: bytes) -> bytes:
    """Change a message in its topic, its payload, both or not at all."""
    at = 3 + int.from_bytes(seed[1:3], "big")
    topic, payload = seed[3:at], seed[at:]
    match mutator.rng.randrange(8):
        case 0 | 1:
            return seed
        case 2:
            topic = mutator.bytes_like((topic,))[:65_535]
        case 3:
            return mutator.bytes_like((seed,))
        case 4:
            payload = mutator.bytes_like((payload,))
        case _ if payload[:1] >= b"\x90" and payload[:1] <= b"\x9f":
            payload = mutator.message_like((payload,))
    return seed[:1] + len(topic).to_bytes(2, "big") + topic + payload


def _echo(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
    assert batch.shape[1:] == messages.CONTRACT.shape
    return np.tile(np.array([0.5, 0.25, 0.25]), (len(batch), 1)), None


class _Clock:
    """Runs as fast as the inputs come."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


class FarEnd:
    """A `Target`: a worker that serves one model, behind a scripted link."""

    name = "worker"

    def __init__(self) -> None:
        device, stream = messages.DEVICE, messages.STREAM
        notices, pieces = messages.in_parts()
        asks = [message(device.ask(stream), one) for one in messages.requests()]
        self.seeds: Sequence[bytes] = [
            *asks,
            *(message(device.notice(stream), one) for one in notices),
            *(message(device.part(messages.WORKER), one) for one in pieces),
            message(device.ask(stream), wire.encode(messages.request()), flags=_RETAINED),
            message(device.answer, messages.reply()),
        ]
        self._clock = _Clock()
        self._broker = ScriptedBroker()
        self._link = ScriptedLink(self._broker)
        responder = Responder(contract=messages.CONTRACT, respond=_echo)
        self._worker = Worker(
            self._link,
            name=messages.WORKER,
            responders=[responder],
            memory=256,
            memory_bytes=1 << 16,
            clock=self._clock,
        )
        self._link.open()
        for _ in range(100):
            self._worker._turn(0.0)
            if self._worker.serving:
                return
        raise AssertionError("the worker does not come to serve")

    def draw(self, mutator: Mutator) -> bytes:
        """Change a message, or send it as it is; see `Target`."""
        return changed(mutator, mutator.rng.choice(self.seeds))

    def __call__(self, data: bytes) -> None:
        """Deliver one message and see that it was counted once; see `Target`."""
        self._clock.now_ns += 10**9
        self._worker._turn(0.0)  # what is too old goes first, so that it is not taken for ours
        before, pieces = self._worker.counters(), self._pieces()
        event = received(data)
        self._link._receive(event)
        for _ in range(2):  # the message; then that the broker has what we say to it
            self._worker._turn(0.0)
        after = self._worker.counters()
        moved = {name: after[name] - count for name, count in before.items()}
        self._check(event.topic, moved, self._pieces() - pieces)
        self._broker.published.clear()
        if len(self._link.acked) > 1000:
            self._link.acked.clear()

    def _pieces(self) -> int:
        return sum(len(one.found) for one in self._worker._claims._gatherer._open.values())

    def _check(self, topic: str, moved: Mapping[str, int], pieces: int) -> None:
        """See that the message went one way in, and every ask one way out."""
        ways = ["stray", "retained", "oversized", "malformed", "not_ours"]
        whole = moved["parts_joined"]
        if "/part/" in topic:
            ways += ["parts_unannounced", "parts_mismatched", "parts_repeated", "parts_joined"]
            count = sum(moved[name] for name in ways) + max(0, pieces) - whole * moved["malformed"]
        elif topic.endswith("/parts"):
            count = sum(moved[name] for name in (*ways, "claims", "parts_no_room"))
            count += moved["expired"] + moved["errors"]
        else:
            count = sum(moved[name] for name in (*ways, "asks"))
        assert count == 1 or (count == 0 and topic.startswith("hedge/1/_probe")), (topic, moved)
        ends = sum(moved[name] for name in ("answered", "repeated", "errors", "expired", "shed"))
        assert moved["asks"] <= ends <= 1, moved

    def finish(self) -> None:
        """Ask anew, and see the answer; see `Target`."""
        for ask_id in ("7-first", "7-second"):
            self._broker.published.clear()
            topic = messages.DEVICE.ask(messages.STREAM)
            self._link._receive(Received(topic, wire.encode(messages.request(ask_id))))
            self._worker._turn(0.0)
            ((topic, payload),) = self._broker.published
            assert topic == messages.DEVICE.answer
            found = wire.decode_reply(payload)
            assert (found.id, found.status) == (ask_id, "ok")
        self._clock.now_ns += _HOUR_NS
        self._worker._turn(0.0)
        assert self._pieces() == 0
        assert len(self._worker._claims) == 0


class Device:
    """A `Target`: the device's pump, to which a few answers are always owed."""

    name = "pump"

    def __init__(self) -> None:
        device = messages.DEVICE
        self._clock = _Clock()
        self._broker = ScriptedBroker()
        self._link = ScriptedLink(self._broker)
        self._pump = Pump(
            self._link,
            device=device,
            session=messages.SESSION,
            contracts={messages.STREAM: messages.CONTRACT},
            outbox=MemoryOutbox(max_count=64),
            bell=threading.Event(),
            clock=self._clock,
        )
        self._waiting: set[str] = set()
        self._link.open()
        for _ in range(3):
            self._pump._turn()
        self._ask()
        answers = [one for number in range(2) for one in messages.replies(f"7-{number}")]
        self.seeds: Sequence[bytes] = [
            *(message(device.answer, one) for one in answers),
            message(device.status, b'{"state":"offline","session":3,"reason":"lost"}'),
            message(device.ask(messages.STREAM), wire.encode(messages.request())),
        ]

    def _ask(self) -> None:
        """Owe as many answers as always, to the same ids again."""
        for ask_id in sorted(_IDS - self._waiting):
            self._waiting.add(ask_id)
            self._pump._offers.append(self._one(ask_id))
        self._turn()

    def _one(self, ask_id: str) -> Ask:
        opinion = Opinion(np.array([0.5, 0.3, 0.2]), 0.5, "vacuity", vacuity=0.5)
        return Ask(
            id=ask_id,
            stream=messages.STREAM,
            kind="decide",
            entry="input",
            body=np.zeros(4, np.float32),
            opinion=opinion,
            asked_at_ns=self._clock(),
            deadline_ns=self._clock() + _HOUR_NS,
        )

    def _turn(self) -> int:
        """Let the pump work; return how many answers came."""
        self._link.wake()
        self._pump._turn()
        answers = self._pump.answers()
        for answer in answers:
            assert answer.id in self._waiting, "an answer that nobody waits for, or a second one"
            self._waiting.discard(answer.id)
            if answer.status == "answered":
                assert answer.probs is not None
                assert abs(float(answer.probs.sum()) - 1) < 0.01
            self._pump.final(answer.id)
        return len(answers)

    def draw(self, mutator: Mutator) -> bytes:
        """Answer what is asked, or nearly so; see `Target`."""
        if mutator.rng.random() < 0.2:
            return changed(mutator, mutator.rng.choice(self.seeds))
        ask_id = mutator.rng.choice(sorted(self._waiting))
        answer = mutator.rng.choice(messages.replies(ask_id))
        return changed(mutator, message(messages.DEVICE.answer, answer))

    def __call__(self, data: bytes) -> None:
        """Deliver one message and see that it was counted once; see `Target`."""
        self._clock.now_ns += 10**6
        before = self._pump.counters()
        event = received(data)
        self._link._receive(event)
        came = self._turn()
        after = self._pump.counters()
        count = sum(after[name] - before[name] for name in _WAYS)
        assert count == (event.topic != messages.DEVICE.status), (event.topic, after)
        ended = sum(after[name] - before[name] for name in ("answered", "refused"))
        assert came == ended, (came, ended)
        self._broker.published.clear()
        self._link.acked.clear()
        self._ask()

    def finish(self) -> None:
        """Answer what is owed; see `Target`."""
        for ask_id in sorted(self._waiting):
            self._link._receive(Received(messages.DEVICE.answer, messages.reply(ask_id)))
            assert self._turn() == 1
        assert not self._waiting
        assert self._pump._outbox.stats() == (0, 0, 0)
