"""Whether a broker really shares a subscription: some grant it and then deliver nothing.

Two private topics are subscribed, one plainly and one shared, and a message is sent to
each. The plain copy proves that messages arrive at all; if the shared one does not follow
within a grace, there is no sharing.
"""

from __future__ import annotations

import re
import time
from typing import Literal

from ..link.link import Link, Received, Subscribed
from ..topics import ROOT, shared

Verdict = Literal["shared", "plain"]

_GRACE_S = 0.5
_PATIENCE_S = 5.0


class Probe:
    """One question to one broker, asked anew on every connection."""

    def __init__(self, link: Link, *, group: str, worker: str) -> None:
        self._link = link
        private = f"{ROOT}/_worker/{re.sub('[^a-z0-9_-]', '_', worker)[:64]}"
        self._plain = f"{private}/plain"
        self._shared = f"{private}/shared"
        self._filters = (self._plain, shared(group, self._shared))
        self._until_s = time.monotonic() + _PATIENCE_S
        link.subscribe(self._filters)

    def owns(self, topic: str) -> bool:
        """Return whether a message there belongs to the probe."""
        return topic in {self._plain, self._shared}

    def wait_s(self) -> float:
        """Return how long the probe can wait for another message."""
        return max(0.0, self._until_s - time.monotonic())

    def on(self, event: Subscribed | Received) -> Verdict | None:
        """Take in what came; return the verdict if that decides it."""
        if isinstance(event, Subscribed):
            if event.refused:
                return self._decide("plain")
            for topic in (self._plain, self._shared):
                self._link.send(topic, b"?")
        elif event.topic == self._shared:
            return self._decide("shared")
        elif event.topic == self._plain:
            self._until_s = min(self._until_s, time.monotonic() + _GRACE_S)
        return None

    def lapse(self) -> Verdict | None:
        """Return "plain" once the waiting is over."""
        return None if self.wait_s() else self._decide("plain")

    def _decide(self, verdict: Verdict) -> Verdict:
        self._link.unsubscribe(self._filters)
        return verdict
