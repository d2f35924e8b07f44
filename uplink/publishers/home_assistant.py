"""Home Assistant's MQTT discovery: one retained message that tells it of a whole device.

Device discovery is documented at https://www.home-assistant.io/integrations/mqtt/; a key
that Home Assistant does not know, anywhere outside a component, makes it refuse the device.
The message is published on every connection, and again when Home Assistant says that it
has started; its topic ends in site and device, so that a broker's access list can hold each
device to its own. Where the device's own topics hold nothing new for a sensor, its template
gives the state that it has, or, for a number, nothing, which Home Assistant passes over.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from ..link.link import Link, Received
from ..topics import Device

PREFIX = "homeassistant"

_LABEL = (
    "{% if value_json.final and value_json.route != 'dropped' %}{{ value_json.label }}"
    "{% elif this.state in ('unknown', 'unavailable') %}None{% else %}{{ this.state }}{% endif %}"
)
_CONFIDENCE = (
    "{% if value_json.final and value_json.probs is defined %}"
    "{{ (100 * value_json.probs | max) | round(2) }}{% endif %}"
)
_DOUBT = (
    "{% if value_json.final and value_json.score is defined %}{{ value_json.score }}{% endif %}"
)
_SHARE = (
    "{% set told = value_json.streams['STREAM'] %}"
    "{% set passed = told.read - told.routes.dropped %}"
    "{% if passed > 0 %}{{ (100 * told.routes.escalated / passed) | round(2) }}{% endif %}"
)

_OPEN = (
    "{% if value_json.event == 'RULE' and value_json.state in ('opened', 'closed') %}"
    "{{ value_json.state }}{% endif %}"
)


class HomeAssistant:
    """A `Publisher` of one device's discovery message.

    ``streams`` gives the labels of each stream, ``events`` the names of its rules. Without
    ``telemetry`` nothing is told that is read from the telemetry topic. Where the device is
    not ``wanted``, what Home Assistant has of it is removed. ``pause_s`` lies between two
    messages, however often it starts.
    """

    def __init__(
        self,
        device: Device,
        *,
        streams: Mapping[str, Sequence[str]],
        version: str,
        events: Mapping[str, Sequence[str]] = MappingProxyType({}),
        prefix: str = PREFIX,
        telemetry: bool = True,
        wanted: bool = True,
        pause_s: float = 5.0,
    ) -> None:
        self._status = f"{prefix}/status"
        self._topic = f"{prefix}/device/{device.site}/{device.name}/config"
        self._tell = functools.partial(discovery, device, version=version, telemetry=telemetry)
        self._wanted = wanted
        self._told = self._tell(streams=streams, events=events)
        self._payload = msgspec.json.encode(self._told) if wanted else b""
        self._pause_ns = int(pause_s * 1e9)
        self._owed = False
        self._open_ns = 0
        self._rests = True
        self._sent = 0

    def renew(
        self, *, streams: Mapping[str, Sequence[str]], events: Mapping[str, Sequence[str]]
    ) -> None:
        """Tell of these from now on, from any one thread; what is no more is said to be removed."""
        told = self._tell(streams=streams, events=events)
        if not self._wanted or told == self._told:
            return
        gone = self._told["cmps"].keys() - told["cmps"].keys()
        removed = {key: {"p": self._told["cmps"][key]["p"]} for key in gone}
        self._told = told
        self._payload = msgspec.json.encode({**told, "cmps": {**told["cmps"], **removed}})
        self._owed = True

    @property
    def filters(self) -> tuple[str, ...]:
        """Where Home Assistant says that it has started."""
        return (self._status,)

    busy = False  # the next connection says it anew

    def connected(self, link: Link) -> None:  # noqa: ARG002 -- the protocol's signature
        """Owe the message; see `Publisher`."""
        self._owed = True

    def disconnected(self) -> None:
        """Do nothing: the next connection gets the message anew; see `Publisher`."""

    def received(self, event: Received) -> bool:
        """Note that Home Assistant has started; see `Publisher`."""
        if event.topic != self._status:
            return False
        if event.payload == b"online" and not event.retained:
            self._owed = True
        return True

    def delivered(self, mid: int, refused: str | None) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return False: what was not delivered goes out again on the next connection."""
        return False

    def turn(self, link: Link | None, now_ns: int) -> None:
        """Publish the message if it is owed; see `Publisher`."""
        self._rests = link is None
        if link is None or not self._owed or now_ns < self._open_ns:
            return
        payload = self._payload
        if link.send(self._topic, payload, retain=True) is not None:
            self._owed = self._payload is not payload  # renewed meanwhile
            self._open_ns = now_ns + self._pause_ns
            self._sent += 1

    def next_ns(self) -> int | None:
        """Return when the message may be published again, if it is owed; see `Publisher`."""
        return self._open_ns if self._owed and not self._rests else None

    def counters(self) -> dict[str, int]:
        """Return how often the message was published; see `Publisher`."""
        return {"discoveries": self._sent}

    def close(self) -> None:
        """Do nothing: the message stays, for the device will be back; see `Publisher`."""


