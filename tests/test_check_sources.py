"""`hedge check` of live sources, of what may leave the device, and of events."""

from __future__ import annotations

import contextlib
import os
import pty
import runpy
import socket
import threading
import tty
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.bundle import load_bundle
from hedge.models.manifest import Input
from hedge.runtime.checks.events import check_events
from hedge.runtime.checks.finding import Finding, guarded
from hedge.runtime.checks.privacy import check_privacy
from hedge.runtime.checks.sources import check_source
from hedge.runtime.config import load_config
from hedge.uplink.outbox.owner import lock

_SMALL = runpy.run_path(str(Path(__file__).with_name("small_bundles.py")))
INPUTS: dict[str, Input] = _SMALL["INPUTS"]
TOML = """
[device]
name = "porch"
state_dir = "state"
[[stream]]
name = "eye"
bundle = "{bundle}"
{stream}
[stream.source]
{source}
{more}
"""
PATIENCE_S = 30.0
Look = Callable[..., Finding]


@pytest.fixture
def looked(tmp_path: Path, linear_onnx: Callable[..., bytes]) -> Callable[..., list[Finding]]:
    """Give `looked(kind, source, area=…, stream=…, more=…, offline=…)`: the findings."""

    def run(
        kind: str,
        source: str,
        *,
        area: str = "source",
        stream: str = "",
        more: str = "",
        offline: bool = False,
    ) -> list[Finding]:
        path = tmp_path / f"{kind}-bundle"
        if not path.exists():
            _SMALL["small_bundle"](path, INPUTS[kind], linear_onnx)
        file = tmp_path / "device.toml"
        file.write_text(TOML.format(bundle=path, source=source, stream=stream, more=more))
        config, bundle = load_config(file, environ={}), load_bundle(path)
        (one,) = config.stream
        match area:
            case "source":
                found = check_source(one, bundle, config=config, base=tmp_path, offline=offline)
            case "privacy":
                found = check_privacy(one, bundle, config=config)
            case _:
                found = check_events(one, bundle.labels, config=config, base=tmp_path)
        with leaves_nothing_open():
            return list(guarded("source", "stream eye", found))

    return run


@pytest.fixture
def look(looked: Callable[..., list[Finding]]) -> Look:
    """Give `look(…)`: the only finding."""

    def run(kind: str, source: str, **options: object) -> Finding:
        found = looked(kind, source, **options)
        assert len(found) == 1, found
        return found[0]

    return run


@contextlib.contextmanager
def leaves_nothing_open() -> Iterator[None]:
    """Assert that no thread, process and file stays that was not there before."""
    process = psutil.Process()
    threads, children = set(threading.enumerate()), process.children()
    files = {(one.path, one.fd) for one in process.open_files()}
    yield
    for one in set(threading.enumerate()) - threads:
        one.join(PATIENCE_S)  # one that still dials gives up by itself
        assert not one.is_alive(), one
    assert process.children() == children
    assert {(one.path, one.fd) for one in process.open_files()} == files


def write_wav(path: Path, *, seconds: float = 1.0) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(int(8000 * seconds), "<i2").tobytes())


# ---- What is there.


