"""A long film at full speed through a real source, with its memory watched."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.video.reader import VideoReader

from .film import looped

_WARM = 0.1  # of the pictures, before memory counts
_MOST_MB = 4.0  # that the memory may have grown by after that
_KEPT_S, _KEPT_BYTES = 10.0, 4 << 20
_EVERY = 100  # pictures


def watch(source: Path, *, frames: int) -> dict[str, Any]:
    """Read that many pictures, and return the figures with what must not be."""
    with tempfile.TemporaryDirectory(prefix="hedge-video-") as folder:
        film = Path(folder) / "hour.mkv"
        written = looped(source, film, frames=frames)
        reader = VideoReader(VideoSource(url=str(film)), base=Path(folder))
        reader.recorder.keep(seconds=_KEPT_S, max_bytes=_KEPT_BYTES)
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        read, failed, seen = _read(reader)
        seconds, cpu_s = time.monotonic() - begun_s, time.process_time() - begun_cpu_s
    warm = seen[seen[:, 0] > _WARM * written][:, 1] / 1e6
    growth = float(warm[-len(warm) // 4 :].mean() - warm[: max(1, len(warm) // 4)].mean())
    faults = []
    if (read, failed) != (written, 0):
        faults.append(f"{read} of {written} pictures were read, {failed} failed")
    if growth > _MOST_MB:
        faults.append(f"memory has grown by {growth:.1f} MB")
    return {
        "pictures": read,
        "failed": failed,
        "seconds": round(seconds, 1),
        "pictures_per_s": round(read / seconds, 1),
        "cpu_ms_per_picture": round(1e3 * cpu_s / max(1, read), 3),
        "rss_mb": {
            "first": round(float(warm[0]), 1),
            "last": round(float(warm[-1]), 1),
            "most": round(float(warm.max()), 1),
            "growth": round(growth, 2),
        },
        "faults": faults,
    }


def _read(reader: VideoReader) -> tuple[int, int, NDArray[np.float64]]:
    """Return how many pictures were read, how many failed, and (n, 2): pictures, bytes."""
    bell, process = threading.Event(), psutil.Process()
    read = failed = 0
    seen: list[tuple[int, int]] = []
    live = Live(reader, name="hour", policy="every", buffer=8, ring=bell.set)
    with contextlib.closing(live):
        while not live.ended:
            bell.wait(1.0)
            bell.clear()
            while live.due_ns() is not None:
                try:
                    read += live.poll(0) is not None
                except DataError:
                    failed += 1
                if (read + failed) % _EVERY == 0:
                    seen.append((read, process.memory_info().rss))
    return read, failed, np.array(seen, np.float64).reshape(-1, 2)
