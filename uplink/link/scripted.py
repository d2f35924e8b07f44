"""A broker and links without a network, whose faults are scripted and seeded.

It keeps MQTT's promises where nothing is scripted: QoS 1 towards it, retained messages,
wills, plain and shared subscriptions; what a link has not acknowledged is not sent again.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Sequence

from msgspec import Struct
from paho.mqtt.client import topic_matches_sub

from .link import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Properties,
    Qos,
    Received,
    Subscribed,
    Token,
    Will,
)


class Faults(Struct, frozen=True, kw_only=True):
    """What happens to a message on its way out of the broker, as probabilities."""

    lose: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0


class ScriptedBroker:
    """Carries messages between `ScriptedLink`s; all threads may use it.

    ``up`` False refuses connections; ``shares`` False grants shared subscriptions and
    delivers nothing on them; ``resumes`` True says that it has kept a link's session, though
    it keeps nothing. ``published`` records every message that came in.
    """

    def __init__(
        self,
        *,
        faults: Faults = Faults(),  # noqa: B008 -- frozen
        seed: int = 0,
        up: bool = True,
        shares: bool = True,
        max_packet_bytes: int | None = None,
        resumes: bool = False,
    ) -> None:
        self.faults = faults
        self.up = up
        self.shares = shares
        self.max_packet_bytes = max_packet_bytes
        self.resumes = resumes
        self.published: list[tuple[str, bytes]] = []
        self.retained: dict[str, bytes] = {}
        self._links: list[ScriptedLink] = []
        self._turns: dict[str, int] = {}
        self._rng = random.Random(seed)  # noqa: S311 -- faults, not secrets
        self.changed = threading.Condition(threading.RLock())

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take a message and pass it on to every subscription that matches."""
        with self.changed:
            self.published.append((topic, payload))
            if retain:
                self.retained[topic] = payload
            for link, _ in self._receivers(topic):
                link.deliver(Received(topic, payload), faults=self.faults, rng=self._rng)
            self.changed.notify_all()

    def drop(self, *, reason: str = "connection lost") -> None:
        """Cut every connection at once; wills are published."""
        with self.changed:
            for link in list(self._links):
                link.cut(reason)

    def attach(self, link: ScriptedLink) -> bool:
        """Accept a link, if the broker is up."""
        if self.up:
            self._links.append(link)
        return self.up

    def detach(self, link: ScriptedLink, will: Will | None) -> None:
        """Let a link go; publish its will, if it goes without a word."""
        with contextlib.suppress(ValueError):
            self._links.remove(link)
        if will is not None:
            self.publish(will.topic, will.payload, retain=True)

    def _receivers(self, topic: str) -> list[tuple[ScriptedLink, str]]:
        plain: list[tuple[ScriptedLink, str]] = []
        groups: dict[str, list[tuple[ScriptedLink, str]]] = {}
        for link in self._links:
            for one in link.filters:
                share, _, wanted = one.removeprefix("$share/").partition("/")
                if not one.startswith("$share/"):
                    share, wanted = "", one
                if topic_matches_sub(wanted, topic):
                    (groups.setdefault(share, []) if share else plain).append((link, one))
        return plain + [self._turn(members) for members in groups.values() if self.shares]

    def _turn(self, members: list[tuple[ScriptedLink, str]]) -> tuple[ScriptedLink, str]:
        one = members[0][1]
        self._turns[one] = self._turns.get(one, -1) + 1
        return members[self._turns[one] % len(members)]


class ScriptedLink:
    """A `Link` to a `ScriptedBroker`; ``acked`` records what was acknowledged."""

    def __init__(self, broker: ScriptedBroker, *, retry_s: float = 0.005) -> None:
        self.filters: list[str] = []
        self.acked: list[Token] = []
        self._broker = broker
        self._retry_s = retry_s
        self._will: Will | None = None
        self._open = False
        self._connected = False
        self._connection = 0
        self._mid = 0
        self._events: deque[Event] = deque()
        self._held: deque[Event] = deque()  # delayed by a turn
        self._woken = False

    def open(self, will: Will | None = None) -> None:
        """Connect at the next `poll`."""
        self._will = will
        self._open = True

    def poll(self, timeout_s: float) -> list[Event]:
        """Wait for events."""
        with self._broker.changed:
            if self._open and not self._connected:
                self._connect()
                timeout_s = min(timeout_s, self._retry_s)
            until_s = time.monotonic() + timeout_s
            while not self._events and not self._woken:
                if not self._broker.changed.wait(max(0.0, until_s - time.monotonic())):
                    break
            self._woken = False
            events = list(self._events)
            self._events = self._held
            self._held = deque()
            return events

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 1,  # noqa: ARG002 -- nothing is lost on the way in
        retain: bool = False,
        properties: Properties | None = None,  # noqa: ARG002 -- the protocol's signature
    ) -> int | None:
        """Publish at once."""
        with self._broker.changed:
            if not self._connected:
                return None
            self._mid += 1
            self._events.append(Delivered(self._mid))
            self._broker.publish(topic, payload, retain=retain)
            return self._mid

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe; retained messages come at once."""
        with self._broker.changed:
            self.filters += [one for one in filters if one not in self.filters]
            self._events.append(Subscribed(()))
            for topic, payload in self._broker.retained.items():
                if any(topic_matches_sub(one, topic) for one in filters):
                    self._receive(Received(topic, payload, retained=True))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""
        with self._broker.changed:
            self.filters = [one for one in self.filters if one not in filters]

    def ack(self, token: Token) -> None:
        """Record the acknowledgement."""
        self.acked.append(token)

    def wake(self) -> None:
        """End a `poll`."""
        with self._broker.changed:
            self._woken = True
            self._broker.changed.notify_all()

    def close(self, *, timeout_s: float) -> list[Event]:  # noqa: ARG002 -- the protocol's signature
        """Part in peace."""
        with self._broker.changed:
            self._open = False
            self._connected = False
            self._broker.detach(self, None)
            events, self._events = list(self._events), deque()
            return events

    def cut(self, reason: str) -> None:
        """Lose the connection, and with it the subscriptions."""
        with self._broker.changed:
            self._connected = False
            self.filters = []
            self._events.append(Disconnected(reason, stood=True))
            self._broker.detach(self, self._will)
            self._broker.changed.notify_all()

    def deliver(self, event: Received, *, faults: Faults, rng: random.Random) -> None:
        """Take a message from the broker, or what the faults make of it."""
        if rng.random() < faults.lose:
            return
        self._receive(event)
        if rng.random() < faults.delay:
            self._held.append(self._events.pop())
            return
        if rng.random() < faults.duplicate:
            self._receive(event)
        if rng.random() < faults.reorder:
            last = self._events.pop()
            self._events.insert(rng.randrange(len(self._events) + 1), last)

    def _connect(self) -> None:
        self._connection += 1
        self._connected = self._broker.attach(self)
        if self._connected:
            resumed = self._broker.resumes and self._connection > 1
            self._events.append(Connected("scripted", self._broker.max_packet_bytes, resumed))
        else:
            self._events.append(Disconnected("the broker is down", stood=False))

    def _receive(self, event: Received) -> None:
        self._mid += 1
        self._events.append(event._replace(token=Token(self._connection, self._mid)))
