"""A Unix socket that the device listens on, so that a program in any language can feed it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...models.errors import ConfigError, SourceError
from ...models.manifest import Input
from ...telemetry.clock import boottime_ns
from ..local_server.unix_socket import MAX_PATH_BYTES, UnixSocket
from ..logs import rarely
from .framing import Frames, FramingError, frames_of
from .messages import Inbox, Messages, Series
from .options import SocketSource
from .source import Captured

_log = logging.getLogger(__name__)

_WAIT_S = 0.25
_LOOK_S = 1.0  # between two looks at whether the path is still ours
_CHUNK_BYTES = 64 << 10
_MODE = 0o660
_HINTS = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT),
        "name a path in a folder that the device's user may write, like /run/hedge",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), "what should be its folder is a file: name another path"
    ),
}


class Client:
    """One connection: the bytes that are no whole message yet, and the messages not yet read."""

    def __init__(self, sock: socket.socket, *, frames: Frames, series: Series) -> None:
        self.sock = sock
        self.inbox = Inbox()
        self.gone = False
        self._frames = frames
        self._series = series

    def receive(self) -> bool:
        """Take what has come, a bounded piece; return whether more may come."""
        try:
            data = self.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # reset
            data = b""
        now_ns = boottime_ns()
        lost = not data
        for message in self._frames.feed(data) if data else self._frames.end():
            self.inbox.put(self._series, message, now_ns)
            lost |= isinstance(message, FramingError)
        return not lost

    def close(self) -> None:
        """Hang up; what it has sent can still be read."""
        self.gone = True
        self.sock.close()


class SocketReader:
    """Reads what any number of clients write, each in its turn, a few messages at a time.

    A client is read again when its messages have been taken: so one that is faster than the
    loop has to wait (with the policy "every"), and what is kept of each is bounded by
    ``max_bytes`` and one read. What one sends does not disturb the others; one whose lengths
    make no sense is cut off. Rows of a window come from one client.

    Raises:
        ConfigError: the bundle takes nothing of that form; the path is too long, or a file.
    """

    recorder = None

    def __init__(self, options: SocketSource, spec: Input, *, base: Path) -> None:
        self._path = base / options.path
        self._options = options
        length = len(os.fsencode(self._path))
        if length > MAX_PATH_BYTES:
            raise ConfigError(
                f"{length} bytes, and the path of a Unix socket has {MAX_PATH_BYTES} at most",
                where=str(self._path),
            )
        if _is_other(self._path):
            raise ConfigError(
                "is there already, and is no socket", where=str(self._path), hint="another path"
            )
        self._messages = Messages(
            options.format,
            spec,
            fields=options.fields,
            hop=options.hop,
            max_pixels=options.max_pixels,
        )
        self._turned_away = 0
        self._stack = contextlib.ExitStack()

    def open(self) -> None:
        """Listen, and let the group write, too; see `Reader`."""
        with contextlib.ExitStack() as stack:
            try:
                held = UnixSocket(self._path)
                stack.callback(held.close)
                self._path.chmod(_MODE)
            except ConfigError as error:
                why = error.__cause__  # of a folder that is not ours, not of another program's
                if isinstance(why, OSError) and not isinstance(why, BlockingIOError):
                    raise self._unheard(why) from error
                raise SourceError(error.what, where=error.where, hint=error.hint) from error
            except OSError as error:
                raise self._unheard(error) from error
            self._identity = _identity(self._path)
            self._look_s = time.monotonic() + _LOOK_S
            self._listener = held.socket
            self._listener.setblocking(False)  # noqa: FBT003 -- the socket's own signature
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._clients: deque[Client] = deque()
            stack.callback(_close_all, self._clients)
            self._stack = stack.pop_all()

    def read(self) -> Sequence[Captured]:
        """Return what the next client has sent; see `Reader`."""
        self._look()
        busy = any(client.inbox for client in self._clients)
        for key, _ in self._selector.select(0.0 if busy else _WAIT_S):
            if key.data is None:
                self._accept()
            elif not key.data.inbox and not key.data.receive():
                self._part(key.data)
        for _ in range(len(self._clients)):
            client = self._clients.popleft()
            if client.inbox or not client.gone:
                self._clients.append(client)
            if client.inbox:
                return client.inbox.take()
        return ()

    def close(self) -> None:
        """Hang up on all, and remove the path; see `Reader`."""
        self._stack.close()

    def _unheard(self, error: OSError) -> SourceError:
        """Say why nothing can be heard at the path, and what helps."""
        return SourceError(
            f"cannot be listened on: {error.strerror}",
            where=str(self._path),
            hint=_HINTS.get(error.errno or 0),
        )

    def _accept(self) -> None:
        """Take the next client, or turn it away where there are too many."""
        full = len(self._clients) >= self._options.clients
        if full and any(client.gone for client in self._clients):
            return  # there is room as soon as what they have left is read
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            what = f"cannot take a client: {error.strerror}"
            raise SourceError(what, where=str(self._path)) from error
        if full:
            sock.close()
            self._turned_away += 1
            level, most = rarely(self._turned_away), self._options.clients
            _log.log(level, "%s: more than %d clients: one is turned away", self._path, most)
            return
        sock.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        where = f"{self._path}, process {_process(sock)}"
        frames = frames_of(self._options.format, max_bytes=self._options.max_bytes, where=where)
        client = Client(sock, frames=frames, series=self._messages.series(where=where))
        self._clients.append(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _part(self, client: Client) -> None:
        self._selector.unregister(client.sock)
        client.close()

    def _look(self) -> None:
        """See every second that clients still find us."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + _LOOK_S
        if _identity(self._path) != self._identity:
            raise SourceError("the socket was removed or replaced", where=str(self._path))


def _close_all(clients: Iterable[Client]) -> None:
    for client in clients:
        client.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_other(path: Path) -> bool:
    """Return whether something is there that is no socket."""
    try:
        return not stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False  # it is not there, or opening it will tell


def _process(sock: socket.socket) -> int:
    """Return the number of the process at the other end (unix(7): SO_PEERCRED)."""
    process, _, _ = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return int(process)
