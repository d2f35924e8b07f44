"""The far end of a device that is run here and now: a broker and a worker, as in the field."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .children import Child, child

_READY_S = 30.0


class FarEnd(NamedTuple):
    """The broker's URL, and the worker that listens there."""

    broker: str
    worker: Child


@contextlib.contextmanager
def far_end(bundle: Path, *, folder: Path, broker: str | None = None) -> Iterator[FarEnd]:
    """Start a worker, and a broker if ``broker`` names none; end them afterwards.

    What they print goes into ``folder``.

    Raises:
        HedgeError: one of them does not start.
    """
    with contextlib.ExitStack() as stack:
        if broker is None:
            port = _free_port()
            broker = f"mqtt://127.0.0.1:{port}?version=3.1.1"
            embedded = child("broker", ["broker", "--port", str(port)], folder=folder)
            stack.enter_context(embedded).wait_for("READY=1", timeout_s=_READY_S)
        arguments = ["worker", str(bundle.resolve()), "--broker", broker]
        worker = stack.enter_context(child("worker", arguments, folder=folder))
        worker.wait_for("STATUS=serving", timeout_s=_READY_S, hint=f"does {broker} answer?")
        yield FarEnd(broker, worker)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
