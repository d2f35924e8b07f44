"""The file ``gates.json`` of the state directory: what the gates have learnt, over restarts.

A device whose promise has failed, and that is then killed, must not begin again at the gate that
has failed. So what a gate knows is written whenever that gate moves, and otherwise seldom: the
disk may be a card. What cannot be read, or is of another version, costs what was learnt.
"""

from __future__ import annotations

import logging
import stat
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.whole_file import write_whole
from ..logs import rarely
from .memory import GateMemory

_log = logging.getLogger(__name__)

FILE = "gates.json"
_VERSION = 1
_MOST = 64  # streams, those last heard of; beyond that they are forgotten
_MOST_BYTES = 1 << 20
_EVERY = 64  # audited samples, and
_EVERY_NS = 60_000_000_000


class _Kept(Struct, frozen=True):
    """What was learnt by a gate ``of`` that bundle, variant and promise."""

    of: str
    memory: GateMemory


class _File(Struct, frozen=True):
    v: int
    streams: dict[str, _Kept]


class _Head(Struct, frozen=True):
    v: int


class KeptGates:
    """Keeps what the gates of up to 64 streams know, by their names, in a file of mode 0600.

    All of it is for one thread. A crash loses the last 64 audited samples, or those of the last
    minute if these are more, but no move.
    """

    def __init__(self, file: Path, *, clock: Clock = boottime_ns) -> None:
        self._file = file
        self._clock = clock
        self._counts = Counter[str]()
        self._new: dict[str, Callable[[], _Kept]] = {}
        self._learnt = 0
        self._written_ns = clock()
        self._streams = self._read()

    def counters(self) -> dict[str, int]:
        """Return how often memories were refused, and could not be written."""
        return dict(self._counts)

    def find(self, stream: str, *, of: str) -> GateMemory | None:
        """Return what is known of a stream's gate; None: nothing, or of another bundle."""
        new = self._new.get(stream)
        kept = self._streams.get(stream) if new is None else new()
        if kept is None:
            return None
        if kept.of != of:
            self.refuse(f"what is kept of stream {stream} is of another bundle, variant or promise")
            return None
        return kept.memory

    def refuse(self, why: str) -> None:
        """Count and tell that a gate begins anew though something was kept."""
        self._counts["gate_memories_refused"] += 1
        _log.warning("%s: %s; gates begin as they were calibrated", self._file, why)

    def keep(
        self, stream: str, of: str, memory: Callable[[], GateMemory], *, at_once: bool
    ) -> None:
        """Take in that a gate has learnt: ``memory`` is what it knows when it is asked."""
        self._new.pop(stream, None)  # those last heard of are the last ones
        self._new[stream] = partial(_kept, of, memory)
        self._learnt += 1
        due = self._learnt >= _EVERY and self._clock() - self._written_ns >= _EVERY_NS
        if at_once or due:
            self.write()

    def write(self) -> None:
        """Write what is new; a disk that does not take it is counted, and tried again."""
        if not self._learnt:
            return
        known = {name: one for name, one in self._streams.items() if name not in self._new}
        known |= {name: kept() for name, kept in self._new.items()}
        self._streams = dict(list(known.items())[-_MOST:])
        self._learnt, self._written_ns = 0, self._clock()
        try:
            write_whole(self._file, msgspec.json.encode(_File(_VERSION, self._streams)))
        except OSError as error:
            self._counts["gate_memories_unwritten"] += 1
            times = self._counts["gate_memories_unwritten"]
            _log.log(rarely(times), "%s: cannot be written: %s", self._file, error.strerror)
        else:
            self._new.clear()

    def _read(self) -> dict[str, _Kept]:
        try:
            found = self._file.stat()
            if not stat.S_ISREG(found.st_mode):
                self.refuse("is no file")
                return {}
            if found.st_size > _MOST_BYTES:
                self.refuse("is too large")
                return {}
            data = self._file.read_bytes()
            if (version := msgspec.json.decode(data, type=_Head).v) != _VERSION:
                self.refuse(f"is of version {version}, not {_VERSION}")
                return {}
            return msgspec.json.decode(data, type=_File).streams
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.refuse(f"cannot be read: {error}")
            return {}


def _kept(of: str, memory: Callable[[], GateMemory]) -> _Kept:
    return _Kept(of, memory())
