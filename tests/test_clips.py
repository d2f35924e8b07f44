"""Clips: what is kept of the time around an event, and for how long."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.records import Outcome
from hedge.runtime.events import events as events_module
from hedge.runtime.events.clip_files import remove_oldest
from hedge.runtime.events.clips import clip_needs
from hedge.runtime.events.event import Clip, Event
from hedge.runtime.events.events import Events, Watched
from hedge.runtime.events.options import ClipOptions, EventRule
from hedge.runtime.sources.audio.feed import Piece
from hedge.runtime.sources.audio.recording import SoundRecorder
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.source import Captured, Recorder

_S = 1_000_000_000
_LABELS = ("nobody", "person")
_WALL_S = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
_Eventually = Callable[[Callable[[], bool]], None]


class Tape:
    """A recorder that keeps the clock, a line of ten bytes every half second."""

    suffix = ".txt"

    def __init__(self) -> None:
        self._lines = deque[tuple[int, bytes]]()
        self.may_write = threading.Event()
        self.may_write.set()
        self.error: Exception | None = None

    def keep(self, *, seconds: float, max_bytes: int) -> None: ...

    def record(self, now_ns: int) -> None:
        self._lines.append((now_ns, b"%9.1f\n" % (now_ns / _S)))

    def save(self, path: Path, *, begin_ns: int, end_ns: int, max_bytes: int) -> bool:
        self.may_write.wait()
        if self.error is not None:
            path.write_bytes(b"half a cl")
            raise self.error
        lines = [line for at_ns, line in self._lines if begin_ns <= at_ns <= end_ns]
        if lines:
            path.write_bytes(b"".join(lines[: max_bytes // 10]))
        return bool(lines)


class Camera:
    """A source whose tape runs."""

    patient, overrun, ended = True, 0, False

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder

    def begin(self) -> None: ...

    def state(self) -> None:
        return None

    def due_ns(self) -> None:
        return None

    def poll(self, now_ns: int) -> Captured | None:
        del now_ns
        return None

    def close(self) -> None: ...


class House:
    """Events with clips, fed by hand; half a second passes with each answer."""

    def __init__(self, tmp_path: Path, *rules: EventRule, session: int = 7) -> None:
        self.now_ns = 100 * _S
        self.tape = Tape()
        self.told: list[Event] = []
        self.events = Events(
            state=tmp_path,
            session=session,
            clock=lambda: self.now_ns,
            wall=lambda: _WALL_S - 100 + self.now_ns / _S,
        )
        self._session, self._number = session, 0
        self.serve(*rules)

    def serve(self, *rules: EventRule, recorder: Recorder | None = None) -> None:
        source = Camera(recorder or self.tape)
        self.events.serve({"door": Watched(rules, _LABELS, source)}, [self])

    def emit(self, outcome: Outcome) -> None: ...

    def tell(self, event: Event) -> None:
        self.told.append(event)

    def close(self) -> None: ...

    def see(self, person: str) -> None:
        """See nobody (.) or a person (p), half a second each; nothing is answered at _."""
        for one in person:
            self.now_ns += _S // 2
            self.tape.record(self.now_ns)
            if one != "_":
                self.answer(person=one == "p", taken_at_ns=self.now_ns)
            self.events.feed(self.now_ns)

    def answer(self, *, person: bool, taken_at_ns: int) -> None:
        """Give the answer to one sample."""
        probs = np.array([not person, person], np.float32)
        sample_id, latency_ns = f"{self._session}-{self._number}", self.now_ns - taken_at_ns
        self._number += 1
        self.events.emit(
            Outcome(
                *("door", sample_id, "edge", int(person), probs, None, True),
                latency_ns=latency_ns,
                taken_at_ns=taken_at_ns,
            )
        )

    def clips(self) -> dict[str, Clip | None]:
        """Return what was told of clips by now, by the event's id; a moment passes."""
        self.now_ns += _S // 10
        self.events.feed(self.now_ns)
        return {one.id: one.clip for one in self.told if one.state == "clip"}


def _rule(**clip: Any) -> EventRule:  # noqa: ANN401 -- those of ClipOptions
    options = {"pre_s": 1.0, "post_s": 2.0, "max_s": 4.0, **clip}
    return EventRule(name="visit", labels=("person",), clip=ClipOptions(**options))


def _seconds(path: str | None) -> list[float]:
    assert path is not None
    return [float(line) - 100 for line in Path(path).read_text().split()]


