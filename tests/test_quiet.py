"""Quiet hours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.uplink.link.quiet import QuietHours

HOUR_S, DAY_S = 3600, 86_400


def utc(_: float) -> int:
    """Have no offset."""
    return 0


def zone(name: str) -> Callable[[float], int]:
    """Return the offset of a zone of the system's data base."""
    try:
        info = ZoneInfo(name)
    except ZoneInfoNotFoundError:
        pytest.skip("the system knows no time zones")

    def offset_s(wall_s: float) -> int:
        offset = datetime.fromtimestamp(wall_s, info).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    return offset_s


def at(text: str) -> int:
    """Return the moment of a UTC time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())


def next_change(quiet: QuietHours, moment: int) -> int | None:
    """Return the next minute in which it is otherwise, within four days."""
    first = quiet.is_quiet(moment)
    minutes = range(moment - moment % 60 + 60, moment + 4 * DAY_S, 60)
    return next((minute for minute in minutes if quiet.is_quiet(minute) != first), None)


def test_a_window_over_midnight_is_quiet_on_both_sides_of_it() -> None:
    quiet = QuietHours(["22:00-06:00"], offset_s=utc)
    found = {text: quiet.is_quiet(at(f"2026-03-10T{text}")) for text in ("21:59:59", "22:00:00")}
    assert found == {"21:59:59": False, "22:00:00": True}
    assert quiet.is_quiet(at("2026-03-10T00:00"))
    assert quiet.is_quiet(at("2026-03-10T05:59:59") + 0.9)
    assert not quiet.is_quiet(at("2026-03-10T06:00"))


def test_the_next_change_is_the_next_end_or_begin_of_a_window() -> None:
    quiet = QuietHours(["22:00-06:00", "12:00-12:30"], offset_s=utc)
    changes, moment = [], at("2026-03-10T07:15:30")
    for _ in range(4):
        change = next_change(quiet, moment)
        assert change is not None
        changes.append(change)
        moment = change
    assert changes == [
        at("2026-03-10T12:00"),
        at("2026-03-10T12:30"),
        at("2026-03-10T22:00"),
        at("2026-03-11T06:00"),
    ]


def test_windows_that_meet_or_overlap_are_one() -> None:
    quiet = QuietHours(["20:00-22:00", "22:00-24:00", "23:00-01:00"], offset_s=utc)
    assert next_change(quiet, at("2026-03-10T20:00")) == at("2026-03-11T01:00")


def test_24_00_ends_a_day() -> None:
    quiet = QuietHours(["18:00-24:00"], offset_s=utc)
    assert quiet.is_quiet(at("2026-03-10T23:59:59"))
    assert not quiet.is_quiet(at("2026-03-11T00:00"))
    assert next_change(quiet, at("2026-03-10T20:00")) == at("2026-03-11T00:00")
    assert QuietHours(["18:00-00:00"], offset_s=utc).is_quiet(at("2026-03-10T23:59:59"))


def test_without_windows_it_is_never_quiet_and_with_the_whole_day_always() -> None:
    moment = at("2026-03-10T20:00")
    assert not QuietHours([], offset_s=utc).is_quiet(moment)
    for always in (["00:00-24:00"], ["00:00-12:00", "12:00-24:00"]):
        assert next_change(QuietHours(always, offset_s=utc), moment) is None
        assert QuietHours(always, offset_s=utc).is_quiet(moment)


@pytest.mark.parametrize(
    "text",
    [
        *("", "22-06", "22:00", "22:00-25:00", "24:00-06:00", "22:60-06:00", "22:00-24:01"),
        *("a:b-c:d", "-1:00-06:00", "22:00\u201306:00", "22:00-06:00x", "8:00-9:00"),
        "\u0662\u0662:00-06:00",
    ],
)
def test_what_is_no_time_of_the_day_is_refused_by_its_key(text: str) -> None:
    with pytest.raises(ConfigError, match="no time of the day") as refused:
        QuietHours(["01:00-02:00", text], where="uplink.quiet")
    assert refused.value.where == "uplink.quiet[1]"


@pytest.mark.parametrize("text", ["22:00-22:00", "00:00-00:00"])
def test_an_empty_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        QuietHours([text])


def test_summer_time_takes_an_hour_from_a_night() -> None:
    quiet = QuietHours(["22:00-06:00"], offset_s=zone("Europe/Berlin"))
    begin = at("2026-03-28T21:00")  # 22:00 at UTC+1
    assert not quiet.is_quiet(begin - 1)
    assert quiet.is_quiet(begin)
    assert next_change(quiet, begin) == begin + 7 * HOUR_S
    assert next_change(quiet, at("2026-10-24T20:00")) == at("2026-10-24T20:00") + 9 * HOUR_S


def test_a_window_in_the_hour_that_is_left_out_does_not_happen_that_day() -> None:
    quiet = QuietHours(["02:00-03:00"], offset_s=zone("Europe/Berlin"))
    assert next_change(quiet, at("2026-03-28T02:00")) == at("2026-03-30T00:00")


def test_a_window_in_the_hour_that_comes_twice_happens_twice() -> None:
    quiet = QuietHours(["02:00-02:30"], offset_s=zone("Europe/Berlin"))
    changes, moment = [], at("2026-10-24T12:00")
    for _ in range(4):
        change = next_change(quiet, moment)
        assert change is not None
        changes.append((change - at("2026-10-25T00:00")) / HOUR_S)
        moment = change
    assert changes == [0, 0.5, 1, 1.5]


TIMES = st.integers(0, 24 * 60 - 1)


@settings(max_examples=60)
@given(
    windows=st.lists(st.tuples(TIMES, TIMES).filter(lambda both: both[0] != both[1]), max_size=3),
    name=st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"]),
    near=st.sampled_from(["2026-03-29", "2026-10-25", "2026-03-08", "2026-04-05", "2026-07-01"]),
    shift_s=st.integers(-2 * DAY_S, DAY_S),
)
def test_it_is_quiet_when_the_clock_on_the_wall_shows_a_time_of_a_window(
    windows: list[tuple[int, int]], name: str, near: str, shift_s: int
) -> None:
    texts = [
        "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in window) for window in windows
    ]
    quiet, moment = QuietHours(texts, offset_s=zone(name)), at(f"{near}T00:00") + shift_s
    shows = datetime.fromtimestamp(moment, ZoneInfo(name)).strftime("%H:%M")
    wanted = False
    for text in texts:
        begin, end = text.split("-")
        inside = begin <= shows < end
        wanted |= inside if begin < end else begin <= shows or shows < end
    assert quiet.is_quiet(moment) == wanted


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Move this process."""
    zone("Europe/Berlin")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_the_time_is_this_machines_unless_told_otherwise() -> None:
    quiet = QuietHours(["22:00-06:00"])
    assert quiet.is_quiet(at("2026-07-10T20:00"))
    assert not quiet.is_quiet(at("2026-07-10T19:59:59"))
    assert quiet.is_quiet(at("2026-01-10T21:00"))
    assert not quiet.is_quiet(at("2026-01-10T20:59:59"))
