"""`hedge init`: what is found of a machine, and the configuration that is written for it."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import runpy
import signal
import struct
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import Struct, inspect

from hedge.models.errors import ConfigError, HedgeError
from hedge.models.toml import parse_toml, to_record
from hedge.runtime import init_command
from hedge.runtime.config import Config, load_config
from hedge.runtime.init.cameras import captures
from hedge.runtime.init.commented import toml_value
from hedge.runtime.init.hardware import Hardware, find_hardware, hardware_lines
from hedge.runtime.init.notes import note_of
from hedge.runtime.init_command import Initialised
from hedge.runtime.sources.options import (
    AudioSource,
    FolderSource,
    ImagesSource,
    MqttSource,
    ReplaySource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)

_SMALL = runpy.run_path(str(Path(__file__).with_name("small_bundles.py")))
COMMAND = """
import argparse, sys
from hedge.models.errors import HedgeError
from hedge.runtime import init_command
parser = argparse.ArgumentParser()
init_command.add_parser(parser.add_subparsers())
options = parser.parse_args(["init", *sys.argv[1:]])
try:
    sys.exit(options.run(options))
except HedgeError as error:
    sys.exit(f"hedge: {error}")
except KeyboardInterrupt:
    sys.exit(130)
"""
SECRET = "secret"  # noqa: S105 -- the name of a file
Init = Callable[..., int]


@pytest.fixture
def bundles(tmp_path: Path, linear_onnx: Callable[..., bytes]) -> Callable[[str], Path]:
    """Give `bundles(kind)`: a bundle of that kind of input."""

    def make(kind: str) -> Path:
        folder = tmp_path / f"{kind}-bundle"
        found: Path = _SMALL["small_bundle"](folder, _SMALL["INPUTS"][kind], linear_onnx)
        return found

    return make


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Init:
    """Give `init(*flags)`, called in `tmp_path`, of a machine that has nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine").mkdir()

    def run(*flags: object, root: Path = tmp_path / "machine") -> int:
        parser = argparse.ArgumentParser()
        init_command.add_parser(parser.add_subparsers())
        arguments = ["init", "--root", str(root), "--state-dir", "state", *map(str, flags)]
        options = parser.parse_args(arguments)
        code: int = options.run(options)
        return code

    return run


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root; what begins with -> is a link."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:])
        else:
            path.write_text(text)
    return root


def found_of(root: Path) -> Hardware:
    return find_hardware(root)


# ---- What is found of a machine.


def camera(node: str, name: str, *, index: int = 0) -> dict[str, str]:
    folder = f"sys/class/video4linux/{node}"
    return {f"{folder}/name": f"{name}\n", f"{folder}/index": f"{index}\n", f"dev/{node}": ""}


def test_a_usb_camera_is_known_by_the_name_that_stays_and_its_second_node_is_left_out(
    tmp_path: Path,
) -> None:
    root = plant(
        tmp_path,
        {
            **camera("video0", "HD Webcam C270"),
            **camera("video1", "HD Webcam C270", index=1),
            "dev/v4l/by-id/usb-046d_C270-video-index0": "->../../video0",
        },
    )
    (one,) = found_of(root).cameras
    assert one.name == "HD Webcam C270"
    assert one.url == "/dev/v4l/by-id/usb-046d_C270-video-index0"
    assert one.note is not None, "a plain file answers no ioctl"
    assert "does not answer" in one.note


def test_a_csi_camera_of_a_jetson_is_a_pipeline_by_its_number(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            **camera("video0", "vi-output, imx219 9-0010"),
            **camera("video1", "vi-output, imx219 10-0010"),
        },
    )
    pipelines = [one.pipeline for one in found_of(root).cameras]
    assert pipelines == [
        f"nvarguscamerasrc sensor-id={at} ! nvvidconv ! video/x-raw,format=I420" for at in (0, 1)
    ]


