"""All targets, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .decoders import decoders
from .files import Files
from .intake import Device, FarEnd
from .packets import Packets
from .target import Target


def targets() -> Mapping[str, Callable[[], Target]]:
    """Return how each target is made."""
    found: dict[str, Callable[[], Target]] = {
        "worker": FarEnd,
        "pump": Device,
        "packets": Packets,
        "files": Files,
    }
    for one in decoders():
        found[one.name] = one.again
    return found
