"""The log: plain for people, and in the journal one entry a record, with fields."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedge.runtime.logs import (
    JournalHandler,
    PrefixFormatter,
    complain,
    configure_logging,
    goes_to_journal,
    prefixed,
    priority,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Give a socket as the journal has one; its path is `getsockname()`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        bound.setblocking(False)
        yield bound


@pytest.fixture
def log(journal: socket.socket) -> Iterator[logging.Logger]:
    """Give a logger that writes to that journal."""
    handler = JournalHandler(Path(journal.getsockname()))
    logger = logging.getLogger("hedge.test_logs")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True
    handler.close()


def _read(journal: socket.socket) -> dict[str, str]:
    """Return the fields of one entry, parsed as the journal's own protocol says."""
    data, found = journal.recv(1 << 20), {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
        data = rest
    return found


def test_a_record_is_one_entry_with_its_priority_and_place(
    journal: socket.socket, log: logging.Logger
) -> None:
    log.warning("%s is gone", "it", extra={"hedge_stream": "meter"})
    found = _read(journal)
    assert found["MESSAGE"] == "hedge.test_logs: it is gone"
    assert found["PRIORITY"] == "4"
    assert found["HEDGE_STREAM"] == "meter"
    assert found["HEDGE_LOGGER"] == "hedge.test_logs"
    assert found["CODE_FILE"] == __file__
    assert found["CODE_FUNC"].startswith("test_a_record")
    assert found["SYSLOG_IDENTIFIER"] == "hedge"


def test_a_traceback_stays_in_one_entry(journal: socket.socket, log: logging.Logger) -> None:
    try:
        int("of two\nlines")
    except ValueError:
        log.exception("failed")
    found = _read(journal)
    assert found["PRIORITY"] == "3"
    assert found["HEDGE_ERROR"] == "ValueError"
    assert found["MESSAGE"].startswith("hedge.test_logs: failed\nTraceback")
    assert found["MESSAGE"].endswith("'of two\\nlines'")
    with pytest.raises(BlockingIOError):
        journal.recv(1)


def test_a_field_cannot_be_smuggled_in(journal: socket.socket, log: logging.Logger) -> None:
    log.warning("%s", "a\nPRIORITY=0\n_UID=0")
    found = _read(journal)
    assert found["PRIORITY"] == "4"
    assert "_UID" not in found


def test_a_message_without_end_is_cut(journal: socket.socket, log: logging.Logger) -> None:
    log.warning("x" * 1_000_000)
    assert len(_read(journal)["MESSAGE"]) == 48 << 10


def test_a_journal_that_takes_nothing_does_not_hold_us_up(
    journal: socket.socket, log: logging.Logger
) -> None:
    for number in range(2_000):
        log.warning("%d", number)
    handler = next(one for one in log.handlers if isinstance(one, JournalHandler))
    dropped = handler.dropped
    assert 0 < dropped < 2_000
    for _ in range(2_000 - dropped):
        _read(journal)
    log.warning("again")
    found = _read(journal)
    assert found["HEDGE_LOG_DROPPED"] == str(dropped)
    assert handler.dropped == 0


def test_a_journal_that_has_gone_leaves_its_lines_on_standard_error(
    journal: socket.socket, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.close()
    log.error("two\nlines")
    assert capsys.readouterr().err == "<3>hedge.test_logs: two\n<3>lines\n"


def test_only_the_descriptor_that_systemd_named_goes_to_the_journal() -> None:
    read, write = os.pipe()
    try:
        status = os.fstat(write)
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert goes_to_journal(named, fd=write)
        assert not goes_to_journal(named, fd=0)
        assert not goes_to_journal({}, fd=write)
        assert not goes_to_journal({"JOURNAL_STREAM": "nonsense"}, fd=write)
    finally:
        os.close(read)
        os.close(write)
    assert not goes_to_journal(named, fd=write)


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (35, 4), (20, 6), (10, 7)],
)
def test_levels_are_priorities_of_syslog(level: int, number: int) -> None:
    assert priority(level) == number


def test_each_line_has_its_priority_in_front() -> None:
    assert prefixed("a\nb", logging.WARNING) == "<4>a\n<4>b\n"
    record = logging.LogRecord("n", logging.ERROR, "f", 1, "m\nk", None, None)
    assert PrefixFormatter("%(message)s").format(record) == "<3>m\n<3>k"


def test_a_complaint_is_plain_where_no_journal_listens() -> None:
    stream = io.StringIO()
    complain("hedge: no", environ={}, stream=stream)
    assert stream.getvalue() == "hedge: no\n"


_PROGRAM = """
import logging, os, sys
from pathlib import Path
from hedge.runtime.logs import complain, configure_logging
status = os.fstat(2)
environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if sys.argv[2] == "yes" else {}
configure_logging(verbose=False, environ=environ, journal=Path(sys.argv[1]))
logging.getLogger("hedge.x").info("hidden")
logging.getLogger("hedge.x").warning("seen")
complain("hedge: no", environ=environ)
"""


def _run(path: Path, listens: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), listens],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return done.stderr


def test_under_systemd_the_log_goes_to_the_journal(journal: socket.socket, tmp_path: Path) -> None:
    assert _run(tmp_path / "socket", "yes") == "<3>hedge: no\n"
    assert _read(journal)["MESSAGE"] == "hedge.x: seen"


def test_under_systemd_without_the_journals_socket_lines_carry_priorities(tmp_path: Path) -> None:
    assert _run(tmp_path / "none", "yes") == "<4>hedge.x: seen\n<3>hedge: no\n"


def test_elsewhere_the_log_is_plain(tmp_path: Path) -> None:
    assert _run(tmp_path / "none", "no") == "WARNING hedge.x: seen\nhedge: no\n"


def test_verbose_tells_what_happens(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    level = logging.getLogger().level
    try:
        configure_logging(verbose=True, environ={})
        logging.getLogger("hedge.x").info("told")
        assert "INFO hedge.x: told" in capfd.readouterr().err
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)