def test_a_raspberry_pi_has_one_camera_among_its_many_nodes(tmp_path: Path) -> None:
    nodes = ["rp1-cfe-csi2_ch0", "rp1-cfe-csi2_ch1", "rp1-cfe-fe_image0", "pispbe-input"]
    nodes += ["rpi-hevc-dec", "bcm2835-codec-decode", "bcm2835-isp-output0"]
    files: dict[str, str] = {}
    for number, name in enumerate(nodes):
        files |= camera(f"video{number}", name)
    (one,) = found_of(plant(tmp_path, files)).cameras
    assert one.pipeline is not None
    assert one.pipeline.startswith("libcamerasrc ")


@pytest.mark.parametrize(
    ("whole", "node", "expected"),
    [
        (0x85200001, 0x05200001, True),  # a UVC camera's first node
        (0x85200001, 0x04A00000, False),  # its second: metadata
        (0x84204000, 0x04204000, False),  # a codec: memory to memory
        (0x84201000, 0x04201000, True),  # several planes
        (0x05000001, 0x00000000, True),  # an old driver, which tells of the whole device only
        (0x85000002, 0x05000002, False),  # an output
    ],
)
def test_a_node_captures_where_its_own_capabilities_say_so(
    whole: int, node: int, *, expected: bool
) -> None:
    answer = struct.pack(
        "=16s32s32s6I", b"uvcvideo", b"C270", b"usb-1", 0x60100, whole, node, 0, 0, 0
    )
    assert captures(answer) is expected


def test_sound_cards_that_record_are_called_by_their_own_names(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/asound/cards": (
                " 0 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0\n"
                "                      vc4-hdmi-0\n"
                " 2 [Device         ]: USB-Audio - USB PnP Sound Device\n"
                "                      C-Media USB PnP Sound Device at usb-0000:01, full speed\n"
            ),
            "proc/asound/pcm": (
                "00-00: MAI PCM i2s-hifi-0 : MAI PCM i2s-hifi-0 : playback 1\n"
                "02-00: USB Audio : USB Audio : playback 1 : capture 1\n"
                "02-03: Line In : Line In : capture 1\n"
            ),
        },
    )
    cards = found_of(root).sound_cards
    assert [one.device for one in cards] == ["plughw:CARD=Device,DEV=0", "plughw:CARD=Device,DEV=3"]
    assert cards[0].name == "USB PnP Sound Device: USB Audio"


def test_serial_ports_are_those_that_something_is_plugged_into(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "dev/ttyUSB0": "",
            "dev/ttyACM0": "",
            "dev/tty7": "",
            "dev/ttyS0": "",
            "sys/class/tty/ttyTHS1/dev": "",
            "dev/serial/by-id/usb-Arduino_Uno_1234-if00": "->../../ttyACM0",
        },
    )
    ports = {one.port: one.name for one in found_of(root).serial_ports}
    assert ports == {
        "/dev/serial/by-id/usb-Arduino_Uno_1234-if00": "Arduino Uno 1234",
        "/dev/ttyUSB0": "ttyUSB0",
        "/dev/ttyTHS1": "ttyTHS1",
    }


def test_a_machine_that_has_nothing_is_said_to_have_nothing(tmp_path: Path) -> None:
    text = "\n".join(hardware_lines(found_of(tmp_path)))
    assert text.count("none") == 3
    assert "not known" in text


def test_a_camera_with_a_wicked_name_does_not_move_the_cursor(tmp_path: Path) -> None:
    root = plant(tmp_path, camera("video0", "cam\x1b[2J"))
    lines = list(hardware_lines(found_of(root)))
    assert all(line.isprintable() for line in lines)
    assert any(r"cam\x1b[2J" in line for line in lines)