def test_a_film_that_plays_is_fine_and_says_what_it_is(look: Look, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV reads films")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for step in range(5):
            picture = np.full((48, 64, 3), 40 * step, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    found = look("image", 'kind = "video"\nurl = "film.mp4"')
    assert found.level == "ok", found
    assert found.text == "pictures of 64x48; a sample is (12, 16, 3) uint8"


def test_a_folder_of_pictures_is_looked_into_and_keeps_them(look: Look, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads pictures")
    (tmp_path / "pictures").mkdir()
    source = 'kind = "images"\npath = "pictures"\nremove = true\nexisting = false'
    empty = look("image", source)
    assert (empty.level, empty.text) == ("ok", "pictures is watched; no picture lies there now")
    image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "pictures" / "a.png")
    found = look("image", source)
    assert found.level == "ok", found
    assert "pictures of 30x20" in found.text
    assert (tmp_path / "pictures" / "a.png").exists(), "a look removes nothing"


def test_a_sound_file_is_read_through_the_features(look: Look, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV reads sound files")
    write_wav(tmp_path / "sound.wav")
    found = look("audio", 'kind = "audio"\npath = "sound.wav"')
    assert found.level == "ok", found
    assert found.text == "sound, windows of 800 (0.1 s at 8000 Hz); a sample is (800,) float32"


def test_a_serial_port_tells_how_often_its_windows_come(look: Look) -> None:
    pytest.importorskip("serial", reason="pyserial reads serial ports")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    over = threading.Event()

    def feed() -> None:
        while not over.wait(0.02):
            os.write(ours, b"1,2,3\n")

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        found = look("tensor", f'kind = "serial"\nport = "{os.ttyname(theirs)}"')
    finally:
        over.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
    assert found.level == "ok", found
    assert found.text.startswith("windows of 4 rows of 3, ")
    assert "a second; a sample is (4, 3) float32" in found.text


@pytest.mark.parametrize("payload", [b"[[1,2,3],[1,2,3],[1,2,3],[1,2,3]]", b"garbage", None])
def test_a_topic_is_listened_to_at_the_broker(
    payload: bytes | None,
    look: Look,
    start_broker: Callable[..., object],
    free_port: int,
) -> None:
    start_broker("mosquitto", free_port)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", free_port)
    over = threading.Event()

    def feed() -> None:
        while not over.wait(0.02):
            client.publish("sensors/imu", payload) if payload else client.loop(0.01)
            client.loop(0.01)

    thread = threading.Thread(target=feed)
    thread.start()
    source = f'kind = "mqtt"\ntopic = "sensors/imu"\nbroker = "mqtt://127.0.0.1:{free_port}"'
    try:
        found = look("tensor", source)
    finally:
        over.set()
        thread.join()
        client.disconnect()
    if payload is None:
        assert (found.level, "nothing was sent" in found.text) == ("ok", True), found
    elif payload == b"garbage":
        assert found.level == "warning", found
        assert "sensors/imu" in str(found.where)
    else:
        assert found.level == "ok", found
        assert "windows of 4 rows of 3" in found.text


# ---- What is not there now is a warning; what can never be is an error.


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("tensor", 'kind = "serial"\nport = "/dev/ttyNOWHERE7"', "cannot be opened: No such file"),
        ("image", 'kind = "video"\nurl = "rtsp://127.0.0.1:1/door"', ""),
        ("image", 'kind = "video"\nurl = "/dev/video77"', ""),
        ("image", 'kind = "video"\nurl = "nowhere.mp4"', "No such file"),
        ("tensor", 'kind = "mqtt"\ntopic = "t"\nbroker = "mqtt://127.0.0.1:1"', "no broker"),
        ("audio", 'kind = "audio"\npath = "nowhere.wav"', "No such file"),
        (
            "tensor",
            'kind = "mqtt"\ntopic = "t"\nbroker = "mqtt://u@127.0.0.1:1"\npassword_file = "pw"',
            "the password cannot be read",
        ),
        (
            "image",
            'kind = "video"\nurl = "rtsp://u@127.0.0.1:1/x"\npassword_file = "pw"',
            "the password cannot be read",
        ),
    ],
)
def test_what_is_not_there_now_is_a_warning(kind: str, source: str, said: str, look: Look) -> None:
    for library in ("serial", "av"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    found = look(kind, source)
    assert found.level == "warning", found
    assert said in found.text


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("tensor", 'kind = "mqtt"\ntopic = "a/#/b"\nbroker = "mqtt://h"', "no topic filter"),
        ("tensor", 'kind = "mqtt"\ntopic = "t"', "no broker"),
        ("tensor", 'kind = "socket"\npath = "/proc/nowhere/s"', "/proc"),
        ("tensor", 'kind = "stdin"\nformat = "image"', ""),
    ],
)
def test_what_can_never_be_is_an_error(kind: str, source: str, said: str, look: Look) -> None:
    pytest.importorskip("av", reason="PyAV reads films and sound")
    found = look(kind, source)
    assert found.level == "error", found
    assert said in f"{found.where} {found.text} {found.todo}"


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("image", 'kind = "video"\nurl = "rtsp://me@127.0.0.1:1/door"'),
        ("tensor", 'kind = "mqtt"\ntopic = "t"\nbroker = "mqtt://127.0.0.1:1"'),
    ],
)
def test_offline_leaves_the_network_alone(kind: str, source: str, look: Look) -> None:
    pytest.importorskip("av", reason="PyAV reads films")
    found = look(kind, source, offline=True)
    assert found.level == "ok", found
    assert "not tried, as --offline asks" in found.text
    assert "me@" not in found.text


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("image", 'kind = "video"\nurl = "rtsp://u@127.0.0.1:1/x"\npassword_file = "pw"'),
        ("tensor", 'kind = "mqtt"\ntopic = "t"\nbroker = "mqtt://u@h"\npassword_file = "pw"'),
    ],
)
def test_a_password_that_cannot_be_read_is_told_offline_too(
    kind: str, source: str, looked: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="PyAV reads films")
    found = looked(kind, source, offline=True)
    assert [one.level for one in found] == ["warning", "ok"]
    assert f"{tmp_path}/pw cannot be read: No such file" in found[0].text


