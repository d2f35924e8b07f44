"""The device under fault: `serve` of the daemon in a child process, and what is seen of it.

Nothing of it is replaced. The methods of its outbox and its link are watched: they say what
they are about to do and what they have done.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hedge.runtime.config import (
    Config,
    Device,
    Stream,
    UplinkConfig,
)
from hedge.runtime.daemon import serve
from hedge.runtime.gate.options import AuditOptions
from hedge.runtime.sinks.options import JsonLinesSink
from hedge.runtime.sources.options import ReplaySource
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import End, Placed, Record

from ..witness import ACKNOWLEDGE, IDLE, OPEN, PUT, SEND, STARTING, Witness

RUNNING = 2
"""A flag of the shared memory: the uplink's thread has begun."""

OUTCOMES = "outcomes.jsonl"
REPORT = "report.json"
OUTBOX = "state/outbox"
STREAM = "s"
_STEP_S = 900  # a clock that is apart by more has been stepped


def config(
    *,
    bundle: Path,
    data: Path,
    broker: str,
    rate_hz: float | None,
    answer_within_ms: int,
    window: int,
    keepalive_s: int,
    max_packet_bytes: int | None,
) -> Config:
    """Return the configuration of the device; its paths begin at its own folder."""
    return Config(
        device=Device(name="d", site="faults", state_dir="state"),
        stream=(
            Stream(
                name=STREAM,
                bundle=str(bundle),
                source=ReplaySource(path=str(data), rate_hz=rate_hz),
                answer_within_ms=answer_within_ms,
                window=window,
                audit=AuditOptions(share=0),
            ),
        ),
        uplink=UplinkConfig(
            broker=broker,
            keepalive_s=keepalive_s,
            max_packet_bytes=max_packet_bytes,
            outbox_bytes=8 << 20,
            min_free_bytes=0,
        ),
        sink=(JsonLinesSink(path=OUTCOMES),),
    )


def live(witness: Witness, what: Config, *, base: Path) -> None:
    """Be a device, until a signal comes."""
    witness.watch_disk()
    _watch_outbox(witness)
    _watch_link(witness)
    serve(what, base=base, report=base / REPORT)


def _watch_outbox(witness: Witness) -> None:
    begin, put = DurableOutbox.__init__, DurableOutbox.put
    settle, final = DurableOutbox.settle, DurableOutbox.final

    def watched_begin(self: DurableOutbox, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- what it takes
        begin(self, *args, **options)
        counted = self.counters()
        witness.say("u", [counted["recovered"], counted["lost"]])
        witness.shared[OPEN] = 1

    def watched_put(self: DurableOutbox, records: Sequence[Record]) -> Placed:
        ids = [record.id for record in records]
        witness.say("o", ids)
        with witness.during(PUT):
            placed = put(self, records)
        witness.say("c", [one for one in ids if one not in placed.refused])
        witness.say("r", placed.refused)
        witness.say("s", placed.evicted)
        witness.say("S", placed.evicted)
        return placed

    def watched_settle(self: DurableOutbox, ends: Mapping[str, End]) -> None:
        witness.say("s", ends)
        with witness.during(ACKNOWLEDGE):
            settle(self, ends)
        witness.say("S", ends)

    def watched_final(self: DurableOutbox, ask_ids: Collection[str]) -> None:
        witness.say("f", ask_ids)
        with witness.during(ACKNOWLEDGE):
            final(self, ask_ids)
        witness.say("F", ask_ids)

    _replace(DurableOutbox, __init__=watched_begin, put=watched_put)
    _replace(DurableOutbox, settle=watched_settle, final=watched_final)


def _watch_link(witness: Witness) -> None:
    _replace(MqttLink, send=_within(witness, SEND, MqttLink.send))
    _replace(MqttLink, ack=_within(witness, ACKNOWLEDGE, MqttLink.ack))
    poll, clocks = MqttLink.poll, _Clocks(witness)

    def watched_poll(self: MqttLink, timeout_s: float) -> Any:  # noqa: ANN401 -- as it is
        if witness.shared.phase == STARTING:
            witness.shared.phase = IDLE
            witness.shared[RUNNING] = 1
        clocks.look()
        return poll(self, timeout_s)

    _replace(MqttLink, poll=watched_poll)


def _within(witness: Witness, phase: int, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def watched(*args: Any, **options: Any) -> Any:  # noqa: ANN401 -- as it is
        with witness.during(phase):
            return method(*args, **options)

    return watched


def _replace(owner: type, **methods: Callable[..., Any]) -> None:
    for name, method in methods.items():
        setattr(owner, name, method)


class _Clocks:
    """Says when the wall clock has been stepped: that it is really seen in this process."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._apart_s = time.time() - time.monotonic()

    def look(self) -> None:
        """Compare it with the clock that runs evenly."""
        apart_s = time.time() - time.monotonic()
        if abs(apart_s - self._apart_s) > _STEP_S:
            self._witness.say("e", ["stepped"])
        self._apart_s = apart_s