def test_list_writes_nothing_but_the_list(
    init: Init, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plant(tmp_path / "full", camera("video0", "C270"))
    assert init("--list", "--json", "found.json", root=root) == 0
    assert "camera  C270: --url /dev/video0" in capsys.readouterr().out
    found = msgspec.json.decode((tmp_path / "found.json").read_bytes(), type=Initialised)
    assert [one.url for one in found.hardware.cameras] == ["/dev/video0"]
    assert not (tmp_path / "device.toml").exists()


# ---- Every key is explained, and its comment is true.


def _tables(kind: inspect.Type) -> Iterator[type[Struct]]:
    """Yield every table of a type, itself included."""
    match kind:
        case inspect.StructType():
            yield kind.cls
            for one in kind.fields:
                yield from _tables(one.type)
        case inspect.UnionType():
            for option in kind.types:
                yield from _tables(option)
        case inspect.VarTupleType():
            yield from _tables(kind.item_type)
        case inspect.Metadata():
            yield from _tables(kind.type)


def _is_table(kind: inspect.Type) -> bool:
    return any(True for _ in _tables(kind))


def test_every_key_of_every_table_is_explained() -> None:
    silent = [
        f"{table.__name__}.{one.name}"
        for table in _tables(inspect.type_info(Config))
        if table is not Config
        for info in [inspect.type_info(table)]
        if isinstance(info, inspect.StructType)
        for one in info.fields
        if not _is_table(one.type) and note_of(table, one.name) is None
    ]
    assert silent == []


def test_what_has_no_default_has_an_example() -> None:
    without = [
        f"{table.__name__}.{one.name}"
        for table in _tables(inspect.type_info(Config))
        for one in msgspec.structs.fields(table)
        for note in [note_of(table, one.name)]
        if note is not None and one.default in (None, ()) and note.example is None
    ]
    assert without == []


SOURCES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "replay": (
        "tensor",
        ("--path", "rows.npz", "--rate-hz", "2.5"),
        ReplaySource(path="rows.npz", rate_hz=2.5),
    ),
    "folder": ("tensor", ("--path", "samples"), FolderSource(path="samples")),
    "video": (
        "image",
        ("--url", "rtsp://me@porch/1", "--rate-hz", "5", "--source-password-file", SECRET),
        VideoSource(url="rtsp://me@porch/1", rate_hz=5.0, password_file=SECRET),
    ),
    "images": ("image", ("--path", "pictures"), ImagesSource(path="pictures")),
    "audio": ("audio", ("--path", "sound.wav"), AudioSource(path="sound.wav")),
    "serial": (
        "tensor",
        ("--port", "/dev/ttyUSB77", "--baud", "9600", "--fields", "ax, ay,az", "--format", "json"),
        SerialSource(port="/dev/ttyUSB77", baud=9600, fields=("ax", "ay", "az"), format="json"),
    ),
    "mqtt": ("tensor", ("--topic", "sensors/+/imu"), MqttSource(topic="sensors/+/imu")),
    "socket": (
        "text",
        ("--path", "lines.sock"),
        SocketSource(path="lines.sock", format="text"),
    ),
    "stdin": ("image", (), StdinSource(format="image")),
}
SINKS: dict[str, dict[str, object]] = {
    "jsonl": {"kind": "jsonl", "path": "outcomes.jsonl"},
    "jsonl=out put.jsonl": {"kind": "jsonl", "path": "out put.jsonl"},
    "terminal": {"kind": "terminal"},
    "mqtt": {"kind": "mqtt"},
    "sqlite=o.db": {"kind": "sqlite", "path": "o.db"},
    "http=9480": {"kind": "http", "listen": "9480"},
    "command=true {label} 'in two'": {"kind": "command", "argv": ["true", "{label}", "in two"]},
}


def _feed(folder: Path) -> None:
    """Put there what the sources of SOURCES name, as far as it can lie in a folder."""
    np.savez(folder / "rows.npz", X=np.ones((5, 4, 3), np.float32))
    for name in ("samples", "pictures"):
        (folder / name).mkdir()
    np.save(folder / "samples" / "a.npy", np.ones((4, 3), np.float32))
    (folder / SECRET).write_text("open sesame\n")
    (folder / SECRET).chmod(0o600)
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(-800, 800, dtype="<i2").tobytes())


