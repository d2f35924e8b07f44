"""The topics of the wire: how they are made, and how those of strangers are read.

Every name is `[a-z0-9_-]{1,64}`, so that none can hold a separator or a wildcard. The
reply topic follows from the ask's topic; nothing in a message can redirect an answer.
"""

from __future__ import annotations

import re

from msgspec import Struct

from ..models.errors import UplinkError, WireError

ROOT = "hedge/1"
ASKS = f"{ROOT}/+/+/ask/#"
_NAME = "[a-z0-9_-]{1,64}"
_ASK = re.compile(f"{ROOT}/({_NAME})/({_NAME})/ask/({_NAME})")


class Device(Struct, frozen=True):
    """One device's place among the topics.

    Raises:
        UplinkError: a name has other characters than the wire allows.
    """

    site: str
    name: str

    def __post_init__(self) -> None:
        for text in (self.site, self.name):
            _check(text)

    @property
    def status(self) -> str:
        """The retained birth or will."""
        return f"{ROOT}/{self.site}/{self.name}/status"

    @property
    def answer(self) -> str:
        """Where workers publish this device's answers."""
        return f"{ROOT}/{self.site}/{self.name}/answer"

    def ask(self, stream: str) -> str:
        """Where the device publishes what it asks for one of its streams."""
        return f"{ROOT}/{self.site}/{self.name}/ask/{_check(stream)}"


def parse_ask(topic: str) -> tuple[Device, str]:
    """Return who asks on ``topic``, and for which stream.

    Raises:
        WireError: no device's ask topic.
    """
    found = _ASK.fullmatch(topic)
    if found is None:
        raise WireError("not an ask topic", where=topic[:200])
    site, name, stream = found.groups()
    return Device(site, name), stream


def shared(group: str, topics: str) -> str:
    """Return the filter by which the members of ``group`` share ``topics`` among them."""
    return f"$share/{_check(group)}/{topics}"


def _check(name: str) -> str:
    if re.fullmatch(_NAME, name) is None:
        raise UplinkError(
            f"{name[:80]!r} is no name for a topic", hint="1 to 64 of a-z, 0-9, _ and -"
        )
    return name
