"""The far end that escalated samples are asked of: a broker and a worker, as in the field."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from ...children import child

_READY_S = 30.0


@contextlib.contextmanager
def far_end(bundle: Path, *, folder: Path, broker: str | None = None) -> Iterator[str]:
    """Start a worker, and a broker if there is none; give the broker's URL, and end them.

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
        yield broker


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
