"""MQTT 5's properties of a message, written out as bytes.

paho's own class builds its tables anew for every message and checks each value against
them: 100 µs, as much as all the rest of a sending. Only its bytes are asked for.
"""

from __future__ import annotations

from paho.mqtt.properties import Properties as PahoProperties

from .link import Properties

_EXPIRY, _CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION = b"\x02", b"\x03", b"\x08", b"\x09"
_USER = b"\x26"


class Packed(PahoProperties):
    """The properties of one PUBLISH (MQTT 5, §3.3.2.3), for paho to send as they are."""

    def __init__(self, given: Properties) -> None:
        found = b""
        if given.expiry_s is not None:
            found += _EXPIRY + given.expiry_s.to_bytes(4, "big")
        if given.content_type is not None:
            found += _CONTENT_TYPE + _sized(given.content_type.encode())
        if given.response_topic is not None:
            found += _RESPONSE_TOPIC + _sized(given.response_topic.encode())
        if given.correlation is not None:
            found += _CORRELATION + _sized(given.correlation)
        for name, value in given.user:
            found += _USER + _sized(name.encode()) + _sized(value.encode())
        object.__setattr__(self, "_packed", _length(len(found)) + found)

    def pack(self) -> bytes:
        """Return the length and the properties."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _length(number: int) -> bytes:
    """Return a variable byte integer, seven bits a byte (MQTT 5, §1.5.5)."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])
