"""One showing of a video, from its opening until it ends or is lost."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from pathlib import Path
from typing import Any

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ....models.errors import DataError, SourceError
from ....telemetry.clock import Clock
from ..options import VideoSource
from ..source import Captured
from .decoder import Decoder, Decoding
from .film import Film
from .pace import Limit, Pace
from .picture import Pictures
from .place import Place
from .recorder import PacketRecorder
from .taping import Tape

_WAIT_S = 0.25
_KEYFRAME_S = 10.0  # to wait for one; then the decoder may try without
_BAD = 100  # in a row of what is live: no good picture will come of it
_REORDERED = 64  # packets of which the arrival is remembered: more than any codec reorders


class Playing:
    """A film and all that makes captures of it; closed and made anew after each loss."""

    def __init__(
        self,
        place: Place,
        options: VideoSource,
        decoding: Decoding,
        recorder: PacketRecorder,
        *,
        base: Path,
        clock: Clock,
    ) -> None:
        self._place = place
        self._clock = clock
        self._limit = Limit(options.rate_hz)
        self._pace = Pace(clock) if options.realtime else None
        self._pictures = Pictures(options.region)
        self._frames: deque[tuple[VideoFrame | DataError, int]] = deque()
        self._arrived_ns: dict[int, int] = {}
        self._bad = 0
        self._over = False
        self._shown = 0
        self._key_until_ns: int | None = None
        with contextlib.ExitStack() as undo:
            self._film = undo.enter_context(
                contextlib.closing(Film(place, options, decoding, base=base))
            )
            stream = self._film.stream
            self._decoder = Decoder(stream, decoding, live=place.live, name=place.name)
            self._tape = Tape(recorder, stream)
            self._rate_hz = float(stream.average_rate or 25)
            self._begin_s = _seconds(stream.start_time, stream) or 0.0
            if place.live:
                self._key_until_ns = clock() + int(_KEYFRAME_S * 1e9)
            undo.pop_all()

    def read(self) -> list[Captured] | None:
        """Return the next picture, or none within a quarter of a second; None: the end.

        Raises:
            DataError: a packet or a picture is no good.
            SourceError: the source has gone away.
        """
        if not self._frames:
            if self._over:
                return None
            self._more()
        if not self._frames:
            return []
        frame, taken_at_ns = self._frames[0]
        if not self._due(taken_at_ns):
            return []
        self._frames.popleft()
        if isinstance(frame, DataError):
            raise frame
        picture = self._pictures.of(frame)
        return [Captured(picture, taken_at_ns, self._meta(frame))]

    def close(self) -> None:
        """Close it; closing twice is harmless."""
        self._film.close()

    def _due(self, at_ns: int) -> bool:
        """Wait for it, a quarter of a second at most; without a pace it is due at once."""
        if self._pace is None:
            return True
        left_s = (at_ns - self._clock()) / 1e9
        if left_s > 0:
            time.sleep(min(left_s, _WAIT_S))
        return left_s <= _WAIT_S

    def _more(self) -> None:
        """Decode what comes next."""
        packets = self._film.packets()
        if packets is None:
            self._over = True
            self._keep(self._decoder.decode(None), self._clock())
            return
        for packet in packets:
            now_ns = self._clock()
            self._tape.add(packet, now_ns)
            if self._waits_for_keyframe(packet, now_ns):
                continue
            if packet.pts is not None:
                self._arrived_ns[packet.pts] = now_ns
                if len(self._arrived_ns) > _REORDERED:
                    del self._arrived_ns[next(iter(self._arrived_ns))]
            self._decode(packet, now_ns)

    def _decode(self, packet: Packet[VideoStream], now_ns: int) -> None:
        try:
            frames = self._decoder.decode(packet)
        except DataError:
            self._count_bad()
            raise
        self._keep(frames, now_ns)

    def _keep(self, frames: list[VideoFrame], now_ns: int) -> None:
        """Keep those frames that are taken; a corrupt one is kept as what is wrong with it."""
        for frame in frames:
            at_s = self._time(frame)
            came_ns = now_ns if frame.pts is None else self._arrived_ns.pop(frame.pts, now_ns)
            self._tape.show(frame, came_ns)
            if not self._limit.takes(came_ns / 1e9 if self._place.live else at_s):
                continue
            taken_at_ns = came_ns if self._pace is None else self._pace.due_ns(at_s)
            fault = self._decoder.fault(frame)
            if fault is not None:
                self._count_bad()
                error = DataError(f"the picture at {at_s:.2f} s {fault}", where=self._place.name)
                self._frames.append((error, taken_at_ns))
            else:
                self._bad = 0
                self._frames.append((frame, taken_at_ns))

    def _count_bad(self) -> None:
        self._bad += 1
        if self._place.live and self._bad >= _BAD:
            raise SourceError(
                f"{self._bad} pictures in a row could not be decoded", where=self._place.name
            )

    def _waits_for_keyframe(self, packet: Packet[VideoStream], now_ns: int) -> bool:
        """Return whether what came would be decoded upon pictures that were never seen."""
        if self._key_until_ns is not None and (packet.is_keyframe or now_ns > self._key_until_ns):
            self._key_until_ns = None
        return self._key_until_ns is not None

    def _time(self, frame: VideoFrame) -> float:
        """Return when the frame is shown, in seconds from the film's begin."""
        self._shown += 1
        at_s = _seconds(frame.pts, self._film.stream)
        return (self._shown - 1) / self._rate_hz if at_s is None else at_s - self._begin_s

    def _meta(self, frame: VideoFrame) -> dict[str, Any]:
        at_s = _seconds(frame.pts, self._film.stream)
        meta: dict[str, Any] = {}
        if at_s is not None:
            meta["at_s"] = round(at_s - self._begin_s, 6)
        if not self._place.live:
            meta["file"] = self._place.name
        return meta


def _seconds(pts: int | None, stream: VideoStream) -> float | None:
    return None if pts is None or stream.time_base is None else float(pts * stream.time_base)