def test_a_clip_begins_before_its_event_and_ends_after_it(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule())
    house.see(".....pp......")
    eventually(lambda: len(house.clips()) == 1)
    opened, closed, told = house.told
    assert opened.opened_at_s == _WALL_S + 3
    assert told.clip is not None
    assert _seconds(told.clip.path) == [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5]
    path = tmp_path / "clips" / "door" / "20231114T221323Z-visit-7-e0.txt"
    assert told.clip == Clip(path=str(path), bytes=80)
    assert (told.id, told.why, told.closed_at_s) == (opened.id, "quiet", closed.closed_at_s)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path], "nothing beside it"
    assert house.events.counters()["clips_kept"] == 1


def test_of_a_long_event_the_clip_is_there_before_its_end(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule())
    house.see("..pppppppppppppp")
    assert house.clips() == {}, "it goes on for two seconds after those that are kept"
    house.see("ppp")
    eventually(lambda: len(house.clips()) == 1)
    house.see(".")
    opened, kept, closed = house.told
    assert [one.state for one in house.told] == ["opened", "clip", "closed"]
    assert kept.clip is not None
    assert closed.clip == kept.clip
    seconds = _seconds(kept.clip.path)
    assert (seconds[0], seconds[-1]) == (0.5, 7.5)
    assert opened.clip is None


def test_an_event_that_ends_just_after_its_clips_part_does_not_stretch_it(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule())
    house.see("..ppppppppppp.....")
    eventually(lambda: len(house.clips()) == 1)
    clip = house.clips()["7-e0"]
    assert clip is not None
    assert _seconds(clip.path)[-1] == 7.5
    assert house.told[1].closed_at_s == _WALL_S + 6.5


def test_a_clip_is_cut_off_where_it_would_be_too_large(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule(max_bytes=1 << 12, pre_s=300.0))
    house.see("." * 500 + "p......")
    eventually(lambda: len(house.clips()) == 1)
    clip = house.clips()["7-e0"]
    assert clip is not None
    assert clip.bytes == 4090
    assert _seconds(clip.path)[0] == 0.5, "it has its beginning"


def test_events_that_overlap_have_a_clip_each(tmp_path: Path, eventually: _Eventually) -> None:
    alone = EventRule(name="nobody", labels=("nobody",), clip=ClipOptions(pre_s=0, post_s=0))
    house = House(tmp_path, _rule(), alone)
    house.see("pp..pp....______")
    eventually(lambda: len(house.clips()) == 3)
    house.see("p_")
    eventually(lambda: len(house.clips()) == 4)
    assert all(clip is not None and clip.path is not None for clip in house.clips().values())
    assert len(list((tmp_path / "clips" / "door").iterdir())) == 4
    second = next(one for one in house.told if one.state == "clip" and one.event == "nobody")
    assert second.clip is not None
    assert _seconds(second.clip.path) == [1.5, 2.0]


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path, eventually: _Eventually) -> None:
    house = House(tmp_path / "state", _rule(path=str(tmp_path / "elsewhere")))
    house.see("p......")
    eventually(lambda: len(house.clips()) == 1)
    assert len(list((tmp_path / "elsewhere" / "door").iterdir())) == 1


def test_what_a_recorder_must_keep_is_the_longest_clip_and_a_little_more() -> None:
    long = ClipOptions(pre_s=10, max_s=5, post_s=1, max_bytes=1 << 16)
    large = ClipOptions(pre_s=1, max_s=2, post_s=3, max_bytes=1 << 20)
    rules = [EventRule(name="e", labels=("a",), clip=clip) for clip in (None, long, large)]
    assert clip_needs(rules[:1]) is None
    assert clip_needs(rules) == (16 + 5, 2 << 20)


# ---- What cannot be kept


def _why(house: House, eventually: _Eventually) -> str:
    house.see("p......")
    eventually(lambda: len(house.clips()) == 1)
    clip = house.clips()["7-e0"]
    assert clip is not None
    assert (clip.path, clip.bytes) == (None, 0)
    assert house.events.counters()["clips_missed"] == 1
    return clip.why or ""


