"""Keeps the last seconds of a video as its packets came, and writes clips of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from .clip_file import write_clip

_BESIDE_BYTES = 320  # of memory for a packet, beside its data


class Kept(NamedTuple):
    """A packet: its data, its times in units of its run's, and when it came (CLOCK_BOOTTIME)."""

    data: bytes
    pts: int
    dts: int
    keyframe: bool
    at_ns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What packets have in common that can be in one file.

    ``header`` is an empty Matroska file of their codec; ``time_base`` is in seconds.
    """

    header: bytes
    time_base: Fraction


@dataclass(eq=False)
class _Group:
    """A keyframe and what builds on it."""

    run: Run
    packets: list[Kept] = field(default_factory=list)
    bytes: int = 0

    def add(self, packet: Kept) -> None:
        self.packets.append(packet)
        self.bytes += len(packet.data) + _BESIDE_BYTES


class PacketRecorder:
    """A ring of packets that begins at a keyframe, bounded in seconds and in bytes.

    ``bytes`` are what it holds, at most what `keep` has said; ``lost`` counts the groups of
    pictures that were too large to be kept at all. Without `keep` nothing is.
    """

    suffix = ".mkv"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: deque[_Group] = deque()
        self._kept_ns = 0
        self._most_bytes = 0
        self.bytes = 0
        self.lost = 0

    @property
    def keeps(self) -> bool:
        """Whether anything is to be kept."""
        return self._most_bytes > 0

    def keep(self, *, seconds: float, max_bytes: int) -> None:
        """Keep as much from now on."""
        self._kept_ns = int(seconds * 1e9)
        self._most_bytes = max_bytes

    def add(self, run: Run, packet: Kept) -> None:
        """Keep a packet; what comes before the first keyframe of a run is of no use."""
        with self._lock:
            if packet.keyframe:
                self._groups.append(_Group(run))
            elif not self._groups or self._groups[-1].run is not run:
                return
            last = self._groups[-1]
            self.bytes -= last.bytes
            last.add(packet)
            self.bytes += last.bytes
            self._forget(packet.at_ns)

    def _forget(self, now_ns: int) -> None:
        """Give up the oldest groups; the packets to come of one that alone is too large, too."""
        groups = self._groups
        while len(groups) > 1 and groups[1].packets[0].at_ns <= now_ns - self._kept_ns:
            self.bytes -= groups.popleft().bytes
        while self.bytes > self._most_bytes:
            self.lost += len(groups) == 1
            self.bytes -= groups.popleft().bytes

    def save(self, path: Path, *, begin_ns: int, end_ns: int, max_bytes: int) -> bool:
        """Write what came between two moments, from the keyframe before, to a file.

        Of a source that was lost meanwhile, it is the longest part.

        Raises:
            OSError: it cannot be written; nothing half-written stays.
        """
        with self._lock:
            groups = [(group.run, tuple(group.packets)) for group in self._groups]
        parts = _parts(groups, begin_ns=begin_ns, end_ns=end_ns)
        if not parts:
            return False
        run, packets = max(parts, key=lambda part: len(part[1]))
        return write_clip(path, run.header, run.time_base, packets, max_bytes=max_bytes)


def _parts(
    groups: Sequence[tuple[Run, Sequence[Kept]]], *, begin_ns: int, end_ns: int
) -> list[tuple[Run, list[Kept]]]:
    """Return the packets of that time, by run, each from a keyframe on."""
    parts: list[tuple[Run, list[Kept]]] = []
    for run, packets in groups:
        if packets[-1].at_ns < begin_ns:
            continue
        wanted = [packet for packet in packets if packet.at_ns <= end_ns]
        if wanted and parts and parts[-1][0] is run:
            parts[-1][1].extend(wanted)
        elif wanted:
            parts.append((run, wanted))
    return parts
