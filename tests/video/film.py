"""Films for the harness: a real one, or one that is drawn, and an hour of either."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_REAL = "video/one_by_one_person.mp4"
_FRAMES, _RATE = 300, 10


def film(folder: Path, *, seed: int) -> tuple[Path, str]:
    """Return a film and what it is: the real one where HEDGE_DATA has it, else one drawn."""
    place = os.environ.get("HEDGE_DATA")
    if place and (Path(place) / _REAL).exists():
        return Path(place) / _REAL, Path(_REAL).name
    path = folder / "drawn.mp4"
    _draw(path, seed=seed)
    return path, "drawn"


def _draw(path: Path, *, seed: int) -> None:
    """Write half a minute of noise that moves, 768 x 432."""
    noise = np.random.default_rng(seed).integers(0, 256, (432, 768, 3), np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = 768, 432, "yuv420p"
        stream.codec_context.gop_size = _RATE
        stream.codec_context.options = {"preset": "ultrafast"}
        for number in range(_FRAMES):
            moved = np.ascontiguousarray(np.roll(noise // 4, 3 * number, axis=1))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        output.mux(stream.encode(None))


def looped(source: Path, path: Path, *, frames: int) -> int:
    """Write a film's packets again and again until it has that many; return how many it has."""
    written, shift = 0, Fraction(0)
    with av.open(str(path), "w", format="matroska") as output:
        target = None
        while written < frames:
            with av.open(str(source)) as opened:
                stream = opened.streams.video[0]
                target = target or output.add_stream_from_template(stream, opaque=True)
                base, end = stream.time_base or Fraction(1, 1000), Fraction(0)
                for packet in opened.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, (packet.pts + (packet.duration or 0)) * base)
                    packet.pts += round(shift / base)
                    packet.dts += round(shift / base)
                    packet.stream = target
                    output.mux(packet)
                    written += 1
                shift += end
    return written
