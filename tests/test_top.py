"""`hedge top`: what it shows, where it gets it from, and how it leaves the terminal."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.models.errors import HedgeError, UplinkError, WireError
from hedge.runtime import top_command
from hedge.runtime.local_server.device_pages import DevicePages
from hedge.runtime.local_server.server import LocalServer
from hedge.runtime.local_server.unix_socket import UnixSocket
from hedge.runtime.top import devices, numbers, view
from hedge.runtime.top.devices import MOST, DeviceList
from hedge.runtime.top.feed import Feed
from hedge.runtime.top.feed_mqtt import MqttFeed
from hedge.runtime.top.feed_socket import SocketFeed
from hedge.runtime.top.lines import Line, Part, Span, bar, coloured, cut, plain, uncoloured, width
from hedge.runtime.top.rates import rates
from hedge.runtime.top.seen import MAX_BYTES, Seen, Watch, read_snapshot
from hedge.runtime.top.status import parse_status_topic, statuses
from hedge.runtime.top.terminal import write
from hedge.telemetry.energy.figures import EnergyReport, Share, StreamEnergy
from hedge.telemetry.filter_state import CacheState, FilterState, LabelsState, ShadowState
from hedge.telemetry.gate_state import (
    AuditState,
    BudgetState,
    DriftState,
    GateState,
    PromiseState,
)
from hedge.telemetry.ledger import ENDS, ROUTES, Latency, Ledger, StreamReport
from hedge.telemetry.snapshot import BoardState, Snapshot
from hedge.uplink.link.link import Connected
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.topics import Device

Eventually = Callable[[Callable[[], bool]], None]
SECOND_NS = 10**9
PAGE = Path(__file__).parents[1] / "docs" / "top.md"
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def stream(name: str = "meter", *, routes: dict[str, int], **given: Any) -> StreamReport:  # noqa: ANN401 -- any field
    """Return a stream's report in which nothing is expired or waiting, unless given."""
    empty = Ledger(name).report()
    ends = dict.fromkeys(ENDS, 0) | {"answered": routes.get("escalated", 0)} | given.pop("ends", {})
    routes = dict.fromkeys(ROUTES, 0) | routes
    given = {"routes": routes, "read": sum(routes.values()), "ends": ends, **given}
    return msgspec.structs.replace(empty, **given)


def latency(p50: float, p99: float, *, count: int = 50) -> Latency:
    """Return a latency of which only the count and two quantiles matter."""
    return Latency(count, p50, p50, p99, p99, p99)


def snapshot(**given: Any) -> Snapshot:  # noqa: ANN401 -- any field
    """Return a snapshot of which only little is known, unless given."""
    bare = {"session": 7, "uptime_s": 100.0, "streams": {}, "uplink": {}, "counts": {}}
    return Snapshot(**{**bare, **given})


