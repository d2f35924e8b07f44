"""What comes to a worker: asks, notices of asks that go in parts, and the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ...models.errors import WireError
from ...telemetry.clock import Clock
from .. import topics, wire
from ..link.link import Received, Token
from ..tally import Tally
from .claims import Claim, Claims
from .outgoing import Outgoing
from .responder import Responder, refusal, reply
from .worker_memory import Answers, Hand, Job


class Intake:
    """Takes asks in ``hand``; those that need no model are answered at once by ``out``.

    These are what came and was ``given`` its answer before, and what nobody here can answer.
    ``shard`` (index, count) says which asks are ours; None: all that come.
    """

    def __init__(
        self,
        responders: Mapping[str, Responder],
        *,
        name: str,
        hand: Hand,
        given: Answers,
        claims: Claims,
        out: Outgoing,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self.shard: tuple[int, int] | None = None
        self._responders = responders
        self._name = name
        self._hand = hand
        self._given = given
        self._claims = claims
        self._out = out
        self._tally = tally
        self._clock = clock

    def take(self, event: Received) -> bool:
        """Do what the topic asks for; False where nothing is owed for the message."""
        for parse, take in (
            (topics.parse_ask, self._take_ask),
            (topics.parse_notice, self._take_notice),
            (topics.parse_part, self._take_part),
        ):
            try:
                device, name = parse(event.topic)
            except WireError:
                continue
            if event.retained:  # it is for now; a broker that keeps one would serve it for ever
                self._tally.drop("retained", event.topic)
                return False
            if len(event.payload) > wire.MAX_REQUEST_BYTES:
                self._tally.drop("oversized", f"{len(event.payload)} bytes")
                return False
            try:
                return take(device, name, event)
            except WireError as error:
                self._tally.drop("malformed", error)
                return False
        self._tally.add("stray")
        return False

    def _take_ask(self, device: topics.Device, stream: str, event: Received) -> bool:
        request = wire.decode_request(event.payload)
        if not self._is_ours(device, request.id):
            self._tally.add("not_ours")
            return False
        tokens = [] if event.token is None else [event.token]
        return self._take(device, stream, request, tokens)

    def _take(
        self, device: topics.Device, stream: str, request: wire.Request, tokens: list[Token]
    ) -> bool:
        """Take an ask in hand, or end it; False where nothing is owed for its messages."""
        self._tally.add("asks")
        job = Job(device, request, self._clock(), tokens, stream)
        payload = self._given.get(job.key)
        if payload is not None:
            self._tally.add("repeated")
            self._out.publish(job, payload)
            return True
        why = refusal(self._responders.get(request.contract), request)
        if why is not None:
            self._out.refuse(job, why)
            return True
        if not self._hand.add(job):
            self._tally.drop("shed", "more asks than can be held")
            return False
        return True

    def _take_notice(self, device: topics.Device, stream: str, event: Received) -> bool:
        """Claim a request that goes in parts.

        Also one that was answered before: a notice does not show that it is about the same
        sample. When its parts are here, the answer is given without a second thought.
        """
        notice = wire.decode_notice(event.payload)
        tokens = [] if event.token is None else [event.token]
        if not self._is_ours(device, notice.id):
            self._tally.add("not_ours")
        elif notice.remaining_ms == 0:
            self._tally.add("expired")
        elif notice.contract not in self._responders:
            why = f"no model of contract {notice.contract} is served here"
            self._out.refuse_notice(device, notice, tokens, why)
            return True
        elif self._claims.claim(device, notice, tokens, stream=stream, now_ns=self._clock()):
            self._tally.add("claims")
            claim = wire.encode(reply(notice, "claim", detail=self._name))
            # the tokens that are left cannot wait for the answer
            self._out.send(device, notice.id, claim, tokens)
            return True
        return False

    def _take_part(self, device: topics.Device, _worker: str, event: Received) -> bool:
        """Add a part; it is acknowledged at once, since the notice of the whole is not."""
        part = wire.decode_part(event.payload)
        found = self._claims.take(device, part, now_ns=self._clock())
        if found is not None and not self._take_whole(device, *found):
            self._out.ack(found[1].tokens)
        return False

    def _take_whole(self, device: topics.Device, payload: bytes, claim: Claim) -> bool:
        """Take what the parts make; False where nothing is owed for its notice."""
        notice = claim.notice
        try:
            request = _announced(payload, notice)
        except WireError as error:
            self._tally.drop("malformed", error)
            why = f"its parts make no request: {error}"
            self._out.refuse_notice(device, notice, claim.tokens, why)
            return True
        return self._take(device, claim.stream, request, claim.tokens)

    def _is_ours(self, device: topics.Device, ask_id: str) -> bool:
        if self.shard is None:
            return True
        index, count = self.shard
        place = f"{device.site}/{device.name}/{ask_id}".encode()
        digest = hashlib.blake2b(place, digest_size=8).digest()
        return int.from_bytes(digest, "little") % count == index


def _announced(payload: bytes, notice: wire.Notice) -> wire.Request:
    """Read the request that a notice was about.

    Raises:
        WireError: it is none, or another one.
    """
    request = wire.decode_request(payload)
    if (request.id, request.session, request.contract) != (
        notice.id,
        notice.session,
        notice.contract,
    ):
        raise WireError("another request than was announced", where=notice.id)
    return request
