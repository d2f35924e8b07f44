"""What a device under fault tells its parent: words over a pipe, its phase in shared memory.

What is said lies in the pipe before the step it speaks of begins, or after it has ended,
however the process may die.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

STARTING, IDLE, PUT, COMMIT, SEND, ACKNOWLEDGE = range(6)
"""Where a device is."""

PHASES = ("starting", "idle", "put", "commit", "send", "acknowledge")

_PIPE_BYTES = 1 << 20
_PDEATHSIG = 1  # prctl: what to get when the parent ends
_LONGEST_S = 120  # no life under fault lasts so long, unless something hangs
_FAULTS = (errno.ENOSPC, errno.EIO)
_CALLS = ("open", "pwrite", "ftruncate", "fsync", "fdatasync")


class Shared:
    """Memory that parent and child share: the phase, and flags by number."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def phase(self) -> int:
        """Where the device is."""
        return self._memory[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._memory[0] = phase

    def __getitem__(self, flag: int) -> int:
        return self._memory[1 + flag]

    def __setitem__(self, flag: int, value: int) -> None:
        self._memory[1 + flag] = value

    def clear(self) -> None:
        """Set all to 0."""
        self._memory[:] = bytes(len(self._memory))


OPEN, GO = range(2)
"""Flags: the device has opened its outbox; its parent lets it go on."""


class Witness:
    """The child's end."""

    def __init__(self, fd: int, shared: Shared) -> None:
        self._fd = fd
        self.shared = shared

    def say(self, what: str, ids: Iterable[object] = ()) -> None:
        """Say one line."""
        os.write(self._fd, f"{what} {' '.join(map(str, ids))}\n".encode())

    @contextlib.contextmanager
    def during(self, phase: int) -> Iterator[None]:
        """Be in a phase, and then where we were; a start stays a start."""
        before = self.shared.phase
        self.shared.phase = phase if before != STARTING else STARTING
        try:
            yield
        finally:
            self.shared.phase = before

    def watch_disk(self) -> None:
        """Note the commits of this process, and say which calls the disk fails."""
        for name in _CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:  # noqa: ANN401 -- what the call takes
            try:
                if name != "fdatasync":
                    return real(*args, **options)
                with self.during(COMMIT):
                    return real(*args, **options)
            except OSError as error:
                if error.errno in _FAULTS:
                    self.say("e", [f"{errno.errorcode[error.errno]}:{name}"])
                raise

        return watched


class Life:
    """The parent's end of one life: a forked child that does ``work``, and what it says.

    ``hear`` takes whole lines. The child ends itself when ``work`` returns; an exception is
    said. One that hangs is ended, and that is a fault; ``longest_s`` of 0 lets it live.
    """

    def __init__(
        self,
        work: Callable[[Witness], None],
        *,
        shared: Shared,
        hear: Callable[[bytes], set[str]],
        longest_s: int = _LONGEST_S,
    ) -> None:
        self._hear = hear
        self._rest = b""
        self.words: set[str] = set()
        self._shared = shared
        shared.clear()
        self._pipe, say = os.pipe()
        fcntl.fcntl(say, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)  # not to outlive its parent
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(longest_s)
            _work(work, Witness(say, shared))
        os.close(say)
        os.set_blocking(self._pipe, False)
        self._status: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the child has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def listen(self) -> set[str]:
        """Hear what was said meanwhile; return all words that were said in this life."""
        while True:
            try:
                part = os.read(self._pipe, _PIPE_BYTES)
            except BlockingIOError:
                return self.words
            if not part:
                return self.words
            lines, newline, rest = (self._rest + part).rpartition(b"\n")
            self._rest = rest
            self.words |= self._hear(lines + newline)

    def until(self, done: Callable[[], bool], *, patience_s: float = 30.0) -> bool:
        """Wait until something is so, or the child has ended; return whether it is so."""
        until_s = time.monotonic() + patience_s
        while not done():
            if self.ended or time.monotonic() > until_s:
                return done()
            self.listen()
            time.sleep(0.0003)
        return True

    def is_open(self) -> bool:
        """Whether the outbox was opened."""
        return self._shared[OPEN] == 1

    def send(self, number: int) -> None:
        """Send a signal, unless the child has ended."""
        if not self.ended:
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL, *, patience_s: float = 30.0) -> int:
        """End the child by a signal and hear the rest; return how it ended, as `Popen` does."""
        self.send(number)
        until_s = time.monotonic() + patience_s
        while not self.ended and time.monotonic() < until_s:
            self.listen()
            time.sleep(0.0003)
        if not self.ended:
            self.words |= self._hear(b"x it-does-not-end\n")
            os.kill(self.pid, signal.SIGKILL)
            _, self._status = os.waitpid(self.pid, 0)
        self.listen()
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(self._status or 0)


def _work(work: Callable[[Witness], None], witness: Witness) -> None:
    """Do a child's work and end the process."""
    try:
        work(witness)
    except BaseException as error:  # noqa: BLE001 -- its parent has to hear of it
        told = f"{type(error).__name__}: {error}".split()
        witness.say("x", told)
        sys.stderr.flush()
    os._exit(0)
