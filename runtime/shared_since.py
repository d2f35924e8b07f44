"""Since which sample what is sent of a stream is what its configuration lets out now.

An ask waits in the outbox as it was made. Where what may leave the device has changed since, it
is not sent any more. The file ``shared.json`` of the state directory tells that of each stream,
so that it holds over restarts: samples are numbered by session and place, in no clock's time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from ..telemetry.whole_file import write_whole
from .config import Stream
from .privacy import Privacy

_log = logging.getLogger(__name__)

Place = tuple[int, int]
"""A sample's session and its number there."""

_MOST_BYTES = 1 << 20


class Shared(Struct, frozen=True):
    """What of a stream's samples was last let out, and since which sample."""

    privacy: Privacy
    since: Place


class SharedSince:
    """Keeps the file up to date, and says from which place on asks of a stream may be sent."""

    def __init__(self, state: Path, streams: Iterable[Stream], *, session: int) -> None:
        self._path = state / "shared.json"
        self._streams: dict[str, Shared] = {}
        first = (session, 0)
        known = self._read()
        self._streams = known or {}
        self._note(streams, lambda: first, unknown=None if known is None else Privacy())

    @property
    def since(self) -> Mapping[str, Place]:
        """From which place on, by stream."""
        return {name: one.since for name, one in self._streams.items()}

    def change(self, streams: Iterable[Stream], at: Callable[[], Place]) -> Mapping[str, Place]:
        """Take up what the configuration says from ``at`` on; return `since`.

        Where that is, is only asked for if something has changed.
        """
        self._note(streams, at, unknown=Privacy())
        return self.since

    def _note(
        self, streams: Iterable[Stream], at: Callable[[], Place], *, unknown: Privacy | None
    ) -> None:
        """Note where something has changed; what was asked for by less is never held back.

        A stream that is not known yet has shared its samples by ``unknown``; None: who knows.
        """
        before = dict(self._streams)
        for stream in streams:
            old = before.get(stream.name)
            was = unknown if old is None else old.privacy
            same = was == stream.privacy or stream.privacy.share == "sample"
            since = at() if not same else (0, 0) if old is None else old.since
            self._streams[stream.name] = Shared(stream.privacy, since)
        if self._streams != before:
            try:
                write_whole(self._path, msgspec.json.encode(self._streams))
            except OSError as error:  # then the next start finds a change, and holds back as much
                _log.warning("%s: cannot be written: %s", self._path, error.strerror)

    def _read(self) -> dict[str, Shared] | None:
        """Return what the file says; None: nothing that can be understood."""
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                return None
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Shared])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("%s: cannot be read, so no ask of before is sent: %s", self._path, error)
            return None
