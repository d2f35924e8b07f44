"""A connection to one of a broker's nodes: TCP, TLS over it, a WebSocket over either."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from paho.mqtt.client import Client

from .broker_url import Place
from .websocket import WebSocket


class DialledClient(Client):
    """paho's client on a socket that `dial` has made.

    paho drops a socket whose handshake fails without closing it, and its WebSocket is not
    fit for use. Should it no longer call this method, it connects with its own means, which
    are told the same.
    """

    def __init__(self, *, tls: ssl.SSLContext | None, path: str | None, **options: Any) -> None:  # noqa: ANN401 -- what paho takes
        transport = "tcp" if path is None else "websockets"
        super().__init__(transport=transport, **options)  # type: ignore[arg-type]
        self._dial_tls = tls
        self._dial_path = path
        if tls is not None:
            self.tls_set_context(tls)
        if path is not None:
            self.ws_set_options(path)

    def _create_socket(self) -> Any:  # noqa: ANN401 -- a socket, or what looks like one
        place = Place(self.host, self.port)
        return dial(place, tls=self._dial_tls, path=self._dial_path, timeout_s=self.connect_timeout)


def dial(place: Place, *, tls: ssl.SSLContext | None, path: str | None, timeout_s: float) -> Any:  # noqa: ANN401 -- a socket, or what looks like one
    """Return a connection; each step may take ``timeout_s``.

    Raises:
        OSError: there is none, or it is not to be trusted.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(place, timeout_s))
        if tls is not None:
            sock = stack.enter_context(tls.wrap_socket(sock, server_hostname=place.host))
        found = sock if path is None else WebSocket(sock, host=str(place), path=path)
        stack.pop_all()
        return found
