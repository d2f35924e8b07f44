"""The thread that writes clips, one after the other, and removes the oldest."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..sources.source import Recorder
from .clip_files import name_of, remove_oldest, remove_torn, settle, torn
from .event import Clip
from .options import ClipOptions

_log = logging.getLogger(__name__)

_QUEUE = 16
_TIDY_S = 3600.0


class Order(NamedTuple):
    """A clip to be written: of the event ``id``, from one moment to another (CLOCK_BOOTTIME)."""

    id: str
    event: str
    stream: str
    opened_at_s: float
    options: ClipOptions
    recorder: Recorder
    begin_ns: int
    end_ns: int


class ClipWriter:
    """Writes clips below ``state``, at most 16 of them waiting; ``wall`` is the Unix time.

    Its thread begins once there are clips to `keep`, and looks every hour for those that have
    become too old.
    """

    def __init__(self, *, state: Path, wall: Callable[[], float]) -> None:
        self._state = state
        self._wall = wall
        self._orders: queue.Queue[Order | None] = queue.Queue(_QUEUE)
        self._done: queue.SimpleQueue[tuple[str, Clip]] = queue.SimpleQueue()
        self._kept: Sequence[tuple[Path, ClipOptions]] = ()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="hedge-clips", daemon=True)

    def keep(self, wanted: Iterable[tuple[str, ClipOptions]]) -> None:
        """Keep the clips of these streams by these options from now on."""
        self._kept = [(self._folder(stream, options), options) for stream, options in wanted]
        if self._kept and self._thread.ident is None:
            self._thread.start()

    def order(self, order: Order) -> None:
        """Have a clip written; `done` tells what has become of it."""
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            self.refuse(order.id, f"{_QUEUE} other clips wait to be written")

    def refuse(self, event_id: str, why: str) -> None:
        """Have `done` tell that there is no clip of an event."""
        self._done.put((event_id, Clip(why=why)))

    def done(self) -> list[tuple[str, Clip]]:
        """Take what has become of clips since the last time, by the id of their event."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._done.get_nowait())
        return found

    def close(self, *, timeout_s: float) -> None:
        """Give what is ordered as much time to be written; what then still waits is not."""
        if self._thread.ident is None:
            return
        until_s = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._orders.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, until_s - time.monotonic()))
        self._closing = True

    def _folder(self, stream: str, options: ClipOptions) -> Path:
        return self._state / options.path / stream

    def _run(self) -> None:
        self._tidy()
        while not self._closing:
            try:
                order = self._orders.get(timeout=_TIDY_S)
            except queue.Empty:
                self._tidy()
                continue
            if order is None:
                break
            self._done.put((order.id, self._written(order)))

    def _tidy(self) -> None:
        """Remove what has become too old though no clip came, and what was left half-written."""
        for folder, options in self._kept:
            remove_torn(folder)
            remove_oldest(folder, options, now_s=self._wall())

    def _written(self, order: Order) -> Clip:
        try:
            clip = self._write(order)
        except OSError as error:
            clip = Clip(why=error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 -- a bug must not end the clips of all streams
            _log.exception("%s: the clip of event %s has failed", order.stream, order.id)
            clip = Clip(why=repr(error))
        if clip.path is None:
            _log.warning("%s: no clip of event %s: %s", order.stream, order.id, clip.why)
        return clip

    def _write(self, order: Order) -> Clip:
        folder = self._folder(order.stream, order.options)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        suffix = order.recorder.suffix
        path = folder / name_of(order.opened_at_s, order.event, order.id, suffix)
        try:
            kept = order.recorder.save(
                torn(path),
                begin_ns=order.begin_ns,
                end_ns=order.end_ns,
                max_bytes=order.options.max_bytes,
            )
            if not kept:
                return Clip(why="nothing was recorded of that time")
            size_bytes = settle(path)
        finally:
            torn(path).unlink(missing_ok=True)
        remove_oldest(folder, order.options, now_s=self._wall(), spared=path.name)
        return Clip(path=str(path), bytes=size_bytes)
