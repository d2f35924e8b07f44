"""A worker in a process of its own, to be killed: `scripted_worker.py URL NAME GROUP`.

It answers [x, …] with (x, 1 - x, 0), after a moment of thought.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.models.records import Probs
from hedge.uplink.asks import Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.mqtt import MqttLink

CONTRACT = Contract(name="steps", digest="0123456789abcdef", classes=3, dtype="float32", shape=(4,))


def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
    """Answer so that each answer tells which ask it belongs to."""
    time.sleep(0.01)
    first = batch[:, 0].astype(np.float64)
    return np.stack([first, 1 - first, np.zeros_like(first)], axis=1), None


def main(url: str, name: str, group: str) -> None:
    """Serve until SIGTERM, and say so on standard output."""
    worker = Worker(
        MqttLink(Broker.parse(url), client_id=name),
        name=name,
        group=group,
        responders=[Responder(contract=CONTRACT, respond=respond)],
        on_serving=lambda how: print(how, flush=True),  # noqa: T201 -- whom it tells is a test
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
