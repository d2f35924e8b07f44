"""A live source: its thread, its buffer, and how it comes back; with real threads."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pytest

from hedge.models.errors import DataError, HedgeError, SourceError
from hedge.models.manifest import Calibration, Input
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome
from hedge.runtime.backends.null import NullModel
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.source import Captured, Reader, StuckError
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger
from hedge.uplink.absent import Absent
from hedge.uplink.link.backoff import Backoff

Eventually = Callable[[Callable[[], bool]], None]
Step = Sequence[int] | HedgeError | Exception | None
"""What one read gives: captures of these numbers, an error, or the end."""


class Scripted:
    """Gives what it is told to, read by read; what `open` raises first, in turn."""

    recorder = None

    def __init__(self, *steps: Step, refuse: Sequence[Exception] = ()) -> None:
        self.steps: queue.Queue[Step] = queue.Queue()
        for step in steps:
            self.steps.put(step)
        self._refuse = list(refuse)
        self.opened = self.closed = self.reads = 0

    def open(self) -> None:
        self.opened += 1
        if self._refuse:
            raise self._refuse.pop(0)

    def read(self) -> Sequence[Captured] | None:
        self.reads += 1
        try:
            step = self.steps.get(timeout=0.25)
        except queue.Empty:
            return ()
        match step:
            case None:
                return None
            case Exception():
                raise step
            case numbers:
                return [Captured(np.full(2, number, np.float32), number) for number in numbers]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def start() -> Iterator[Callable[..., Live]]:
    """Give `start(reader, …)`: a live source that is closed afterwards."""
    with ExitStack() as stack:

        def make(reader: Reader, **options: object) -> Live:
            given = {
                "name": "s",
                "policy": "every",
                "buffer": 8,
                "ring": lambda: None,
                "backoff": Backoff(first_s=0.001, cap_s=0.002),
                **options,
            }
            live = Live(reader, **given)  # type: ignore[arg-type]
            stack.callback(live.close)
            return live

        yield make


def drain(live: Live) -> list[int | str]:
    """Take all that waits: numbers, and what is said of the rest."""
    found: list[int | str] = []
    while live.due_ns() is not None:
        try:
            captured = live.poll(0)
        except DataError as error:
            found.append(error.what)
        else:
            assert captured is not None
            found.append(captured.taken_at_ns)
    return found


def bad(number: int = 0) -> DataError:
    return DataError(f"bad {number}")


def test_what_is_read_comes_in_order_and_then_the_end(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    live = start(Scripted([1, 2], [], [3], bad(4), [5], None))
    eventually(lambda: live.state().state == "ended")
    assert not live.ended, "what is in the buffer is still to come"
    assert drain(live) == [1, 2, 3, "bad 4", 5]
    eventually(lambda: live.ended)
    assert live.poll(0) is None
    assert live.due_ns() is None


def test_latest_drops_the_oldest_and_counts_each(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    live = start(Scripted(range(100), range(100, 1003), None), policy="latest", buffer=4)
    eventually(lambda: live.state().state == "ended")
    assert drain(live) == [999, 1000, 1001, 1002]
    assert live.overrun == 999
    assert not live.patient


def test_every_waits_for_room_and_loses_nothing(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    reader = Scripted(*([n] for n in range(500)), range(500, 1000), None)
    bell = threading.Event()
    live = start(reader, buffer=3, ring=bell.set)
    eventually(lambda: len(live._captured) == 3)
    assert reader.reads <= 4, "the source is not read while nobody takes what is there"
    found: list[int | str] = []
    while not live.ended:
        assert bell.wait(30)
        bell.clear()
        found += drain(live)
    assert found == list(range(1000))
    assert live.overrun == 0
    assert live.patient


def test_what_is_no_good_never_takes_the_place_of_what_is(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    flood = [bad(number) for number in range(40)]
    live = start(Scripted([1, 2, 3], *flood, [4], None), policy="latest", buffer=4)
    eventually(lambda: live.state().state == "ended")
    assert drain(live) == [1, 2, 3, 4], "of the garbage even the last has given way"
    assert live.overrun == len(flood)
    assert live._errors == 0


def test_a_full_buffer_of_good_captures_takes_no_garbage(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    live = start(Scripted([1, 2], bad(), [3], bad(), None), policy="latest", buffer=2)
    eventually(lambda: live.state().state == "ended")
    assert (drain(live), live.overrun) == ([2, 3], 3)


def test_what_is_good_does_not_wait_behind_a_burst_of_garbage(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    now_ns = 10**12
    burst = [bad(number) for number in range(20_000)]
    live = start(Scripted(*burst, [1], None), policy="latest", buffer=4096, clock=lambda: now_ns)
    eventually(lambda: live.state().state == "ended")
    found = drain(live)
    assert found[-1] == 1
    assert len(found) == 64 + 1 + 1, "of what goes on and on the loop is shown a little"
    assert live.overrun == 20_000 - 65, "and the rest is counted all the same"


def test_endless_garbage_is_shown_to_the_loop_a_hundred_times_a_second(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    now_ns = [10**12]

    class Garbage(Scripted):
        """Gives nothing but garbage, a thousand times a second."""

        def read(self) -> Sequence[Captured] | None:
            if self.reads == 64 + 3000:
                return None
            self.reads += 1
            now_ns[0] += 1_000_000
            raise bad(self.reads)

    live = start(Garbage(), policy="latest", buffer=4096, clock=lambda: now_ns[0])
    eventually(lambda: live.state().state == "ended")
    assert len(drain(live)) == 64 + 300
    assert live.overrun == 2700


def test_garbage_waits_for_a_loop_that_is_waited_for(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    live = start(Scripted(*map(bad, range(200)), [1], None), policy="every", buffer=2)
    found: list[int | str] = []

    def ended() -> bool:
        found.extend(drain(live))
        return live.ended

    eventually(ended)
    assert found == [*(f"bad {number}" for number in range(200)), 1]
    assert live.overrun == 0


class Pictures(Scripted):
    """Gives captures of 1000 bytes."""

    def read(self) -> Sequence[Captured] | None:
        found = super().read()
        return found and [Captured(np.zeros(1000, np.uint8), one.taken_at_ns) for one in found]


def test_latest_drops_the_oldest_where_they_are_too_many_bytes(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    reader = Pictures(range(10), bad(), None)
    live = start(reader, policy="latest", buffer=4096, most_bytes=3500)
    eventually(lambda: live.state().state == "ended")
    assert drain(live) == [7, 8, 9, "bad 0"]
    assert live.overrun == 7
    assert live._bytes == 0


def test_one_capture_is_kept_however_large(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    live = start(Pictures([1], [2, 3], None), policy="latest", buffer=8, most_bytes=10)
    eventually(lambda: live.state().state == "ended")
    assert (drain(live), live.overrun) == ([3], 2)


def test_every_waits_until_there_is_room_for_the_bytes(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    reader = Pictures(*([n] for n in range(50)), None)
    live = start(reader, buffer=4096, most_bytes=2500)
    eventually(lambda: len(live._captured) == 2)
    assert reader.reads <= 3
    found: list[int | str] = []

    def ended() -> bool:
        found.extend(drain(live))
        return live.ended

    eventually(ended)
    assert (found, live.overrun) == (list(range(50)), 0)


def test_the_bell_is_rung_for_captures_and_for_changes(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    bell, reader = threading.Event(), Scripted()
    live = start(reader, ring=bell.set)

    def rings_for(step: Step, state: str) -> None:
        bell.clear()
        reader.steps.put(step)
        assert bell.wait(30)
        eventually(lambda: live.state().state == state)

    eventually(lambda: live.state().state == "open")
    rings_for([7], "open")
    rings_for(bad(), "open")
    rings_for(SourceError("away"), "open")
    rings_for(None, "ended")


def test_a_source_that_went_away_is_opened_again_and_says_how_it_is(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    gone = SourceError("is not there", where="/dev/x", hint="plug it in")
    reader = Scripted([1], gone, [2], refuse=[gone, gone])
    live = start(reader)
    eventually(lambda: len(live._captured) == 2)
    eventually(lambda: live.state().state == "open")
    state = live.state()
    assert (state.opened, state.lost, state.why) == (2, 3, None)
    assert reader.opened == 4
    assert reader.closed == 3, "after every failure, also that of open"
    assert drain(live) == [1, 2], "what was read before is not lost"


def test_while_it_is_away_it_says_why(start: Callable[..., Live], eventually: Eventually) -> None:
    refuse = [SourceError("is not there", where="/dev/x")] * 1_000_000
    live = start(Scripted(refuse=refuse), backoff=Backoff(first_s=0.01, cap_s=0.01))
    eventually(lambda: live.state().lost > 1)
    state = live.state()
    assert (state.state, state.opened, state.why) == ("away", 0, "/dev/x: is not there")


class Delays(Backoff):
    """A backoff whose delays are noted and cut short."""

    def __init__(self) -> None:
        super().__init__(first_s=0.1, cap_s=1.0)
        self.taken: list[float] = []

    def next_s(self, *, absent: bool = False) -> float:
        self.taken.append(super().next_s(absent=absent))
        return 0.0005


@pytest.mark.parametrize("gives", [(), (1,)])
def test_what_opens_and_fails_at_once_is_never_tried_in_a_hurry(
    gives: tuple[int, ...], start: Callable[..., Live], eventually: Eventually
) -> None:
    delays = Delays()
    reader = Scripted()
    live = start(reader, backoff=delays, policy="latest")
    for _ in range(12):
        reader.steps.put(gives)
        reader.steps.put(SourceError("hangs up"))
    eventually(lambda: len(delays.taken) == 12)
    assert live.state().opened >= 12
    assert delays.taken[0] <= 0.1
    assert min(delays.taken[4:]) >= 0.5, "a second at most, and half of it at least"
    assert max(delays.taken) <= 1.0, "so what returns is found within two seconds"


def test_what_somebody_has_to_mend_is_tried_ever_more_rarely(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    soon, rarely = Delays(), Delays()
    refuse = [StuckError("no element"), StuckError("no element"), SourceError("is busy")]
    live = start(Scripted(refuse=refuse), backoff=soon, stuck_backoff=rarely)
    eventually(lambda: live.state().state == "open")
    assert (len(rarely.taken), len(soon.taken)) == (2, 1)
    backoff = start(Scripted(None))._stuck_backoff
    waits_s = [backoff.next_s() for _ in range(20)]
    assert waits_s[0] <= 2
    assert 30 <= waits_s[-1] <= 60


def test_a_source_that_gave_for_a_while_is_tried_again_soon(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    now_ns, delays, reader = [0], Delays(), Scripted(*[SourceError("away")] * 6)
    live = start(reader, backoff=delays, clock=lambda: now_ns[0])
    eventually(lambda: live.state().opened == 7)
    now_ns[0] = 6_000_000_000
    reader.steps.put(SourceError("has given nothing"))
    eventually(lambda: live.state().opened == 8)
    assert delays.taken[-1] > 0.1
    now_ns[0] = 12_000_000_000
    reader.steps.put([1])
    reader.steps.put(SourceError("gave something"))
    eventually(lambda: live.state().opened == 9)
    assert delays.taken[-1] <= 0.1


def test_a_source_that_flaps_is_logged_ever_more_rarely(
    start: Callable[..., Live], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        steps: list[Step] = [[1], SourceError("hangs up")]
        reader = Scripted(*steps * 64)
        live = start(reader, policy="latest")
        eventually(lambda: live.state().lost == 64)
        live.close()  # what is said of the last is said after it is counted
    said = [one.getMessage() for one in caplog.records]
    assert said.count("s: hangs up; it is tried again") == 7
    assert said.count("s: its source is back") <= 7
    assert len(said) <= 14


def test_errors_that_differ_every_time_do_not_fill_the_log(
    start: Callable[..., Live], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        refuse = [SourceError(f"no answer at {n}") for n in range(300)]
        live = start(Scripted(refuse=refuse))
        eventually(lambda: live.state().lost == 300)
    assert len(caplog.records) < 16 + 10
    assert len(live._told) <= 17


def test_a_bug_in_a_reader_is_shown_and_does_not_end_the_source(
    start: Callable[..., Live], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    live = start(Scripted([1], ZeroDivisionError("a bug"), [2], refuse=[KeyError("another")]))
    eventually(lambda: len(live._captured) == 2)
    assert live.state().lost == 2
    assert any(one.exc_info for one in caplog.records), "with its traceback"


def test_a_reader_that_cannot_be_closed_is_opened_again_all_the_same(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    class Sticks(Scripted):
        def close(self) -> None:
            super().close()
            raise OSError("sticks")

    live = start(Sticks([1], SourceError("away"), [2], None))
    eventually(lambda: live.state().state == "ended")
    assert drain(live) == [1, 2]


def test_closing_ends_the_thread_while_it_waits_for_room(start: Callable[..., Live]) -> None:
    reader = Scripted(range(100))
    live = start(reader, buffer=2)
    live.close()
    live._thread.join(30)
    assert not live._thread.is_alive()
    assert reader.closed == 1
    assert live.poll(0) is None, "what was not taken is dropped"
    live.close()


def test_closing_ends_the_thread_while_the_source_is_away(start: Callable[..., Live]) -> None:
    reader = Scripted(refuse=[SourceError("away")] * 9)
    live = start(reader, backoff=Backoff(first_s=3600, cap_s=3600))
    live.close()
    live._thread.join(30)
    assert not live._thread.is_alive()


def test_several_readers_that_are_stuck_hold_a_shutdown_up_once(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    free = threading.Event()

    class Stuck(Scripted):
        def read(self) -> Sequence[Captured] | None:
            self.reads += 1
            free.wait()
            return [Captured(np.zeros(1), 0)]

    readers = [Stuck() for _ in range(150)]  # more than the seconds that a test may take
    lives = [start(reader) for reader in readers]
    eventually(lambda: all(reader.reads for reader in readers))
    for live in lives:
        live.close()
    assert all(live._thread.is_alive() for live in lives)
    free.set()
    for live in lives:
        live._thread.join(30)
        assert live.poll(0) is None, "what comes after the end is nobody's"


# ---- In the loop.

_INPUT = Input(kind="tensor", shape=(2,), dtype="float32")
_POLICY = Calibration(score="vacuity", total=0.9, method="test", rows=1, data_sha256="0" * 64)


def lane_of(name: str, source: Live) -> Lane:
    """Return a lane that is always sure."""
    return Lane(
        name=name,
        source=source,
        input=_INPUT,
        filters=(),
        model=NullModel(np.array([[20.0, -20.0]]), shape=(2,)),
        prepare=preparer(_INPUT),
        assessor=Assessor(output="logits", head="evidential", classes=2),
        policy=Policy.of(_POLICY),
        ledger=Ledger(name),
        clock=boottime_ns,
        answer_within_ns=10**9,
    )


class Emitted:
    """A sink that keeps what it gets, and stops the loop after so much."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self.stop: Callable[[], None] = lambda: None
        self._stop_after = stop_after

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) == self._stop_after:
            self.stop()

    def close(self) -> None: ...


