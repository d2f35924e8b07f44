"""Events: what outcomes mean together, as sinks are told it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.records import Outcome, Route
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.events.event import Event
from hedge.runtime.events.events import Events, Watched
from hedge.runtime.events.options import EventRule
from hedge.runtime.events.rule import Rule
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.sinks.sink import Sink
from hedge.runtime.sources.source import Captured
from hedge.telemetry.ledger import SourceState

make: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_loop.py"))))

_S = 1_000_000_000
_LABELS = ("nobody", "person", "dog")
_WALL_S = 1_700_000_000.0


class Clock:
    """A clock that stands until it is set."""

    now_ns = 100 * _S

    def __call__(self) -> int:
        return self.now_ns


class Door:
    """A source of which the state is set."""

    patient, overrun, recorder = True, 0, None

    def __init__(self) -> None:
        self.ended = False
        self.is_open = True

    def begin(self) -> None: ...

    def state(self) -> SourceState:
        state = "ended" if self.ended else "open" if self.is_open else "away"
        return SourceState(state=state, since_s=0.0, opened=1, lost=0)  # type: ignore[arg-type]

    def due_ns(self) -> None:
        return None

    def poll(self, now_ns: int) -> Captured | None:
        del now_ns
        return None

    def close(self) -> None: ...


class Told:
    """A sink that keeps the events which it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, outcome: Outcome) -> None: ...

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...

    def states(self) -> list[tuple[str, str | None]]:
        return [(one.state, one.why) for one in self.events]


class House:
    """Events of one or more streams, fed by hand; a second passes with each answer."""

    def __init__(self, tmp_path: Path, *rules: EventRule, session: int = 7) -> None:
        self.clock, self.told, self.door = Clock(), Told(), Door()
        self.wall_s = _WALL_S
        self.events = Events(
            state=tmp_path, session=session, clock=self.clock, wall=lambda: self.wall_s
        )
        self._number = 0
        self.serve(*rules)

    def serve(self, *rules: EventRule, sinks: Sequence[Sink] = (), **others: Watched) -> None:
        watched = {"door": Watched(rules, _LABELS, self.door), **others}
        self.events.serve(watched, sinks or [self.told])

    def pass_s(self, seconds: float) -> int | None:
        self.clock.now_ns += round(seconds * _S)
        self.wall_s += seconds
        return self.events.feed(self.clock.now_ns)

    def answer(self, person: float | None, *, dog: float = 0.0, **options: Any) -> str:  # noqa: ANN401 -- those of Outcome
        """Give one answer a second after the last; return its id."""
        self.pass_s(1.0)
        probs = None if person is None else np.array([1 - person - dog, person, dog], np.float32)
        given = {
            "stream": "door",
            "id": f"7-{self._number}",
            "route": "edge",
            "label": None if probs is None else int(probs.argmax()),
            "probs": probs,
            "opinion": None,
            "final": True,
            **options,
        }
        self._number += 1
        taken_at_ns = self.clock.now_ns - int(given.get("latency_ns") or 0)
        self.events.emit(Outcome(**given, taken_at_ns=taken_at_ns))
        self.events.feed(self.clock.now_ns)
        return str(given["id"])


def _rule(**options: Any) -> EventRule:  # noqa: ANN401 -- those of EventRule
    return EventRule(**{"name": "visit", "labels": ("person",), **options})


