"""A serial port, played by a pseudo-terminal: lines come, and cables are pulled."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.models.manifest import Input, TensorInput, TextInput
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import SerialSource

pytest.importorskip("serial", reason="pyserial is not installed")

from hedge.runtime.sources.serial_port import SerialReader

Eventually = Callable[[Callable[[], bool]], None]
PAIR = Input(
    kind="tensor",
    shape=(2,),
    dtype="float32",
    tensor=TensorInput(channels=("a", "b")),
)


class Cable:
    """A device at a pseudo-terminal, found at ``path`` as udev would have it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fds: list[int] = []
        self.plug_in()

    def plug_in(self) -> None:
        master, slave = pty.openpty()
        self._fds = [master, slave]
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))

    def send(self, data: bytes) -> None:
        os.write(self._fds[0], data)

    def pull(self) -> None:
        self.path.unlink(missing_ok=True)
        for fd in self._fds:
            with suppress(OSError):
                os.close(fd)
        self._fds = []


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    """Give a device that is plugged in."""
    found = Cable(tmp_path / "sensor")
    yield found
    found.pull()


@pytest.fixture
def open_reader(cable: Cable) -> Iterator[Callable[..., SerialReader]]:
    """Give `open_reader(…)`: an open reader of the cable, with these options."""
    with ExitStack() as stack:

        def make(spec: Input = PAIR, **options: Any) -> SerialReader:  # noqa: ANN401
            reader = SerialReader(SerialSource(port=str(cable.path), **options), spec)
            stack.callback(reader.close)
            reader.open()
            return reader

        yield make


def gather(reader: SerialReader, count: int) -> list[Any]:
    """Read until so much has come: rows, and what is said of the rest."""
    found: list[Any] = []
    until_s = time.monotonic() + 30
    while len(found) < count and time.monotonic() < until_s:
        try:
            found += [one.data.tolist() for one in reader.read()]
        except DataError as error:
            found.append(error.what)
    return found


def test_half_lines_are_joined_and_the_first_is_passed_over(
    cable: Cable, open_reader: Callable[..., SerialReader]
) -> None:
    reader = open_reader()
    cable.send(b"99,1\n1.5,-2\n3,")
    assert gather(reader, 1) == [[[1.5, -2]]]
    assert list(reader.read()) == []
    cable.send(b"4\r")
    assert list(reader.read()) == []
    cable.send(b"\n5,6\n")
    assert gather(reader, 2) == [[[3, 4]], [[5, 6]]]


def test_what_came_before_we_were_there_is_not_read(
    cable: Cable, open_reader: Callable[..., SerialReader]
) -> None:
    cable.send(b"1,1\n2,2\n")
    reader = open_reader()
    cable.send(b"\n3,4\n")
    assert gather(reader, 1) == [[[3, 4]]]


@pytest.mark.parametrize(
    ("options", "line", "expected"),
    [
        ({"format": "json"}, b'{"b": 2, "a": 1}', [[1, 2]]),
        ({"format": "json", "fields": ("x", "y")}, b'{"y": 2, "x": 1}', [[1, 2]]),
        ({"fields": ("2", "0")}, b"2,no number,1", [[1, 2]]),
    ],
)
def test_lines_are_read_as_the_options_say(
    options: dict[str, Any],
    line: bytes,
    expected: list[Any],
    cable: Cable,
    open_reader: Callable[..., SerialReader],
) -> None:
    reader = open_reader(**options)
    cable.send(b"\n" + line + b"\n")
    assert gather(reader, 1) == [expected]


def test_text_comes_line_by_line(cable: Cable, open_reader: Callable[..., SerialReader]) -> None:
    spec = Input(kind="text", shape=(9,), dtype="int32", tokenizer="t", text=TextInput())
    reader = open_reader(spec, format="text")
    cable.send("\n$GPGGA,48°\r\n".encode())
    (found,) = gather(reader, 1)
    assert bytes(found).decode() == "$GPGGA,48°"


def test_an_endless_line_is_one_failure_and_does_not_grow(
    cable: Cable, open_reader: Callable[..., SerialReader]
) -> None:
    reader = open_reader(max_line_bytes=64)
    cable.send(b"\n" + b"7" * 2000 + b"\n" + b"8" * 2000)
    assert gather(reader, 2) == ["a line of more than 64 bytes"] * 2
    assert len(reader._lines._begun) <= 64
    cable.send(b"8\n1,2\n")
    assert gather(reader, 1) == [[[1, 2]]]


