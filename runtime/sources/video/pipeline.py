"""A GStreamer pipeline in a process of its own, and the raw video that it writes to us."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ....models.errors import SourceError
from ...children import ending
from ..source import StuckError
from . import launch
from .place import LAUNCH

_ERRONEOUS = "WARNING: erroneous pipeline: "  # nothing but another text, or a plugin, helps
# YUV4MPEG2 does not say by which matrix colours were made: it is the one that is assumed.
_ENDING = "! videoconvert ! video/x-raw,colorimetry=bt601 ! y4menc ! fdsink fd=1"
_HEADER = b"YUV4MPEG2 "
_HEADER_BYTES = 1024
_WORDS_BYTES = 8192  # of what it says of itself
_PIPE_BYTES = 1 << 20
_PATIENCE_S = 1.0


class Pipeline:
    """Runs ``gst-launch-1.0`` with these elements; a file to read YUV4MPEG2 from.

    It is ended with this process, and with the thread that has made it. Its working folder is
    ``base``. ``stall_s`` bounds how long a read waits.
    """

    name = "pipeline"

    def __init__(
        self, elements: Sequence[str], *, where: str, base: Path, stall_s: float, max_pixels: int
    ) -> None:
        self._where = where
        self._stall_s = stall_s
        self._words = b""
        self.error: SourceError | None = None
        place = [str(os.getpid()), str(base.absolute())]
        command = [LAUNCH, "-q", *elements, *_ENDING.split()]
        self._process = subprocess.Popen(  # noqa: S603 -- the user's own pipeline, without a shell
            [sys.executable, "-I", "-S", launch.__file__, *place, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._begin = b""
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            with contextlib.suppress(OSError):  # larger pipes make fewer switches, no more
                fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._begin = self._header(max_pixels)
            undo.pop_all()

    @property
    def _out(self) -> int:
        return 0 if self._process.stdout is None else self._process.stdout.fileno()

    def read(self, size: int) -> bytes:
        """Return at most so many bytes as they come; none: it has ended.

        `error` says why nothing came in time.
        """
        if self._begin:
            found, self._begin = self._begin[:size], self._begin[size:]
            return found
        return self._wait(size) or b""

    def ended(self) -> SourceError | None:
        """Return why its video has ended; None: it was at its end."""
        if self.error is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
            self._listen()
            if self._process.poll() == 0:
                return None
            said = self._said()
            stuck = said.startswith(_ERRONEOUS)
            self.error = (StuckError if stuck else SourceError)(
                said.removeprefix(_ERRONEOUS).removeprefix("ERROR: "),
                where=self._where,
                hint=f"try it by hand: {LAUNCH} -q … ! videoconvert ! autovideosink",
            )
        return self.error

    def close(self) -> None:
        """End the process; closing twice is harmless."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _header(self, max_pixels: int) -> bytes:
        """Return what comes with the header, which says how large its pictures are."""
        begin = b""
        while b"\n" not in begin and len(begin) < _HEADER_BYTES:
            more = self._wait(_HEADER_BYTES)
            if not more:
                raise self.ended() or SourceError("gives no video", where=self._where)
            begin += more
        width, height = _size(begin.split(b"\n")[0])
        if width * height > max_pixels:
            raise SourceError(
                f"gives pictures of {width} x {height}, more than max_pixels = {max_pixels}",
                where=self._where,
            )
        return begin

    def _wait(self, size: int) -> bytes | None:
        """Wait for video, and hear what else is said meanwhile; None: nothing has come in time."""
        until_s = time.monotonic() + self._stall_s
        while (left_s := until_s - time.monotonic()) > 0:
            asked = [self._out, *self._errors()]
            ready = select.select(asked, [], [], left_s)[0]
            if self._out in ready:
                return os.read(self._out, size)
            if ready:
                self._listen()
        self.error = SourceError(f"has given nothing for {self._stall_s:g} s", where=self._where)
        return None

    def _errors(self) -> list[int]:
        stderr = self._process.stderr
        return [] if stderr is None or stderr.closed else [stderr.fileno()]

    def _listen(self) -> None:
        """Keep the first of what it says, and have the rest said in vain."""
        for fd in self._errors():
            while select.select([fd], [], [], 0)[0]:
                said = os.read(fd, 4096)
                if not said:
                    if self._process.stderr is not None:
                        self._process.stderr.close()
                    return
                self._words = (self._words + said)[:_WORDS_BYTES]

    def _said(self) -> str:
        """Return the first error that it has told: those after it follow from it."""
        lines = self._words.decode("utf-8", "replace").splitlines()
        for line in lines:
            if line.startswith(("ERROR: ", _ERRONEOUS)):
                return line
        if lines:
            return lines[-1]
        return f"has ended, {ending(self._process.wait())}"


def _size(header: bytes) -> tuple[int, int]:
    """Return width and height of a YUV4MPEG2 header; 0 where it does not say."""
    fields = header.split() if header.startswith(_HEADER) else []
    found = {field[:1]: field[1:] for field in fields[1:]}
    width, height = found.get(b"W", b""), found.get(b"H", b"")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else (0, 0)
