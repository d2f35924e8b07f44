"""Recordings of power: written, read back, played; and files that are none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.telemetry.power.recording import (
    HEAD,
    MAX_BYTES,
    Recording,
    Row,
    read_recording,
    write_recording,
)
from hedge.telemetry.power.replay import ReplayReader, open_replay

RECORDED = Path(__file__).parent / "recorded" / "power" / "orin-nano-jetpack-6.2.csv"
GOOD = f"""{HEAD}
# board: jetson-agx-orin
# image: JetPack 6.2
# source: ina3221
# scope: module
# total: A,B
# negative: true
t_s,A,B,C
0,1.5,2.5,
1,-0.25,3,0.5
"""


class Clock:
    """Nanoseconds that a test moves on."""

    def __init__(self) -> None:
        self.now_ns = 123_456_789

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def played(clock: Clock) -> ReplayReader:
    """Give the recording, begun now."""
    return open_replay(RECORDED, clock=clock)


def at(reader: ReplayReader, clock: Clock, time_s: float) -> tuple[float | None, ...]:
    clock.now_ns = 123_456_789 + round(time_s * 1e9)
    return reader.read()


def test_it_plays_by_the_clock_the_row_that_was_the_last_by_then(
    played: ReplayReader, clock: Clock
) -> None:
    assert at(played, clock, 0.0) == (4.984, 0.718, 1.513)
    assert at(played, clock, 0.0999) == (4.984, 0.718, 1.513)
    assert at(played, clock, 0.1) == (5.024, 0.718, 1.513)
    assert at(played, clock, 0.1999) == (5.024, 0.718, 1.513)
    assert at(played, clock, 0.3501) == (7.216, 2.631, 1.672)
    assert at(played, clock, 0.0501) == (4.984, 0.718, 1.513)


def test_a_reading_that_failed_fails_again(played: ReplayReader, clock: Clock) -> None:
    assert at(played, clock, 0.55) == (7.694, None, 1.712)


def test_in_a_gap_of_the_recording_it_says_nothing(played: ReplayReader, clock: Clock) -> None:
    assert at(played, clock, 0.95) == (5.063, 0.757, 1.513)  # held for three usual steps
    assert at(played, clock, 1.05) == (None, None, None)
    assert at(played, clock, 1.55) == (5.024, 0.718, 1.513)


def test_after_its_end_it_begins_again(played: ReplayReader, clock: Clock) -> None:
    whole_s = 1.6 + 0.1  # the last row lasts as long as the others do
    for time_s in (0.05, 0.35, 0.55, 1.05, 1.65):
        assert at(played, clock, time_s + 3 * whole_s) == at(played, clock, time_s)


def test_it_says_that_it_is_replayed_and_of_what(played: ReplayReader) -> None:
    source = played.source
    assert source.replayed
    assert source.name == "ina3221 of jetson-orin-nano-nx, JetPack 6.2 (made up)"
    assert (source.kind, source.scope, source.total) == ("power", "module", ("VDD_IN",))
    assert (source.step, source.negative) == (0.04, False)
    assert source.fastest_hz == pytest.approx(10)


def test_a_closed_replay_says_nothing(played: ReplayReader) -> None:
    played.close()
    played.close()
    assert played.read() == (None, None, None)


def test_a_recording_that_begins_later_than_0_begins_at_once(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "late.csv").write_text(GOOD.replace("\n0,", "\n1000,").replace("\n1,", "\n1001,"))
    reader = open_replay(tmp_path / "late.csv", clock=clock)
    assert at(reader, clock, 0.5) == (1.5, 2.5, None)
    assert at(reader, clock, 1.5) == (-0.25, 3.0, 0.5)


def test_all_that_it_says_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(GOOD.replace("\n", "\r\n").encode())
    assert read_recording(tmp_path / "r.csv") == Recording(
        board="jetson-agx-orin",
        image="JetPack 6.2",
        source="ina3221",
        scope="module",
        rails=("A", "B", "C"),
        total=("A", "B"),
        negative=True,
        rows=((0.0, (1.5, 2.5, None)), (1.0, (-0.25, 3.0, 0.5))),
    )


powers = st.none() | st.floats(-50, 500).map(lambda value: float(f"{value:.6g}"))
labels = st.text("ABCXYZ_0189-", min_size=1, max_size=12)


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    rails = tuple(draw(st.lists(labels, min_size=1, max_size=5, unique=True)))
    steps = draw(st.lists(st.integers(1, 10**7), min_size=2, max_size=8))
    rows: list[Row] = [
        (sum(steps[: place + 1]) / 1e6, tuple(draw(powers) for _ in rails))
        for place in range(len(steps))
    ]
    return Recording(
        board="b-1",
        image="Debian 12",
        source="rapl",
        scope="package",
        rails=rails,
        total=rails[: draw(st.integers(1, len(rails)))],
        step=draw(st.none() | st.floats(1e-6, 10)),
        negative=draw(st.booleans()),
        note=draw(st.none() | st.just("by hand: #1, and so on")),
        rows=tuple(rows),
    )


@given(recording=recordings())
def test_what_is_written_is_read_back(
    recording: Recording, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    write_recording(path, recording)
    assert read_recording(path) == recording


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rails": ("A", "A,B")}, "a label stands twice"),
        ({"rails": ("A", "B\nC")}, "is not 't_s'|says nothing known|no later|not a later"),
        ({"rails": ("A", "A")}, "stands twice"),
        ({"rails": ("A", "")}, "no good"),
        ({"total": ("Z",)}, "'Z' is no rail"),
        ({"total": ()}, "a total has a scope"),
        ({"board": "x\n# note: y"}, "has line breaks or blanks around"),
        ({"image": "JetPack "}, "has line breaks or blanks around"),
        ({"image": ""}, "does not say its image"),
        ({"step": -1.0}, "is no step in watts"),
        ({"step": float("nan")}, "is no step in watts"),
        ({"rows": ((0.0, (1.0, 2.0)),)}, "fewer than two rows"),
        ({"rows": ((1.0, (1.0, 2.0)), (1.0, (1.0, 2.0)))}, "line .*: is not a later time"),
        ({"rows": ((0.0, (1.0, 2.0)), (1.0, (1.0,)))}, "line .*: is not a later time"),
        ({"rows": ((0.0, (1.0, 2.0)), (1.0, (1.0, float("inf"))))}, "'inf' is no power"),
        ({"rows": ((0.0, (1.0, 2.0)), (1.0, (1.0, 2e6)))}, "'2e.06' is no power"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, change: dict[str, object], what: str
) -> None:
    good = Recording(
        board="b",
        image="i",
        source="s",
        scope="board",
        rails=("A", "B"),
        total=("A",),
        rows=((0.0, (1.0, 2.0)), (1.0, (1.0, None))),
    )
    write_recording(tmp_path / "good.csv", good)
    with pytest.raises(ConfigError, match=what):
        write_recording(tmp_path / "bad.csv", msgspec.structs.replace(good, **change))
    assert not (tmp_path / "bad.csv").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    recording = read_recording(RECORDED)
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write_recording(tmp_path / "none" / "r.csv", recording)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (HEAD, "t_s,A", "is no power recording"),
        (HEAD, HEAD[:-1] + "2", "is no power recording"),
        ("# board: jetson-agx-orin\n", "", "does not say its board"),
        ("# total: A,B\n", "", "does not say its total"),
        ("# total: A,B\n", "# total: A,D\n", "line 8: the total's 'D' is no rail"),
        ("# scope: module", "# scope: house", "'house' is no scope"),
        ("# negative: true", "# negative: maybe", "line 7: '# negative: maybe' says nothing known"),
        ("# negative: true", "# colour: red", "line 7: '# colour: red' says nothing known"),
        ("# source: ina3221", "# board: twice", "line 4: '# board: twice' says nothing known"),
        ("t_s,A,B,C", "time,A,B,C", "line 8: is not 't_s' and the rails' labels"),
        ("t_s,A,B,C", "t_s,A,B," + "C" * 65, "a label that is no good"),
        ("t_s,A,B,C", "t_s,A,B," + ",".join(f"r{n}" for n in range(70)), "more than 64 rails"),
        ("0,1.5,2.5,\n", "0,1.5,2.5\n", "line 9: is not a later time and 3 values"),
        ("\n1,", "\n0,", "line 10: is not a later time and 3 values"),
        ("\n1,", "\nnan,", "line 10: is not a later time"),
        ("-0.25", "minus", "line 10: 'minus' is no power in watts"),
        ("-0.25", "nan", "line 10: 'nan' is no power in watts"),
        ("-0.25", "1e9", "line 10: '1e9' is no power in watts"),
        ("1,-0.25,3,0.5\n", "", "holds fewer than two rows"),
        ("t_s,A,B,C\n0,1.5,2.5,\n1,-0.25,3,0.5\n", "", "line 8: is not 't_s'"),
    ],
)
def test_a_file_that_is_wrong_says_what_and_where(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    assert old in GOOD
    (tmp_path / "r.csv").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"r.csv.*{what}"):
        read_recording(tmp_path / "r.csv")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"r\.csv: cannot be read: No such file"):
        read_recording(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match=r"is no UTF-8 text"):
        read_recording(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"is larger than"):
        read_recording(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("")
    with pytest.raises(ConfigError, match=r"is no power recording"):
        read_recording(tmp_path / "r.csv")


@given(data=st.binary(max_size=200), cut=st.integers(0, len(GOOD)))
def test_no_bytes_make_it_fail_in_another_way(
    data: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(GOOD.encode()[:cut] + data + GOOD.encode()[cut:])
    try:
        found = read_recording(path)
    except ConfigError:
        return
    assert len(found.rows) >= 2
    assert all(len(values) == len(found.rails) for _, values in found.rows)