def discovery(
    device: Device,
    *,
    streams: Mapping[str, Sequence[str]],
    version: str,
    events: Mapping[str, Sequence[str]] = MappingProxyType({}),
    telemetry: bool,
) -> dict[str, Any]:
    """Return the message that tells of a device, its connection, and each of its streams."""
    components = {"connection": _connection(device)}
    for stream, labels in streams.items():
        components |= _outcomes(device, stream, labels)
        if telemetry:
            components[f"{stream}_share"] = _share(device, stream)
    for stream, rules in events.items():
        for rule in rules:  # no name has capitals, so that no two keys are one
            components[f"{stream}_EVENT_{rule}"] = _event(device, stream, rule)
    own = f"hedge/{device.site}/{device.name}"  # as no name holds a slash, it is nobody else's
    for key, component in components.items():
        component |= {"unique_id": f"{own}/{key}", "qos": 1}
    return {
        "dev": {"ids": [own], "name": f"{device.site} {device.name}", "sw": version},
        "o": {"name": "hedge", "sw": version},
        "cmps": components,
    }


def _connection(device: Device) -> dict[str, Any]:
    """Return the one sensor that has a state while the device is away."""
    return {
        "p": "binary_sensor",
        "name": "Connection",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": device.status,
        "value_template": "{{ value_json.state }}",
        "payload_on": "online",
        "payload_off": "offline",
    }


def _outcomes(device: Device, stream: str, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the sensors that are read from a stream's outcomes."""
    topic = {"p": "sensor", "state_topic": device.outcome(stream), **_availability(device)}
    return {
        f"{stream}_label": {
            **topic,
            "name": stream,
            "device_class": "enum",
            "options": list(labels),
            "value_template": _LABEL,
        },
        f"{stream}_confidence": {
            **topic,
            "name": f"{stream} confidence",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 1,
            "value_template": _CONFIDENCE,
        },
        f"{stream}_doubt": {
            **topic,
            "name": f"{stream} uncertainty",
            "state_class": "measurement",
            "suggested_display_precision": 3,
            "value_template": _DOUBT,
        },
    }


def _event(device: Device, stream: str, rule: str) -> dict[str, Any]:
    """Return what is on while an event of a rule is open."""
    return {
        "p": "binary_sensor",
        "state_topic": device.event(stream),
        **_availability(device),
        "name": f"{stream} {rule}",
        "value_template": _OPEN.replace("RULE", rule),
        "payload_on": "opened",
        "payload_off": "closed",
    }


def _share(device: Device, stream: str) -> dict[str, Any]:
    """Return the share of the samples past the filters that were escalated."""
    return {
        "p": "sensor",
        "state_topic": device.telemetry,
        **_availability(device),
        "name": f"{stream} escalated",
        "unit_of_measurement": "%",
        "state_class": "measurement",
        "suggested_display_precision": 1,
        "entity_category": "diagnostic",
        "value_template": _SHARE.replace("STREAM", stream),
    }


def _availability(device: Device) -> dict[str, Any]:
    return {"availability": [{"topic": device.status, "value_template": "{{ value_json.state }}"}]}
