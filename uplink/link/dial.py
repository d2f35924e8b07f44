"""A connection to one of a broker's nodes: TCP, TLS over it, a WebSocket over either."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client

from .broker_url import Place
from .websocket import WebSocket


class DialledClient(Client):
    """paho's client on ``sock``, which `dial` has made.

    paho drops a socket whose handshake fails without closing it, and its WebSocket is not
    fit for use. Should it no longer call this method, it connects with its own means, which
    are told the same.
    """

    def __init__(
        self,
        *,
        sock: Any,  # noqa: ANN401 -- a socket, or what looks like one
        tls: ssl.SSLContext | None,
        path: str | None,
        **options: Any,  # noqa: ANN401 -- what paho takes
    ) -> None:
        transport = "tcp" if path is None else "websockets"
        super().__init__(transport=transport, **options)  # type: ignore[arg-type]
        self._dialled = sock
        if tls is not None:
            self.tls_set_context(tls)
        if path is not None:
            self.ws_set_options(path)

    def _create_socket(self) -> Any:  # noqa: ANN401 -- a socket, or what looks like one
        return self._dialled


class Dialling:
    """A `dial` in a thread of its own: looking up a name can take long, and nothing ends it.

    ``done`` is called by that thread.
    """

    def __init__(
        self,
        place: Place,
        *,
        tls: ssl.SSLContext | None,
        path: str | None,
        timeout_s: float,
        done: Callable[[], None],
    ) -> None:
        self.place = place
        self.tls = tls
        self._found: Any = None  # a connection, or why there is none
        self._abandoned = False
        self._lock = threading.Lock()
        self._done = done
        call = functools.partial(dial, place, tls=tls, path=path, timeout_s=timeout_s)
        threading.Thread(target=self._run, args=(call,), name="hedge-dial", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether `result` has something to say."""
        return self._found is not None

    def result(self) -> Any:  # noqa: ANN401 -- a socket, or what looks like one
        """Return the connection, once it has ended.

        Raises:
            OSError: there is none, or it is not to be trusted.
            ValueError: no host can have that name.
        """
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def abandon(self) -> None:
        """Close the connection, now or when it comes."""
        with self._lock:
            self._abandoned = True
            self._close()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            found = call()
        except Exception as error:  # noqa: BLE001 -- for `result` to raise
            found = error
        with self._lock:
            self._found = found
            if self._abandoned:
                self._close()
        self._done()

    def _close(self) -> None:
        if self._found is not None and not isinstance(self._found, Exception):
            self._found.close()


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