def porch(uptime_s: float, *, read: int, asked: int, up: int, cpu_s: float) -> Snapshot:
    """Return a snapshot of the device that the page shows; its figures are made up."""

    def share(count: int, each_j: float | str) -> Share:
        return msgspec.convert(
            {"joules": each_j, "busy_s": 0.5, "count": count, "each_j": each_j}, Share
        )

    meter = stream(
        routes={"dropped": read // 5, "accepted": read - read // 5 - asked - 3, "escalated": asked}
        | {"failed": 3},
        ends={"answered": asked - 23, "expired": 21},
        waiting=2,
        reasons={"sure": read, "score": asked, "deadline": 21, "DataError": 3},
        latency_ms={
            "filter": latency(0.015, 0.023),
            "infer": latency(0.2, 0.51),
            "uncertainty": latency(0.04, 0.081),
            "uplink": latency(5.47, 16.4),
            "first": latency(0.27, 0.68),
            "final": latency(0.31, 19.2),
        },
        first_ms={"accepted": latency(0.26, 0.66), "escalated": latency(0.29, 0.7)},
        final_ms={"edge": latency(0.26, 0.66), "cloud": latency(5.5, 16.6)}
        | {"degraded": latency(2000.4, 2001.5)},
        energy=StreamEnergy(
            stages={},
            routes={
                "dropped": share(read // 5, "not resolvable"),
                "accepted": share(read, 0.00123),
                "escalated": share(asked, 0.0131),
            },
        ),
    )
    door = stream(
        "door-cam",
        routes={"accepted": read // 7, "escalated": read // 9},
        latency_ms={"first": latency(1.4, 3.25), "final": latency(1.45, 31.0)},
    )
    return snapshot(
        session=1201,
        uptime_s=uptime_s,
        streams={"meter": meter, "door-cam": door},
        uplink={"sent": asked, "resent": 2, "bytes_up": up, "bytes_down": up // 4}
        | {"outbox_held": 41, "outbox_log_bytes": 123_456},
        counts={"late_answer": 4},
        rss_bytes=57_300_000,
        cpu_s=cpu_s,
        device="porch-7",
        site="hall",
        version="0.1.0",
        connected=True,
        board=BoardState(temp_c=71.5, zone="cpu-thermal", throttled=False, power_mode="15W"),
        energy=EnergyReport(
            source="ina3221",
            scope="module",
            replayed=True,
            window_s=uptime_s,
            samples=900,
            coverage=0.993,
            resolution_j=0.04,
            power_w=4.9217,
            idle_w=3.9,
            total_j=415.2,
            net_j=77.8,
            other_j=None,
            rails_j={},
            faults={"frozen": 3, "gap": 0},
        ),
    )


BEFORE = porch(19_140.0, read=17_000, asked=2600, up=400_000, cpu_s=100.0)
NOW = porch(19_142.0, read=17_362, asked=2681, up=410_140, cpu_s=100.166)
PORCH = Seen(
    device="porch-7", site="hall", state="online", now=NOW, before=BEFORE, age_s=0.4, usual_s=2.0
)


def text(seen: Seen, *, columns: int = 80, rows: int | None = None) -> str:
    """Return the screen without styles."""
    return "\n".join(map(uncoloured, view.screen(seen, columns=columns, rows=rows)))


def line_of(shown: str, begin: str) -> str:
    """Return the one line that begins so."""
    found = [line for line in shown.splitlines() if line.startswith(begin)]
    assert len(found) == 1, (begin, shown)
    return found[0]


# ---- What is shown.


def test_a_stream_shows_its_pace_its_routes_and_what_its_answers_cost() -> None:
    shown = text(PORCH)
    assert re.fullmatch(r"meter +181/s  █+▒+·+!  read 17,362", line_of(shown, "meter"))
    assert line_of(shown, "door-cam").split()[1] == "46.5/s"  # (2480 + 1929 - 2428 - 1888) / 2
    assert line_of(shown, "  asked   19.3 %").split("now ")[1].startswith("27.9 %"), "81 of 290"
    one = Share(joules="not resolvable", busy_s=0.1, count=4, each_j="not resolvable")
    small = stream(
        routes={"accepted": 4},
        energy=StreamEnergy(stages={}, routes={"accepted": one, "dropped": one}),
    )
    shown_small = text(Seen(device="d", site="s", now=snapshot(streams={"a": small})))
    assert "  energy  not resolvable" in shown_small.splitlines()
    energies = [line for line in shown.splitlines() if line.startswith("  energy")]
    assert "dropped not resolvable  accepted 1.23 mJ  escalated 13.1 mJ  each" in energies[0]
    assert "none is measured" in energies[1]
    assert line_of(shown, "  reasons") == "  reasons deadline 21  DataError 3", (
        "not sure, not score"
    )
    assert "up 5.07 kB/s  down 1.27 kB/s  sent 2,681  resent 2  outbox 41  123 kB" in shown
    assert "CPU 8.3 %" in shown, "0.166 s in 2 s"
    assert "4.92 W replayed" in shown.splitlines()[1]


def _gate_line(gate: GateState) -> str:
    one = stream(routes={"accepted": 4}, gate=gate)
    shown = text(Seen(device="d", site="s", now=snapshot(streams={"a": one})), columns=140)
    return line_of(shown, "  gate")


def test_a_gate_shows_where_it_stands_and_all_that_moves_it() -> None:
    plain = GateState(score="entropy", total=0.5, calibrated=0.5)
    assert _gate_line(plain) == "  gate    0.500 entropy"
    kept = PromiseState(accuracy=0.95, confidence=0.95, state="unkept", why="budget")
    audit = AuditState(
        drawn=9, asked=8, judged=70, wrong=3, rows=60, error=0.05, low=0.0125, high=0.1875
    )
    full = msgspec.structs.replace(
        plain,
        total=0.625,
        audit=audit,
        promise=kept,
        drift=DriftState(rows=2048, statistic=0.3125, limit=0.2, drifting=True, events=1),
        budget=BudgetState(unit="messages", per_hour=60.0, last_hour=58.0, mean_per_hour=59.0),
    )
    assert _gate_line(full) == (
        "  gate    0.625 entropy  calibrated 0.500  promise unkept  wrong 5.0 % (1.2 % to 18.8 %) "
        "of 60 audited  DRIFT 0.31  spent 58 of 60 an hour"
    )
    shut = msgspec.structs.replace(plain, total=-1.7e308)
    assert _gate_line(shut) == "  gate    nothing passes entropy  calibrated 0.500"
    unheard = AuditState(drawn=2, asked=2, judged=0, wrong=0, rows=0)
    size = BudgetState(unit="bytes", per_hour=2e6, last_hour=1.5e6, mean_per_hour=1e6)
    other = msgspec.structs.replace(plain, audit=unheard, budget=size)
    assert (
        _gate_line(other) == "  gate    0.500 entropy  audited 0  spent 1.50 MB of 2.00 MB an hour"
    )


def _filter_lines(*filters: FilterState) -> list[str]:
    one = stream(routes={"dropped": 4}, filters=filters)
    shown = text(Seen(device="d", site="s", now=snapshot(streams={"a": one})), columns=140)
    lines = shown.splitlines()
    begin = lines.index(line_of(shown, "  filter"))
    return lines[begin : begin + len(filters)]


def test_filters_show_what_they_rule_out_and_how_often_wrongly() -> None:
    plain = FilterState(name="skip", kind="skip", state="on", seen=0, filtered=0, failed=0)
    assert _filter_lines(plain) == ["  filter  skip  filtered –"]  # noqa: RUF001 -- what is shown
    shadow = ShadowState(
        drawn=80, judged=75, wrong=15, error=0.2, low=0.125, high=0.3125, limit=0.0625
    )
    off = msgspec.structs.replace(
        plain, state="off", seen=2000, filtered=500, failed=3, why="it errs", shadow=shadow
    )
    reuse = FilterState(
        name="reuse",
        kind="reuse",
        state="on",
        seen=1500,
        filtered=750,
        failed=0,
        shadow=ShadowState(drawn=9, judged=0, wrong=0),
        cache=CacheState(keys=31, most=1170, evicted=0, expired=0),
        labels=LabelsState(asked=17, cut=0.4),
    )
    wrong = "wrong 20.0 % (12.5 % to 31.2 %) of 6.2 % allowed"
    assert _filter_lines(off, reuse) == [
        f"  filter  skip OFF  filtered 25.0 %  {wrong}, 75 shadowed  failed 3",
        "          reuse  filtered 50.0 %  shadowed 0  keys 31 of 1,170  labels asked 17",
    ]


def test_where_there_is_room_the_stages_are_shown() -> None:
    assert "  stages" not in text(PORCH, rows=23)
    tall = text(PORCH, columns=120, rows=39)
    assert "infer 0.20 / 0.51" in line_of(tall, "  stages")
    assert "degraded 2,000 / 2,002" in line_of(tall, "  final")


def test_what_is_not_known_is_a_dash_and_never_zero() -> None:
    bare = Seen(device=None, site=None, now=snapshot(streams={"a": stream("a", routes={})}))
    shown = text(bare)
    for words in ("mode –", "temperature –", "throttled –", "power –", "broker –", "memory –"):  # noqa: RUF001
        assert words in shown
    for words in ("CPU –", "accepted –", "first p50 –", "energy    –", "uplink    –"):  # noqa: RUF001
        assert words in shown
    assert re.search(r"^a +–/s", shown, re.MULTILINE)  # noqa: RUF001
    assert set(re.findall(r"\d+", shown)) <= {"0", "1", "40", "7", "50", "99"}, shown
    offline = snapshot(connected=False, uplink={"sent": 3})
    shown = text(Seen(device="d", site="s", now=offline, before=offline))
    assert "broker NOT CONNECTED" in shown
    assert "up –/s  down –/s  sent 3  resent –  outbox –" in shown  # noqa: RUF001


def test_a_throttled_board_is_flagged_with_what_says_so() -> None:
    board = BoardState(temp_c=97.25, throttled=True, throttled_by=("soc-throttle", "fan"))
    lines = view.screen(Seen(device="d", site="s", now=snapshot(board=board)), columns=80)
    flagged = [span for line in lines for span in line if "THROTTLED" in span.text]
    assert flagged == [Span("THROTTLED by soc-throttle, fan", "bad")]


def test_a_net_figure_that_no_baseline_supports_says_so() -> None:
    assert NOW.energy is not None
    energy = msgspec.structs.replace(NOW.energy, idle_w=None, net_j=None)
    shown = text(Seen(device="d", site="s", now=snapshot(energy=energy)))
    assert "net of idle – (no baseline)" in shown  # noqa: RUF001


def test_troubles_of_the_uplink_are_shown_when_there_are_any() -> None:
    now = snapshot(uplink={"sent": 9, "evicted": 4, "dead": 0}, connected=True)
    shown = text(Seen(device="d", site="s", now=now))
    assert "evicted 4" in shown
    assert "dead" not in shown


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40), (40, 10), (200, 60), (9, 3)])
def test_a_screen_is_never_wider_or_longer_than_the_terminal(
    count: int, columns: int, rows: int
) -> None:
    many = {
        f"s{n}": stream(f"s{n}", routes={"accepted": n + 1, "dropped": 3}) for n in range(count)
    }
    now = msgspec.structs.replace(NOW, streams=many)
    lines = view.screen(Seen(device="d", site="s", now=now), columns=columns, rows=rows)
    assert len(lines) <= rows
    assert max(map(width, lines)) <= columns


def test_many_streams_get_a_line_each_and_those_without_room_are_counted() -> None:
    many = {f"s{n}": stream(f"s{n}", routes={"accepted": 5, "escalated": n}) for n in range(30)}
    now = msgspec.structs.replace(NOW, streams=many)
    shown = text(Seen(device="d", site="s", now=now), rows=23)
    assert re.search(r"^s3 +–/s █+▒+ +37\.5 % +3 +0 ", shown, re.MULTILINE), shown  # noqa: RUF001
    found = re.search(r"^and (\d+) streams more", shown, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == 30 - len(re.findall(r"^s\d+ ", shown, re.MULTILINE))


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6).filter(any),
    st.integers(6, 200),
)
def test_a_bar_is_full_true_to_scale_and_shows_everything_that_is_there(
    amounts: list[int], columns: int
) -> None:
    drawn = bar([Part(n, "abcdef"[at]) for at, n in enumerate(amounts)], columns)
    cells = "".join(span.text for span in drawn)
    assert len(cells) == columns
    there = sum(n > 0 for n in amounts)
    for at, n in enumerate(amounts):
        got = cells.count("abcdef"[at])
        assert (got > 0) == (n > 0)
        if n:
            exact = 1 + n * (columns - there) / sum(amounts)
            assert abs(got - exact) < 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.si(0.00123, "J"), "1.23 mJ"),
        (numbers.si(999.96, "B"), "1.00 kB"),
        (numbers.si(-48.25, "W"), "-48.2 W"),
        (numbers.si(2.6e-11, "J"), "0.03 nJ"),
        (numbers.si(0.0, "J"), "0 J"),
        (numbers.si(None, "J"), "–"),  # noqa: RUF001
        (numbers.count(9_999_999), "9,999,999"),
        (numbers.count(12_345_678), "12.3 M"),
        (numbers.share(0.00001), "<0.1 %"),
        (numbers.share(0.0), "0.0 %"),
        (numbers.ms(0.0002), "<0.001"),
        (numbers.ms(0.0152), "0.015"),
        (numbers.ms(1999.6), "2,000"),
        (numbers.rate(0.25), "0.25/s"),
        (numbers.rate(1234.4), "1,234/s"),
        (numbers.joules("not resolvable"), "not resolvable"),
        (numbers.duration(59.9), "59 s"),
        (numbers.duration(3605), "1 h 00 min"),
        (numbers.duration(190_000), "2 d 04 h"),
    ],
)
def test_a_figure_has_three_digits_and_its_unit(shown: str, expected: str) -> None:
    assert shown == expected