def test_a_folder_that_cannot_be_made_is_said_and_the_events_go_on(
    tmp_path: Path, eventually: _Eventually
) -> None:
    (tmp_path / "clips").write_text("no folder")
    house = House(tmp_path, _rule())
    assert _why(house, eventually) == "Not a directory"
    house.see("p")
    assert house.told[-1].state == "opened"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of its own that is full but for a page."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    (place / "other").write_bytes(bytes(60 << 10))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path, eventually: _Eventually) -> None:
    house = House(small_disk, _rule(pre_s=600.0))
    house.see("." * 1000)
    assert _why(house, eventually) == "No space left on device"
    assert list((small_disk / "clips" / "door").iterdir()) == []
    (small_disk / "other").unlink()
    house.see("p......")
    eventually(lambda: len(house.clips()) == 2)
    assert house.events.counters()["clips_kept"] == 1


def test_a_bug_of_a_recorder_costs_that_clip_only(tmp_path: Path, eventually: _Eventually) -> None:
    house = House(tmp_path, _rule())
    house.tape.error = ValueError("no such codec")
    assert "no such codec" in _why(house, eventually)
    assert list((tmp_path / "clips" / "door").iterdir()) == []
    house.tape.error = None
    house.see("p......")
    eventually(lambda: len(house.clips()) == 2)
    assert house.events.counters()["clips_kept"] == 1


def test_a_time_of_which_nothing_was_recorded_has_no_clip(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule())
    house.tape._lines = deque(maxlen=0)
    assert _why(house, eventually) == "nothing was recorded of that time"
    assert list((tmp_path / "clips" / "door").iterdir()) == []


def test_a_source_that_records_nothing_has_no_clips(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path)
    watched = Watched((_rule(),), _LABELS, Camera(None))
    house.events.serve({"door": watched}, [house])
    assert _why(house, eventually) == "its source keeps nothing"


def test_when_too_many_clips_wait_the_next_is_given_up(
    tmp_path: Path, eventually: _Eventually
) -> None:
    house = House(tmp_path, _rule(post_s=0.0))
    house.tape.may_write.clear()
    house.see("p." * 40 + "___")
    eventually(lambda: len(house.clips()) >= 40 - 17)
    house.tape.may_write.set()
    eventually(lambda: len(house.clips()) == 40)
    whys = [clip.why for clip in house.clips().values() if clip is not None]
    assert set(whys) == {None, "16 other clips wait to be written"}
    assert house.events.counters()["clips_kept"] in {16, 17}


def test_no_more_than_64_clips_are_under_way(tmp_path: Path, eventually: _Eventually) -> None:
    house = House(tmp_path, _rule(post_s=3600.0))
    house.see("p." * 70)
    eventually(lambda: len(house.clips()) == 70 - 64)
    clip = house.clips()["7-e64"]
    assert clip is not None
    assert clip.why == "64 others are under way"


# ---- When the device stops, or changes


def test_stopping_keeps_the_clip_of_what_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_GOODBYE_S", 60.0)  # it takes as long as it takes
    house = House(tmp_path, _rule())
    house.see("...pp")
    house.events.close()
    _, closed, told = house.told
    assert (closed.why, told.state) == ("stopped", "clip")
    assert told.clip is not None
    assert _seconds(told.clip.path) == [1.0, 1.5, 2.0, 2.5]
    house.events.close()
    assert len(house.told) == 3


def test_a_recorder_that_hangs_does_not_keep_the_device_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_GOODBYE_S", 0.05)
    house = House(tmp_path, _rule())
    house.tape.may_write.clear()
    house.see("p.p.")
    house.events.close()
    whys = {one.clip.why for one in house.told if one.clip is not None}
    assert whys == {"it was not written in time when the device stopped"}
    house.tape.may_write.set()


def test_a_source_that_a_reload_changes_leaves_the_clip_up_to_then(
    tmp_path: Path, eventually: _Eventually
) -> None:
    rule = _rule(post_s=600.0, max_s=600.0)
    house = House(tmp_path, rule)
    house.see("...pp")
    house.serve(rule, recorder=Tape())
    eventually(lambda: len(house.clips()) == 1)
    house.see("p.")
    assert [one.state for one in house.told] == ["opened", "clip", "closed"]
    closed = house.told[-1]
    assert closed.why == "quiet", "the event goes on"
    assert closed.clip is not None
    assert _seconds(closed.clip.path) == [1.0, 1.5, 2.0, 2.5]


def test_what_a_kill_has_left_half_written_is_removed_at_the_next_start(
    tmp_path: Path, eventually: _Eventually
) -> None:
    folder = tmp_path / "clips" / "door"
    folder.mkdir(parents=True)
    name = ".20231114T221323Z-visit-6-e0.txt"
    torn = [folder / one for one in (name, f"{name}.new", f".{name}.part")]
    other = folder / ".hidden"
    for path in (*torn, other):
        path.write_bytes(b"half")
    house = House(tmp_path, _rule())
    eventually(lambda: not any(path.exists() for path in torn))
    assert other.exists()
    house.events.close()


