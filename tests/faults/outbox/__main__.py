"""Run the outbox through thousands of faults, and keep the figures.

Each cycle forks a device that puts, sends and settles over the real outbox, ends it by a
fault, and compares what is on disk with what the device had said. A run that is cut short
goes on where it was: the figures hold how many cycles are done.

    cd tests/faults; python -m outbox --seed 1 --kinds kill,flip --cycles 1000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .kinds import KINDS, Bench, Kind

_RESULTS = Path(__file__).parent.with_suffix(".json")
_MEMORY = Path("/dev/shm")  # noqa: S108 -- the images lie there where it can be
_CYCLES = {"kill": 10_000}
_CYCLES_ELSE = 1000
_INSIDE = ("put", "commit", "send", "acknowledge")
_SAVE_S = 10.0


def main() -> int:
    """Run what is asked for; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, help="per kind (default: 10000 kills, 1000 else)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if kind in options.kinds.split(",")]
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hedge-faults-", dir=place))
    try:
        for kind in kinds:
            cycles = options.cycles or _CYCLES.get(kind, _CYCLES_ELSE)
            _run(kind, folder, cycles=cycles, seed=options.seed, results=options.results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = _load(options.results)["kinds"]
    return int(any(found[kind].get("faults") for kind in kinds))


def _run(kind: Kind, folder: Path, *, cycles: int, seed: int, results: Path) -> None:
    """Run the cycles of one kind that are not yet done."""
    before = _load(results)["kinds"].get(kind, {})
    figures: dict[str, Any] = before if before.get("seed") == seed else {}
    done, seconds = figures.get("cycles", 0), figures.get("seconds", 0.0)
    if done >= cycles:
        return
    bench = Bench(kind, folder, seed=seed)
    try:
        why = bench.missing()
        if why is not None:
            _save(results, kind, {"seed": seed, "cycles": 0, "skipped": why})
            return
        bench.truth.counts.update(figures.get("counts", {}))
        bench.truth.faults += figures.get("faults", [])
        begun = saved = time.monotonic()
        for number in range(done, cycles):
            bench.cycle(number)
            now = time.monotonic()
            if now > saved + _SAVE_S or number + 1 == cycles:
                saved = now
                _save(results, kind, _figures(bench, number + 1, seconds + now - begun))
    finally:
        bench.close()


def _figures(bench: Bench, cycles: int, seconds: float) -> dict[str, Any]:
    counts = bench.truth.counts
    inside = sum(counts[f"ended while {phase}"] for phase in _INSIDE)
    figures = {
        "seed": bench.seed,
        "cycles": cycles,
        "seconds": round(seconds, 1),
        "share_inside": round(inside / cycles, 3),
        "counts": dict(sorted(counts.items())),
        "faults": bench.truth.faults,
    }
    sys.stderr.write(
        f"{bench.kind}: {cycles} cycles, {seconds:.0f} s, {counts['committed']} committed, "
        f"{counts['lost']} lost, {len(bench.truth.faults)} faults\n"
    )
    return figures


def _load(results: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(results.read_text("utf-8"))
    except FileNotFoundError:
        return {"kinds": {}}
    return found


def _save(results: Path, kind: Kind, figures: dict[str, Any]) -> None:
    found = _load(results)
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    found["python"] = platform.python_version()
    found["kinds"][kind] = figures
    beside = results.with_suffix(".new")
    beside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    beside.replace(results)


if __name__ == "__main__":
    raise SystemExit(main())