# ---- Paces, restarts and snapshots that stop coming.


def test_a_new_session_begins_anew() -> None:
    after = msgspec.structs.replace(NOW, session=1202)
    assert rates(BEFORE, NOW).up_bytes_per_s == 5070.0
    for fresh in (rates(BEFORE, after), rates(NOW, BEFORE), rates(None, NOW), rates(NOW, NOW)):
        assert fresh.up_bytes_per_s is fresh.cpu is None
        assert fresh.of("meter").samples_per_s is None


def test_a_counter_that_falls_begins_anew_and_leaves_the_others() -> None:
    fallen = stream(routes={"accepted": 5})
    now = msgspec.structs.replace(
        NOW, streams={**NOW.streams, "meter": fallen}, uplink={"bytes_up": 3, "bytes_down": 102_535}
    )
    found = rates(BEFORE, now)
    assert found.of("meter").samples_per_s is None
    assert found.of("door-cam").samples_per_s == 46.5
    assert found.up_bytes_per_s is None
    assert found.down_bytes_per_s == 1267.5


def test_a_stream_that_was_not_there_before_has_no_pace() -> None:
    now = msgspec.structs.replace(
        NOW, streams={**NOW.streams, "new": stream(routes={"accepted": 9})}
    )
    assert rates(BEFORE, now).of("new").samples_per_s is None


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 50 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