# ---- What goes, and what never does


def _clip(folder: Path, number: int, *, size: int, age_days: float, now_s: float) -> Path:
    path = folder / f"20231114T221323Z-visit-7-e{number}.mp4"
    path.write_bytes(bytes(size))
    os.utime(path, (0, now_s - age_days * 86_400))
    return path


def test_the_oldest_go_until_the_rest_is_small_and_young_enough(tmp_path: Path) -> None:
    now_s = time.time()
    sizes_and_ages = [(3000, 9.0), (1500, 0.5), (1000, 6.0), (2000, 1.0), (4000, 0.1)]
    paths = [
        _clip(tmp_path, number, size=size, age_days=age, now_s=now_s)
        for number, (size, age) in enumerate(sizes_and_ages)
    ]
    options = ClipOptions(keep_bytes=8000, keep_days=7)
    remove_oldest(tmp_path, options, now_s=now_s)
    assert [path.exists() for path in paths] == [False, True, False, True, True]
    remove_oldest(tmp_path, options, now_s=now_s)
    assert sum(path.exists() for path in paths) == 3


def test_the_clip_just_written_stays_though_the_clock_calls_it_old(tmp_path: Path) -> None:
    now_s = time.time()
    new, old = (
        _clip(tmp_path, number, size=6000, age_days=age, now_s=now_s)
        for number, age in enumerate((9000.0, 0.1))
    )
    options = ClipOptions(keep_bytes=8000, keep_days=7)
    remove_oldest(tmp_path, options, now_s=now_s, spared=new.name)
    assert (new.exists(), old.exists()) == (True, False)


def test_nothing_but_clips_is_ever_removed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "door", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    target = outside / "20231114T221323Z-visit-7-e1.mp4"
    names = [
        "notes.txt",
        "visit-7-e2.mp4",
        "20231114T221323Z-visit-7-e3.mp4.bak",
        "20231114T221323Z-visit-7-e4",
        "20231114T221323Z-Visit-7-e5.mp4",
    ]
    kept = [target, *(folder / name for name in names)]
    for path in kept:
        path.write_bytes(bytes(100))
        os.utime(path, (0, 0))
    (folder / target.name).symlink_to(target)
    os.utime(folder / target.name, (0, 0), follow_symlinks=False)
    (folder / "20231114T221323Z-visit-7-e6.mp4").mkdir()
    old = _clip(folder, 7, size=100, age_days=1000, now_s=time.time())
    remove_oldest(folder, ClipOptions(), now_s=time.time())
    assert not old.exists()
    assert all(path.exists() for path in kept)
    assert len(list(folder.iterdir())) == len(names) + 2


def test_clips_go_with_time_though_no_new_one_comes(
    tmp_path: Path, eventually: _Eventually
) -> None:
    folder = tmp_path / "clips" / "door"
    folder.mkdir(parents=True)
    old = _clip(folder, 0, size=10, age_days=8, now_s=_WALL_S)
    young = _clip(folder, 1, size=10, age_days=6, now_s=_WALL_S)
    house = House(tmp_path, _rule())
    eventually(lambda: not old.exists())
    assert young.exists()
    house.events.close()


def test_each_clip_makes_room_for_itself(tmp_path: Path, eventually: _Eventually) -> None:
    house = House(tmp_path, _rule(pre_s=150.0, keep_bytes=1 << 13, max_bytes=1 << 12))
    house.see("." * 300)
    folder = tmp_path / "clips" / "door"
    for number in range(4):
        house.see("p......")
        eventually(lambda number=number: len(house.clips()) == number + 1)  # type: ignore[misc]
        last = house.clips()[f"7-e{number}"]
        assert last is not None
        assert Path(str(last.path)).exists()
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1 << 13
    assert house.events.counters()["clips_kept"] == 4
    assert len(list(folder.iterdir())) == 2


def test_a_new_clip_is_not_the_one_to_go_though_the_clock_was_set_back(
    tmp_path: Path, eventually: _Eventually
) -> None:
    folder = tmp_path / "clips" / "door"
    folder.mkdir(parents=True)
    old = _clip(folder, 99, size=(1 << 13) - 10, age_days=-400, now_s=time.time())
    house = House(tmp_path, _rule(keep_bytes=1 << 13, max_bytes=1 << 12))
    house.see("p......")
    eventually(lambda: len(house.clips()) == 1)
    clip = house.clips()["7-e0"]
    assert clip is not None
    assert Path(str(clip.path)).exists()
    assert not old.exists()


