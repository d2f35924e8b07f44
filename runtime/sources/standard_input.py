"""Standard input: what another program writes into a pipe, a file, or what somebody types."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Sequence

from ...models.errors import ConfigError, SourceError
from ...models.manifest import Input
from ...telemetry.clock import boottime_ns
from .framing import FramingError, frames_of
from .messages import Inbox, Messages
from .options import StdinSource
from .source import Captured

_log = logging.getLogger(__name__)

_WAIT_S = 0.25
_CHUNK_BYTES = 64 << 10
_NAME = "standard input"


class StdinReader:
    """Reads ``fd`` until its end, which is the stream's.

    A terminal is read only while we are its foreground job: else the system would stop us.

    Raises:
        ConfigError: the bundle takes nothing of that form; or standard input is closed.
    """

    recorder = None

    def __init__(self, options: StdinSource, spec: Input, *, fd: int = 0) -> None:
        if fd == 0 and sys.__stdin__ is None:
            raise ConfigError("is closed", where=_NAME, hint="give it a pipe or a file")
        self._messages = Messages(
            options.format,
            spec,
            fields=options.fields,
            hop=options.hop,
            max_pixels=options.max_pixels,
        )
        self._fd = fd
        self._options = options
        self._ended = False
        self._begin()

    def open(self) -> None:
        """Begin to read; see `Reader`."""
        self._begin()
        self._check_foreground()

    def read(self) -> Sequence[Captured] | None:
        """Return what the messages that have come hold; see `Reader`."""
        if not self._inbox:
            if self._ended:
                return None
            self._receive()
        return self._inbox.take()

    def close(self) -> None:
        """Leave it open: it is the process's."""

    def _begin(self) -> None:
        self._inbox = Inbox()
        self._series = self._messages.series(where=_NAME)
        self._frames = frames_of(
            self._options.format, max_bytes=self._options.max_bytes, where=_NAME
        )

    def _receive(self) -> None:
        try:
            if not select.select([self._fd], [], [], _WAIT_S)[0]:
                return
            self._check_foreground()
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:  # somebody else has set it not to block, and was faster
            return
        except OSError as error:  # like EIO, a terminal that is gone: nothing more will come
            _log.warning("%s: cannot be read: %s; the stream ends", _NAME, error.strerror)
            data = b""
        now_ns = boottime_ns()
        for message in self._frames.feed(data) if data else self._frames.end():
            self._inbox.put(self._series, message, now_ns)
            self._ended |= isinstance(message, FramingError)
        self._ended |= not data

    def _check_foreground(self) -> None:
        if _is_behind(self._fd):
            raise SourceError(
                "is a terminal at which another job is in front",
                where=_NAME,
                hint="bring hedge to the front: fg",
            )


def _is_behind(fd: int) -> bool:
    """Return whether another job has our controlling terminal; of any other nobody minds."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False
