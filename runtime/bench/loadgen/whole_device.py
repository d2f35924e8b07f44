"""The whole device: its loop with the real uplink, which asks a worker over a broker."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from pathlib import Path

from ....models.bundle import Bundle
from ....models.errors import UplinkError
from ....telemetry.clock import boottime_ns
from ....uplink.asks import Uplink
from ....uplink.outbox.durable_outbox import DurableOutbox
from ....uplink.pump import Pump
from ....uplink.topics import Device
from ...both_ends import contract_of, link_to
from ...config import OUTBOX
from ...loop import Loop
from ...session import next_session
from .messages import Task
from .queries import Done, Queries
from .way import STREAM, Fail, FailingLane, Row

_CONNECT_S = 30.0
_GOODBYE_S = 2.0


class WholeDevice:
    """A `Way` through the device's loop; a sample is done at its final outcome.

    That is the worker's answer, or the edge's own at the deadline.
    """

    def __init__(
        self,
        task: Task,
        bundle: Bundle,
        lane: FailingLane,
        queries: Queries,
        *,
        stack: contextlib.ExitStack,
    ) -> None:
        self._lane = lane
        self._queries = queries
        uplink = _uplink(task, bundle, queries, state=Path.cwd() / "state")
        self._loop = Loop(
            [lane],
            ids=queries.ids(),
            sinks=[queries],
            uplink=uplink,
            bell=queries.bell,
            clock=boottime_ns,
            feeds=(),
        )
        uplink.start()
        stack.callback(uplink.close, timeout_s=_GOODBYE_S)
        _wait_until_connected(uplink, broker=task.broker)
        self._thread = threading.Thread(
            target=self._work, args=(lane.fail,), name="hedge-loop", daemon=True
        )
        self._thread.start()
        stack.callback(self._close)

    def serve(self, row: Row, done: Done) -> None:
        """Hand it to the loop."""
        self._queries.put(row, done)

    def counts(self) -> dict[str, int]:
        """Return the ledger's counts."""
        ledger = self._lane.ledger
        filtered = {"dropped": ledger.routes["dropped"], "reused": ledger.routes["reused"]}
        if not any(one.kind == "reuse" for one in self._lane.filters):
            del filtered["reused"]
        return {
            **filtered,
            "escalated": ledger.routes["escalated"],
            "answered": ledger.ends["answered"],
        }

    def _work(self, fail: Fail) -> None:
        try:
            self._loop.run()
        except BaseException as error:  # noqa: BLE001 -- a thread that dies ends the run
            fail(error)

    def _close(self) -> None:
        self._queries.close()
        self._thread.join()


def _uplink(task: Task, bundle: Bundle, queries: Queries, *, state: Path) -> Uplink:
    """Return the way out of a device of our own: a connection, and an outbox on the disk."""
    queries.session = next_session(state)
    device = Device("default", f"bench-{secrets.token_hex(4)}")
    return Pump(
        link_to(task.broker or "", client_id=f"hedge-{device.site}-{device.name}"),
        device=device,
        session=queries.session,
        contracts={STREAM: contract_of(bundle)},
        outbox=DurableOutbox(state / OUTBOX),
        bell=queries.bell,
        clock=boottime_ns,
    )


def _wait_until_connected(uplink: Uplink, *, broker: str | None) -> None:
    until_s = time.monotonic() + _CONNECT_S
    while not uplink.connected:
        uplink.check()
        if time.monotonic() > until_s:
            raise UplinkError(f"no connection within {_CONNECT_S:g} s", where=broker)
        time.sleep(0.01)
