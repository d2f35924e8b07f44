"""Birth and will: what everyone can know of a device without asking it.

The status topic holds one retained JSON object with the state and the session. A will
that the broker publishes late, for a connection that we have replaced, would hide a device
that is there; so the device listens to its own topic and says again that it lives.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from msgspec import Struct

from ..link.link import Link, Received, Will
from ..topics import Device

_PAUSE_S = 1.0  # between two births, so that a quarrel over a status cannot flood the broker


class Status(Struct, frozen=True, omit_defaults=True):
    """What the status topic says; ``reason`` is why a device is offline.

    It has parted ("closed"), or the connection broke ("lost"). ``note`` is what a device that
    is online is busy with beside its work.
    """

    state: Literal["online", "offline"]
    session: int
    reason: Literal["closed", "lost"] | None = None
    note: str | None = None


class Presence:
    """One device's status, in one session."""

    def __init__(self, device: Device, *, session: int) -> None:
        self.topic = device.status
        self._session = session
        self._birth = self._status("online")
        self._owed = False
        self._next_s = 0.0

    @property
    def will(self) -> Will:
        """What the broker is to say when we vanish."""
        return Will(self.topic, self._status("offline", "lost"))

    def announce(self, link: Link) -> None:
        """Publish the birth."""
        self._owed = False
        self._next_s = time.monotonic() + _PAUSE_S
        link.send(self.topic, self._birth, retain=True)

    def note(self, text: str | None) -> None:
        """Change what the birth says beside the state; any thread may call it."""
        birth = self._status("online", note=text)
        if birth != self._birth:
            self._birth = birth
            self._owed = True  # last, for whoever sees it sees the birth, too

    def heard(self, event: Received) -> None:
        """Note a message on our topic: a live one that is not our birth has to be answered."""
        if not event.retained and event.payload != self._birth:
            self._owed = True

    def insist(self, link: Link) -> bool:
        """Announce again if that is owed, and return whether; call it once a second or so."""
        if not self._owed or time.monotonic() < self._next_s:
            return False
        self.announce(link)
        return True

    def part(self, link: Link) -> None:
        """Publish that we have gone in peace."""
        link.send(self.topic, self._status("offline", "closed"), retain=True)

    def _status(
        self,
        state: Literal["online", "offline"],
        reason: Literal["closed", "lost"] | None = None,
        *,
        note: str | None = None,
    ) -> bytes:
        return msgspec.json.encode(Status(state, self._session, reason, note))