def test_garbage_between_the_lines_is_told_and_the_rest_is_read(
    cable: Cable, open_reader: Callable[..., SerialReader]
) -> None:
    reader = open_reader()
    cable.send(b"\n1,2\nax,ay\n\xfe\x80\n1,2,3\n\n3,4\n")
    first, header, noise, long, last = gather(reader, 5)
    assert (first, last) == ([[1, 2]], [[3, 4]])
    assert header == "a header line, no numbers: 'ax,ay'"
    assert noise.startswith("no line of numbers")
    assert long == "a row of 3 values; the bundle has 2 channels"


def test_a_good_line_is_not_held_up_by_a_flood_of_bad_ones(
    cable: Cable, eventually: Eventually
) -> None:
    reader = SerialReader(SerialSource(port=str(cable.path)), PAIR)
    live = Live(reader, name="s", policy="latest", buffer=4096, ring=lambda: None)
    found: list[Any] = []

    def drain() -> int:
        while live.due_ns() is not None:
            try:
                found.append(live.poll(0))
            except DataError:
                found.append(None)
        return len(found) + live.overrun

    try:
        eventually(lambda: live.state().state == "open")
        cable.send(b"\n")
        for _ in range(96):
            cable.send(b"x\n" * 100)
        cable.send(b"5,6\n")
        eventually(lambda: drain() == 9601)
        assert [one.data.tolist() for one in found if one is not None] == [[[5, 6]]]
        assert live.overrun > 0
    finally:
        live.close()


def test_a_pulled_cable_is_told(cable: Cable, open_reader: Callable[..., SerialReader]) -> None:
    reader = open_reader()
    cable.pull()
    with pytest.raises(SourceError, match=r"has gone|has been unplugged"):
        gather(reader, 1)
    with pytest.raises(SourceError, match=r"No such file.*is it plugged in\?"):
        reader.open()


def test_a_port_that_is_another_device_by_now_is_left(
    cable: Cable, open_reader: Callable[..., SerialReader]
) -> None:
    reader = open_reader()
    old = list(cable._fds)
    cable.plug_in()  # the old one never said goodbye
    with pytest.raises(SourceError, match="has been unplugged"):
        gather(reader, 1)
    for fd in old:
        os.close(fd)


def test_silence_is_told_where_the_options_say_how_long(
    open_reader: Callable[..., SerialReader],
) -> None:
    reader = open_reader(stall_s=0.1)
    with pytest.raises(SourceError, match=r"gave nothing for 0\.1 s"):
        gather(reader, 1)


def test_a_port_that_another_program_has_is_told(
    open_reader: Callable[..., SerialReader],
) -> None:
    open_reader()
    with pytest.raises(SourceError, match="another program has it open"):
        open_reader()


def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1,2\n")
    reader = SerialReader(SerialSource(port=str(tmp_path / "file")), PAIR)
    with pytest.raises(SourceError, match="cannot be opened"):
        reader.open()


def test_a_port_that_may_not_be_opened_says_which_group_may(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    reader = SerialReader(SerialSource(port=str(closed / "port")), PAIR)
    own = os.geteuid()
    if own == 0:  # who may do everything
        os.seteuid(65_534)
    try:
        with pytest.raises(SourceError, match="group dialout"):
            reader.open()
    finally:
        os.seteuid(own)
        closed.chmod(0o700)


def test_text_for_a_bundle_of_numbers_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="the bundle takes tensor"):
        SerialReader(SerialSource(port="/dev/null", format="text"), PAIR)


def test_rows_go_on_after_the_cable_was_pulled_and_no_window_spans_the_gap(
    cable: Cable, eventually: Eventually
) -> None:
    spec = Input(
        kind="tensor",
        shape=(3, 2),
        dtype="float32",
        tensor=TensorInput(channels=("a", "b"), rows=3),
    )
    reader = SerialReader(SerialSource(port=str(cable.path)), spec)
    live = Live(reader, name="s", policy="every", buffer=8, ring=threading.Event().set)
    try:
        eventually(lambda: live.state().state == "open")
        cable.send(b"\n1,1\n2,2\n3,3\n4,4\n5,5\n")  # a window, and two rows of the next
        eventually(lambda: live.due_ns() is not None)
        first = live.poll(0)
        for times in (1, 2):
            cable.pull()
            eventually(lambda: live.state().state == "away")
            why = live.state().why
            assert why is not None
            assert str(cable.path) in why
            cable.plug_in()
            eventually(lambda: live.state().state == "open")
            assert live.state().opened == times + 1
        cable.send(b"\n6,6\n7,7\n8,8\n")
        eventually(lambda: live.due_ns() is not None)
        second = live.poll(0)
        assert first is not None
        assert second is not None
        assert first.data.tolist() == [[1, 1], [2, 2], [3, 3]]
        assert second.data.tolist() == [[6, 6], [7, 7], [8, 8]]
    finally:
        live.close()
