"""What the ready-made models say on ARM64, beside what they say on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rows import Rows

MOST_STEPS = 1
"""Quantisation steps by which an int8 output may differ from the other machine's."""

Arrays = Mapping[str, NDArray[Any]]


def compare(rows: list[Rows], here: Path, there: Path) -> dict[str, dict[str, Any]]:
    """Return, for each model, the accuracies, the predictions that differ, and by how much.

    ``here`` and ``there`` are what `outputs.main` has written.
    """
    with _read(here) as ours, _read(there) as theirs:
        return {name: _judged(name, one.y, ours, theirs) for one in rows for name in one.models}


@contextlib.contextmanager
def _read(file: Path) -> Iterator[Arrays]:
    with np.load(file, allow_pickle=False) as arrays:
        yield arrays


def _judged(name: str, y: NDArray[Any] | None, here: Arrays, there: Arrays) -> dict[str, Any]:
    ours, theirs = here[name], there[name]
    step = float(there[f"{name} step"])
    difference = np.abs(theirs.astype(np.float64) - ours)
    found: dict[str, Any] = {"rows": len(ours), "runs_on": str(there[f"{name} runs on"])}
    if y is not None:
        found["accuracy_x86"] = round(float((ours.argmax(1) == y).mean()), 4)
        found["accuracy_arm64"] = round(float((theirs.argmax(1) == y).mean()), 4)
    found["predictions_that_differ"] = int((ours.argmax(1) != theirs.argmax(1)).sum())
    found["outputs_that_differ"] = int((difference > 0).sum())
    found["outputs"] = int(difference.size)
    if step:
        found["most_steps"] = round(float(difference.max()) / step)
    else:
        found["most"] = float(f"{difference.max():.2g}")
    return found