@pytest.mark.parametrize("kind", SOURCES)
def test_each_source_is_written_as_it_was_asked_for_and_the_check_accepts_it(
    kind: str, init: Init, tmp_path: Path, bundles: Callable[[str], Path]
) -> None:
    _feed(tmp_path)
    takes, flags, expected = SOURCES[kind]
    bundle = bundles(takes)
    broker = ("--broker", "mqtt://127.0.0.1:1") if kind == "mqtt" else ()
    code = init(
        *("--name", "porch-7", "--site", "farm", "--bundle", bundle, "--source", kind),
        *(*flags, *broker, "--json", "done.json"),
    )
    assert code == 0
    config = load_config(tmp_path / "device.toml", environ={})
    assert (config.device.name, config.device.site) == ("porch-7", "farm")
    (stream,) = config.stream
    assert stream.source == expected
    assert stream.bundle == str(bundle)
    assert (config.uplink is not None) == bool(broker)
    done = msgspec.json.decode((tmp_path / "done.json").read_bytes(), type=Initialised)
    assert done.file == "device.toml"
    assert not [one for one in done.findings if one.level == "error"]
    assert [one for one in done.findings if one.area == "source"], "it was looked at"


@pytest.mark.parametrize("sink", SINKS)
def test_each_sink_is_written_as_it_was_asked_for(sink: str, init: Init, tmp_path: Path) -> None:
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", "--sink", sink)
    assert init(*flags, "--broker", "mqtt://127.0.0.1:1", "--unchecked") == 0
    (found,) = load_config(tmp_path / "device.toml", environ={}).sink
    told = msgspec.json.decode(msgspec.json.encode(found))
    assert {key: told[key] for key in SINKS[sink]} == SINKS[sink]


def test_all_sinks_at_once_are_accepted_by_the_check(init: Init, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((2, 64), np.uint8))
    sinks = [word for sink in SINKS for word in ("--sink", sink)]
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", *sinks)
    assert init(*flags, "--broker", "mqtt://127.0.0.1:1") == 0
    assert len(load_config(tmp_path / "device.toml", environ={}).sink) == len(SINKS)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_comment_could_be_a_key_as_it_stands(
    kind: str, init: Init, tmp_path: Path, bundles: Callable[[str], Path]
) -> None:
    takes, flags, _ = SOURCES[kind]
    sinks = [word for sink in SINKS if "=" in sink or sink == "mqtt" for word in ("--sink", sink)]
    flags = ("--name", "porch", "--source", kind, *flags, "--broker", "mqtt://h", *sinks)
    assert init("--bundle", bundles(takes), *flags, "--unchecked") == 0
    lines = (tmp_path / "device.toml").read_text().splitlines()
    off = [place for place, line in enumerate(lines) if re.match(r"#[a-z_]+ = ", line)]
    assert len(off) > 60
    for place in off:
        header = next(line for line in reversed(lines[:place]) if re.match(r"#?\[", line))
        changed = list(lines)
        changed[place] = lines[place][1:]
        if header.startswith("#"):
            changed = _with_table(changed, header)
        parsed = parse_toml("\n".join(changed).encode(), where="", error=ConfigError)
        to_record(parsed, Config, where=changed[place], error=ConfigError)


def _with_table(lines: list[str], header: str) -> list[str]:
    """Take up a table that is a comment, with all its keys, and the table it lies in."""
    begin = lines.index(header)
    if header == "#[stream.event.clip]":
        lines = _with_table(lines, "#[[stream.event]]")
    taken, inside = list(lines), True
    for place in range(begin, len(lines)):
        inside = place == begin or (inside and bool(re.match(r"#?[a-z_]+ = ", lines[place])))
        if inside:
            taken[place] = lines[place].removeprefix("#")
    return taken


def test_the_file_explains_every_line_and_holds_no_secret(init: Init, tmp_path: Path) -> None:
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", "--unchecked")
    assert init(*flags) == 0
    text = (tmp_path / "device.toml").read_text()
    keys = [line for line in text.splitlines() if re.match(r"#?[a-z_]+ = ", line)]
    assert all("  # " in line for line in keys if not line.startswith("kind = "))
    assert '#labels = ["0"]' in text, "the example is of this bundle"
    assert re.search(r'#pin = "[0-9a-f]{64}"', text)
    assert list(tmp_path.glob(".device.toml*")) == []


