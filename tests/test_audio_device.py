"""Sound from ALSA devices: alsa-lib's own, whose sound is a file's, as no card is needed.

An overrun cannot be caused without a card, so there a program stands in for `arecord` that says
what that says.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, SourceError
from hedge.models.manifest import AudioInput, Input
from hedge.runtime.sources.audio import alsa
from hedge.runtime.sources.audio.alsa import Arecord
from hedge.runtime.sources.audio.cutting import Cutter
from hedge.runtime.sources.audio.feed import Piece
from hedge.runtime.sources.audio.reader import AudioReader
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import AudioSource
from hedge.runtime.sources.source import Captured

Eventually = Callable[[Callable[[], bool]], None]
SYSTEM = Path("/usr/share/alsa/alsa.conf")
needs_alsa = pytest.mark.skipif(
    shutil.which("arecord") is None or not SYSTEM.exists(),
    reason="alsa-utils, whose arecord reads devices, is not installed",
)
CONFIGURATION = """
<{system}>
pcm.recording {{
    type file
    slave.pcm "null"
    file "/dev/null"
    infile "{sound}"
    format "raw"
}}
pcm.array {{
    type multi
    slaves.a {{ pcm "recording" channels 2 }}
    bindings.0 {{ slave a channel 0 }}
    bindings.1 {{ slave a channel 1 }}
}}
pcm.slow {{
    type share
    slave {{ pcm "recording" rate 44100 channels 1 format S16_LE }}
    bindings.0 0
}}
"""


def spec(samples: int = 800) -> Input:
    audio = AudioInput(sample_rate_hz=16000, samples=samples)
    return Input(kind="audio", shape=(samples,), dtype="float32", audio=audio)


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.int16]:
    """Give (400000, 2) of sound, which is what ALSA's devices record."""
    samples = np.random.default_rng(7).normal(0, 3000, (400_000, 2)).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(samples.tobytes())
    text = CONFIGURATION.format(system=SYSTEM, sound=tmp_path / "sound.raw")
    (tmp_path / "alsa.conf").write_text(text)
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "alsa.conf"))
    return samples


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give `program(script)`, which puts a shell script in the place of `arecord`."""

    def put(script: str) -> None:
        place = tmp_path / "bin"
        place.mkdir()
        file = place / "arecord"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")

    return put


def of(device: str, **options: object) -> AudioReader:
    source = msgspec.structs.replace(AudioSource(device=device), **options)
    return AudioReader(source, spec(), base=Path("/"))


def windows(reader: AudioReader, count: int) -> list[Captured]:
    found: list[Captured] = []
    try:
        reader.open()
        while len(found) < count:
            found += reader.read() or []
    finally:
        reader.close()
    return found[:count]


def child(reader: AudioReader) -> int:
    feed = reader._feed
    assert isinstance(feed, Arecord)
    assert feed._child is not None
    return feed._child.pid


@needs_alsa
def test_a_device_comes_in_windows_of_what_it_records(sound: NDArray[np.int16]) -> None:
    found = windows(of("recording", channels=2, channel=1), 20)
    heard = np.concatenate([one.data for one in found])
    np.testing.assert_array_equal(heard, sound[:16000, 1].astype(np.float32) / 32768)
    assert found[0].meta == {"sample_rate_hz": 16000}


@needs_alsa
def test_without_a_channel_the_mean_of_those_asked_for_is_heard(
    sound: NDArray[np.int16],
) -> None:
    (one,) = windows(of("recording", channels=2), 1)
    np.testing.assert_allclose(one.data, sound[:800].mean(axis=1) / 32768, atol=1e-7)


def test_the_time_of_a_window_is_that_of_its_last_sample() -> None:
    cutter = Cutter(
        AudioInput(sample_rate_hz=16000, samples=800), hop_s=0.025, evenly=True, meta={}
    )
    found = cutter.push(Piece(np.zeros(2000, np.float32), 16000, end_ns=1_000_000_000))
    assert [one.taken_at_ns for one in found] == [925_000_000, 950_000_000, 975_000_000, 10**9]


@needs_alsa
@pytest.mark.usefixtures("sound")
def test_as_many_channels_are_asked_for_as_the_one_that_is_heard_needs() -> None:
    windows(of("array", channel=1), 1)
    with pytest.raises(SourceError, match=r"array: Channels count non available; asked for 16000"):
        windows(of("array"), 1)


@needs_alsa
@pytest.mark.usefixtures("sound")
def test_what_a_device_refuses_and_offers_is_said_in_one_line() -> None:
    with pytest.raises(SourceError) as caught:
        windows(of("array", channels=3), 1)
    assert "and 3 channel(s) of 16 bits, it offers" in str(caught.value)
    assert "channels 2" in str(caught.value)
    assert "'plughw:'" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_alsa
@pytest.mark.usefixtures("sound")
def test_a_device_that_is_not_there_is_named_with_what_to_do() -> None:
    with pytest.raises(SourceError, match=r"^hw:77: audio open error: .*\(`arecord -L` lists"):
        windows(of("hw:77"), 1)


@needs_alsa
def test_a_device_that_goes_away_is_read_again_once_it_is_back(
    sound: NDArray[np.int16], eventually: Eventually
) -> None:
    reader = of("recording", channels=2, channel=0)
    source = Live(reader, name="mic", policy="every", buffer=2, ring=threading.Event().set)
    try:
        eventually(lambda: source.poll(0) is not None)
        os.kill(child(reader), signal.SIGKILL)
        taken: list[Captured] = []

        def back() -> bool:
            if (one := source.poll(0)) is not None:
                taken.append(one)
            return source.state().lost == 1 and begins(taken[-1:], sound)

        eventually(back)
    finally:
        source.close()


def begins(taken: list[Captured], sound: NDArray[np.int16]) -> bool:
    """Tell whether a window holds what the device gives first, so nothing of before."""
    return any(np.array_equal(one.data, sound[:800, 0] / np.float32(32768)) for one in taken)


@needs_alsa
@pytest.mark.usefixtures("sound")
def test_a_device_that_stalls_is_given_up_and_leaves_no_child() -> None:
    reader = of("recording", stall_s=0.3)
    reader.open()
    pid = child(reader)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(SourceError, match=r"^recording: no sound for 0\.3 s"):
        list(iter(reader.read, None))
    reader.close()
    reader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


SAYS = """
say() { echo "$1" >&2; }
pcm() { head -c "$1" /dev/zero | tr '\\000' "$2"; }
say 'RATE: [8000 48000]'
say 'Its setup is:'
say '  channels     : 1'
"""
SET_UP = SAYS + "say '  rate         : 16000'; say '  period_size  : 800'\n"


def test_behind_an_overrun_a_new_window_begins(
    program: Callable[[str], None], tmp_path: Path
) -> None:
    program(
        f"await() {{ until [ -e {tmp_path}/$1 ]; do sleep 0.02; done; }}\n{SET_UP}"
        "pcm 4000 '\\001'; await heard; say 'overrun!!! (at least 12.000 ms long)'\n"
        "await told; pcm 1600 '\\002'; pcm 3200 '\\003'; exec sleep 60"
    )
    reader = of("card")
    feed = reader._feed
    assert isinstance(feed, Arecord)
    found: list[Captured] = []
    try:
        reader.open()
        while len(found) < 2:
            found += reader.read() or []
        (tmp_path / "heard").touch()
        while not feed.overruns:
            found += reader.read() or []
        (tmp_path / "told").touch()
        while len(found) < 4:
            found += reader.read() or []
    finally:
        reader.close()
    values = [np.unique(one.data * 32768).tolist() for one in found]
    assert values == [[0x0101], [0x0101], [0x0303], [0x0303]], "nor is the mixed period heard"
    assert feed.overruns == 1


def test_a_rate_that_was_not_asked_for_is_taken_unless_the_configuration_names_one(
    program: Callable[[str], None],
) -> None:
    program(
        SAYS
        + "say '  rate         : 44100'; say '  period_size  : 2205'\n"
        + "pcm 9000 '\\001'; exec sleep 60"
    )
    (one,) = windows(of("card"), 1)
    assert one.meta == {"sample_rate_hz": 44100}
    assert one.data.shape == (2205,)
    with pytest.raises(SourceError, match=r"at 44100 Hz, not at 16000 Hz, it offers rate \[8000"):
        windows(of("card", sample_rate_hz=16000), 1)


def test_a_device_that_does_not_open_is_given_up(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("exec sleep 60")
    monkeypatch.setattr(alsa, "_OPEN_NS", 300_000_000)
    reader = of("card")
    with pytest.raises(SourceError, match="card: the device does not open"):
        windows(reader, 1)


def test_what_a_driver_says_is_bounded(program: Callable[[str], None]) -> None:
    program(
        "head -c 3000000 /dev/zero | tr '\\000' x >&2; yes 'arecord: main:1: very noisy' | "
        "head -n 100000 >&2; exit 1"
    )
    with pytest.raises(SourceError, match=r"^card: very noisy$"):
        windows(of("card"), 1)


def test_without_arecord_the_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"source\.device: the program arecord.*alsa-utils"):
        of("default")


def test_a_channel_beyond_those_asked_for_is_refused(program: Callable[[str], None]) -> None:
    program("exit 1")
    with pytest.raises(ConfigError, match=r"source\.channel: 2 of only 2"):
        of("default", channels=2, channel=2)
