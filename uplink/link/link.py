"""The link: a connection to a broker as the pump and the worker see it.

One thread owns a link and drives it by `Link.poll`; only `Link.wake` may be called by
another. A link reconnects by itself. It remembers nothing over a disconnection: not the
subscriptions, and not what it was sending. Whoever owns it starts afresh on `Connected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

KEEPALIVE_S = 20
"""After as long without a word client and broker ask whether the other is there."""

Qos = Literal[0, 1]
"""At most once, or at least once."""


class Token(NamedTuple):
    """What acknowledges a received message, as long as its connection stands."""

    connection: int
    mid: int


class Connected(NamedTuple):
    """The broker has accepted us; ``max_packet_bytes`` is what it takes, if it said so.

    ``resumed``: it has kept our session since the last connection, and what came for us.
    """

    protocol: str
    max_packet_bytes: int | None = None
    resumed: bool = False


class Disconnected(NamedTuple):
    """The connection was lost, or could not be made; the link will try again."""

    reason: str
    stood: bool


class Subscribed(NamedTuple):
    """The broker has answered a subscription; ``refused`` are the filters it would not have.

    The link asks for those again by itself, and tells when the broker changes its mind.
    """

    refused: tuple[str, ...]


class Delivered(NamedTuple):
    """A message is off our hands; ``refused`` says why the broker would not have it.

    At QoS 1 the broker has answered for it; at QoS 0 it has been written, and no more.
    ``unheard``: the broker says that nobody is there to get it (MQTT 5, §3.4.2.1).
    """

    mid: int
    refused: str | None = None
    unheard: bool = False


class Received(NamedTuple):
    """A message has come; ``token`` is None where nothing is to be acknowledged."""

    topic: str
    payload: bytes
    retained: bool = False
    token: Token | None = None


Event = Connected | Disconnected | Subscribed | Delivered | Received


class Properties(NamedTuple):
    """What MQTT 5 says about a message beside it; older protocols leave it out.

    ``expiry_s`` are whole seconds, from 1; ``user`` are names and values of others' making.
    """

    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


class Will(NamedTuple):
    """What the broker publishes, retained, when we vanish."""

    topic: str
    payload: bytes


class Link(Protocol):
    """A connection that may come and go."""

    def open(self, will: Will | None = None) -> None:
        """Begin to connect; `poll` tells how it goes."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Let messages flow; return what has happened, at the latest after ``timeout_s``."""

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 1,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        """Send, and return what `Delivered` will name; None: not connected.

        At QoS 1 `Delivered` comes when the broker has answered for the message; at QoS 0 as
        soon as it is written, which may be within this call: the event is in the next `poll`.
        """

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for every message whose topic matches; on this connection only.

        `Subscribed` follows, or `Disconnected`: a broker that does not answer is left.
        """

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ask for no more of them."""

    def ack(self, token: Token) -> None:
        """Acknowledge a received message; one of an earlier connection is passed over."""

    def wake(self) -> None:
        """Make `poll` return soon; for any thread."""

    def close(self, *, timeout_s: float) -> list[Event]:
        """Send what is under way, part from the broker in peace, and free everything.

        What has happened meanwhile is returned.
        """
