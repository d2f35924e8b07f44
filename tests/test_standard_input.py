"""Standard input: a pipe, a file, a terminal; and a whole run that is fed by one."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import ConfigError, DataError
from hedge.models.manifest import Input, TensorInput, TextInput
from hedge.runtime.shipped import bundle_path
from hedge.runtime.sources.options import StdinSource
from hedge.runtime.sources.standard_input import StdinReader

Eventually = Callable[[Callable[[], bool]], None]
PAIR = Input(
    kind="tensor",
    shape=(2,),
    dtype="float32",
    tensor=TensorInput(channels=("a", "b")),
)
TEXT = Input(kind="text", shape=(9,), dtype="int32", tokenizer="t", text=TextInput())


def gather(reader: StdinReader, count: int | None = None) -> list[Any]:
    """Read to the end, or until so much has come: rows, and what is said of the rest."""
    found: list[Any] = []
    until_s = time.monotonic() + 30
    while count is None or len(found) < count:
        assert time.monotonic() < until_s, found
        try:
            some = reader.read()
        except DataError as error:
            found.append(error.what)
            continue
        if some is None:
            return found
        found += [one.data.tolist() for one in some]
    return found


def piped(data: bytes, spec: Input = PAIR, **options: Any) -> list[Any]:  # noqa: ANN401
    """Return what a pipe gives that holds this and is closed."""
    out, into = os.pipe()
    try:
        os.write(into, data)
        os.close(into)
        reader = StdinReader(StdinSource(**options), spec, fd=out)
        reader.open()
        return gather(reader)
    finally:
        os.close(out)


def test_a_pipe_gives_its_lines_and_its_end_is_the_streams() -> None:
    assert piped(b"[1, 2]\noops\n\n[3, 4]") == [
        [[1, 2]],
        "no JSON: b'oops': JSON is malformed: invalid character (byte 0)",
        [[3, 4]],
    ]


def test_messages_after_their_lengths_may_be_cut_off_by_the_end() -> None:
    row = struct.pack("<I2f", 8, 1, 2)
    assert piped(row * 2 + row[:7], format="tensor") == [
        [[1, 2]],
        [[1, 2]],
        "the end comes after 7 bytes of a message that has more",
    ]


def test_lengths_that_make_no_sense_end_the_stream_in_words() -> None:
    row = struct.pack("<I2f", 8, 1, 2)
    (first, told) = piped(row + b"[1, 2]\n" + row, format="tensor", max_bytes=1000)
    assert first == [[1, 2]]
    assert told.startswith("a message of ")


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    with (tmp_path / "rows.csv").open("rb") as file:
        reader = StdinReader(StdinSource(format="csv"), PAIR, fd=file.fileno())
        reader.open()
        assert gather(reader) == [[[1, 2]], [[3, 4]]]
        assert reader.read() is None


def test_what_cannot_be_read_ends_the_stream_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert gather(StdinReader(StdinSource(format="csv"), PAIR, fd=fd)) == []
    finally:
        os.close(fd)
    assert "standard input: cannot be read: Is a directory; the stream ends" in caplog.text


def test_waiting_for_more_gives_nothing_and_does_not_end() -> None:
    out, into = os.pipe()
    reader = StdinReader(StdinSource(), PAIR, fd=out)
    reader.open()
    assert reader.read() == []
    os.write(into, b"[1,")
    assert reader.read() == []
    os.write(into, b" 2]\n")
    assert gather(reader, 1) == [[[1, 2]]]
    os.close(into)
    os.close(out)


def test_a_terminal_gives_what_is_typed_until_it_hangs_up() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    reader = StdinReader(StdinSource(format="text"), TEXT, fd=slave)
    reader.open()
    os.write(master, b"good\n")
    assert [bytes(one) for one in gather(reader, 1)] == [b"good"]
    os.close(master)
    assert gather(reader) == []
    os.close(slave)


_BEHIND = """
import fcntl, os, termios
from hedge.models.errors import SourceError
from hedge.models.manifest import Input, TextInput
from hedge.runtime.sources.options import StdinSource
from hedge.runtime.sources.standard_input import StdinReader

fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is ours
spec = Input(kind="text", shape=(9,), dtype="int32", tokenizer="t", text=TextInput())
reader = StdinReader(StdinSource(format="text"), spec)
if os.fork() == 0:
    os.setpgid(0, 0)  # a job of its own, which the terminal does not have in front
    try:
        reader.open()
    except SourceError as error:
        os.write(1, f"child: {error}\\n".encode())
    os._exit(0)
os.wait()
reader.open()
os.write(1, b"ready\\n")
while not (found := reader.read()):
    pass
os.write(1, b"read: " + found[0].data.tobytes() + b"\\n")
"""


def test_a_job_behind_another_leaves_the_terminal_alone() -> None:
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _BEHIND], stdin=slave, stdout=slave, start_new_session=True
    )
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"typed\n")
    while b"read: typed" not in seen:
        seen += os.read(master, 4096)
    assert b"child: standard input: is a terminal at which another job is in front" in seen
    assert child.wait(30) == 0
    os.close(master)
    os.close(slave)


def test_a_closed_standard_input_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdin__", None)
    with pytest.raises(ConfigError, match="standard input: is closed"):
        StdinReader(StdinSource(), PAIR)


# ---- A whole run.


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Give the bundle of digits, whose manifest also says how rows become samples."""
    shipped = load_bundle(bundle_path("digits", base=tmp_path))
    channels = tuple(f"pixel{place}" for place in range(64))
    spec = msgspec.structs.replace(
        shipped.input, layout=None, tensor=TensorInput(channels=channels)
    )
    files = {name: shipped.read(name) for name in shipped.files if name != "manifest.toml"}
    manifest = msgspec.structs.replace(shipped.manifest, input=spec)
    return write_bundle(tmp_path / "digits-live", manifest, files).path


def run(folder: Path, bundle: Path, form: str, data: bytes) -> tuple[list[dict[str, Any]], str]:
    """Serve one stream on standard input; return the outcomes and what was said."""
    (folder / "device.toml").write_text(
        f'[device]\nname = "d"\nstate_dir = "state"\n'
        f'[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
        f'[[stream]]\nname = "s"\nbundle = "{bundle}"\nfilter = false\n'
        f'source = {{ kind = "stdin", format = "{form}" }}\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "hedge", "run", "device.toml", "--json", "report.json"],
        cwd=folder,
        input=data,
        capture_output=True,
        check=True,
        timeout=100,
    )
    lines = (folder / "out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], done.stderr.decode()


@pytest.mark.parametrize("form", ["json", "tensor"])
def test_a_run_answers_every_row_that_is_piped_in(form: str, tmp_path: Path, digits: Path) -> None:
    unseen = load_dataset(Path(bundle_path("digits", base=tmp_path)).parent / "digits-unseen.npz")
    assert unseen.y is not None
    x, y = unseen.x[:60].reshape(60, 64).astype(np.uint8), unseen.y[:60]
    if form == "json":
        data = b"".join(json.dumps(row.tolist()).encode() + b"\n" for row in x) + b"garbage\n"
    else:
        data = b"".join(struct.pack("<I", 64) + row.tobytes() for row in x) + struct.pack("<I", 0)
    outcomes, said = run(tmp_path, digits, form, data)
    firsts = list({one["id"]: one for one in reversed(outcomes)}.values())[::-1]
    assert len(firsts) == 61
    assert firsts[-1]["route"] == "failed"
    assert "failed sample 1: standard input: " in said
    right = sum(int(one["label"]) == int(label) for one, label in zip(firsts, y, strict=False))
    assert right >= 54
    report = json.loads((tmp_path / "report.json").read_text())
    (stream,) = report["streams"]
    assert stream["read"] == 61
    assert stream["source"]["state"] == "ended"
    assert stream["latency_ms"]["preprocess"]["count"] == 60
