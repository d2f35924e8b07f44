"""One run of a program: a line for its standard input, and a time by which it has ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

_ENVIRONMENT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
_LOOK_S, _SOON_S = 0.05, 0.005  # for its end; once it has closed its stderr
_TAIL_BYTES = 4096


class Ended(NamedTuple):
    """How it ended: its exit code, None where it was killed, and its last line on stderr.

    What cannot be shown of that is replaced.
    """

    code: int | None
    said: str


def run(
    arguments: Sequence[str], line: bytes, *, folder: Path, end_s: Callable[[], float]
) -> Ended:
    """Run a program in ``folder``, with a lean environment and no descriptors of ours.

    It is killed, with all of its process group, when it ends or at ``end_s()``, which is on the
    monotonic clock and asked again and again.

    Raises:
        OSError: it could not be started.
    """
    process = subprocess.Popen(  # noqa: S603 -- the user's own, without a shell
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        cwd=folder,
        start_new_session=True,
    )
    with process, contextlib.closing(_Pipes(process, line)) as pipes:
        try:
            while not (ended := _has_ended(process.pid)) and time.monotonic() < end_s():
                pipes.serve(_LOOK_S if pipes.talks else _SOON_S)
            pipes.serve(0)  # what it said before its end
        finally:  # before the leader is reaped: until then nobody else can have its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    said = pipes.tail.decode("utf-8", "replace").strip().rpartition("\n")[2]
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in said)
    return Ended(process.returncode if ended else None, shown)


class _Pipes:
    """Gives a process its line, and keeps the end of what it says; none of it blocks."""

    def __init__(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None  # noqa: S101 -- for the type checker
        assert process.stderr is not None  # noqa: S101
        self._stdin: IO[bytes] = process.stdin
        self._stderr: IO[bytes] = process.stderr
        self._line = memoryview(line)
        self._ready = selectors.DefaultSelector()
        for pipe, event in ((self._stdin, selectors.EVENT_WRITE), (self._stderr, 1)):
            os.set_blocking(pipe.fileno(), False)
            self._ready.register(pipe, event)
        self.tail = b""
        self.talks = True

    def close(self) -> None:
        """Look at the pipes no more; they are the process's to close."""
        self._ready.close()

    def serve(self, timeout_s: float) -> None:
        """Do what the pipes are ready for, or wait for so long."""
        for key, _ in self._ready.select(timeout_s):
            if key.fileobj is self._stdin:
                self._write()
            else:
                self._read()

    def _write(self) -> None:
        try:
            self._line = self._line[os.write(self._stdin.fileno(), self._line[:4096]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not read
            self._line = self._line[:0]
        if not self._line:
            self._ready.unregister(self._stdin)
            self._stdin.close()

    def _read(self) -> None:
        said = os.read(self._stderr.fileno(), 1 << 16)
        self.tail = (self.tail + said)[-_TAIL_BYTES:]
        self.talks = said != b""
        if not self.talks:
            self._ready.unregister(self._stderr)


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended, and leave it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
