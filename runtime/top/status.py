"""What the status topics say: which devices there are, and how each fares."""

from __future__ import annotations

import msgspec

from ...models.errors import UplinkError, WireError
from ...uplink.publishers.presence import Status
from ...uplink.topics import ROOT, Device

_MAX_BYTES = 4096
_PARTS = 5


def statuses(site: str | None) -> str:
    """Return the filter for the statuses of all devices of a site; None: of every site.

    Raises:
        UplinkError: a site cannot be called that.
    """
    named = "+" if site is None else Device(site, "any").site
    return f"{ROOT}/{named}/+/status"


def parse_status_topic(topic: str) -> Device:
    """Return whose status comes on ``topic``.

    Raises:
        WireError: no device's.
    """
    parts = topic.split("/")
    try:
        device = Device(*parts[2:4]) if len(parts) == _PARTS else None
    except UplinkError as error:
        raise WireError("not a status topic", where=topic[:200]) from error
    if device is None or device.status != topic:
        raise WireError("not a status topic", where=topic[:200])
    return device


def read_status(payload: bytes) -> Status:
    """Return what a status says.

    Raises:
        WireError: it says nothing, or too much.
    """
    if len(payload) > _MAX_BYTES:
        raise WireError(f"a status of {len(payload)} bytes")
    try:
        return msgspec.json.decode(payload, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"no status: {error}") from error


def in_words(status: Status) -> str:
    """Return the state, and why a device is offline."""
    return status.state if status.reason is None else f"{status.state} ({status.reason})"
