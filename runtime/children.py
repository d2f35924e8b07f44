"""Processes of our own, started and ended by another of our commands."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..models.errors import HedgeError

PARENT = "HEDGE_PARENT_PID"
"""The environment variable that names the process whose end is to be ours."""

_PR_SET_PDEATHSIG = 1


def die_with_parent(environ: Mapping[str, str] = os.environ) -> None:
    """Ask Linux to end this process with the parent that started it, if one said so."""
    parent = environ.get(PARENT, "")
    if not parent.isdigit() or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


class Child:
    """One of our commands in a process of its own, which says when it is ready.

    It reports as a systemd service does (sd_notify); what it prints goes to
    ``folder``/NAME.log. It runs in ``folder``: paths among ``arguments`` are absolute.
    ``module`` is run instead of `hedge`'s command line; ``stdin`` is what it may read.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        module: str = "hedge",
        stdin: IO[bytes] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        address = f"@hedge-{secrets.token_hex(8)}"  # abstract: no path can be too long for it
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(f"\0{address[1:]}")
        environ = {**os.environ, "NOTIFY_SOCKET": address, PARENT: str(os.getpid())}
        environ.pop("WATCHDOG_USEC", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command, no shell
                [sys.executable, "-m", module, *arguments],
                env=environ,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,  # else Python would import whatever lies where we were started
            )

    def wait_for(self, state: str, *, timeout_s: float, hint: str | None = None) -> None:
        """Return once the process has reported a state that begins so, such as READY=1.

        Raises:
            HedgeError: it ended instead, or took too long; with the end of its log.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if select.select([self._socket], [], [], 0.05)[0]:
                if self._socket.recv(4096).decode("utf-8", "replace").startswith(state):
                    return
            elif self.process.poll() is not None:
                raise HedgeError(
                    f"ended at once, {ending(self.process.returncode)}: {self.last_words()}",
                    where=self.name,
                )
        raise HedgeError(
            f"not ready within {timeout_s:g} s: {self.last_words()}", where=self.name, hint=hint
        )

    def states(self) -> Iterator[str]:
        """Give what the process has reported since it was last asked, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while True:
                yield self._socket.recv(4096, socket.MSG_DONTWAIT).decode("utf-8", "replace")

    def last_words(self) -> str:
        """Return the last line that the process printed."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def close(self) -> None:
        """End the process: politely, after five seconds by force."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._socket.close()


@contextlib.contextmanager
def child(name: str, arguments: Sequence[str], *, folder: Path) -> Iterator[Child]:
    """Start a child, and end it whatever happens."""
    started = Child(name, arguments, folder=folder)
    try:
        yield started
    finally:
        started.close()


def ending(returncode: int) -> str:
    """Say how a process ended."""
    if returncode >= 0:
        return f"exit code {returncode}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-returncode).name}"
    return f"killed by signal {-returncode}"
