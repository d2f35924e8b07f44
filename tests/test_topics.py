"""The topics of the wire."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from hedge.models.errors import UplinkError, WireError
from hedge.uplink import topics
from hedge.uplink.topics import Device

NAMES = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=64)


@given(site=NAMES, name=NAMES, stream=NAMES)
def test_an_ask_topic_tells_who_asks_and_so_where_the_answer_goes(
    site: str, name: str, stream: str
) -> None:
    device = Device(site, name)
    assert topics.parse_ask(device.ask(stream)) == (device, stream)
    assert device.answer == f"hedge/1/{site}/{name}/answer"
    assert device.status == f"hedge/1/{site}/{name}/status"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "hedge/1/s/d/ask",
        "hedge/1/s/d/ask/",
        "hedge/1/s/d/ask/a/b",
        "hedge/1/s/d/answer",
        "hedge/2/s/d/ask/a",
        "hedge/1/s//ask/a",
        "hedge/1/s/D/ask/a",
        "hedge/1/s/d/ask/a\n",
        "hedge/1/../d/ask/a",
        "hedge/1/+/d/ask/a",
        f"hedge/1/s/{'d' * 65}/ask/a",
        "x/hedge/1/s/d/ask/a",
    ],
)
def test_any_other_topic_is_refused(topic: str) -> None:
    with pytest.raises(WireError, match="not an ask topic"):
        topics.parse_ask(topic)


@given(site=NAMES, name=NAMES, stream=NAMES, worker=NAMES)
def test_a_notice_and_a_part_tell_whose_they_are(
    site: str, name: str, stream: str, worker: str
) -> None:
    device = Device(site, name)
    assert topics.parse_notice(device.notice(stream)) == (device, stream)
    assert topics.parse_part(device.part(worker)) == (device, worker)
    for topic in (device.notice(stream), device.part(worker)):
        with pytest.raises(WireError, match="not an ask topic"):
            topics.parse_ask(topic)
    for topic in (device.ask(stream), device.part(worker), device.answer):
        with pytest.raises(WireError, match="not a notice topic"):
            topics.parse_notice(topic)
    for topic in (device.ask(stream), device.notice(stream)):
        with pytest.raises(WireError, match="not a part topic"):
            topics.parse_part(topic)


def test_a_stream_named_parts_is_no_notice() -> None:
    device = Device("s", "d")
    assert topics.parse_ask(device.ask("parts")) == (device, "parts")
    assert topics.parse_notice(device.notice("parts")) == (device, "parts")
    with pytest.raises(WireError, match="not a notice"):
        topics.parse_notice(device.ask("parts"))


def test_the_filters_match_notices_and_one_workers_parts() -> None:
    device = Device("s", "d")
    assert topic_matches_sub(topics.ASKS, device.notice("cam"))
    assert not topic_matches_sub(topics.ASKS, device.part("w1"))
    assert topic_matches_sub(topics.parts_filter("w1"), device.part("w1"))
    assert not topic_matches_sub(topics.parts_filter("w1"), device.part("w2"))


@given(st.text(max_size=80))
def test_parsing_a_topic_raises_nothing_but_wire_errors(topic: str) -> None:
    for parse in (topics.parse_ask, topics.parse_notice, topics.parse_part):
        with pytest.raises(WireError):
            parse(topic)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "A", "ä", "a b", "a\n", "x" * 65])
def test_a_name_that_the_wire_forbids_is_refused(name: str) -> None:
    for names in ((name, "d"), ("s", name)):
        with pytest.raises(UplinkError, match="no name for a topic"):
            Device(*names)
    with pytest.raises(UplinkError, match="no name"):
        Device("s", "d").ask(name)
    with pytest.raises(UplinkError, match="no name"):
        topics.shared(name, topics.ASKS)
    for refused in (Device("s", "d").notice, Device("s", "d").part, topics.parts_filter):
        with pytest.raises(UplinkError, match="no name"):
            refused(name)


def test_a_shared_filter_names_its_group() -> None:
    assert topics.shared("blue", topics.ASKS) == "$share/blue/hedge/1/+/+/ask/#"
