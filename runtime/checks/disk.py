"""The free disk, against what the outbox, the sinks and the clips may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..config import OUTBOX, Config
from ..sinks.options import JsonLinesSink, MqttSinkConfig, SqliteSink
from .amounts import size_text
from .finding import Finding, error, ok, warning
from .places import nearest, why_no_folder

_LEAST_BYTES = 1 << 20  # for the session counter and other small things


class _Wish(NamedTuple):
    """What may be stored at a place, less what is there already, and the key that bounds it."""

    place: Path
    more_bytes: int
    key: str


def check_disk(config: Config, *, base: Path) -> Iterator[Finding]:
    """Yield whether what may be stored fits on the disk of the state directory, and on others.

    Where a place cannot be used at all, which is the finding of another area, there is none here.
    """
    state = base / config.device.state_dir
    if why_no_folder(state) is not None:
        return
    disks: dict[int, list[_Wish]] = {nearest(state).stat().st_dev: []}
    for wish in _wishes(config, state=state, base=base):
        if why_no_folder(wish.place if wish.place.is_dir() else wish.place.parent) is None:
            disks.setdefault(nearest(wish.place).stat().st_dev, []).append(wish)
    uplink = config.uplink
    keeps = uplink is not None and uplink.outbox == "disk"
    own, *others = disks.values()
    left = uplink.min_free_bytes if uplink is not None and keeps else 0
    yield _fits(state, own, left_bytes=left)
    for wishes in others:
        yield _fits(wishes[0].place, wishes, left_bytes=0)


def _wishes(config: Config, *, state: Path, base: Path) -> Iterator[_Wish]:
    uplink, outbox = config.uplink, state / OUTBOX
    if uplink is not None and uplink.outbox == "disk":
        yield _Wish(outbox, uplink.outbox_bytes - _taken(outbox), "uplink.outbox_bytes")
    for sink in config.sink:
        match sink:
            case MqttSinkConfig(keep="disk"):
                yield _Wish(state, sink.keep_bytes, "sink.keep_bytes")
            case JsonLinesSink(max_bytes=int(max_bytes)):
                yield _file(base / sink.path, (sink.keep + 1) * max_bytes)
            case SqliteSink():
                yield _file(base / sink.path, sink.max_bytes)
            case _:
                continue
    for stream in config.stream:
        clips = [rule.clip for rule in stream.event if rule.clip is not None]
        for path in {clip.path for clip in clips}:
            folder = state / path / stream.name
            most = max(clip.keep_bytes for clip in clips if clip.path == path)
            yield _Wish(folder, most - _taken(folder), "stream.event.clip.keep_bytes")


def _file(path: Path, most_bytes: int) -> _Wish:
    """Return the wish of a file and of those beside it that have its name and an ending."""
    there = [one for one in path.parent.glob(f"{path.name}*") if one.is_file()]
    return _Wish(path, most_bytes - sum(one.stat().st_size for one in there), "sink.max_bytes")


def _fits(place: Path, wishes: list[_Wish], *, left_bytes: int) -> Finding:
    """Return whether all that is wished of one disk fits on it."""
    found = os.statvfs(nearest(place))
    free = found.f_bavail * found.f_frsize
    wanted = max(_LEAST_BYTES, sum(max(0, wish.more_bytes) for wish in wishes))
    keys = ", ".join(dict.fromkeys(wish.key for wish in wishes))
    text = f"{size_text(free)} free; up to {size_text(wanted)} more may be stored"
    if free < left_bytes + _LEAST_BYTES:
        return error(
            "disk",
            str(place),
            f"{size_text(free)} free, of which {size_text(left_bytes)} are left to others: "
            "nothing can be stored",
            todo="make room, or lower uplink.min_free_bytes",
        )
    if free >= left_bytes + wanted:
        return ok("disk", str(place), text)
    todo = f"make room, or lower {keys}" if keys else "make room"
    if "uplink.outbox_bytes" in keys:
        todo += "; else asks are given up earlier"
    if left_bytes:
        text += f", and {size_text(left_bytes)} are left to others"
    return warning("disk", str(place), text, todo=todo)


def _taken(folder: Path) -> int:
    """Return how much a folder holds already."""
    files = [one for one in folder.rglob("*") if one.is_file()] if folder.is_dir() else []
    return sum(one.stat().st_size for one in files)