# ---- Real recorders


def test_a_microphone_gives_a_clip_of_the_sound_before_and_after(
    tmp_path: Path, eventually: _Eventually
) -> None:
    recorder = SoundRecorder()
    rule = _rule()
    needs = clip_needs([rule])
    assert needs is not None
    recorder.keep(seconds=needs[0], max_bytes=needs[1])
    house = House(tmp_path)
    house.serve(rule, recorder=recorder)
    begun_ns, heard = house.now_ns, np.arange(8000, dtype=np.int16)  # each sample tells its time
    for at in range(0, 8000, 100):  # 10 s at 800 a second
        house.now_ns = begun_ns + (at + 100) * _S // 800
        recorder.add(Piece((heard[at : at + 100] / 32768).astype(np.float32), 800, house.now_ns))
        house.answer(person=2400 <= at < 4000, taken_at_ns=house.now_ns)
        house.events.feed(house.now_ns)
    eventually(lambda: len(house.clips()) == 1)
    clip = house.clips()["7-e0"]
    assert clip is not None
    with wave.open(str(clip.path), "rb") as sound:
        found = np.frombuffer(sound.readframes(10**6), "<i2")
        assert sound.getframerate() == 800
    assert (np.diff(found) == 1).all(), "nothing is missing"
    assert abs(found[0] - (2500 - 800)) <= 100, "a second before the first that opened it"
    assert abs(found[-1] - (4000 + 1600)) <= 100, "two after the last that held it"


@pytest.fixture
def film() -> Path:
    """Give a film of persons who come and go, ten pictures a second."""
    place = os.environ.get("HEDGE_DATA")
    if place is None:
        pytest.skip("HEDGE_DATA does not say where the films are")
    pytest.importorskip("av", reason="PyAV is not installed")
    return Path(place) / "video" / "one_by_one_person.mp4"


def _pictures(path: Path | str | None, most: int | None = None) -> list[NDArray[np.uint8]]:
    import av  # noqa: PLC0415 -- where it is installed

    with av.open(str(path)) as video:
        shown = itertools.islice(video.decode(video=0), most)
        return [frame.to_ndarray(format="rgb24") for frame in shown]


def _first_person(film: Path) -> tuple[int, int]:
    """Return from which picture to which there is one."""
    lines = (film.parent / "labels_intervals.tsv").read_text().splitlines()
    return next((int(a), int(b)) for name, a, b, *_ in map(str.split, lines) if name == film.name)


def test_a_film_gives_a_clip_of_a_person_and_of_what_was_before(
    film: Path, tmp_path: Path, eventually: _Eventually
) -> None:
    from hedge.runtime.sources.video.reader import VideoReader  # noqa: PLC0415 -- needs PyAV

    begin, end = _first_person(film)
    clip_options = ClipOptions(pre_s=2.05, post_s=2.05)
    rule = EventRule(name="person", labels=("person",), k=2, n=3, clip=clip_options)
    house = House(tmp_path)
    reader = VideoReader(VideoSource(url=str(film)), base=tmp_path, clock=lambda: house.now_ns)
    needs = clip_needs([rule])
    assert needs is not None
    reader.recorder.keep(seconds=needs[0], max_bytes=needs[1])
    house.serve(rule, recorder=reader.recorder)
    reader.open()
    number = 0
    while number < end + 40:
        house.now_ns += _S // 10
        for one in reader.read() or []:
            house.answer(person=begin <= number <= end, taken_at_ns=one.taken_at_ns)
            number += 1
        house.events.feed(house.now_ns)
    eventually(lambda: len(house.clips()) == 1)
    reader.close()
    clip = house.clips()["7-e0"]
    assert clip is not None
    assert house.told[0].samples == (f"7-{begin}", f"7-{begin + 1}")
    found, seen = _pictures(clip.path), _pictures(film, 2 * begin)
    first = (begin - 20) // 10 * 10  # the keyframe before: there is one a second
    assert len(found) == pytest.approx(end + 20 - first, abs=3)
    for at in (first, begin, 2 * begin - 1):
        assert (found[at - first] == seen[at]).all()
    assert clip.bytes == Path(str(clip.path)).stat().st_size
