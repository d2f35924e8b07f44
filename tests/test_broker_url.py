"""The broker's URL, its password, and the pauses between attempts."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.uplink.link.backoff import Backoff
from hedge.uplink.link.broker_url import Broker, Place, read_password


def at(host: str, port: int, **more: Any) -> Broker:  # noqa: ANN401 -- what the record holds
    """Return a broker of one node."""
    return Broker(places=(Place(host, port),), **more)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://here", at("here", 1883)),
        ("mqtt://here:1884/", at("here", 1884)),
        ("mqtts://here", at("here", 8883, tls=True)),
        ("mqtt://me@here", at("here", 1883, username="me")),
        ("mqtt://berlin%2Fporch%407@here", at("here", 1883, username="berlin/porch@7")),
        ("mqtt://[::1]:99", at("::1", 99)),
        ("mqtt://here?version=3.1.1", at("here", 1883, version="3.1.1")),
        ("mqtt://here?version=5", at("here", 1883, version="5")),
        ("ws://here", at("here", 80, path="/mqtt")),
        ("wss://here/", at("here", 443, path="/", tls=True)),
        (
            "ws://me@here:9001/a/b?version=5",
            at("here", 9001, path="/a/b", username="me", version="5"),
        ),
    ],
)
def test_a_url_says_where_the_broker_is(url: str, broker: Broker) -> None:
    assert Broker.parse(url) == broker
    again = Broker.parse(str(broker))
    assert (again.places, again.tls, again.path) == (broker.places, broker.tls, broker.path)


def test_a_url_can_name_every_node_of_a_cluster() -> None:
    broker = Broker.parse("mqtts://me@a,b:99,[::1]:98?version=5")
    assert broker.places == (("a", 8883), ("b", 99), ("::1", 98))
    assert str(broker) == "mqtts://a:8883,b:99,[::1]:98"
    assert (broker.username, broker.version) == ("me", "5")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "here:1883",
        "http://here",
        "mqtt://",
        "mqtt://here:port",
        "mqtt://here:70000",
        "mqtt://here/path",
        "mqtt://here?version=4",
        "mqtt://here?verify=no",
        "mqtt://[::1",
        "mqtt://a,",
        "mqtt://a,b:port",
        "mqtt://a,b:0",
        "mqtt://here#there",
        "ws://here/a b",
        "ws://here/\u00e4",
    ],
)
def test_what_is_no_brokers_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Broker.parse(url)


def test_a_password_in_the_url_is_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigError, match="does not belong into a URL") as caught:
        Broker.parse("mqtt://me:hunter2@here")
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert Broker.parse(text).places[0].host


def test_the_password_comes_from_its_file_or_else_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file \n")
    environ = {"HEDGE_BROKER_PASSWORD": "from environment"}
    assert read_password(file, environ=environ) == "from file "
    assert read_password(None, environ=environ) == "from environment"
    assert read_password(None, environ={}) is None
    with pytest.raises(ConfigError, match="missing"):
        read_password(tmp_path / "missing", environ=environ)


def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_reset() -> None:
    backoff = Backoff(first_s=1.0, cap_s=8.0, rng=random.Random(3))  # noqa: S311 -- a pause
    for due_s in (1, 2, 4, 8, 8, 8):
        assert due_s / 2 <= backoff.next_s() <= due_s
    backoff.reset()
    assert backoff.next_s() <= 1


def test_two_devices_do_not_march_in_step() -> None:
    one, two = (Backoff(rng=random.Random(seed)) for seed in (1, 2))  # noqa: S311 -- a pause
    assert [one.next_s() for _ in range(5)] != [two.next_s() for _ in range(5)]


def test_pauses_stay_capped_after_very_many_attempts() -> None:
    backoff = Backoff(cap_s=10.0)
    assert max(backoff.next_s() for _ in range(5000)) <= 10
