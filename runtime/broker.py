"""The embedded broker: amqtt in a process of its own, for the demo and for tests.

It speaks MQTT 3.1.1 on the loopback interface, lets anyone in and keeps nothing on disk.
A fleet wants a real broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any

from ..models.errors import MissingExtraError, UplinkError

_GOODBYE_S = 1.0


def serve(port: int, *, ready: Callable[[], None], host: str = "127.0.0.1") -> None:
    """Serve on ``port`` until SIGTERM or SIGINT; for the main thread of its own process.

    ``ready`` is called once clients can connect.

    Raises:
        MissingExtraError: amqtt is not installed.
        UplinkError: the port cannot be had.
    """
    for chatty in ("amqtt", "asyncio", "transitions"):  # each lost connection is a traceback
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    asyncio.run(_serve(host, port, ready))


async def _serve(host: str, port: int, ready: Callable[[], None]) -> None:
    try:
        from amqtt.broker import Broker  # noqa: PLC0415 -- an extra, and slow to import
        from amqtt.errors import BrokerError  # noqa: PLC0415 -- as above
    except ImportError as error:
        raise MissingExtraError("amqtt", extra="demo") from error
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker(_config(host, port))
    try:
        await broker.start()
    except BrokerError as error:
        raise UplinkError(
            "the broker cannot listen", where=f"{host}:{port}", hint="is the port in use?"
        ) from error
    ready()
    await stop.wait()
    with contextlib.suppress(asyncio.TimeoutError):  # from Python 3.12 it waits for its clients
        await asyncio.wait_for(broker.shutdown(), _GOODBYE_S)


def _config(host: str, port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