@pytest.mark.parametrize(
    "value",
    ["plain", 'quo"te\\', "new\nline", "\x7f\x1b", "äöü€😀", True, 3, 2.5, ["a", 1], {"k": "v"}],
)
def test_a_value_is_read_back_as_it_was_written(value: object) -> None:
    assert (
        parse_toml(f"x = {toml_value(value)}".encode(), where="", error=ConfigError)["x"] == value
    )


# ---- What is missing, or cannot be, is one line.


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--bundle: is missing"),
        (("--bundle", "nowhere"), "nowhere: "),
        (("--bundle", "digits"), "--source: is missing"),
        (("--bundle", "digits", "--source", "replay"), "--path: is missing"),
        (("--bundle", "digits", "--source", "camera"), "'camera' is no kind of source"),
        (("--bundle", "digits", "--source", "video"), "takes numbers, not a camera"),
        (("--bundle", "digits", "--source", "serial"), "no [input.tensor]"),
        (("--bundle", "digits", "--path", "x.npz", "--port", "p"), "--source: is missing"),
        (
            ("--bundle", "digits", "--source", "replay", "--path", "x.npz", "--port", "p"),
            "--port: is nothing for a source of kind replay",
        ),
        (("--bundle", "digits", "--path", "x.npz", "--name", "Porch"), "'Porch' is no name"),
        (("--bundle", "digits", "--path", "x.npz", "--broker", "host"), "not a broker's URL"),
        (("--bundle", "digits", "--path", "x.npz", "--broker", "mqtt://a:b@h"), "a password does"),
        (("--bundle", "digits", "--path", "x.npz", "--sink", "file"), "'file' is no kind of sink"),
        (("--bundle", "digits", "--path", "x.npz", "--sink", "mqtt"), "needs a broker"),
        (("--bundle", "digits", "--path", "x.npz", "--sink", "command="), "which program?"),
        (("--bundle", "digits", "--path", "x.npz", "--password-file", "p"), "for which broker?"),
        (("--bundle", "digits", "--path", "x.npz", "nowhere/device.toml"), "lies in none"),
    ],
)
def test_what_is_missing_or_cannot_be_is_refused_in_one_line(
    flags: tuple[str, ...], said: str, init: Init, tmp_path: Path
) -> None:
    with pytest.raises(HedgeError) as caught:
        init("--name", "porch", *flags) if "--name" not in flags else init(*flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["machine"]


def test_a_camera_s_password_does_not_get_into_the_file(
    init: Init, tmp_path: Path, bundles: Callable[[str], Path]
) -> None:
    bundle = bundles("image")
    with pytest.raises(ConfigError, match="--source-password-file"):
        init("--name", "porch", "--bundle", bundle, "--url", "rtsp://me:hush@porch/1")
    assert not (tmp_path / "device.toml").exists()


def test_a_file_that_is_there_stays_unless_it_is_forced(init: Init, tmp_path: Path) -> None:
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", "--unchecked")
    (tmp_path / "device.toml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        init(*flags)
    assert (tmp_path / "device.toml").read_text() == "mine"
    assert init(*flags, "--force") == 0
    assert load_config(tmp_path / "device.toml", environ={}).device.name == "porch"


def test_what_the_check_refuses_is_not_written(
    init: Init, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--name", "porch", "--bundle", "digits", "--path", "nowhere.npz")
    assert init(*flags) == 1
    said = capsys.readouterr()
    assert "error" in said.out
    assert "nowhere.npz" in said.out
    assert "nothing was written" in said.err
    assert not list(tmp_path.glob("*.toml"))
    assert not list(tmp_path.glob(".*"))
    assert init(*flags, "--unchecked") == 0


def test_paths_are_those_of_where_the_command_is_called(init: Init, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", "--unchecked")
    assert init("etc/porch.toml", *flags, "--sink", "jsonl=o.jsonl") == 0
    config = load_config(tmp_path / "etc" / "porch.toml", environ={})
    assert config.stream[0].source == ReplaySource(path=str(tmp_path / "rows.npz"))
    assert config.stream[0].bundle == "digits"
    assert config.device.state_dir == str(tmp_path / "state")


def test_the_only_camera_is_taken_and_of_two_one_has_to_be_named(
    init: Init, tmp_path: Path, bundles: Callable[[str], Path]
) -> None:
    bundle, flags = bundles("image"), ("--name", "porch", "--source", "video", "--unchecked")
    root = plant(tmp_path / "full", camera("video0", "vi-output, imx219 9-0010"))
    assert init("--bundle", bundle, *flags, root=root) == 0
    (stream,) = load_config(tmp_path / "device.toml", environ={}).stream
    assert isinstance(stream.source, VideoSource)
    assert stream.source.url is None
    assert str(stream.source.pipeline).startswith("nvarguscamerasrc sensor-id=0")
    plant(root, camera("video2", "C270"))
    with pytest.raises(ConfigError, match=r"--url: is missing.* /dev/video2"):
        init("--bundle", bundle, *flags, "--force", root=root)


# ---- On a terminal.


class Sitting:
    """Someone at a terminal before `hedge init`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "--root", str(folder / "machine"), *flags],
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def read_until(self, text: str) -> None:
        until_s = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < until_s, self.seen
            try:
                self.seen += os.read(self.terminal, 4096).decode()
            except OSError:
                pytest.fail(f"it ended before it said {text!r}: {self.seen}")

    def answer(self, question: str, answer: str) -> None:
        self.read_until(question)
        self.seen = self.seen.partition(question)[2]
        os.write(self.terminal, f"{answer}\n".encode())

    def end(self) -> int:
        with contextlib.suppress(OSError):
            while data := os.read(self.terminal, 4096):
                self.seen += data.decode()
        return self.process.wait(60)


@pytest.fixture
def sit(tmp_path: Path) -> Iterator[Callable[..., Sitting]]:
    """Give `sit(*flags)`: `hedge init` on a terminal, in `tmp_path`."""
    (tmp_path / "machine").mkdir()
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Sitting:
            one = Sitting(tmp_path, "--state-dir", "state", *flags)
            stack.callback(os.close, one.terminal)
            stack.callback(one.process.wait)
            stack.callback(one.process.kill)
            return one

        yield start


def test_what_the_flags_do_not_say_is_asked_for_until_it_can_be(
    sit: Callable[..., Sitting], tmp_path: Path, bundles: Callable[[str], Path]
) -> None:
    bundle = bundles("tensor")
    plant(tmp_path / "machine", {"dev/ttyUSB3": ""})
    user = sit()
    user.answer("The device's name", "Not A Name")
    user.answer("is no name", "")
    user.seen = ""
    user.process.poll()
    user.answer("The model, a bundle", "nowhere")
    user.answer("The model, a bundle", str(bundle))
    user.answer("Where samples come from", "1")  # serial, the first that suits
    user.answer("The serial port [/dev/ttyUSB3]", "")
    user.answer("The MQTT broker", "mqtt://127.0.0.1:1")
    user.answer("Where outcomes go", "jsonl, terminal")
    assert user.end() == 0, user.seen
    config = load_config(tmp_path / "device.toml", environ={})
    assert config.stream[0].source == SerialSource(port="/dev/ttyUSB3")
    assert config.uplink is not None
    assert len(config.sink) == 2


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_who_leaves_in_the_middle_leaves_nothing_behind(
    key: str, sit: Callable[..., Sitting], tmp_path: Path
) -> None:
    user = sit("--name", "porch")
    user.read_until("The model, a bundle")
    if key == "\x03":
        user.process.send_signal(signal.SIGINT)
    else:
        os.write(user.terminal, key.encode())
    assert user.end() == 130, user.seen
    assert sorted(one.name for one in tmp_path.iterdir()) == ["machine"]


def test_yes_asks_nothing_on_a_terminal(sit: Callable[..., Sitting], tmp_path: Path) -> None:
    flags = ("--name", "porch", "--bundle", "digits", "--path", "rows.npz", "--yes", "--unchecked")
    user = sit(*flags)
    assert user.end() == 0, user.seen
    assert (tmp_path / "device.toml").is_file()
