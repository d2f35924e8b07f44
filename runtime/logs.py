"""The log: for people on a terminal or in a file, and as fields where systemd's journal listens.

Under systemd each record goes to the journal as one entry (systemd's "Journal native protocol"),
tracebacks included, with its priority and the place in the code; what a caller gives as
``extra={"hedge_stream": name}`` becomes the field HEDGE_STREAM. So `journalctl -u hedge -p warning`
and `journalctl HEDGE_STREAM=meter` find what they should.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")

_PLAIN = "%(levelname)s %(name)s: %(message)s"
_MOST_BYTES = 48 << 10  # of one field: a datagram of 64 KiB goes everywhere
_OWN = "hedge_"
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)


def configure_logging(
    *, verbose: bool, environ: Mapping[str, str], journal: Path = JOURNAL
) -> None:
    """Send the log to standard error, or to the journal if that is where standard error goes."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        handlers=[_handler(environ, journal)],
        force=True,
    )


def rarely(times: int) -> int:
    """Return the level to log what happens for the n-th time: a warning at 1, 2, 4, 8 and so on.

    So a source or a sink that has gone bad does not fill the log.
    """
    return logging.DEBUG if times & (times - 1) else logging.WARNING


def complain(line: str, *, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Print the line with which a command ends in error; in the journal as an error."""
    stream = sys.stderr if stream is None else stream
    print(f"<3>{line}" if goes_to_journal(environ) else line, file=stream)


def goes_to_journal(environ: Mapping[str, str], *, fd: int = 2) -> bool:
    """Return whether a descriptor is the one that systemd has connected to its journal.

    JOURNAL_STREAM holds that one's device and inode, in decimal (systemd.exec(5)).
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> int:
    """Return the priority of syslog for a level of logging: 2 critical … 7 debug."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


class JournalHandler(logging.Handler):
    """Sends records to the journal, and never waits for it.

    What it does not take is written to standard error, with the priority in front; where it is
    too busy the record is dropped, and the next one says how many were (HEDGE_LOG_DROPPED).

    Raises:
        OSError: there is no journal at this path.
    """

    def __init__(self, path: Path = JOURNAL) -> None:
        super().__init__()
        self.dropped = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        try:
            self._socket.connect(os.fspath(path))
        except OSError:
            self._socket.close()
            raise
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            text = self.format(record)
            self._send(record, text)
        except Exception:  # noqa: BLE001 -- as every handler of logging does
            self.handleError(record)

    def _send(self, record: logging.LogRecord, text: str) -> None:
        fields = dict(_fields(record, text))
        if self.dropped:
            fields["HEDGE_LOG_DROPPED"] = str(self.dropped)
        try:
            self._socket.send(b"".join(_encoded(name, value) for name, value in fields.items()))
        except BlockingIOError:
            self.dropped += 1
        except OSError:  # the journal has been restarted, or is gone
            sys.stderr.write(prefixed(text, record.levelno))
        else:
            self.dropped = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


class PrefixFormatter(logging.Formatter):
    """Puts syslog's priority before each line, as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return prefixed(super().format(record), record.levelno).rstrip("\n")


def prefixed(text: str, level: int) -> str:
    """Return lines that each begin with their priority, such as ``<4>``."""
    number = priority(level)
    return "".join(f"<{number}>{line}\n" for line in text.splitlines())


def _handler(environ: Mapping[str, str], journal: Path) -> logging.Handler:
    if goes_to_journal(environ):
        with contextlib.suppress(OSError):
            return JournalHandler(journal)
    plain = logging.StreamHandler(sys.stderr)
    if goes_to_journal(environ):
        plain.setFormatter(PrefixFormatter("%(name)s: %(message)s"))
    else:
        plain.setFormatter(logging.Formatter(_PLAIN))
    return plain


def _fields(record: logging.LogRecord, text: str) -> Iterator[tuple[str, str]]:
    """Give what the journal is told: its own fields (systemd.journal-fields(7)), then ours."""
    yield "MESSAGE", text
    yield "PRIORITY", str(priority(record.levelno))
    yield "SYSLOG_IDENTIFIER", "hedge"
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName
    yield "HEDGE_LOGGER", record.name
    yield "HEDGE_THREAD", record.threadName or ""
    if record.exc_info and record.exc_info[0] is not None:
        yield "HEDGE_ERROR", record.exc_info[0].__name__
    for name, value in vars(record).items():
        if name.startswith(_OWN) and name.isidentifier() and name.isascii():
            yield name.upper(), str(value)


def _encoded(name: str, value: str) -> bytes:
    """Return one field; a value of several lines goes with its length."""
    data = value.encode("utf-8", "backslashreplace")[:_MOST_BYTES]
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)
