"""A serial port: lines of a microcontroller, a meter, a GPS."""

from __future__ import annotations

import contextlib
import errno
import os
import termios
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...models.errors import MissingExtraError, SourceError
from ...models.manifest import Input
from ...telemetry.clock import boottime_ns
from .framing import Lines
from .messages import Inbox, Messages
from .options import SerialSource
from .source import Captured

if TYPE_CHECKING:
    import serial

_WAIT_S = 0.25
_TROUBLE = (OSError, ValueError, termios.error)  # pyserial's own is an OSError
_HINTS = {
    errno.ENOENT: "is it plugged in? `hedge init` lists the ports",
    errno.EACCES: "add the user to the group dialout: usermod -aG dialout USER",
    errno.EBUSY: "another program has it open",
    errno.EAGAIN: "another program has it open",
    errno.ENOTTY: "it is no serial port",
}


class SerialReader:
    """Reads the lines of a port; a device that is plugged in again is found by the port's path.

    What comes before the first line end is passed over: nobody knows where that line began.

    Raises:
        ConfigError: the bundle takes nothing of that form.
        MissingExtraError: pyserial is not installed.
    """

    recorder = None

    def __init__(self, options: SerialSource, spec: Input) -> None:
        self._serial = _library()
        self._options = options
        self._messages = Messages(options.format, spec, fields=options.fields, hop=options.hop)
        self._port: serial.Serial | None = None
        self._begin()

    def open(self) -> None:
        """Open the port, for us alone; see `Reader`."""
        self._begin()
        options = self._options
        try:
            self._port = self._serial.Serial(
                options.port, options.baud, timeout=_WAIT_S, exclusive=True
            )
        except _TROUBLE as error:
            raise self._away("cannot be opened", error) from error

    def read(self) -> Sequence[Captured]:
        """Return what the lines that have come hold; see `Reader`."""
        if not self._inbox:
            data = self._receive()
            now_ns = boottime_ns()
            for line in self._lines.feed(data):
                self._inbox.put(self._series, line, now_ns)
        return self._inbox.take()

    def close(self) -> None:
        """Close the port; see `Reader`."""
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(*_TROUBLE):
                port.close()

    def _begin(self) -> None:
        options = self._options
        self._inbox = Inbox()
        self._series = self._messages.series(where=options.port)
        self._lines = Lines(max_bytes=options.max_line_bytes, where=options.port, mid_line=True)
        self._heard_s = time.monotonic()

    def _receive(self) -> bytes:
        port = self._port
        if port is None:
            raise SourceError("is not open", where=self._options.port)
        try:
            data: bytes = port.read(max(1, port.in_waiting))
            if not data and not self._is_same(port):
                raise SourceError("has been unplugged", where=self._options.port)
        except _TROUBLE as error:
            raise self._away("has gone", error) from error
        stall_s, now_s = self._options.stall_s, time.monotonic()
        if data:
            self._heard_s = now_s
        elif stall_s is not None and now_s - self._heard_s > stall_s:
            raise SourceError(f"gave nothing for {stall_s:g} s", where=self._options.port)
        return data

    def _is_same(self, port: serial.Serial) -> bool:
        """Return whether the path still leads to what is open; asked while nothing comes."""
        ours, there = os.fstat(port.fileno()), os.stat(self._options.port)  # noqa: PTH116 -- follows links
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def _away(self, what: str, error: Exception) -> SourceError:
        number = error.errno if isinstance(error, OSError) else None
        why = str(error) if number is None else os.strerror(number)
        return SourceError(f"{what}: {why}", where=self._options.port, hint=_HINTS.get(number or 0))


def _library() -> Any:  # noqa: ANN401 -- a module
    try:
        import serial  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("pyserial", extra="serial") from error
    return serial
