"""The last outcomes and events of each stream, for whoever asks over HTTP on this machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from itertools import chain, count
from operator import attrgetter
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from ...models.records import Outcome
from ..events.event import Event
from ..local_server.endpoint import Endpoint
from ..local_server.page import Page
from .options import Which
from .sink import line_of, takes

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_MOST = 1000  # of one answer, as of what a stream may keep
_UNASKED = 100
_HELP = f"""GET /outcomes?stream=NAME&n=COUNT   the last outcomes, oldest first, as a JSON array
GET /events?stream=NAME&n=COUNT     the last events
stream may be left out, and so may n, for {_UNASKED}; it is {_MOST} at most
"""


class _Kept:
    """What was said, by its number; ``labels`` are those of an outcome's stream.

    The loop leaves it as it is; whoever asks first makes JSON of it, once.
    """

    __slots__ = ("_at_s", "_json", "_labels", "_said", "number")

    def __init__(
        self, number: int, said: Outcome | Event, *, at_s: float, labels: tuple[str, ...]
    ) -> None:
        self.number = number
        self._at_s = at_s
        self._said: Outcome | Event | None = said
        self._labels = labels
        self._json = b""

    def json(self) -> bytes:
        """Return its JSON; one thread at a time calls it."""
        if self._said is not None:
            self._json = msgspec.json.encode(self._line(self._said))
            self._said = None
        return self._json

    def _line(self, said: Outcome | Event) -> Struct:
        if isinstance(said, Event):
            return said
        return line_of(said, self._labels, at_s=round(self._at_s, 3))


_Shelf = dict[str, deque[_Kept]]


class Recent:
    """An `Answer` (`local_server.page`) about the last ``keep`` of each stream and kind.

    The loop puts; the server's threads ask. ``labels`` name the streams that there are.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, tuple[str, ...]],
        keep: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._labels = labels
        self._keep = keep
        self._wall = wall
        self._numbers = count()
        self._outcomes: _Shelf = {}
        self._events: _Shelf = {}
        self._one = threading.Lock()  # who asks is answered one at a time

    def put(self, said: Outcome | Event) -> None:
        """Keep an outcome or event, in the place of the oldest if need be."""
        told = isinstance(said, Event)
        shelf = self._events if told else self._outcomes
        labels = () if told else self._labels[said.stream]
        row = shelf.get(said.stream)
        if row is None:
            row = shelf[said.stream] = deque(maxlen=self._keep)
        row.append(_Kept(next(self._numbers), said, at_s=self._wall(), labels=labels))

    def __call__(self, target: str) -> Page:
        """Return the page of a path and its query."""
        path, _, query = target.partition("?")
        match path:
            case "/outcomes":
                return self._page(self._outcomes, query)
            case "/events":
                return self._page(self._events, query)
            case "/":
                return Page(_HELP, kind=_TEXT)
            case _:
                return Page(_HELP, HTTPStatus.NOT_FOUND, _TEXT)

    def _page(self, shelf: _Shelf, query: str) -> Page:
        try:
            wanted = parse_qs(query, strict_parsing=bool(query), max_num_fields=8)
            number = int(wanted.pop("n", [str(_UNASKED)])[-1])
            streams = wanted.pop("stream", None)
        except ValueError:
            return Page(f"no such question\n{_HELP}", HTTPStatus.BAD_REQUEST, _TEXT)
        known = list(shelf)  # whole in one step: the loop may add one meanwhile
        missing = [one for one in streams or () if one not in known and one not in self._labels]
        if wanted or not 0 <= number <= _MOST or missing:
            return Page(f"no such question\n{_HELP}", HTTPStatus.BAD_REQUEST, _TEXT)
        with self._one:
            found = [one for one in known if streams is None or one in streams]
            rows = [list(shelf[one])[-number:] for one in found]
            kept = sorted(chain(*rows), key=attrgetter("number"))[-number:] if number else []
            text = b",".join([one.json() for one in kept]).decode()
        return Page(f"[{text}]\n", kind=_JSON)


class OverHttp:
    """Keeps the last outcomes and events and serves them at ``listen``, as soon as it can.

    Raises:
        ConfigError: that is no address.
    """

    def __init__(
        self,
        listen: str,
        *,
        labels: Mapping[str, tuple[str, ...]],
        which: Which = "all",
        keep: int = 100,
    ) -> None:
        self._which: Which = which
        self._recent = Recent(labels=labels, keep=keep)
        self._endpoint = Endpoint(listen, self._recent, what="outcomes", private=True)

    @property
    def port(self) -> int | None:
        """The port; None as long as it cannot be had."""
        return self._endpoint.port

    def emit(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        if takes(self._which, outcome):
            self._recent.put(outcome)

    def tell(self, event: Event) -> None:
        """Keep an event."""
        self._recent.put(event)

    def counters(self) -> dict[str, int]:
        """Return nothing: what gives way to newer ones is not lost."""
        return {}

    def stop(self) -> None:
        """Do nothing: it is closed at once."""

    def close(self) -> None:
        """Stop serving; closing twice is harmless."""
        self._endpoint.close()
