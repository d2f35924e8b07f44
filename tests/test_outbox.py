"""What both outboxes do alike, in memory and on disk; and what the one in memory does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.uplink import wire
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import End, MemoryOutbox, Outbox, Record

Make = Callable[..., Outbox]
FAR_NS = 10**18  # far enough that the one on disk has written all it owed


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Give a maker of one outbox of either kind."""
    if request.param == "memory":
        return MemoryOutbox
    return lambda **options: DurableOutbox(tmp_path, min_free_bytes=0, **options)


def record(
    ask_id: str,
    *,
    score: float = 0.5,
    size: int = 4,
    deadline_ns: int | None = None,
    answer_by_ns: int | None = None,
) -> Record:
    """Return a record whose body has ``size`` bytes."""
    request = wire.Request(
        v=1,
        id=ask_id,
        session=1,
        kind="decide",
        model="m",
        contract="0" * 16,
        entry="input",
        remaining_ms=None,
        dtype="uint8",
        shape=(size,),
        codec="raw",
        opinion=None,
        body=bytes(size),
    )
    return Record(
        request=request,
        stream="cam",
        classes=3,
        score=score,
        deadline_ns=deadline_ns,
        answer_by_ns=answer_by_ns,
    )


def ids(records: Iterable[Record]) -> list[str]:
    """Return their ids."""
    return [one.id for one in records]


def test_asks_are_sent_in_the_order_in_which_they_were_stored(make: Make) -> None:
    outbox = make()
    assert outbox.put([record("b"), record("a")]) == ([], [])
    outbox.put([record("c")])
    assert ids(outbox.due(2)) == ["b", "a"]
    outbox.sent("b", lease_until_ns=10)
    assert ids(outbox.due(9)) == ["a", "c"]


def test_an_id_that_is_stored_already_is_left_as_it_is(make: Make) -> None:
    outbox = make()
    outbox.put([record("a", size=3)])
    outbox.put([record("a", size=9)])
    found = outbox.find("a")
    assert found is not None
    assert len(found.request.body) == 3
    assert outbox.stats().pending == 1


def test_what_is_in_flight_is_due_again_when_its_lease_lapses_before_all_else(make: Make) -> None:
    outbox = make()
    outbox.put([record("a"), record("b"), record("c")])
    outbox.sent("a", lease_until_ns=100)
    outbox.sent("b", lease_until_ns=200)
    assert outbox.next_ns() == 100
    assert outbox.expire(now_ns=99) == []
    assert ids(outbox.due(9)) == ["c"]
    outbox.expire(now_ns=100)
    assert ids(outbox.due(9)) == ["a", "c"]
    assert outbox.stats()[:2] == (2, 1)


def test_what_was_in_flight_when_the_connection_was_lost_is_due_again_in_order(make: Make) -> None:
    outbox = make()
    outbox.put([record("a"), record("b"), record("c")])
    for ask_id in "ab":
        outbox.sent(ask_id, lease_until_ns=10**9)
    outbox.requeue()
    assert ids(outbox.due(9)) == ["a", "b", "c"]
    assert outbox.stats().in_flight == 0


def test_an_ask_ends_at_its_deadline_whether_it_was_sent_or_not(make: Make) -> None:
    outbox = make()
    outbox.put([record("a", deadline_ns=50), record("b", deadline_ns=40), record("c")])
    outbox.sent("a", lease_until_ns=10**9)
    assert outbox.next_ns() == 40
    assert outbox.expire(now_ns=49) == ["b"]
    assert outbox.expire(now_ns=50) == ["a"]
    assert outbox.find("a") is None
    outbox.expire(now_ns=FAR_NS)
    assert outbox.next_ns() is None
    assert ids(outbox.due(9)) == ["c"]


@pytest.mark.parametrize("end", ["answered", "refused", "dead"])
def test_an_ask_that_has_ended_is_gone_and_ending_it_again_is_harmless(
    make: Make, end: End
) -> None:
    outbox = make()
    outbox.put([record("a", deadline_ns=50), record("b")])
    outbox.sent("a", lease_until_ns=10)
    outbox.settle({"a": end})
    outbox.settle({"a": end, "never": end})
    assert outbox.find("a") is None
    assert outbox.expire(now_ns=10**12) == []
    assert ids(outbox.due(9)) == ["b"]
    assert outbox.stats()[:2] == (1, 0)


