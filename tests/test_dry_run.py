"""`hedge run --dry`: the first samples of every kind of source, and what would become of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import runpy
import signal
import socket
import subprocess
import sys
import threading
import tty
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.errors import HedgeError
from hedge.models.manifest import Input
from hedge.runtime import run_command
from hedge.runtime.dry.dry_run import DryReport, DryStream
from hedge.runtime.dry.look import Facts, Look
from hedge.runtime.dry.oddities import oddities

_SMALL = runpy.run_path(str(Path(__file__).with_name("small_bundles.py")))
INPUTS: dict[str, Input] = _SMALL["INPUTS"]
MAIN = "import sys; from hedge.runtime.cli import main; sys.exit(main())"
TOML = """
[device]
name = "porch"
state_dir = "state"
[[stream]]
name = "eye"
bundle = "{bundle}"
[stream.source]
{source}
{more}
[[sink]]
kind = "jsonl"
path = "outcomes.jsonl"
"""
Device = Callable[..., Path]


@pytest.fixture
def device(tmp_path: Path, linear_onnx: Callable[..., bytes]) -> Device:
    """Give `device(kind, source, more=…)`: the configuration of one stream of that input."""

    def write(kind: str, source: str, *, more: str = "") -> Path:
        bundle = _SMALL["small_bundle"](tmp_path / f"{kind}-bundle", INPUTS[kind], linear_onnx)
        file = tmp_path / "device.toml"
        file.write_text(TOML.format(bundle=bundle, source=source, more=more))
        return file

    return write


class Dry:
    """One dry run: its exit code, its text and what it has seen of its first stream."""

    def __init__(self, code: int, text: str, report: DryReport) -> None:
        self.code = code
        self.text = text
        self.report = report

    @property
    def stream(self) -> DryStream:
        return self.report.streams[0]

    @property
    def files(self) -> list[str]:
        return [name for look in self.stream.samples for name in look.files]


@pytest.fixture
def dry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Dry]:
    """Give `dry(config, *flags)`; the samples are shown in the folder `seen`."""

    def run(config: Path, *flags: str) -> Dry:
        place = tmp_path / "dry.json"
        parser = argparse.ArgumentParser()
        run_command.add_parser(parser.add_subparsers())
        given = ["--folder", str(tmp_path / "seen"), "--json", str(place), *flags]
        options = parser.parse_args(["run", str(config), "--dry", *given])
        code = options.run(options)
        text = capsys.readouterr().out
        return Dry(code, text, msgspec.json.decode(place.read_bytes(), type=DryReport))

    return run


@contextlib.contextmanager
def feeding(feed: Callable[[], object]) -> Iterator[None]:
    """Call ``feed`` again and again, meanwhile, in a thread."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(OSError):
                feed()

    thread = threading.Thread(target=run, name="feeder")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---- Every kind of source.


def test_a_picture_is_shown_as_it_came_and_as_the_model_sees_it(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads pictures")
    (tmp_path / "pictures").mkdir()
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, :320, 0] = 200
    image.fromarray(picture).save(tmp_path / "pictures" / "a.png")
    found = dry(device("image", 'kind = "images"\npath = "pictures"'), "--samples", "1")
    assert found.code == 0, found.text
    assert found.files == ["eye-001.png", "eye-001-captured.png"]
    with image.open(tmp_path / "seen" / "eye-001.png") as seen:
        assert seen.size == (16, 12)
        assert seen.getpixel((0, 0)) == (200, 0, 0)
        assert seen.getpixel((15, 11)) == (0, 0, 0)
    with image.open(tmp_path / "seen" / "eye-001-captured.png") as seen:
        assert seen.size == (320, 240)