def test_an_event_is_told_when_it_opens_and_when_it_closes(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(k=2, n=3, enter=0.75, leave=0.5))
    house.answer(0.75)
    first = house.answer(0.1)
    second = house.answer(0.875, latency_ns=_S // 2)
    third = house.answer(0.5)
    for _ in range(3):
        house.answer(0.25)
    opened, closed = house.told.events
    assert opened == Event(
        event="visit",
        stream="door",
        id="7-e0",
        state="opened",
        label="person",
        opened_at_s=_WALL_S + 1,
        samples=("7-0", second),
        count=2,
        peak=0.875,
    )
    assert closed == msgspec.structs.replace(
        opened,
        state="closed",
        closed_at_s=_WALL_S + 4,
        samples=("7-0", second, third),
        count=3,
        why="quiet",
    )
    assert first not in closed.samples
    assert house.events.counters() == {
        "events_opened.door.visit": 1,
        "events_closed.door.visit": 1,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"final": False},
        {"final": False, "reason": "late", "route": "cloud"},
        {"route": "failed"},
        {"probs": None, "label": None, "degraded": "deadline"},
        {"id": "6-1"},
        {"stream": "yard"},
    ],
    ids=["first", "late", "failed", "abstained", "earlier run", "other stream"],
)
def test_what_is_no_final_answer_of_this_run_counts_for_nothing(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    house = House(tmp_path, _rule(n=2))
    house.answer(0.9, **options)
    assert house.told.events == [], "it opens nothing"
    house.answer(0.9)
    house.answer(0.1)
    house.answer(0.1, **options)
    assert house.told.states() == [("opened", None)], "and closes nothing"
    house.answer(0.1)
    assert house.told.states() == [("opened", None), ("closed", "quiet")]


def test_a_dropped_sample_has_none_of_the_labels(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(enter=0.0, leave=0.0))
    house.answer(None, route="dropped")
    assert house.told.events == []
    house.answer(0.0)
    house.answer(None, route="dropped")
    assert house.told.states() == [("opened", None), ("closed", "quiet")]


@pytest.mark.parametrize("route", ["edge", "cloud", "fused", "reused"])
def test_whoever_answers_last_is_believed(tmp_path: Path, route: Route) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9, route=route, degraded="deadline" if route == "edge" else None)
    assert house.told.states() == [("opened", None)]


def test_each_label_has_events_of_its_own_where_the_rule_says_so(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(labels=("dog", "person"), separate=True))
    house.answer(0.6)
    house.answer(0.5, dog=0.5)
    house.answer(0.2, dog=0.6)
    found = [(one.id, one.state, one.label) for one in house.told.events]
    assert found == [
        ("7-e0", "opened", "person"),
        ("7-e1", "opened", "dog"),
        ("7-e0", "closed", "person"),
    ]


def test_an_event_of_several_labels_is_one_as_long_as_any_holds_it(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(labels=("dog", "person")))
    house.answer(0.6)
    house.answer(0.1, dog=0.6)
    house.answer(0.1)
    assert [(one.state, one.label) for one in house.told.events] == [
        ("opened", "person"),
        ("closed", "person"),
    ]


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_step_of_the_walls_clock_does_not_stretch_an_event(tmp_path: Path, jump_s: float) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    house.wall_s += jump_s
    house.answer(0.9)
    house.answer(0.1)
    house.answer(0.9)
    opened, closed, after = house.told.events
    assert (opened.opened_at_s, closed.closed_at_s) == (_WALL_S + 1, _WALL_S + 2)
    assert after.opened_at_s == _WALL_S + 4 + jump_s


