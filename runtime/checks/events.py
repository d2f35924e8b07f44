"""The rules of events: whether they can be met, and whether their clips find room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config import Config, Stream
from ..events.checks import check_rules
from .amounts import size_text
from .finding import Finding, ok, warning
from .places import nearest, why_no_folder


def check_events(
    stream: Stream, labels: tuple[str, ...], *, config: Config, base: Path
) -> Iterator[Finding]:
    """Yield what the stream's outcomes are watched for, and what its clips may take.

    Raises:
        ConfigError: a rule can never be met, or its clip not be kept.
    """
    subject = f"stream {stream.name}"
    check_rules(stream.event, labels, subject, source=stream.source)
    for rule in stream.event:
        text = f"{rule.name}: {' or '.join(rule.labels)} in {rule.k} of {rule.n} samples"
        yield ok("event", subject, text)
    rooms = {
        base / config.device.state_dir / rule.clip.path: rule.clip.keep_bytes
        for rule in stream.event
        if rule.clip is not None
    }
    for folder, wanted in rooms.items():
        yield _room(folder, wanted)


def _room(folder: Path, wanted_bytes: int) -> Finding:
    why = why_no_folder(folder)
    if why is not None:
        return warning("event", str(folder), f"no clip can be kept: {why}", where="clip.path")
    found = os.statvfs(nearest(folder))
    free_bytes = found.f_bavail * found.f_frsize
    text = f"{size_text(free_bytes)} free; clips may take {size_text(wanted_bytes)}"
    if free_bytes < wanted_bytes:
        return warning("event", str(folder), text, todo="make room, or lower clip.keep_bytes")
    return ok("event", str(folder), text)
