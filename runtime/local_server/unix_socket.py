"""The Unix socket of a running device: one at a time owns it, and nobody else may speak."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path

from ...models.errors import ConfigError

MAX_PATH_BYTES = 107
"""How long the path of a Unix socket may be on Linux (unix(7): sun_path, less its end)."""


class UnixSocket:
    """A listening socket at a path, of mode 0600; the path is removed by `close`.

    A socket that a dead process has left there is replaced. Who lives is known by a lock on
    ``PATH.lock``, which stays: the system lets go of it with the process, however that ends.

    Raises:
        ConfigError: the path is too long, is another's, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        length = len(os.fsencode(path))
        if length > MAX_PATH_BYTES:
            raise ConfigError(
                f"is {length} bytes long, and the path of a Unix socket may have {MAX_PATH_BYTES}",
                where=str(path),
                hint="name a state_dir with a shorter path",
            )
        self._path = path
        with contextlib.ExitStack() as stack:
            try:
                self._lock_fd = _locked(path.with_name(f"{path.name}.lock"))
                stack.callback(os.close, self._lock_fd)
                _remove_stale(path)
                self.socket = stack.enter_context(_bound(path))
                self._identity = _identity(path)
            except OSError as error:
                raise ConfigError(f"cannot be listened on: {error}", where=str(path)) from error
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Remove the path, if it is still ours, and let go of it; closing twice is harmless."""
        with contextlib.suppress(OSError):
            if self._identity is not None and _identity(self._path) == self._identity:
                self._path.unlink()
        self._identity = None
        self._stack.close()


def _locked(path: Path) -> int:
    """Return the descriptor that holds the lock."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConfigError(
            "another process serves there", where=str(path.with_suffix("")), hint="end it first"
        ) from error
    return fd


def _remove_stale(path: Path) -> None:
    """Remove what a dead process has left; anything but a socket is not ours to remove."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError("is there already, and is no socket", where=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        try:
            peer.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()  # nobody listens
            return
        except BlockingIOError:
            pass  # somebody does, and is busy
    raise ConfigError("another program serves there", where=str(path), hint="end it first")


def _bound(path: Path) -> socket.socket:
    """Return a socket at a path that nobody but its owner can connect to, from the first."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen()  # only now can anyone connect
    except BaseException:
        listener.close()
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    found = path.lstat()
    return found.st_dev, found.st_ino