def test_when_full_it_gives_up_the_asks_of_which_the_edge_is_surest(make: Make) -> None:
    outbox = make(max_count=3)
    outbox.put([record("a", score=0.4), record("b", score=0.2), record("c", score=0.9)])
    assert outbox.put([record("d", score=0.3)]) == ([], ["b"])
    assert outbox.put([record("e", score=0.1)]) == (["e"], [])
    assert ids(outbox.due(9)) == ["a", "c", "d"]


def test_when_full_it_can_give_up_the_oldest_instead(make: Make) -> None:
    outbox = make(max_count=2, evict="oldest")
    outbox.put([record("a", score=0.9), record("b", score=0.8)])
    assert outbox.put([record("c", score=0.1)]) == ([], ["a"])
    assert outbox.put([record(one) for one in "def"]) == (["d"], ["b", "c"])


def test_bytes_are_bounded_too_and_what_can_never_fit_is_not_stored() -> None:
    room = 3 * record("x", size=100).size_bytes
    outbox = MemoryOutbox(max_bytes=room)
    outbox.put([record(one, size=100, score=0.5) for one in "abc"])
    assert outbox.stats().stored_bytes == room
    refused, evicted = outbox.put([record("huge", size=room, score=0.99)])
    assert (refused, evicted) == (["huge"], [])
    assert outbox.stats().stored_bytes == room


def test_what_is_in_flight_can_be_given_up_as_well(make: Make) -> None:
    outbox = make(max_count=1)
    outbox.put([record("a", score=0.1)])
    outbox.sent("a", lease_until_ns=10)
    assert outbox.put([record("b", score=0.9)]).evicted == ["a"]
    outbox.expire(now_ns=FAR_NS)
    assert outbox.next_ns() is None


def test_an_ask_that_is_not_answered_again_and_again_while_others_are_is_dead(make: Make) -> None:
    outbox = make(max_strikes=2)
    outbox.put([record(one) for one in ("poison", "good", "c", "d")])
    for now, other in ((1, "c"), (2, "d")):
        assert outbox.failures() == {}
        outbox.sent("poison", lease_until_ns=now)
        assert outbox.sends("poison") == now
        outbox.settle({other: "answered"})
        outbox.expire(now_ns=now)
    assert ids(outbox.due(9)) == ["good"]
    assert outbox.failures() == {"poison": "dead"}
    assert outbox.find("poison") is None
    assert outbox.failures() == {}
    assert (outbox.sends("poison"), outbox.sends("good")) == (0, 0)


def test_no_ask_dies_of_a_far_end_that_is_away_or_of_a_connection_that_is_lost_after_it(
    make: Make,
) -> None:
    outbox = make(max_strikes=1)
    outbox.put([record("a"), record("b")])
    for now in range(50):
        outbox.sent("a", lease_until_ns=now)
        outbox.expire(now_ns=now)
        outbox.sent("a", lease_until_ns=FAR_NS)
        outbox.requeue()
    assert outbox.failures() == {}
    assert ids(outbox.due(9)) == ["a", "b"]


def test_one_that_is_undelivered_whenever_the_connection_is_lost_soon_waits_behind_the_others(
    make: Make,
) -> None:
    outbox = make()
    outbox.put([record("poison"), record("a"), record("b")])
    for _ in range(3):
        outbox.sent("poison", lease_until_ns=FAR_NS)
        outbox.requeue(["poison"])
        assert ids(outbox.due(9)) == ["poison", "a", "b"]
    outbox.sent("poison", lease_until_ns=FAR_NS)
    outbox.sent("a", lease_until_ns=FAR_NS)
    outbox.requeue(["poison"])
    assert ids(outbox.due(9)) == ["b", "poison"], "the broker has the other one"
    outbox.requeue()
    assert ids(outbox.due(9)) == ["a", "b", "poison"]


def test_asks_whose_users_wait_are_sent_before_the_backlog_which_leaves_them_room(
    make: Make,
) -> None:
    outbox = make()
    outbox.put([record(one, answer_by_ns=9) for one in "abcde"])
    outbox.put([record("label")])
    outbox.final(["b", "a"])
    assert ids(outbox.due(9)) == ["c", "d", "e", "label", "b", "a"]
    assert ids(outbox.due(9, backlog=2)) == ["c", "d", "e", "label", "b"]
    outbox.sent("label", lease_until_ns=FAR_NS)
    assert ids(outbox.due(9, backlog=2)) == ["c", "d", "e", "b"]
    outbox.sent("c", lease_until_ns=FAR_NS)
    outbox.final(["c"])
    assert ids(outbox.due(9, backlog=2)) == ["d", "e"]
    outbox.requeue()
    assert ids(outbox.due(9)) == ["d", "e", "label", "c", "b", "a"]


