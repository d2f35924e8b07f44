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
_NOTICE = re.compile(f"{ROOT}/({_NAME})/({_NAME})/ask/({_NAME})/parts")
_PART = re.compile(f"{ROOT}/({_NAME})/({_NAME})/part/({_NAME})")


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

    @property
    def telemetry(self) -> str:
        """Where the device publishes what its run has cost so far."""
        return f"{ROOT}/{self.site}/{self.name}/telemetry"

    def outcome(self, stream: str) -> str:
        """Where the device publishes the outcomes of one of its streams."""
        return f"{ROOT}/{self.site}/{self.name}/outcome/{_check(stream)}"

    def event(self, stream: str) -> str:
        """Where the device publishes the events of one of its streams."""
        return f"{ROOT}/{self.site}/{self.name}/event/{_check(stream)}"

    def label(self, stream: str) -> str:
        """Where others say what samples of one of its streams really were."""
        return f"{ROOT}/{self.site}/{self.name}/label/{_check(stream)}"

    def ask(self, stream: str) -> str:
        """Where the device publishes what it asks for one of its streams."""
        return f"{ROOT}/{self.site}/{self.name}/ask/{_check(stream)}"

    def notice(self, stream: str) -> str:
        """Where the device announces an ask of that stream that goes in parts."""
        return f"{self.ask(stream)}/parts"

    def part(self, worker: str) -> str:
        """Where the device publishes parts for the worker that has claimed them."""
        return f"{ROOT}/{self.site}/{self.name}/part/{_check(worker)}"


def parse_ask(topic: str) -> tuple[Device, str]:
    """Return who asks on ``topic``, and for which stream.

    Raises:
        WireError: no device's ask topic.
    """
    return _parse(_ASK, topic, what="an ask")


def parse_notice(topic: str) -> tuple[Device, str]:
    """Return who announces an ask in parts on ``topic``, and for which stream.

    Raises:
        WireError: no device's topic for that.
    """
    return _parse(_NOTICE, topic, what="a notice")


def parse_part(topic: str) -> tuple[Device, str]:
    """Return who sends a part on ``topic``, and to which worker.

    Raises:
        WireError: no device's topic for that.
    """
    return _parse(_PART, topic, what="a part")


def parts_filter(worker: str) -> str:
    """Return the filter for the parts that ``worker`` has claimed, of any device."""
    return f"{ROOT}/+/+/part/{_check(worker)}"


def shared(group: str, topics: str) -> str:
    """Return the filter by which the members of ``group`` share ``topics`` among them."""
    return f"$share/{_check(group)}/{topics}"


def _parse(pattern: re.Pattern[str], topic: str, *, what: str) -> tuple[Device, str]:
    found = pattern.fullmatch(topic)
    if found is None:
        raise WireError(f"not {what} topic", where=topic[:200])
    site, name, last = found.groups()
    return Device(site, name), last


def _check(name: str) -> str:
    if re.fullmatch(_NAME, name) is None:
        raise UplinkError(
            f"{name[:80]!r} is no name for a topic", hint="1 to 64 of a-z, 0-9, _ and -"
        )
    return name