def serve(lanes: Sequence[Lane], bell: threading.Event, sink: Emitted) -> None:
    """Run a real loop over the lanes, by the real clock."""
    loop = Loop(
        lanes,
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[sink],
        uplink=Absent(),
        bell=bell,
        clock=boottime_ns,
        feeds=[],
    )
    sink.stop = loop.stop
    loop.run()


def test_eight_streams_at_once_take_turns_though_one_floods(
    start: Callable[..., Live], eventually: Eventually
) -> None:
    class Flood(Scripted):
        def read(self) -> Sequence[Captured] | None:
            self.reads += 1
            return [Captured(np.ones(2, np.float32), boottime_ns())] * 16

    bell, names = threading.Event(), "abcdefg"
    lives = [start(Scripted(range(50), None), buffer=64, ring=bell.set) for _ in names]
    flood = start(Flood(), policy="latest", buffer=64, ring=bell.set)
    eventually(lambda: all(live.state().state == "ended" for live in lives))
    eventually(lambda: flood.overrun > 100)
    lanes = [lane_of(name, live) for name, live in zip(names, lives, strict=True)]
    lanes.insert(3, lane_of("F", flood))
    sink = Emitted(stop_after=50 * 8)
    serve(lanes, bell, sink)
    order = "".join(one.stream for one in sink.outcomes)
    assert order == "abcFdefg" * 50, "each in its turn, the flood in its own"
    ledger = lanes[3].ledger
    assert ledger.imbalance() is None
    assert ledger.routes["overrun"] == flood.overrun
    assert ledger.read == flood.overrun + 50


def test_streams_that_end_end_the_loop_and_nothing_is_lost_on_the_way(
    start: Callable[..., Live],
) -> None:
    bell = threading.Event()
    readers = [
        Scripted(*([n] for n in range(100)), SourceError("away"), bad(), [100], None)
        for _ in range(8)
    ]
    lives = [start(reader, ring=bell.set, buffer=2) for reader in readers]
    lanes = [lane_of(f"s{place}", live) for place, live in enumerate(lives)]
    sink = Emitted()
    serve(lanes, bell, sink)
    for lane in lanes:
        routes = [one.route for one in sink.outcomes if one.stream == lane.name]
        assert routes == [*["edge"] * 100, "failed", "edge"]
        assert lane.ledger.imbalance() is None
