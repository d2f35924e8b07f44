"""How a budget is held over hours of streams that change, and how soon drift is seen.

Run by `make bench`: simulated clocks, so hours take seconds. Seeds and counts are printed.
"""

from __future__ import annotations

import json
import math
import platform
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.runtime.gate.drift import EVERY, DriftWatch

_STREAMS = runpy.run_path(str(Path(__file__).parents[1] / "gate_streams.py"))
_SEEDS = (20271, 20272, 20273)
_HOURS = 6
_PER_HOUR = (60, 360, 3600)
_ROWS = 2000
_TIMES = 50
_BEFORE, _AFTER = 4096, 4096
Figures = NDArray[np.float64]


def budgets() -> dict[str, Any]:
    """Return how far hours were off their budget, by stream and budget; the first does not count.

    ``worst_hour`` is of whole hours one after the other, ``worst_any_hour`` of sixty minutes from
    any minute on; ``caught`` how much of what was escalated is among the highest scores.
    """
    found: dict[str, Any] = {}
    for name, kind in _STREAMS["KINDS"].items():
        for per_hour in _PER_HOUR:
            if name == "slow" and per_hour > 1000:
                continue  # it has no more than 1,800 samples in an hour
            played = [
                _STREAMS["play"](kind, hours=_HOURS, per_hour=float(per_hour), seed=seed)
                for seed in _SEEDS
            ]
            found[f"{name}, {per_hour} an hour"] = {
                "worst_hour": _worst([one.hours()[1:] for one in played]),
                "worst_any_hour": _worst([one.any_hour() for one in played]),
                "mean": round(float(np.mean([one.hours()[1:].mean() for one in played])), 4),
                "caught": round(float(np.mean([one.caught for one in played])), 3),
                "longest_shut_s": max(one.longest_s for one in played),
            }
    return found


def _worst(hours: list[Figures]) -> float:
    off = np.concatenate(hours) - 1
    return round(float(off[np.abs(off).argmax()]), 4)


def alike(count: int, rho: float, rng: np.random.Generator) -> Figures:
    """Return (count,) of a standard normal sequence, each correlated by ``rho`` with the last."""
    found = rng.normal(size=count)
    for at in range(1, count):
        found[at] = rho * found[at - 1] + math.sqrt(1 - rho * rho) * found[at]
    return found


def drifts() -> dict[str, Any]:
    """Return how often drift is seen where there is none, and after how many samples where it is.

    Scores are of a normal variable, each correlated with the one before, shifted by so many
    standard deviations after 4096 of them; those of calibration are independent.
    """
    rng = np.random.default_rng(_SEEDS[0])
    found: dict[str, Any] = {}
    for rho in (0.0, 0.9, 0.99):
        for shift in (0.0, 0.3, 0.5, 1.0):
            seen = [_first(rho, shift, rng) for _ in range(_TIMES)]
            after = [at - _BEFORE for at in seen if at is not None and at > _BEFORE]
            found[f"correlation {rho}, shift {shift}"] = {
                "early": sum(at is not None and at <= _BEFORE for at in seen),
                "seen": len(after),
                "of": _TIMES,
                "median_samples": int(np.median(after)) if after else None,
            }
    return found


def _first(rho: float, shift: float, rng: np.random.Generator) -> int | None:
    reference = np.quantile(rng.normal(size=_ROWS), np.arange(1, 20) / 20)
    watch = DriftWatch(reference.tolist(), calibrated=_ROWS)
    scores = alike(_BEFORE + _AFTER, rho, rng)
    scores[_BEFORE:] += shift
    for begin in range(0, scores.size, EVERY):
        if watch.look(scores[begin : begin + EVERY]):
            return begin + EVERY
    return None


def main() -> None:
    """Measure, print, and keep the figures beside this file."""
    parts: dict[str, Callable[[], Any]] = {"budgets": budgets, "drift": drifts}
    found: dict[str, Any] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seeds": _SEEDS,
        "hours": _HOURS,
        **{name: part() for name, part in parts.items()},
    }
    print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
    if "--keep" in sys.argv:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