def encoded(one: Snapshot) -> bytes:
    return msgspec.json.encode(one)


def test_snapshots_that_stop_coming_are_shown_as_stale_with_their_age() -> None:
    clock = Hands()
    watch = Watch(device="d", clock=clock)
    watch.take(encoded(BEFORE))
    clock.pass_s(60)
    assert not watch.seen().stale, "how often they come is not known yet"
    watch.take(encoded(NOW))
    clock.pass_s(170)
    assert not watch.seen().stale
    assert "181/s" in text(watch.seen())
    clock.pass_s(11)
    seen = watch.seen()
    assert seen.stale
    assert text(seen).splitlines()[0].endswith("STALE for 3 min 01 s")
    assert "181/s" not in text(seen), "the pace of then is not that of now"
    assert "STALE for 3 min 01 s" in view.summary(seen)
    watch.take(encoded(msgspec.structs.replace(NOW, uptime_s=20_000.0)))
    assert not watch.seen().stale


def test_a_device_that_stops_after_its_first_snapshot_is_stale_by_its_own_count() -> None:
    clock = Hands()
    watch = Watch(clock=clock)
    watch.take(encoded(snapshot(uptime_s=600.0, uplink={"telemetry_offered": 20})))
    clock.pass_s(89)
    assert not watch.seen().stale, "every 30 s"
    clock.pass_s(2)
    assert watch.seen().stale


def test_what_was_known_of_a_device_that_has_gone_is_not_shown_as_if_it_were_now() -> None:
    gone = msgspec.structs.replace(PORCH, state="offline (lost)")
    assert text(gone).splitlines()[1].startswith("then  up 5 h 19 min  broker connected")
    assert "181/s" not in text(gone)
    second = view.screen(gone, columns=80)[1]
    assert {span.style for span in second if span.text.strip()} == {"dim"}, "nothing says go"


def test_the_same_snapshot_again_is_no_news_so_a_loop_that_hangs_is_stale() -> None:
    clock = Hands()
    watch = Watch(usual_s=1.0, clock=clock)
    for _ in range(6):
        watch.take(encoded(NOW))
        clock.pass_s(1)
    assert watch.seen().stale
    assert watch.seen().before is None


# ---- What comes may be anything.

GARBAGE = [
    b"",
    b"\x00\xff\xfe",
    b"{}",
    b"[" * 200_000,
    encoded(NOW)[:-1],
    encoded(NOW).replace(b"57300000", b"1e999"),
    encoded(NOW).replace(b"57300000", b"5" * 400),
    encoded(NOW).replace(b"2681", b"1e300", 1),
    encoded(NOW).replace(b"4.9217", b"9" * 30 + b".5"),
    encoded(NOW).replace(b"4.9217", b"NaN"),
    encoded(NOW).replace(b"porch-7", b"\xc3\x28"),
]


