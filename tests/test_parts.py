"""Requests that are longer than one packet."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import UplinkError, WireError
from hedge.uplink import parts, wire
from hedge.uplink.parts import Bounds, Gatherer
from hedge.uplink.topics import Device

DEVICE = Device("site", "cam")
SECOND_NS = 1_000_000_000


def notice(payload: bytes, count: int, *, ask_id: str = "7-1", session: int = 7) -> wire.Notice:
    """Announce a payload."""
    return wire.Notice(1, ask_id, session, "0123456789abcdef", len(payload), count, 500)


def cut(
    payload: bytes, *, size: int, ask_id: str = "7-1", session: int = 7
) -> tuple[wire.Notice, list[wire.Part]]:
    """Return all messages of a payload that goes in parts."""
    pieces = parts.split(payload, part_bytes=size)
    count = len(pieces)
    return notice(payload, count, ask_id=ask_id, session=session), [
        wire.Part(1, ask_id, session, index, count, data) for index, data in enumerate(pieces)
    ]


@given(
    payload=st.binary(min_size=1, max_size=100),
    size=st.integers(5, 120),
    order=st.permutations(range(40)),
)
def test_parts_in_any_order_and_repeated_are_joined_once(
    payload: bytes, size: int, order: Sequence[int]
) -> None:
    announced, pieces = cut(payload, size=size)
    twice = pieces * 2
    arrivals = [twice[place] for place in order if place < len(twice)]
    gatherer = Gatherer()
    assert gatherer.expect(DEVICE, announced, now_ns=0)
    found = [gatherer.take(DEVICE, part, now_ns=0) for part in arrivals]
    assert [one for one in found if one is not None] == [payload]
    assert (len(gatherer), gatherer.size_bytes) == (0, 0)
    counted = gatherer.counters()
    assert counted["parts_joined"] == 1
    assert counted["parts_repeated"] + counted["parts_unannounced"] == len(pieces)


def test_the_bytes_that_are_joined_are_those_of_the_request() -> None:
    payload = bytes(range(256)) * 40
    pieces = parts.split(payload, part_bytes=1000)
    assert [len(piece) for piece in pieces] == [1000] * 10 + [240]
    assert b"".join(pieces) == payload


@pytest.mark.parametrize(
    ("length", "size"), [(0, 10), (4097, 1), (wire.MAX_REQUEST_BYTES + 1, 1 << 20)]
)
def test_what_does_not_go_in_parts_is_refused(length: int, size: int) -> None:
    with pytest.raises(WireError, match="do not go in parts"):
        parts.split(bytes(length), part_bytes=size)


@pytest.mark.parametrize("packet", [1024, 2048, 65_536, 268_435_455])
def test_a_part_and_its_topic_fit_the_packet(packet: int) -> None:
    size = parts.part_bytes(packet)
    name, most = "x" * 64, (1 << 53) - 1
    largest = wire.Part(1, name, most, wire.MAX_PARTS - 1, wire.MAX_PARTS, bytes(size))
    encoded = wire.encode(largest)
    assert len(encoded) - size <= parts.ENVELOPE_BYTES
    answer = Device(name, name).answer
    properties = len(wire.CONTENT_TYPE) + len(answer) + len(name) + 3 * 3 + 5 + 4
    assert 5 + 2 + len(Device(name, name).part(name)) + 2 + properties + len(encoded) <= packet
    assert wire.decode_part(encoded) == largest


def test_the_largest_request_goes_through_the_smallest_packets_that_may_take_it() -> None:
    pieces = parts.split(bytes(wire.MAX_REQUEST_BYTES), part_bytes=parts.part_bytes(2048))
    assert len(pieces) <= wire.MAX_PARTS


def test_packets_that_are_too_short_are_refused_with_the_length_that_is_needed() -> None:
    with pytest.raises(UplinkError, match="raise the broker's limit to 896"):
        parts.part_bytes(895)
    assert parts.part_bytes(896) == parts.MIN_PART_BYTES


def test_parts_that_nobody_announced_are_counted_and_dropped() -> None:
    announced, pieces = cut(b"a" * 30, size=10)
    gatherer = Gatherer()
    assert gatherer.take(DEVICE, pieces[0], now_ns=0) is None
    assert gatherer.expect(DEVICE, announced, now_ns=0)
    assert gatherer.take(Device("site", "other"), pieces[0], now_ns=0) is None
    assert gatherer.counters()["parts_unannounced"] == 2
    assert [gatherer.take(DEVICE, one, now_ns=0) for one in pieces][-1] == b"a" * 30


def test_parts_of_another_session_or_count_are_refused_and_harm_nothing() -> None:
    announced, pieces = cut(b"a" * 30, size=10)
    gatherer = Gatherer()
    gatherer.expect(DEVICE, announced, now_ns=0)
    stranger = wire.Part(1, "7-1", 8, 0, 3, b"b" * 10)
    other_count = wire.Part(1, "7-1", 7, 0, 4, b"b" * 10)
    for wrong in (stranger, other_count):
        assert gatherer.take(DEVICE, wrong, now_ns=0) is None
    assert gatherer.counters()["parts_mismatched"] == 2
    assert [gatherer.take(DEVICE, one, now_ns=0) for one in pieces][-1] == b"a" * 30


@pytest.mark.parametrize("lengths", [(10, 21), (10, 10, 11), (10, 10, 9), (5, 5, 5), (30,)])
def test_parts_of_other_bytes_than_announced_are_given_up(lengths: tuple[int, ...]) -> None:
    gatherer = Gatherer()
    gatherer.expect(DEVICE, notice(b"a" * 30, 3), now_ns=0)
    for index, length in enumerate(lengths):
        part = wire.Part(1, "7-1", 7, index, 3, b"a" * length)
        assert gatherer.take(DEVICE, part, now_ns=0) is None
    assert gatherer.counters()["parts_mismatched"] == 1
    assert (len(gatherer), gatherer.size_bytes) == (0, 0)


def test_an_announcement_that_is_repeated_keeps_what_has_come() -> None:
    announced, pieces = cut(b"a" * 30, size=10)
    gatherer = Gatherer()
    assert gatherer.expect(DEVICE, announced, now_ns=0)
    gatherer.take(DEVICE, pieces[0], now_ns=0)
    assert gatherer.expect(DEVICE, notice(b"a" * 30, 3), now_ns=1)
    gatherer.take(DEVICE, pieces[1], now_ns=1)
    assert gatherer.take(DEVICE, pieces[2], now_ns=1) == b"a" * 30


def test_a_request_that_is_announced_differently_begins_anew() -> None:
    gatherer = Gatherer()
    first, old = cut(b"a" * 30, size=10)
    second, new = cut(b"b" * 31, size=10)
    gatherer.expect(DEVICE, first, now_ns=0)
    gatherer.take(DEVICE, old[0], now_ns=0)
    assert gatherer.expect(DEVICE, second, now_ns=0)
    assert gatherer.size_bytes == 31
    assert [gatherer.take(DEVICE, one, now_ns=0) for one in new][-1] == b"b" * 31


def test_the_same_id_of_two_devices_is_kept_apart() -> None:
    gatherer = Gatherer()
    other = Device("site", "mic")
    ours, theirs = cut(b"a" * 20, size=10), cut(b"b" * 20, size=10)
    assert gatherer.expect(DEVICE, ours[0], now_ns=0)
    assert gatherer.expect(other, theirs[0], now_ns=0)
    for mine, its in zip(ours[1][:1], theirs[1][:1], strict=True):
        gatherer.take(DEVICE, mine, now_ns=0)
        gatherer.take(other, its, now_ns=0)
    assert gatherer.take(DEVICE, ours[1][1], now_ns=0) == b"a" * 20
    assert gatherer.take(other, theirs[1][1], now_ns=0) == b"b" * 20


@pytest.mark.parametrize(
    ("bounds", "ours", "all_of_them"),
    [
        (Bounds(device_requests=2), 2, 4),
        (Bounds(device_bytes=250), 2, 4),
        (Bounds(requests=3), 3, 3),
        (Bounds(size_bytes=350), 3, 3),
    ],
)
def test_what_is_gathered_is_bounded_per_device_and_in_all(
    bounds: Bounds, ours: int, all_of_them: int
) -> None:
    gatherer = Gatherer(bounds)
    payload = b"a" * 100
    for number in range(5):
        gatherer.expect(DEVICE, notice(payload, 2, ask_id=f"7-{number}"), now_ns=0)
    assert len(gatherer) == ours
    for number in range(5):
        gatherer.expect(Device("s", "x"), notice(payload, 2, ask_id=f"7-{number}"), now_ns=0)
    assert len(gatherer) == all_of_them
    assert gatherer.size_bytes == 100 * all_of_them
    assert gatherer.counters()["parts_no_room"] == 10 - all_of_them


def test_a_request_whose_parts_stop_is_forgotten_and_its_room_is_free_again() -> None:
    gatherer = Gatherer(Bounds(requests=2, patience_s=10))
    first, pieces = cut(b"a" * 30, size=10)
    gatherer.expect(DEVICE, first, now_ns=0)
    gatherer.expect(DEVICE, notice(b"b" * 30, 3, ask_id="7-2"), now_ns=SECOND_NS)
    gatherer.take(DEVICE, pieces[0], now_ns=9 * SECOND_NS)  # goes on until 19
    third, other = notice(b"c" * 30, 3, ask_id="7-3"), Device("site", "other")
    assert not gatherer.expect(other, third, now_ns=11 * SECOND_NS - 1)
    assert gatherer.expect(other, third, now_ns=11 * SECOND_NS)
    assert gatherer.counters()["parts_forgotten"] == 1
    gatherer.forget_old(now_ns=19 * SECOND_NS)
    assert len(gatherer) == 1
    assert gatherer.take(DEVICE, pieces[1], now_ns=19 * SECOND_NS) is None
    assert gatherer.counters()["parts_unannounced"] == 1


def test_a_repeated_part_does_not_keep_a_request_alive() -> None:
    gatherer = Gatherer(Bounds(patience_s=10))
    announced, pieces = cut(b"a" * 30, size=10)
    gatherer.expect(DEVICE, announced, now_ns=0)
    for at_s in range(10):
        gatherer.take(DEVICE, pieces[0], now_ns=at_s * SECOND_NS)
    gatherer.forget_old(now_ns=10 * SECOND_NS)
    assert not len(gatherer)


def test_a_request_can_be_given_up() -> None:
    gatherer = Gatherer()
    gatherer.expect(DEVICE, notice(b"a" * 30, 3), now_ns=0)
    gatherer.forget(DEVICE, "7-2")
    assert len(gatherer) == 1
    gatherer.forget(DEVICE, "7-1")
    assert (len(gatherer), gatherer.size_bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["expect", "take", "old"]),
            st.integers(0, 2),  # device
            st.integers(0, 2),  # id
            st.integers(1, 3),  # parts
            st.integers(1, 60),  # bytes
            st.integers(0, 2),  # index
        ),
        max_size=60,
    )
)
def test_no_row_of_messages_breaks_the_bounds(
    steps: list[tuple[str, int, int, int, int, int]],
) -> None:
    bounds = Bounds(requests=4, size_bytes=150, device_requests=2, device_bytes=80, patience_s=1)
    gatherer = Gatherer(bounds)
    for at, (what, device, number, count, size, index) in enumerate(steps):
        who, now_ns = Device("s", f"d{device}"), at * SECOND_NS // 5
        if what == "expect":
            gatherer.expect(
                who, notice(bytes(max(size, count)), count, ask_id=f"7-{number}"), now_ns=now_ns
            )
        elif what == "take":
            part = wire.Part(1, f"7-{number}", 7, min(index, count - 1), count, bytes(size))
            gatherer.take(who, part, now_ns=now_ns)
        else:
            gatherer.forget_old(now_ns=now_ns)
        assert len(gatherer) <= 4
        assert gatherer.size_bytes <= 150
        held = gatherer._held
        assert sum(requests for requests, _ in held.values()) == len(gatherer)
        assert sum(size for _, size in held.values()) == gatherer.size_bytes
        assert all(requests <= 2 and size <= 80 for requests, size in held.values())
    gatherer.forget_old(now_ns=1 << 62)
    assert (len(gatherer), gatherer.size_bytes, gatherer._held) == (0, 0, {})


def test_what_a_device_announces_now_takes_the_place_of_what_it_does_not_send() -> None:
    gatherer = Gatherer(Bounds(device_requests=2))
    first, second, third = (notice(bytes(30), 3, ask_id=f"7-{n}") for n in (1, 2, 3))
    assert gatherer.expect(DEVICE, first, now_ns=0)
    assert gatherer.expect(DEVICE, second, now_ns=SECOND_NS)
    assert not gatherer.expect(DEVICE, third, now_ns=SECOND_NS)
    assert gatherer.expect(DEVICE, third, now_ns=2 * SECOND_NS), "the first was not begun in 2 s"
    assert gatherer.counters()["parts_forgotten"] == 1