def test_what_lasts_too_long_is_closed_when_the_loop_is_told_to_wake(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(max_s=2.5))
    house.answer(0.9, latency_ns=_S // 2)
    assert house.events.feed(house.clock.now_ns) == house.clock.now_ns + 2 * _S
    house.pass_s(1.9)
    assert house.told.states() == [("opened", None)]
    house.pass_s(0.1)
    assert house.told.states() == [("opened", None), ("closed", "too_long")]
    assert house.pass_s(0) is None, "nothing is due any more"


def test_nothing_is_due_while_nothing_is_open(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(max_s=2.5))
    assert house.pass_s(10) is None
    house.answer(0.1)
    assert house.pass_s(10) is None


@pytest.mark.parametrize("ended", [False, True])
def test_an_event_closes_when_its_source_stays_away(tmp_path: Path, ended: bool) -> None:  # noqa: FBT001
    house = House(tmp_path, _rule())
    house.answer(0.9)
    for _ in range(20):
        due_ns = house.pass_s(1)
        assert due_ns is not None
        assert due_ns > house.clock.now_ns
    assert house.told.states() == [("opened", None)], "a source that is silent may go on"
    house.door.is_open, house.door.ended = False, ended
    house.pass_s(1)
    assert house.told.states() == [("opened", None), ("closed", "source")]
    assert house.told.events[1].closed_at_s == _WALL_S + 1


def test_a_source_that_is_soon_back_costs_no_event(tmp_path: Path) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    house.door.is_open = False
    house.pass_s(4.5)
    house.door.is_open = True
    house.pass_s(4.5)
    house.answer(0.9)
    assert house.told.states() == [("opened", None)]


def test_what_is_open_at_the_end_is_closed_once(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(), _rule(name="pet", labels=("dog",)))
    house.answer(0.9)
    house.events.close()
    house.events.close()
    house.answer(0.9)
    assert house.told.states() == [("opened", None), ("closed", "stopped")]
    assert house.events.counters()["events_closed.door.visit"] == 1


def test_the_end_of_a_data_set_is_its_sources(tmp_path: Path) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    house.door.ended = True
    house.events.close()
    assert house.told.states() == [("opened", None), ("closed", "source")]


def test_a_sink_that_fails_is_counted_and_the_others_are_told(tmp_path: Path) -> None:
    class Full(Told):
        def tell(self, event: Event) -> None:
            raise OSError(28, f"no space left for {event.id}")

    house = House(tmp_path)
    house.serve(_rule(), sinks=[Full(), house.told])
    house.answer(0.9)
    house.answer(0.1)
    assert house.told.states() == [("opened", None), ("closed", "quiet")]
    assert house.events.counters()["event_sink_errors"] == 2


# ---- What a reload changes


def test_a_rule_that_stays_keeps_its_event_and_the_new_sinks_hear_of_its_end(
    tmp_path: Path,
) -> None:
    house, after = House(tmp_path, _rule(k=2, n=2)), Told()
    house.answer(0.9)
    house.serve(_rule(k=2, n=2), sinks=[house.told])
    house.answer(0.9)
    assert [one.samples for one in house.told.events] == [("7-0", "7-1")], "its hits, too"
    house.serve(_rule(name="pet", labels=("dog",)), _rule(k=2, n=2), sinks=[after])
    house.answer(0.1)
    house.answer(0.1)
    (opened,), (closed,) = house.told.events, after.events
    assert (closed.id, closed.why, closed.opened_at_s) == (opened.id, "quiet", opened.opened_at_s)


def test_a_rule_that_changes_closes_its_event_and_begins_anew(tmp_path: Path) -> None:
    house, after = House(tmp_path, _rule()), Told()
    house.answer(0.9)
    house.serve(_rule(enter=0.6), sinks=[after])
    assert house.told.states() == [("opened", None), ("closed", "stopped")]
    house.answer(0.9, latency_ns=2 * _S)
    assert after.events == [], "taken before the reload, when the old rule's event was open"
    house.answer(0.9)
    (opened,) = after.events
    assert opened.id == "7-e1"


def test_a_stream_that_goes_takes_its_events_along(tmp_path: Path) -> None:
    house = House(tmp_path)
    yard = Watched((_rule(),), _LABELS, Door())
    house.serve(_rule(), yard=yard)
    house.answer(0.9)
    house.answer(0.9, stream="yard")
    house.serve(_rule())
    found = [(one.stream, one.state, one.why) for one in house.told.events]
    assert found[2:] == [("yard", "closed", "stopped")]
    house.answer(0.9, stream="yard")
    house.answer(0.1)
    assert [(one.stream, one.state) for one in house.told.events[3:]] == [("door", "closed")]


def test_a_bundle_whose_labels_stand_in_another_order_is_read_by_their_names(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    turned = Watched((_rule(),), ("person", "nobody", "dog"), Door())
    house.events.serve({"door": turned}, [house.told])
    house.answer(0.05, probs=np.array([0.9, 0.05, 0.05], np.float32))
    assert house.told.states() == [("opened", None)]
    house.answer(0.9, probs=np.array([0.05, 0.9, 0.05], np.float32))
    assert house.told.states() == [("opened", None), ("closed", "quiet")]


def test_a_new_run_begins_with_nothing_open_and_ids_of_its_own(tmp_path: Path) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    house.events.close()
    later = House(tmp_path, _rule(), session=8)
    later.answer(0.9)
    assert later.told.events == [], "an answer to a sample of the run before"
    later.answer(0.9, id="8-0")
    assert [one.id for one in house.told.events + later.told.events] == ["7-e0", "7-e0", "8-e0"]


def test_what_a_kill_has_left_open_is_closed_by_the_next_run(tmp_path: Path) -> None:
    house = House(tmp_path, _rule(), _rule(name="pet", labels=("dog",)))
    house.answer(0.5, dog=0.5)
    house.answer(0.1, dog=0.9)
    assert [(one.event, one.state) for one in house.told.events] == [
        ("visit", "opened"),
        ("pet", "opened"),
        ("visit", "closed"),
    ]
    assert (tmp_path / "events.json").stat().st_mode & 0o777 == 0o600
    later = House(tmp_path, session=8)
    (closed,) = later.told.events
    assert (closed.id, closed.state, closed.why) == ("7-e1", "closed", "stopped")
    assert closed.closed_at_s is None, "nobody knows"
    assert later.events.counters()["events_left_open"] == 1
    assert House(tmp_path, session=9).told.events == [], "once"


def test_what_has_closed_in_peace_is_not_told_again(tmp_path: Path) -> None:
    house = House(tmp_path, _rule())
    house.answer(0.9)
    house.events.close()
    assert list(tmp_path.iterdir()) == []
    assert House(tmp_path, session=8).told.events == []


@pytest.mark.parametrize("content", [b"", b"[{", b"{}", b"[{}]", b"\xff" * 9])
def test_a_damaged_note_of_what_was_open_costs_that_only(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events.json").write_bytes(content)
    house = House(tmp_path, _rule())
    assert "which events were left open is not known" in caplog.text
    house.answer(0.9)
    assert house.told.states() == [("opened", None)]


def test_a_state_that_cannot_be_written_costs_no_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("no folder")
    house = House(tmp_path / "state", _rule())
    house.answer(0.9)
    house.answer(0.1)
    assert house.told.states() == [("opened", None), ("closed", "quiet")]
    assert "cannot be written" in caplog.text


# ---- In the loop

_SURE, _UNSURE = (20.0, -20.0, -20.0), (-6.0, -4.0, -6.0)  # labels 0 and 1; the cloud says 2
_OTHER = (-20.0, 20.0, -20.0)


class _Reloading:
    """A feed that does something once, when the loop turns for the n-th time."""

    def __init__(self, turn: int, act: Any) -> None:  # noqa: ANN401 -- a function of nothing
        self._turn, self._act = turn, act

    def feed(self, now_ns: int) -> int | None:
        del now_ns
        self._turn -= 1
        if self._turn == 0:
            self._act()
        return None


def _served(
    tmp_path: Path,
    lanes: Mapping[str, tuple[Lane, Sequence[EventRule]]],
    *fates: str,
    clock: Any,  # noqa: ANN401 -- test_loop's
) -> tuple[Told, Loop, Events, Any]:
    told = Told()
    events = Events(state=tmp_path, session=1, clock=clock, wall=lambda: clock.now_ns / _S)
    watched = {
        name: Watched(tuple(rules), ("a", "b", "c"), lane.source)
        for name, (lane, rules) in lanes.items()
    }
    events.serve(watched, [told])
    loop = Loop(
        [lane for lane, _ in lanes.values()],
        ids=(f"1-{number}" for number in range(10**6)),
        sinks=[told, events],
        uplink=make.ScriptedUplink(fates or ("now",), clock),
        bell=make.Bell(clock),
        clock=clock,
        feeds=[events],
    )
    return told, loop, events, watched


def test_a_run_over_known_labels_finds_the_events_that_are_in_it(tmp_path: Path) -> None:
    clock = make.Clock()
    said = "aabbbabbbbaaaaaabaaabbbbb"
    lane = make._lane(clock, [{"a": _SURE, "b": _OTHER}[one] for one in said], rate_hz=10.0)
    rules = [EventRule(name="b", labels=("b",), k=3, n=4, cooldown_s=0.5)]
    told, loop, events, _ = _served(tmp_path, {"s": (lane, rules)}, clock=clock)
    loop.run()
    events.close()
    begun_s = told.events[0].opened_at_s - 0.2
    found = [
        (one.state, round((one.closed_at_s or one.opened_at_s) - begun_s, 2), one.count, one.why)
        for one in told.events
    ]
    assert found == [
        ("opened", 0.2, 3, None),
        ("closed", 0.9, 7, "quiet"),
        ("opened", 2.0, 3, None),
        ("closed", 2.4, 5, "source"),
    ]
    assert told.events[0].samples == ("1-2", "1-3", "1-4")


def test_what_the_cloud_says_in_the_end_is_what_counts(tmp_path: Path) -> None:
    clock = make.Clock()
    lane = make._lane(clock, [_SURE, _UNSURE, _SURE, _SURE], rate_hz=10.0)
    rules = [EventRule(name=label, labels=(label,)) for label in "bc"]
    told, loop, _, _ = _served(tmp_path, {"s": (lane, rules)}, clock=clock)
    loop.run()
    found = [(one.event, one.state, one.samples) for one in told.events]
    assert found == [("c", "opened", ("1-1",)), ("c", "closed", ("1-1",))], "never the edge's b"


def test_without_an_answer_the_edges_counts_once_its_time_is_over(tmp_path: Path) -> None:
    clock = make.Clock()
    lane = make._lane(clock, [_SURE, _UNSURE, *[_SURE] * 20], rate_hz=10.0)
    rules = [EventRule(name="b", labels=("b",), enter=0.3, leave=0.3)]
    told, loop, _, _ = _served(tmp_path, {"s": (lane, rules)}, "never", clock=clock)
    loop.run()
    opened, closed = told.events
    assert (opened.samples, closed.why) == (("1-1",), "quiet")
    assert opened.opened_at_s == closed.closed_at_s, "when it was taken, not when it was known"


def test_an_event_of_one_stream_waits_for_the_clock_while_another_goes_on(tmp_path: Path) -> None:
    clock = make.Clock()
    lanes = {
        "short": (
            make._lane(clock, [_OTHER], name="short"),
            [EventRule(name="b", labels=("b",), max_s=1.0)],
        ),
        "gone": (make._lane(clock, [_OTHER], name="gone"), [EventRule(name="b", labels=("b",))]),
        "long": (make._lane(clock, [_SURE] * 80, name="long", rate_hz=10.0), []),
    }
    told, loop, _, _ = _served(tmp_path, lanes, clock=clock)
    loop.run()
    assert [(one.stream, one.state, one.why) for one in told.events] == [
        ("short", "opened", None),
        ("gone", "opened", None),
        ("short", "closed", "too_long"),
        ("gone", "closed", "source"),
    ]


def test_a_reload_in_the_middle_changes_the_rules_between_two_samples(tmp_path: Path) -> None:
    clock, after = make.Clock(), Told()
    lane = make._lane(clock, [_OTHER] * 20, rate_hz=10.0)
    stays, goes = (EventRule(name=name, labels=("b",)) for name in ("stays", "goes"))
    told, loop, events, watched = _served(tmp_path, {"s": (lane, [stays, goes])}, clock=clock)
    changed = {"s": watched["s"]._replace(rules=(stays,))}

    def reload() -> None:
        events.serve(changed, [after])
        loop.use([after, events])

    loop._feeds = [events, _Reloading(10, reload)]
    loop.run()
    events.close()
    assert [(one.event, one.state, one.why) for one in told.events] == [
        ("stays", "opened", None),
        ("goes", "opened", None),
        ("goes", "closed", "stopped"),
    ]
    (closed,) = after.events
    assert (closed.event, closed.id, closed.count, closed.why) == ("stays", "1-e0", 20, "source")


# ---- In the whole device


def test_a_device_writes_its_events_among_its_outcomes(tmp_path: Path, bundle_dir: Path) -> None:
    rows = np.random.default_rng(5).normal(scale=30.0, size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=rows, y=np.zeros(60, np.int64))
    (tmp_path / "device.toml").write_text(
        f"""
        [device]
        name = "d"
        state_dir = "state"
        board = "generic-x86"
        [[stream]]
        name = "s"
        bundle = "{bundle_dir}"
        filter = false
        answer_within_ms = 1
        source = {{ kind = "replay", path = "rows.npz", rate_hz = 1000 }}
        [[stream.event]]
        name = "moves"
        labels = ["walk", "run"]
        k = 2
        n = 3
        enter = 0.6
        leave = 0.5
        [[sink]]
        kind = "jsonl"
        path = "out.jsonl"
        """
    )
    config = load_config(tmp_path / "device.toml", environ={})
    report = serve(config, base=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    rule = Rule(config.stream[0].event[0], ("walk", "run"))
    finals = [one for one in lines if one.get("final")]
    expected = [
        (seen.state, seen.label, list(seen.samples), seen.count)
        for at_ns, one in enumerate(finals)
        for seen in rule.take(at_ns, one["id"], one["probs"][1:])
    ]
    told = [one for one in lines if "event" in one]
    found = [(one["state"], one["label"], one["samples"], one["count"]) for one in told]
    assert len(finals) == 60
    assert len(expected) > 4
    assert found[:2] == expected[:2], "of the later ones the real times have a say"
    assert [one["state"] for one in told] == ["opened", "closed"] * (len(told) // 2)
    assert {(one["event"], one["stream"]) for one in told} == {("moves", "s")}
    for state in ("opened", "closed"):
        assert report.counts[f"events_{state}.s.moves"] == len(told) / 2