@pytest.mark.parametrize("payload", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_counted_and_not_fatal(payload: bytes) -> None:
    watch = Watch()
    watch.take(payload)
    assert (watch.seen().malformed, watch.seen().now) == (1, None)
    watch.take(encoded(NOW))
    assert watch.seen().now == NOW
    assert "1 malformed passed over" in text(watch.seen())
    with pytest.raises(WireError):
        read_snapshot(payload)


def test_what_is_too_long_is_not_decoded() -> None:
    watch = Watch()
    watch.take(encoded(NOW) + b" " * MAX_BYTES)
    assert (watch.seen().oversized, watch.seen().malformed, watch.seen().now) == (1, 0, None)
    assert "1 oversized passed over" in text(watch.seen())


@given(st.binary(max_size=300))
def test_nothing_that_comes_is_fatal(payload: bytes) -> None:
    watch = Watch()
    watch.take(payload)
    assert view.screen(watch.seen(), columns=80, rows=24)


NASTY = "a\x1b]0;pwned\x07\x1b[2J\x9b31m\r\n\u202eevil\u200b\u0301\U0001f600漢\x7f\ud7ff"


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_no_control_character_of_what_was_received_reaches_the_terminal(words: str) -> None:
    for word in (words, NASTY):
        board = BoardState(
            temp_c=1.5, zone=word, throttled=True, throttled_by=(word,), power_mode=word
        )
        assert NOW.energy is not None
        energy = msgspec.structs.replace(NOW.energy, source=word, scope=word, faults={word: 1})
        one = stream(
            word,
            routes={"accepted": 1},
            reasons={word: 2},
            model=word,
            energy=StreamEnergy(stages={}, routes={}),
        )
        now = snapshot(
            streams={word: one},
            counts={word: 1},
            device=word,
            site=word,
            version=word,
            note=word,
            board=board,
            energy=energy,
        )
        seen = Seen(device=None, site=None, state=word, note=word, trouble=word, now=now)
        for line in view.screen(seen, columns=300):
            assert_plain(STYLES.sub("", coloured(line)))
            assert_plain(uncoloured(line))
        assert_plain(plain(view.summary(seen)))
        listed = devices.ListedDevice(device=word, site=word, state=word, session=1, note=word)
        shown = devices.screen(
            devices.Listing(devices=(listed,), trouble=word), chosen=0, columns=300
        )
        for line in shown:
            assert_plain(STYLES.sub("", coloured(line)))


def assert_plain(shown: str) -> None:
    assert shown == plain(shown)
    assert all(one.isprintable() for one in shown)
    assert not set(shown) & set(NASTY) - set("a]0;pwned[2J31mevil")


def test_a_line_is_cut_with_an_ellipsis_and_keeps_its_styles() -> None:
    line: Line = (Span("hello", "bold"), Span(" "), Span("world"))
    assert cut(line, 11) is line
    assert cut(line, 8) == (Span("hello", "bold"), Span(" "), Span("w"), Span("…"))
    assert width(cut(line, 1)) == 1
    assert cut(line, 0) == ()


def test_the_picture_of_the_page_is_what_is_shown() -> None:
    blocks = re.findall(r"^```text\n(.*?)\n```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks[0] == text(PORCH, rows=23)


# ---- Over a real broker.


@pytest.fixture
def url(start_broker: Callable[..., object], free_port: int) -> str:
    """Give the URL of a broker of our own."""
    start_broker("mosquitto", free_port)
    return f"mqtt://127.0.0.1:{free_port}"


class Publisher:
    """Speaks for devices."""

    def __init__(self, link: MqttLink) -> None:
        self._link = link
        link.open()
        while not any(isinstance(event, Connected) for event in link.poll(0.1)):
            pass

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._link.send(topic, payload, retain=retain) is not None
        self._link.poll(0.01)

    def close(self) -> None:
        self._link.close(timeout_s=1.0)


@pytest.fixture
def publisher(url: str, mqtt_link: Callable[..., MqttLink]) -> Iterator[Publisher]:
    """Give a publisher on that broker."""
    with contextlib.closing(Publisher(mqtt_link(url, "devices"))) as made:
        yield made


def test_a_device_is_watched_over_mqtt(
    url: str,
    publisher: Publisher,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    eventually: Eventually,
) -> None:
    publisher.say(device.status, b'{"state":"online","session":1,"note":"building"}', retain=True)
    with contextlib.closing(MqttFeed(mqtt_link(url, "top"), device=device)) as feed:
        eventually(lambda: polled(feed).state == "online")
        eventually(lambda: "every_s" in (polled(feed).trouble or ""))
        publisher.say(device.telemetry, b"no JSON")
        publisher.say(device.telemetry, b" " * (MAX_BYTES + 1))
        publisher.say(device.telemetry, encoded(NOW))
        eventually(lambda: polled(feed).now is not None)
        seen = feed.seen()
        assert (seen.malformed, seen.oversized, seen.note) == (1, 1, "building")
        assert seen.trouble is None
        publisher.say(device.status, b'{"state":"offline","session":1,"reason":"lost"}')
        eventually(lambda: polled(feed).state == "offline (lost)")
        assert "offline (lost)" in text(feed.seen()).splitlines()[0]


def test_of_a_device_that_is_offline_no_telemetry_is_asked_for(device: Device) -> None:
    broker = ScriptedBroker()
    other = ScriptedLink(broker)
    other.open()
    other.poll(1.0)
    feed = MqttFeed(ScriptedLink(broker), device=device)
    assert feed.seen().trouble == "connecting to the broker"
    for state, hint in (("offline", False), ("online", True)):
        other.send(device.status, b'{"state":"%s","session":2}' % state.encode(), retain=True)
        for _ in range(4):
            feed.poll(0.01)
        assert feed.seen().state == state
        assert ("every_s" in (feed.seen().trouble or "")) == hint


def test_an_old_snapshot_that_a_broker_has_retained_is_passed_over(device: Device) -> None:
    broker = ScriptedBroker()
    other = ScriptedLink(broker)
    other.open()
    other.poll(1.0)
    other.send(device.telemetry, encoded(BEFORE), retain=True)
    feed = MqttFeed(ScriptedLink(broker), device=device)
    for _ in range(5):
        feed.poll(0.01)
    assert feed.seen().now is None
    other.send(device.telemetry, encoded(NOW))
    feed.poll(0.01)
    assert feed.seen().now == NOW


def polled(feed: Feed) -> Seen:
    feed.poll(0.02)
    return feed.seen()


def test_a_broker_that_goes_is_said_and_comes_back(
    start_broker: Callable[..., subprocess.Popen[bytes]],
    free_port: int,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    eventually: Eventually,
) -> None:
    process = start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    with contextlib.closing(MqttFeed(mqtt_link(url, "top"), device=device)) as feed:
        eventually(lambda: "every_s" in (polled(feed).trouble or ""))
        process.kill()
        process.wait()
        eventually(lambda: "no broker" in (polled(feed).trouble or ""))
        start_broker("mosquitto", free_port)
        eventually(lambda: "every_s" in (polled(feed).trouble or ""))


def test_the_devices_of_a_broker_are_listed_by_their_retained_statuses(
    url: str, publisher: Publisher, mqtt_link: Callable[..., MqttLink], eventually: Eventually
) -> None:
    for topic, payload in (
        (Device("hall", "b").status, b'{"state":"online","session":4}'),
        (Device("attic", "c").status, b'{"state":"offline","session":9,"reason":"lost"}'),
        (Device("hall", "a").status, b"no status"),
        ("hedge/1/hall/no such NAME/status", b'{"state":"online","session":4}'),
    ):
        publisher.say(topic, payload, retain=True)
    with contextlib.closing(DeviceList(mqtt_link(url, "top"), statuses(None))) as found:

        def names() -> list[str]:
            found.poll(0.02)
            return [f"{one.site}/{one.device}" for one in found.listing().devices]

        eventually(lambda: names() == ["attic/c", "hall/b"] and found.listing().malformed == 2)
        shown = "\n".join(
            map(uncoloured, devices.screen(found.listing(), chosen=1, columns=80, rows=24))
        )
        assert re.search(r"^> b +hall +online +4$", shown, re.MULTILINE), shown
        assert re.search(r"^  c +attic +offline \(lost\) +9$", shown, re.MULTILINE), shown
        publisher.say(Device("attic", "c").status, b"", retain=True)
        eventually(lambda: names() == ["hall/b"])
    with contextlib.closing(DeviceList(mqtt_link(url, "top"), statuses("attic"))) as found:
        eventually(lambda: names() == [] and found.quiet_s is not None)


def test_more_devices_than_can_be_listed_are_counted() -> None:
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    link.open()
    link.poll(1.0)
    for number in range(MOST + 3):
        status = Device("s", f"d{number}").status
        link.send(status, b'{"state":"online","session":1}', retain=True)
    found = DeviceList(ScriptedLink(broker), statuses(None))
    for _ in range(5):
        found.poll(0.01)
    assert (len(found.listing().devices), found.listing().left_out) == (MOST, 3)
    lines = devices.screen(found.listing(), chosen=700, columns=80, rows=23)
    assert len(lines) == 23
    assert sum(line[0].text == "> " for line in lines) == 1, "the chosen one is in sight"


@pytest.mark.parametrize(
    "topic",
    ["hedge/1/s/d/telemetry", "hedge/1/s/d/status/x", "hedge/2/s/d/status", "hedge/1/S/d/status"],
)
def test_a_topic_of_no_status_is_refused(topic: str) -> None:
    with pytest.raises(WireError):
        parse_status_topic(topic)


def test_a_site_that_would_widen_the_subscription_is_refused() -> None:
    assert statuses("hall") == "hedge/1/hall/+/status"
    for site in ("#", "+", "a/b"):
        with pytest.raises(UplinkError):
            statuses(site)


# ---- Over a real Unix socket.


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a path short enough for a socket."""
    return tmp_path_factory.mktemp("s") / "hedge.sock"


@contextlib.contextmanager
def served(path: Path, ask: Callable[[], Snapshot | None]) -> Iterator[None]:
    """Serve snapshots as a device does."""
    unix = UnixSocket(path)
    server = LocalServer(unix.socket, DevicePages(ask))
    try:
        yield
    finally:
        server.close()
        unix.close()


def test_a_device_is_watched_over_its_socket(place: Path, eventually: Eventually) -> None:
    coming: list[Snapshot | None] = [BEFORE, NOW, None]
    feed = SocketFeed(place, every_s=0.01, device="porch-7", site="hall")
    eventually(lambda: "there is no socket" in (polled(feed).trouble or ""))
    with served(place, lambda: coming.pop(0) if len(coming) > 1 else coming[0]):
        eventually(lambda: polled(feed).before == BEFORE and polled(feed).now == NOW)
        assert "meter            181/s" in text(feed.seen())
        eventually(lambda: "answers 503" in (polled(feed).trouble or ""))
    eventually(lambda: "there is no socket" in (polled(feed).trouble or ""))
    assert feed.seen().now == NOW, "what was known stays"
    assert feed.seen().state is None
    feed.close()


def test_a_socket_that_nobody_listens_on_is_said(place: Path, eventually: Eventually) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    feed = SocketFeed(place, every_s=0.01)
    eventually(lambda: "nobody listens" in (polled(feed).trouble or ""))


@contextlib.contextmanager
def answering(path: Path, answer: bytes, *, hang: bool = False) -> Iterator[None]:
    """Answer every question alike, and then hang up, or do not."""
    ended = threading.Event()
    kept: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                kept.append(peer)
                peer.recv(4096)
                peer.sendall(answer)
                if not hang:
                    peer.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            for one in kept:
                one.close()
            thread.join()


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "trouble", "malformed", "oversized"),
    [
        (b"SSH-2.0-x\r\n", "no HTTP", 1, 0),
        (b"", "no HTTP", 1, 0),
        (HEAD + b"{}", "no snapshot", 1, 0),
        (HEAD + b" " * MAX_BYTES + encoded(NOW), "no snapshot", 0, 1),
        (HEAD + b" " * (3 * MAX_BYTES), "too long", 0, 1),
    ],
)
def test_an_answer_that_is_none_is_counted_and_said(
    place: Path, eventually: Eventually, answer: bytes, trouble: str, malformed: int, oversized: int
) -> None:
    with answering(place, answer):
        feed = SocketFeed(place, every_s=3600)
        eventually(lambda: trouble in (polled(feed).trouble or ""))
        feed.close()
    assert (feed.seen().malformed, feed.seen().oversized) == (malformed, oversized)


def test_a_device_that_keeps_silent_is_given_up_and_asked_again(
    place: Path, eventually: Eventually
) -> None:
    with answering(place, HEAD, hang=True):
        feed = SocketFeed(place, every_s=0.01, patience_s=0.3)
        eventually(lambda: "no answer within 0.3 s" in (polled(feed).trouble or ""))
        feed.close()
    place.unlink()
    with served(place, lambda: NOW):
        eventually(lambda: polled(feed).now == NOW)
    assert feed.seen().trouble is None
    feed.close()


# ---- The command, in processes and pseudo-terminals of its own.

COMMAND = """
import argparse, sys
from hedge.runtime import top_command
from hedge.models.errors import HedgeError
parser = argparse.ArgumentParser()
top_command.add_parser(parser.add_subparsers())
options = parser.parse_args(["top", *sys.argv[1:]])
try:
    sys.exit(options.run(options))
except HedgeError as error:
    sys.exit(f"hedge: {error}")
"""
FAILING = """
import os, sys
from hedge.runtime.top.terminal import on_terminal
with on_terminal(sys.stdout, sys.stdin, environ=os.environ) as terminal:
    terminal.draw([])
    raise RuntimeError("as a bug would")
"""
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture
def config(place: Path) -> Path:
    """Give a configuration whose state directory is that of the socket."""
    path = place.with_name("device.toml")
    path.write_text(
        f'[device]\nname = "porch-7"\nsite = "hall"\nstate_dir = "{place.parent}"\n'
        '[[stream]]\nname = "meter"\nbundle = "digits"\n'
        'source = { kind = "replay", path = "rows.npz" }\n'
    )
    return path


class Pseudo:
    """A program on a pseudo-terminal of 80 columns and 24 rows."""

    def __init__(self, code: str, *arguments: str, **environ: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "COLUMNS": "80", "LINES": "24", **environ},
            start_new_session=True,
            **ends,  # type: ignore[call-overload]  # the three are spelt out
        )
        self.shown = b""

    def read(self) -> bytes:
        """Return all that was shown so far."""
        while select.select([self._ours], [], [], 0)[0]:
            self.shown += os.read(self._ours, 65_536)
        return self.shown

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def modes(self) -> list[Any]:
        """Return how the terminal is set now."""
        return termios.tcgetattr(self._theirs)

    def ended(self) -> bool:
        self.read()
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


def is_restored(pseudo: Pseudo) -> bool:
    shown = pseudo.read()
    return pseudo.modes() == pseudo.before and shown.rindex(LEAVE) > shown.rindex(ENTER)


@pytest.mark.parametrize("how", ["q", "\x04", signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_as_it_was_however_one_leaves(
    place: Path, config: Path, eventually: Eventually, how: str | signal.Signals
) -> None:
    with (
        served(place, lambda: NOW),
        contextlib.closing(Pseudo(COMMAND, str(config), "--every", "0.1")) as pseudo,
    ):
        eventually(lambda: b"porch-7" in pseudo.read() and b"17,362" in pseudo.read())
        assert ENTER in pseudo.read()
        assert pseudo.modes() != pseudo.before, "keys are read one by one"
        if isinstance(how, str):
            pseudo.press(how.encode())
        else:
            pseudo.process.send_signal(how)
        eventually(pseudo.ended)
        assert pseudo.process.returncode == 0
        assert is_restored(pseudo)


def test_the_terminal_is_as_it_was_after_an_exception(eventually: Eventually) -> None:
    with contextlib.closing(Pseudo(FAILING)) as pseudo:
        eventually(pseudo.ended)
        assert pseudo.process.returncode == 1
        assert is_restored(pseudo)
        shown = pseudo.read()
        assert shown.index(LEAVE) < shown.index(b"as a bug would"), "it is on the screen that stays"


def test_ctrl_z_and_ctrl_s_do_not_leave_the_terminal_behind(
    place: Path, config: Path, eventually: Eventually
) -> None:
    with (
        served(place, lambda: NOW),
        contextlib.closing(Pseudo(COMMAND, str(config), "--every", "0.1")) as pseudo,
    ):
        eventually(lambda: b"17,362" in pseudo.read())
        pseudo.press(b"\x1a\x13")
        count = len(pseudo.read())
        eventually(lambda: len(pseudo.read()) > count)
        pseudo.press(b"q")
        eventually(pseudo.ended)
        assert is_restored(pseudo)


def test_without_colours_nothing_is_styled(
    place: Path, config: Path, eventually: Eventually
) -> None:
    with served(place, lambda: NOW):
        for environ, styled in (({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)):
            with contextlib.closing(Pseudo(COMMAND, str(config), **environ)) as pseudo:
                eventually(lambda: b"17,362" in pseudo.read())
                pseudo.press(b"q")
                eventually(pseudo.ended)
                assert (b"\x1b[1;36mporch-7" in pseudo.read()) == styled


def test_a_device_is_chosen_from_the_list_and_watched(
    url: str, publisher: Publisher, eventually: Eventually
) -> None:
    for name in ("a", "b", "c"):
        status = b'{"state":"online","session":1}'
        publisher.say(Device("hall", name).status, status, retain=True)

    def shows(words: bytes) -> bool:
        publisher.say(Device("hall", "b").telemetry, encoded(NOW))
        return words in pseudo.read()

    with contextlib.closing(Pseudo(COMMAND, "--broker", url, NO_COLOR="1")) as pseudo:
        eventually(lambda: b"> a" in pseudo.read() and b"  c" in pseudo.read())
        pseudo.press(b"jj\x1b[A")
        eventually(lambda: b"> b" in pseudo.read())
        pseudo.press(b"\r")
        eventually(lambda: shows(b"b  site hall") and shows(b"17,362"))
        pseudo.press(b"q")
        eventually(pseudo.ended)
        assert is_restored(pseudo)


def called(*arguments: str) -> int:
    """Run the command in this process, whose output is no terminal; return the exit code."""
    parser = argparse.ArgumentParser()
    top_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["top", *arguments])
    code: int = options.run(options)
    return code


def test_once_prints_one_screen_and_writes_what_was_known(
    place: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    coming = [BEFORE, NOW]
    out = place.with_name("seen.json")
    with served(place, lambda: coming.pop(0) if len(coming) > 1 else coming[0]):
        assert called(str(config), "--once", "--every", "0.1", "--json", str(out)) == 0
    shown = capsys.readouterr().out
    assert "meter            181/s" in shown
    assert "\x1b" not in shown
    written = json.loads(out.read_text())
    assert written["snapshot"]["streams"]["meter"]["read"] == 17_362
    assert (written["device"], written["stale"], written["trouble"]) == ("porch-7", False, None)


def test_once_fails_where_the_device_does_not_answer_in_time(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(str(config), "--once", "--wait", "0.3") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no snapshot within 0.3 s" in said.err
    assert "is the device running?" in said.err


def test_where_no_terminal_is_plain_lines_come_now_and_then(place: Path, config: Path) -> None:
    lines: list[str] = []
    with served(place, lambda: NOW):
        command = [sys.executable, "-c", COMMAND, str(config), "--every", "0.1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not (lines and "read 17,362" in lines[-1]):
                lines.append(process.stdout.readline())
                assert lines[-1].startswith("porch-7@hall; ")
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0
    assert "\x1b" not in "".join(lines)


def test_an_encoding_without_bars_gets_poorer_signs() -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="") as out:
        write(out, text(PORCH) + "\N{SNOWMAN}")
        out.seek(0)
        shown = out.read()
    assert re.search(r"^meter +181/s +#+%+\.+!", shown, re.MULTILINE)
    assert shown.endswith("?")


def test_the_list_is_printed_where_no_terminal_is(
    url: str, publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.say(Device("hall", "a").status, b'{"state":"online","session":3}', retain=True)
    assert called("--broker", url, "--json", str(tmp_path / "devices.json")) == 0
    assert re.search(r"^  a +hall +online +3$", capsys.readouterr().out, re.MULTILINE)
    assert json.loads((tmp_path / "devices.json").read_text())["devices"][0]["device"] == "a"


def test_where_no_device_is_known_the_list_fails(url: str) -> None:
    assert called("--broker", url, "--once", "--site", "attic") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give CONFIG.toml or --broker URL"),
        (("d.toml", "--broker", "mqtt://a"), "give CONFIG.toml or --broker URL"),
        (("nowhere.toml",), "nowhere.toml: cannot be read"),
        (("nowhere.toml", "--device", "d"), "go with --broker"),
        (("--broker", "mqtt://a", "--device", "No Name"), "no name for a topic"),
        (("--broker", "mqtt://a", "--site", "#"), "no name for a topic"),
        (("--broker", "http://a", "--device", "d"), "not a broker's URL"),
        (("d.toml", "--json", "/nowhere/x.json"), "lies in none that exists"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(HedgeError) as error:
        called(*arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf", "soon"])
def test_an_interval_is_a_number_of_seconds(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        called("d.toml", "--every", every)
    assert "is not a number between 0.1 and 86400" in capsys.readouterr().err
