"""What the device's loop hands to the uplink and gets back from it.

The loop knows these records and the `Uplink` protocol, nothing of brokers or outboxes.
An `Ask` carries one sample whose answer the device would rather have from a larger model;
an `Answer` ends it. What both ends must agree on about a model is its `Contract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct
from numpy.typing import NDArray

from ..models.manifest import DType
from ..models.records import Opinion, Probs
from .codecs import Codec

Kind = Literal["decide", "audit", "label"]
Status = Literal["answered", "refused", "not_stored", "evicted", "dead", "lost"]


class Contract(Struct, frozen=True, kw_only=True):
    """What an answer must fit: the model's name, its digest and its number of classes.

    ``digest`` is the bundle's contract, 16 hexadecimal digits; ``dtype`` and ``shape``
    (without the batch axis) are those of the body that the larger model takes.
    """

    name: str
    digest: str
    classes: int
    dtype: DType
    shape: tuple[int, ...]


class Ask(Struct, frozen=True, kw_only=True, gc=False):
    """One sample offered to the far end.

    ``id`` is the sample's; ``body`` (contract's shape and dtype) feeds the graph input
    ``entry``. Times are CLOCK_BOOTTIME. After ``deadline_ns`` the answer has no use to the
    user; None is for kinds that nobody waits for. ``traceparent`` names the trace that the far
    end is to continue (W3C Trace Context), None: none. ``drawn_by`` says which gate has drawn it
    for the audit (None: none has): it is kept until it is answered though nobody waits any more,
    and `Uplink.audited` tells of it. There is no ``opinion`` where the device has no model, or has
    not run it.

    ``kind`` "audit" holds the edge's answer against the far end's, "label" is to teach a filter:
    the far end may keep it with its answer. A "label" may be awaited like a "decide".
    """

    id: str
    stream: str
    kind: Kind
    entry: str
    body: NDArray[Any]
    opinion: Opinion | None
    asked_at_ns: int
    deadline_ns: int | None
    traceparent: str | None = None
    drawn_by: str | None = None


class Answer(Struct, frozen=True, gc=False):
    """The end of one ask, of a sample of ``stream``.

    ``probs`` (K,) is a float32 distribution and ``alpha`` (K,) its Dirichlet's parameters,
    where the larger model has evidence; both are None unless ``status`` is "answered".
    ``detail`` says why it is not. ``asked_at_ns`` is when it was asked, where that is known.
    Only asks of kind "decide" have answers; see `Audited`.
    """

    id: str
    stream: str
    status: Status
    probs: Probs | None = None
    alpha: Probs | None = None
    detail: str | None = None
    asked_at_ns: int | None = None


class Audited(Struct, frozen=True, gc=False):
    """What the far end says of a sample of ``stream`` that was drawn for the audit.

    ``edge`` is the edge's opinion, which the gate ``drawn_by`` had ``accepted`` or escalated;
    ``probs`` (K,) is the far end's distribution.
    """

    stream: str
    drawn_by: str
    edge: Opinion
    accepted: bool
    probs: Probs


class Owed(Struct, frozen=True, kw_only=True, gc=False):
    """An ask of an earlier run whose user still waits for the final outcome.

    The opinion and the ``traceparent`` are as they were sent; times are CLOCK_BOOTTIME of this
    boot.
    """

    id: str
    stream: str
    opinion: Opinion | None
    asked_at_ns: int
    answer_by_ns: int
    traceparent: str | None = None


class Uplink(Protocol):
    """The way out, as the loop sees it; the daemon builds, starts and closes it.

    No method but `close` ever blocks. The loop alone decides what is final: an answer to an
    id that it no longer waits for is a late one, and the loop counts it.
    """

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""

    def owed(self) -> list[Owed]:
        """Return what an earlier run has left without a final outcome; before `start`."""

    def start(self) -> None:
        """Begin; the network need not be there."""

    def offer(self, ask: Ask) -> bool:
        """Hand over one ask; False where the bounded queue is full (it is not stored)."""

    def answers(self) -> list[Answer]:
        """What has come since the last call; the bell that was handed in rings for it."""

    def audited(self) -> list[Audited]:
        """What is known of drawn samples since the last call, in the order of their drawing.

        None is told of before all that its stream drew before it have ended. What an earlier
        run has drawn is told of never.
        """

    def final(self, ask_id: str) -> None:
        """Note that the sinks have the final outcome of what was offered; it is not owed now."""

    def adopt(
        self,
        contracts: Mapping[str, Contract],
        *,
        codecs: Mapping[str, Codec],
        since: Mapping[str, tuple[int, int]],
    ) -> None:
        """Go by these contracts and codecs, by stream, for what is offered from now on.

        Asks of a stream before the session and number of ``since`` are not sent any more.
        """

    def busy_ns(self) -> int:
        """Return the CPU time that the uplink's thread has taken."""

    def note(self, text: str | None) -> None:
        """Say with the status what the device is busy with; None: with nothing but its work."""

    def counters(self) -> dict[str, int]:
        """Everything counted since the start, by name."""

    def check(self) -> None:
        """Raise `UplinkError` if the uplink's thread has died."""

    def close(self, *, timeout_s: float) -> None:
        """Say goodbye to the broker and stop; what a durable outbox holds, it keeps."""
