"""A TCP address that is served as soon as it can be had: at boot it may not be there yet."""

from __future__ import annotations

import logging
import threading

from ...models.errors import ConfigError
from .page import Answer
from .server import LocalServer, tcp_listener

_log = logging.getLogger(__name__)

_AGAIN_S = 5.0
_GOODBYE_S = 1.0


def address_of(place: str) -> tuple[str, int]:
    """Return host and port of "PORT" or "HOST:PORT"; without a host it is the loopback."""
    host, _, port = place.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


class Endpoint:
    """Serves ``what`` at ``place``, an `address_of`, by ``answer``; tries again if it must.

    ``private`` is `LocalServer`'s.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, place: str, answer: Answer, *, what: str, private: bool = False) -> None:
        self._place = address_of(place)
        self._answer = answer
        self._what = what
        self._private = private
        self._server: LocalServer | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="hedge-http-wait", daemon=True)
        if not self._served(logging.WARNING):
            self._thread.start()

    @property
    def port(self) -> int | None:
        """The port; None as long as it cannot be had."""
        return None if self._server is None else self._server.port

    def close(self) -> None:
        """Stop; closing twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(_GOODBYE_S)
        if self._server is not None:
            self._server.close()

    def _wait(self) -> None:
        while not self._closing.wait(_AGAIN_S):
            if self._served(logging.DEBUG):
                return

    def _served(self, level: int) -> bool:
        """Return whether it serves now.

        Raises:
            ConfigError: the address is none.
        """
        try:
            listener = tcp_listener(*self._place)
        except ConfigError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            _log.log(level, "no %s for now: %s", self._what, error)
            return False
        self._server = LocalServer(listener, self._answer, private=self._private)
        if level < logging.WARNING:
            _log.warning("%s are served at %s:%d now", self._what, *self._place)
        return True