def test_a_folder_of_pictures_of_another_suffix_is_told(look: Look, tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="watchdog watches folders")
    (tmp_path / "in/folder").mkdir(parents=True)
    (tmp_path / "in/.hidden").touch()
    found = look("image", 'kind = "images"\npath = "in"')
    assert found.level == "ok"
    (tmp_path / "in/photo.heic").write_bytes(b"picture")
    found = look("image", 'kind = "images"\npath = "in"')
    assert found.level == "warning"
    assert "'photo.heic' there is passed over" in found.text
    assert ".jpeg .png .bmp .webp" in str(found.todo)


@pytest.mark.usefixtures("gstreamer")
def test_a_password_that_all_can_see_is_told(
    looked: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:  # so that none is tried
        listener.bind(str(tmp_path / "state" / "hedge.sock"))
        listener.listen()
        source = 'kind = "video"\npipeline = "rtspsrc user-id=u user-pw=secret location=x"'
        found = looked("image", source)
    assert [one.level for one in found] == ["warning", "ok"]
    assert "holds a password" in found[0].text
    assert "secret" not in str(found)


def test_standard_input_and_a_socket_are_left_alone(look: Look, tmp_path: Path) -> None:
    found = look("text", 'kind = "stdin"\nformat = "text"')
    assert (found.level, "when the device runs" in found.text) == ("ok", True)
    found = look("text", 'kind = "socket"\npath = "s"\nformat = "text"')
    assert (found.level, "when the device runs" in found.text) == ("ok", True)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("by", ["its outbox", "its socket"])
def test_a_port_that_a_running_device_reads_is_not_taken_from_it(
    by: str, look: Look, tmp_path: Path
) -> None:
    pytest.importorskip("serial", reason="pyserial reads serial ports")
    (tmp_path / "state").mkdir()
    with contextlib.ExitStack() as stack:
        if by == "its outbox":
            stack.callback(os.close, lock(tmp_path / "state" / "outbox"))
        else:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(tmp_path / "state" / "hedge.sock"))
            listener.listen()
        found = look("tensor", 'kind = "serial"\nport = "/dev/ttyNOWHERE7"')
    assert (found.level, found.text) == ("ok", "not tried: a running device is reading it")


def test_a_bundle_that_does_not_say_how_is_an_error(
    tmp_path: Path, linear_onnx: Callable[..., bytes], look: Look
) -> None:
    spec = Input(kind="tensor", shape=(4, 3), dtype="float32")
    _SMALL["small_bundle"](tmp_path / "tensor-bundle", spec, linear_onnx)
    found = look("tensor", 'kind = "stdin"')
    assert found.level == "error"
    assert "no [input.tensor]" in found.text


# ---- What may leave, and what is watched for.


def test_what_may_leave_the_device_is_said(look: Look) -> None:
    source, broker = 'kind = "stdin"\nformat = "image"', '[uplink]\nbroker = "mqtt://h"'
    private = '[stream.privacy]\nshare = "{}"\n' + broker
    assert look("image", source, area="privacy").text.startswith("no sample leaves the device: it")
    told = {
        share: look("image", source, area="privacy", more=private.format(share)).text
        for share in ("sample", "blurred", "nothing")
    }
    assert "as they are" in told["sample"]
    assert "blurred" in told["blurred"]
    assert "no sample may leave" in told["nothing"]


def test_a_picture_s_privacy_for_what_is_no_picture_is_an_error(look: Look) -> None:
    more = '[stream.privacy]\nshare = "blurred"\n[uplink]\nbroker = "mqtt://h"'
    found = look("tensor", 'kind = "stdin"', area="privacy", more=more)
    assert found.level == "error"
    assert "privacy.share" in str(found.where)


def test_the_rules_of_events_are_told_and_their_clips_have_room(
    looked: Callable[..., list[Finding]],
) -> None:
    source = 'kind = "video"\nurl = "rtsp://h/1"'
    rule = '[[stream.event]]\nname = "run"\nlabels = ["run"]\nk = 3\nn = 5'
    clip = f"{rule}\n[stream.event.clip]\nkeep_bytes = {{}}"
    (told,) = looked("image", source, area="event", more=rule)
    assert (told.level, told.text) == ("ok", "run: run in 3 of 5 samples")
    room = looked("image", source, area="event", more=clip.format(1 << 24))[-1]
    assert (room.level, "clips may take 16.8 MB" in room.text) == ("ok", True)
    room = looked("image", source, area="event", more=clip.format(1 << 43))[-1]
    assert (room.level, room.todo) == ("warning", "make room, or lower clip.keep_bytes")


def test_a_rule_that_can_never_be_met_is_an_error(look: Look) -> None:
    rule = '[[stream.event]]\nname = "run"\nlabels = ["rum"]'
    found = look("image", 'kind = "stdin"\nformat = "image"', area="event", more=rule)
    assert found.level == "error"
    assert "no label 'rum'" in found.text