def test_a_film_is_looked_into(device: Device, dry: Callable[..., Dry], tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV reads films")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for step in range(5):
            picture = np.full((48, 64, 3), 40 * step, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    found = dry(device("image", 'kind = "video"\nurl = "film.mp4"'), "--samples", "3")
    assert found.code == 0, found.text
    assert [one.number for one in found.stream.samples] == [1, 2, 3]
    assert len(found.files) == 6
    assert all(one.preprocess_ms is not None for one in found.stream.samples)


def test_a_window_of_sound_can_be_listened_to(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="PyAV reads sound files")
    sound = (np.sin(np.arange(2400) / 5) * 9000).astype("<i2")
    write_wav(tmp_path / "sound.wav", sound)
    found = dry(device("audio", 'kind = "audio"\npath = "sound.wav"'), "--samples", "2")
    assert found.code == 0, found.text
    assert found.files == ["eye-001.wav", "eye-002.wav"]
    with wave.open(str(tmp_path / "seen" / "eye-002.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 800)
        kept = np.frombuffer(file.readframes(800), "<i2")
    np.testing.assert_array_equal(kept, sound[800:1600])


def write_wav(path: Path, sound: np.ndarray[tuple[int], np.dtype[np.int16]]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(sound.tobytes())


def test_lines_of_a_serial_port_are_shown_as_windows(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    pytest.importorskip("serial", reason="pyserial reads serial ports")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        config = device("tensor", f'kind = "serial"\nport = "{os.ttyname(theirs)}"')
        with feeding(lambda: os.write(ours, b"1.5,-2,30\n" * 4)):
            found = dry(config, "--samples", "2")
    finally:
        os.close(ours)
        os.close(theirs)
    assert found.code == 0, found.text
    table = (tmp_path / "seen" / "eye-001.csv").read_text().splitlines()
    assert table == ["x,y,z", *["1.5,-2,30"] * 4]


def test_messages_of_a_topic_are_shown(
    device: Device,
    dry: Callable[..., Dry],
    start_broker: Callable[..., object],
    free_port: int,
) -> None:
    start_broker("mosquitto", free_port)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", free_port)
    client.loop_start()
    source = 'kind = "mqtt"\ntopic = "sensors/imu"'
    uplink = f'[uplink]\nbroker = "mqtt://127.0.0.1:{free_port}"'
    rows = b"[[1,2,3],[4,5,6],[7,8,9],[10,11,12]]"
    try:
        with feeding(lambda: client.publish("sensors/imu", rows)):
            found = dry(device("tensor", source, more=uplink), "--samples", "1")
    finally:
        client.disconnect()
        client.loop_stop()
    assert found.code == 0, found.text
    assert "no [uplink]" not in found.text


def test_lines_over_a_socket_are_shown(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    def feed() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "lines.sock"))
            client.sendall(b"a good day\n")

    source = 'kind = "socket"\npath = "lines.sock"\nformat = "text"'
    with feeding(feed):
        found = dry(device("text", source), "--samples", "2")
    assert found.code == 0, found.text
    assert [one.text for one in found.stream.samples] == ["a good day"] * 2
    assert "a good day" in found.text
    assert found.files == []


def test_lines_of_standard_input_are_shown_until_they_end(device: Device, tmp_path: Path) -> None:
    config = device("text", 'kind = "stdin"\nformat = "text"')
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "run", "--dry", str(config)],
        input=b"good\nbad day\n",
        capture_output=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done
    assert b"  bad day" in done.stdout
    assert b"eye: 2 samples" in done.stdout


def test_ready_samples_are_shown_as_they_are(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    rows = np.arange(36, dtype=np.float32).reshape(3, 4, 3)
    np.savez(tmp_path / "rows.npz", X=rows)
    found = dry(device("tensor", 'kind = "replay"\npath = "rows.npz"'))
    assert found.code == 0, found.text
    assert len(found.stream.samples) == 3, "the source has ended"
    kept = np.loadtxt(tmp_path / "seen" / "eye-002.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(kept, rows[1])


# ---- What is told of a sample.


def test_what_the_policy_would_do_is_told_with_its_reason_and_its_limit(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    rows = np.zeros((2, 4, 3), np.float32)
    rows[1] = 30.0
    np.savez(tmp_path / "rows.npz", X=rows)
    found = dry(device("tensor", 'kind = "replay"\npath = "rows.npz"'))
    unsure, sure = found.stream.samples
    assert (unsure.would, unsure.why) == ("ask", "score")
    assert unsure.probability == pytest.approx(1 / 3), "all logits are 0"
    assert (sure.would, sure.why) == ("answer", "sure")
    assert sure.score is not None
    assert sure.threshold == 0.4
    assert sure.score < 0.4 <= (unsure.score or 0)
    assert "no [uplink]: what it would ask, it would answer itself" in found.text


def test_a_dry_run_leaves_nothing_but_what_it_shows(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((2, 4, 3), np.float32))
    config = device("tensor", 'kind = "replay"\npath = "rows.npz"')
    before = {one.name for one in tmp_path.iterdir()}
    assert dry(config, "--samples", "1").code == 0
    assert {one.name for one in tmp_path.iterdir()} == before | {"dry.json", "seen"}
    assert [one.name for one in (tmp_path / "seen").iterdir()] == ["eye-001.csv"]


def test_a_sample_that_is_no_good_fails_in_its_row_and_the_next_is_shown(
    device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples" / "a.npy", np.zeros((2, 2), np.float32))
    np.save(tmp_path / "samples" / "b.npy", np.ones((4, 3), np.float32))
    found = dry(device("tensor", 'kind = "folder"\npath = "samples"'))
    assert [one.would == "fail" for one in found.stream.samples] == [True, False]
    assert "failed: eye: a sample of shape (2, 2)" in found.text
    assert found.stream.warnings[0].startswith("1 of 2 failed")


# ---- What is not there, and when it ends.


def test_a_stream_that_gives_nothing_is_an_error_that_says_why(
    device: Device, dry: Callable[..., Dry]
) -> None:
    pytest.importorskip("serial", reason="pyserial reads serial ports")
    config = device("tensor", 'kind = "serial"\nport = "/dev/ttyNOWHERE7"')
    found = dry(config, "--for", "0.5")
    assert found.code == 1
    assert "eye: not there: /dev/ttyNOWHERE7: cannot be opened" in found.text
    assert "eye: gave nothing: /dev/ttyNOWHERE7" in found.text
    assert found.text.count("eye: not there") == 1, "said once"


def test_a_silent_source_ends_with_the_time(device: Device, dry: Callable[..., Dry]) -> None:
    found = dry(device("text", 'kind = "socket"\npath = "s"\nformat = "text"'), "--for", "0.3")
    assert found.code == 1
    assert "eye: gave nothing: nothing came in 0.3 s" in found.text


def test_ctrl_c_ends_it_with_what_was_seen(device: Device, tmp_path: Path) -> None:
    config = device("text", 'kind = "stdin"\nformat = "text"')
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "--dry", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"good\n")
        process.stdin.flush()
        seen = b""
        while b"  good" not in seen:
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert b"eye: 1 samples" in rest


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--samples", "0"), "--samples"),
        (("--for", "0"), "--for"),
        (("--for", "nan"), "--for"),
        (("--folder", "/dev/null/x"), "/dev/null/x"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(
    flags: tuple[str, ...], said: str, device: Device, dry: Callable[..., Dry], tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((2, 4, 3), np.float32))
    with pytest.raises(HedgeError, match=said):
        dry(device("tensor", 'kind = "replay"\npath = "rows.npz"'), *flags)


def test_a_bundle_that_does_not_say_how_is_refused(
    tmp_path: Path, device: Device, dry: Callable[..., Dry]
) -> None:
    config = device("tensor", 'kind = "stdin"')
    config.write_text(config.read_text().replace(str(tmp_path / "tensor-bundle"), "digits"))
    with pytest.raises(HedgeError, match=r"no \[input.tensor\]"):
        dry(config)


# ---- What looks wrong.


def look(number: int, *, label: str | None = "walk", would: str = "answer") -> Look:
    return msgspec.convert(
        {"number": number, "at_s": 0.0, "would": would, "why": "sure", "label": label}, Look
    )


def facts(**changed: object) -> Facts:
    given = {"digest": os.urandom(4), "finite": True, "low": 10.0, "high": 200.0, "mean": 90.0}
    return Facts(**{**given, **changed})  # type: ignore[arg-type]  # what Facts has


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("image", {"low": 7.0, "high": 7.0}, "is the lens covered?"),
        ("tensor", {"low": 7.0, "high": 7.0}, "is the sensor connected?"),
        ("image", {"digest": b"same"}, "does the source stand still?"),
        ("image", {"mean": 3.0}, "all but black"),
        ("image", {"mean": 250.0}, "all but white"),
        ("audio", {"peak": 0.00001, "low": 0.0, "high": 0.0}, "nothing but silence"),
        ("audio", {"peak": 1.0, "clipped": 0.05}, "up to 5% of a window is at full scale"),
        ("tensor", {"finite": False}, "hold NaN or Inf"),
        ("tensor", {"limits": 0.5}, "is it cut off there?"),
        ("tensor", {"largest": (1.0, 5000.0, 2.0)}, "y comes to 5e+03 after scaling"),
    ],
)
def test_what_looks_wrong_is_said_once(kind: str, changed: dict[str, object], said: str) -> None:
    found = list(
        oddities(
            [look(1), look(2, label="run"), look(3)],
            [facts(**changed) for _ in range(3)],
            INPUTS[kind],
            overrun=0,
        )
    )
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize("kind", ["image", "audio", "tensor", "text"])
def test_what_looks_right_is_not_complained_of(kind: str) -> None:
    looks = [look(1), look(2, label="run"), look(3, would="ask"), look(4), look(5)]
    found = oddities(looks, [facts(peak=0.3) for _ in looks], INPUTS[kind], overrun=0)
    assert list(found) == []


def test_the_same_answer_to_all_and_captures_that_gave_way_are_worth_a_look() -> None:
    looks = [look(number, would="ask") for number in range(5)]
    found = "\n".join(oddities(looks, [], INPUTS["text"], overrun=7))
    assert "all 5 are 'walk'" in found
    assert "every one would be asked" in found
    assert "7 captures gave way" in found