def test_a_far_end_that_is_back_gets_at_once_what_was_sent_to_it_in_vain(make: Make) -> None:
    outbox = make()
    outbox.put([record("a"), record("b")])
    outbox.sent("a", lease_until_ns=1)
    outbox.expire(now_ns=1)
    outbox.sent("a", lease_until_ns=FAR_NS)
    outbox.sent("b", lease_until_ns=FAR_NS)
    outbox.retry()
    assert ids(outbox.due(9)) == ["a"]


def test_an_id_that_comes_again_after_its_end_has_its_own_deadline(make: Make) -> None:
    outbox = make()
    outbox.put([record("a", deadline_ns=50)])
    outbox.settle({"a": "answered"})
    outbox.put([record("a", deadline_ns=70)])
    assert outbox.expire(now_ns=60) == []
    assert outbox.expire(now_ns=70) == ["a"]


def test_what_is_not_there_can_be_sent_settled_and_final_without_effect(make: Make) -> None:
    outbox = make()
    outbox.sent("a", lease_until_ns=5)
    outbox.settle({"a": "answered"})
    outbox.final(["a"])
    assert outbox.put([]) == ([], [])
    assert list(outbox.recovered()) == []
    assert outbox.stats() == (0, 0, 0)


def _sent(outbox: MemoryOutbox, now: int, one: str) -> None:
    if outbox.find(one) is not None:
        outbox.sent(one, lease_until_ns=now + 3)


OPERATIONS: dict[str, Callable[[MemoryOutbox, int, str], None]] = {
    "sent": _sent,
    "settle": lambda outbox, _, one: outbox.settle({one: "answered"}),
    "requeue": lambda outbox, _, __: outbox.requeue(),
}


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "put", "expire", *OPERATIONS]), st.integers(0, 200)),
        max_size=120,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_happens_every_ask_is_in_one_place_and_the_caps_hold(
    steps: list[tuple[str, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    outbox = MemoryOutbox(max_count=8, max_bytes=8000)
    alive: set[str] = set()
    for now, (step, number) in enumerate(steps):
        if step == "put":
            new = record(
                f"{now}",
                score=float(rng.random()),
                size=int(rng.integers(1, 1500)),
                deadline_ns=None if number % 3 == 0 else now + number,
            )
            placed = outbox.put([new])
            alive = (alive | {new.id}) - {*placed.refused, *placed.evicted}
        elif step == "expire":
            alive -= set(outbox.expire(now_ns=now))
        else:
            one = sorted(alive)[number % len(alive)] if alive else "none"
            OPERATIONS[step](outbox, now, one)
            alive -= {one} if step == "settle" else set()
        stats = outbox.stats()
        assert {ask_id for ask_id in map(str, range(len(steps))) if outbox.find(ask_id)} == alive
        assert stats.pending + stats.in_flight == len(alive) <= 8
        assert stats.stored_bytes <= 8000
    outbox.settle(dict.fromkeys(alive, "answered"))
    assert outbox.stats() == (0, 0, 0)


def test_its_bookkeeping_does_not_grow_with_what_has_passed_through() -> None:
    outbox = MemoryOutbox(max_count=10)
    outbox.put([record(f"{number}", score=0.0) for number in range(11)])
    for number in range(5000):
        outbox.put([record(f"{number}", deadline_ns=10**15)])
        outbox.settle({f"{number}": "answered"})
    assert outbox._shelf._values is not None
    assert len(outbox._shelf._values) < 100
    assert len(outbox._shelf._deadlines) < 100


def test_an_ask_that_went_in_many_parts_is_one_ask_when_the_connection_is_lost(make: Make) -> None:
    outbox = make(max_strikes=3)
    outbox.put([record("long"), record("b")])
    for ask_id in ("long", "b"):
        outbox.sent(ask_id, lease_until_ns=FAR_NS)
    outbox.requeue(["long", "long", "b", "long"])
    assert ids(outbox.due(9)) == ["long", "b"]
    assert outbox.failures() == {}
