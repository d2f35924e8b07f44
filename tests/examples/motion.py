"""Activity: the motion of people whom nobody trained on, as lines of a serial port."""

from __future__ import annotations

import os
import pty
import tty
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedge.models.dataset import load_dataset
from hedge.models.training import motion
from hedge.models.training.recordings import Arrays, bounds, load_arrays, windows
from hedge.models.training.sampling import samples

from .scene import Place, Scene, paced

_ARRAYS = ("x", "offset", "label", "user", "scale", "label_names", "channels")
_SPEED = 30.0  # times the pace of the people
_AT_ONCE = 25  # lines


def scene(place: Place) -> Scene:
    """Train on some people, calibrate on others, and play the rest without a break."""
    out = place.folder / "motion.hedge"
    data = place.data / "har_stream"
    trained = motion.train(out, data=data, seed=place.seed, say=place.say, effort=place.effort)
    people = load_dataset(Path(trained.unseen_file)).group
    assert people is not None
    arrays = load_arrays(data, _ARRAYS, recipe="motion", suffix=".npz")
    rows, label = _played(arrays, people, most=place.samples)
    spec = motion.plan(arrays).input
    cut = windows(rows.astype(np.float32), length=motion.ROWS, hop=motion.HOP)
    majority = motion.majority(label)
    known = (majority > 0) & (majority <= motion.CLASSES)
    port, host = _terminal(place)
    return Scene(
        bundle=out,
        x=samples(spec, cut, name="motion"),
        y=np.where(known, majority - 1, -1),
        play=lambda: _write(host, rows),
        values={'"/dev/ttyUSB0"': f'"{port}"', '"mqtt://127.0.0.1:1883"': f'"{place.broker}"'},
    )


def _played(
    arrays: Arrays, people: NDArray[np.int64], *, most: int | None
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return the rows (n, 6) of the recordings of these people, and their labels (n,)."""
    pairs = zip(bounds(arrays["offset"]), arrays["user"], strict=True)
    spans = [span for span, user in pairs if user in people]
    if most is not None:  # a part of each, of one its begin, of the last its end
        each = motion.HOP * most // len(spans)
        begins = [
            begin + (end - begin - each) * place // (len(spans) - 1)
            for place, (begin, end) in enumerate(spans)
        ]
        spans = [(begin, begin + each) for begin in begins]
    rows = np.concatenate([np.arange(*span) for span in spans])
    return arrays["x"][rows], arrays["label"][rows]


def _terminal(place: Place) -> tuple[str, int]:
    """Open a pseudo-terminal; return the device's side of it, and ours."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    for one in (ours, theirs):
        place.stack.callback(os.close, one)
    return os.ttyname(theirs), ours


def _write(host: int, rows: NDArray[np.int16]) -> None:
    os.write(host, b"\n")  # the device passes over the line in the midst of which it begins
    lines = [",".join(map(str, row)) for row in rows.tolist()]
    rate_hz = _SPEED * motion.RATE_HZ / _AT_ONCE
    for number in paced(-(-len(lines) // _AT_ONCE), rate_hz=rate_hz):
        text = "\n".join(lines[number * _AT_ONCE : (number + 1) * _AT_ONCE])
        data = memoryview(f"{text}\n".encode())
        while data:
            data = data[os.write(host, data) :]
