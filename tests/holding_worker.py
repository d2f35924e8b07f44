"""A worker in a process of its own, to be killed in the middle of a batch.

`holding_worker.py URL NAME GROUP HOLD`: it answers [x, …] with (x, 1 - x, 0) and says on
standard output how many of a batch it answers; once the file HOLD exists, it says "holding"
instead and never answers again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.models.records import Probs
from hedge.runtime.signals import stopped_by_signals
from hedge.uplink.asks import Contract
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.mqtt import MqttLink

CONTRACT = Contract(name="steps", digest="0123456789abcdef", classes=3, dtype="float32", shape=(4,))


def say(word: object) -> None:
    """Tell the test."""
    print(word, flush=True)  # noqa: T201 -- whom it tells is a test


def main(url: str, name: str, group: str, hold: str) -> None:
    """Serve until SIGTERM."""

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        if Path(hold).exists():
            say(f"holding {len(batch)}")
            time.sleep(3600)
        time.sleep(0.002)  # else one worker might have answered all before the other has begun
        say(len(batch))
        first = batch[:, 0].astype(np.float64)
        return np.stack([first, 1 - first, np.zeros_like(first)], axis=1), None

    worker = Worker(
        MqttLink(Broker.parse(url), client_id=name),
        name=name,
        group=group,
        responders=[Responder(contract=CONTRACT, respond=respond)],
        max_batch=8,
        batch_wait_s=0.02,
        on_serving=say,
    )
    with stopped_by_signals(worker.stop):
        worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
