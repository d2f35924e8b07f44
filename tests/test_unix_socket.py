"""A Unix socket that programs write to: several at once, the clumsy and the dead among them."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.models.manifest import Input, TensorInput
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import SocketSource
from hedge.runtime.sources.unix_socket import SocketReader

Eventually = Callable[[Callable[[], bool]], None]
VALUE = Input(kind="tensor", shape=(1,), dtype="float32", tensor=TensorInput(channels=("v",)))
_DOCS = Path(__file__).parents[1] / "docs" / "sources-messages.md"


@pytest.fixture
def open_reader(tmp_path: Path) -> Iterator[Callable[..., SocketReader]]:
    """Give `open_reader(…)`: a reader that listens at `tmp_path / "in.sock"`."""
    with ExitStack() as stack:

        def make(spec: Input = VALUE, **options: Any) -> SocketReader:  # noqa: ANN401
            reader = SocketReader(SocketSource(path="in.sock", **options), spec, base=tmp_path)
            stack.callback(reader.close)
            reader.open()
            return reader

        yield make


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[], socket.socket]]:
    """Give `connect()`: a client."""
    with ExitStack() as stack:

        def make() -> socket.socket:
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.settimeout(30)
            client.connect(str(tmp_path / "in.sock"))
            return client

        yield make


def gather(reader: SocketReader, count: int) -> list[Any]:
    """Read until so much has come: values, and what is said of the rest."""
    found: list[Any] = []
    until_s = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < until_s, found
        try:
            found += [one.data.reshape(-1).tolist()[0] for one in reader.read()]
        except DataError as error:
            found.append(error.what)
    return found


def test_lines_and_messages_after_their_lengths_are_read(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    reader = open_reader(format="csv")
    client = connect()
    client.sendall(b"1\n2\n3")
    assert gather(reader, 2) == [1, 2]
    client.close()
    assert gather(reader, 1) == [3], "the end is the end of the last line, too"
    reader.close()
    reader = open_reader(format="tensor")
    connect().sendall(struct.pack("<IfI2f", 4, 7, 8, 8, 9))
    assert gather(reader, 3) == [7, 8, 9]


def test_the_group_may_write_and_others_may_not(
    tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    reader = open_reader()
    assert stat.S_IMODE((tmp_path / "in.sock").stat().st_mode) == 0o660
    reader.close()
    assert not (tmp_path / "in.sock").exists()
    reader.close()


def test_what_the_dead_have_left_is_replaced(
    tmp_path: Path, open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "in.sock"))
    reader = open_reader()
    connect().sendall(b"5\n")
    assert gather(reader, 1) == [5]


def test_what_a_living_program_listens_on_is_left_alone_until_it_ends(
    tmp_path: Path, open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "in.sock"))
        other.listen()
        with pytest.raises(SourceError, match="another program serves there"):
            open_reader()
    first = open_reader()
    with pytest.raises(SourceError, match="another process serves there"):
        open_reader()
    first.close()
    second = open_reader()
    connect().sendall(b"5\n")
    assert gather(second, 1) == [5]


def test_a_path_that_can_never_be_a_socket_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.sock").write_text("precious")
    with pytest.raises(ConfigError, match="is there already, and is no socket"):
        SocketReader(SocketSource(path="in.sock"), VALUE, base=tmp_path)
    assert (tmp_path / "in.sock").read_text() == "precious"
    with pytest.raises(ConfigError, match="107 at most"):
        SocketReader(SocketSource(path="x" * 108), VALUE, base=tmp_path)


def test_a_folder_that_is_none_or_not_ours_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/1")):
        reader = SocketReader(SocketSource(path="s"), VALUE, base=folder)
        with pytest.raises(SourceError, match=r"cannot be listened on: [A-Z]") as caught:
            reader.open()
        reader.close()
        assert "Errno" not in str(caught.value)
        assert "path" in str(caught.value.hint)


def test_a_file_that_comes_later_is_left_alone(tmp_path: Path) -> None:
    reader = SocketReader(SocketSource(path="in.sock"), VALUE, base=tmp_path)
    (tmp_path / "in.sock").write_text("precious")
    with pytest.raises(SourceError, match="is no socket"):
        reader.open()
    assert (tmp_path / "in.sock").read_text() == "precious"


def test_a_path_that_somebody_removes_is_noticed(
    tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    reader = open_reader()
    (tmp_path / "in.sock").unlink()
    with pytest.raises(SourceError, match="was removed or replaced"):
        gather(reader, 1)


def test_what_another_has_put_there_is_not_removed(
    tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    reader = open_reader()
    (tmp_path / "in.sock").unlink()
    (tmp_path / "in.sock").write_text("precious")
    reader.close()
    assert (tmp_path / "in.sock").read_text() == "precious"


def test_clients_are_read_in_turn_though_one_floods(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    reader = open_reader(format="csv")
    flood, quiet = connect(), connect()
    flood.sendall(b"1\n" * 10_000)
    quiet.sendall(b"2\n" * 3)
    found = gather(reader, 300)
    assert found.count(2) == 3, "it did not wait for the flood to end"


def test_garbage_of_one_does_not_touch_the_windows_of_others(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    spec = Input(
        kind="tensor", shape=(2, 1), dtype="float32", tensor=TensorInput(channels=("v",), rows=2)
    )
    reader = open_reader(spec, format="csv")
    good, bad = connect(), connect()
    good.sendall(b"1\n")
    bad.sendall(b"header\n")
    assert gather(reader, 1) == ["a header line, no numbers: 'header'"]
    good.sendall(b"2\n")
    assert gather(reader, 1) == [1], "the window that began before the garbage"


def test_a_client_whose_lengths_make_no_sense_is_cut_off_and_no_other(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    reader = open_reader(format="tensor", max_bytes=1000)
    good, bad = connect(), connect()
    good.sendall(struct.pack("<I", 4))
    bad.sendall(struct.pack("<If", 4, 7) + b"GET / HTTP/1.1\r\n\r\n")
    first, told = gather(reader, 2)
    assert first == 7
    assert told == "a message of 542393671 bytes, and max_bytes is 1000: cut off"
    assert bad.recv(1) == b""
    good.sendall(struct.pack("<f", 8))
    assert gather(reader, 1) == [8]


def test_a_line_without_an_end_is_told_once_and_its_client_may_go_on(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    reader = open_reader(format="csv", max_bytes=100)
    client = connect()
    client.sendall(b"1" * 5000)
    assert gather(reader, 1) == ["a line of more than 100 bytes"]
    client.sendall(b"\n3\n")
    assert gather(reader, 1) == [3]


def test_the_client_too_many_is_turned_away_and_there_is_room_again_later(
    open_reader: Callable[..., SocketReader],
    connect: Callable[[], socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = open_reader(format="csv", clients=2)
    first, _ = connect(), connect()
    late = connect()
    first.sendall(b"1\n")
    assert gather(reader, 1) == [1]
    while not any("more than 2 clients" in one.getMessage() for one in caplog.records):
        reader.read()
    assert late.recv(1) == b""
    first.close()
    reader.read()
    connect().sendall(b"2\n")
    assert gather(reader, 1) == [2]


def test_many_short_lived_clients_are_all_read_and_none_is_kept(
    open_reader: Callable[..., SocketReader], connect: Callable[[], socket.socket]
) -> None:
    reader = open_reader(format="csv", clients=2)
    found: list[Any] = []
    for number in range(50):
        client = connect()
        client.sendall(f"{number}\n".encode())
        client.close()
        found += gather(reader, 1)
    assert found == list(range(50))
    reader.read()
    assert len(reader._clients) == 0


def test_with_every_a_client_waits_and_nothing_is_lost(
    tmp_path: Path, connect: Callable[[], socket.socket], eventually: Eventually
) -> None:
    reader = SocketReader(SocketSource(path="in.sock", format="csv"), VALUE, base=tmp_path)
    bell = threading.Event()
    live = Live(reader, name="s", policy="every", buffer=4, ring=bell.set)
    try:
        eventually(lambda: live.state().state == "open")
        client, sent = connect(), threading.Event()
        total = 20_000

        def send() -> None:
            client.sendall(b"".join(b"%-40d\n" % number for number in range(total)))
            client.close()
            sent.set()

        writer = threading.Thread(target=send)
        writer.start()
        eventually(lambda: len(live._captured) == 4)
        assert not sent.is_set(), "800 kilobytes are more than the system keeps for us"
        expected = 0
        while expected < total:
            assert bell.wait(30)
            bell.clear()
            while (captured := live.poll(0)) is not None:
                assert captured.data[0, 0] == expected
                expected += 1
        writer.join(30)
        assert live.overrun == 0
    finally:
        live.close()


# ---- The clients of the documentation, as they are printed there.


def snippet(language: str) -> str:
    """Return the one example of that language."""
    _, _, rest = _DOCS.read_text("utf-8").partition(f"```{language}\n")
    return rest.partition("```")[0]


def test_the_python_client_of_the_documentation_works(
    tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    spec = Input(
        kind="tensor", shape=(3,), dtype="float32", tensor=TensorInput(channels=("x", "y", "z"))
    )
    reader = open_reader(spec)
    text = snippet("python").replace("/run/hedge/motion.sock", str(tmp_path / "in.sock"))
    client = subprocess.Popen([sys.executable, "-c", text])
    assert gather(reader, 2) == [0, 1]
    client.kill()
    client.wait()


@pytest.mark.parametrize("program", ["socat", "nc"])
def test_the_shell_client_of_the_documentation_works(
    program: str, tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    spec = Input(
        kind="tensor", shape=(3,), dtype="float32", tensor=TensorInput(channels=("x", "y", "z"))
    )
    reader = open_reader(spec)
    (line,) = [one for one in snippet("sh").splitlines() if f"| {program} " in one]
    line = line.replace("/run/hedge/motion.sock", str(tmp_path / "in.sock"))
    client = subprocess.Popen(["sh", "-c", line])
    assert gather(reader, 1) == [0.25]
    reader.close()
    client.wait(30)


def test_the_c_client_of_the_documentation_works(
    tmp_path: Path, open_reader: Callable[..., SocketReader]
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    spec = Input(
        kind="tensor", shape=(3,), dtype="float32", tensor=TensorInput(channels=("x", "y", "z"))
    )
    reader = open_reader(spec, format="tensor")
    text = snippet("c").replace("/run/hedge/motion.sock", str(tmp_path / "in.sock"))
    (tmp_path / "client.c").write_text(text)
    built = ["cc", "-Wall", "-Wextra", "-Werror", "-o", "client", "client.c"]
    subprocess.run(built, cwd=tmp_path, check=True)
    client = subprocess.Popen([tmp_path / "client"], env=dict(os.environ))
    assert gather(reader, 1) == [0.25]
    assert client.wait(30) == 0
