"""Feed changed messages, topics and files to everything that reads strangers' bytes.

    cd tests; python -m fuzz --inputs 1000000 --seed 1
    cd tests; python -m fuzz --inputs 300000 --guided     # with atheris, by coverage

The inputs are shared out among the targets. What is found is kept with the input that
showed it; a result file has the figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import guided, memory
from .mutator import Mutator
from .target import Target
from .targets import targets

_RESULTS = Path(__file__).parent / "fuzz.json"
_FINDINGS = Path(__file__).parents[2] / "out" / "findings"
_BATCH = 1000
_TRACED = 50  # inputs of a batch for which every allocation is looked at
_PEAK_BYTES = 80 << 20  # a request of 4 MB may be a tensor of 16, and both in hand twice
_GROWTH_BYTES = 64 << 20
_BEYOND_BYTES = 512 << 20
_MOST_FINDINGS = 20
_HANGS = "takes for ever"
_LONGEST_S = 10.0  # that one input may take, on a busy machine
_SHARES = {
    "worker": 4,
    "pump": 4,
    "request": 3,
    "files": 0.5,
    "packets": 0.5,
}  # of inputs, where not 1

Make = Callable[[], Target]


def main() -> int:
    """Run; return 1 if anything was found."""
    makers = targets()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", default=",".join(makers), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--findings", type=Path, default=_FINDINGS, help="inputs go here")
    parser.add_argument("--guided", action="store_true", help="by coverage; needs atheris")
    options = parser.parse_args()
    names = options.targets.split(",")
    if unknown := set(names) - set(makers):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.guided and not guided.is_possible():
        parser.error("atheris is not installed")
    logging.getLogger("hedge").addHandler(logging.NullHandler())
    counts = _shared_out(options.inputs, names)
    how = "guided" if options.guided else "seeded"
    found = 0
    for name in names:
        if options.guided:
            figures = guided.run(name, counts[name], options.seed, options.findings)
        else:
            figures = _run(makers[name], counts[name], options.seed, options.findings)
        found += len(figures["findings"])
        sys.stderr.write(f"{name} ({how}): {json.dumps(figures)}\n")
        _save(options.results, how, name, figures)
    return int(found > 0)


def _shared_out(inputs: int, names: list[str]) -> dict[str, int]:
    shares = {name: _SHARES.get(name, 1) for name in names}
    return {name: -int(-inputs * share // sum(shares.values())) for name, share in shares.items()}


def _run(make: Make, inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Feed one target and return the figures."""
    begun_s = time.monotonic()
    target, mutator = make(), Mutator(seed)
    findings: dict[str, str] = {}
    memory.limit(_BEYOND_BYTES)
    signal.signal(signal.SIGALRM, _too_long)
    warm_bytes = peak_bytes = 0
    done = 0
    while done < inputs and len(findings) < _MOST_FINDINGS and _HANGS not in findings:
        count = min(_BATCH, inputs - done)
        batch = [target.draw(mutator) for _ in range(count)]
        target = _watched(target, make, batch[:_TRACED], findings, folder)
        target = _feed(target, make, batch[_TRACED:], findings, folder)
        done += count
        size_bytes = memory.resident_bytes()
        warm_bytes = warm_bytes or size_bytes
        peak_bytes = max(peak_bytes, size_bytes)
    if peak_bytes - warm_bytes > _GROWTH_BYTES:
        findings["memory"] = f"grew from {warm_bytes} to {peak_bytes} bytes"
    try:
        target.finish()
    except Exception:  # noqa: BLE001 -- whatever it is, it is what we look for
        findings["finish"] = traceback.format_exc(limit=-3)
    return {
        "inputs": done,
        "seed": seed,
        "seconds": round(time.monotonic() - begun_s, 1),
        "grew_mb": round((peak_bytes - warm_bytes) / 1e6, 1),
        "findings": findings,
    }


def _watched(
    target: Target, make: Make, batch: list[bytes], findings: dict[str, str], folder: Path
) -> Target:
    """Feed a batch and look at what it allocates."""
    try:
        with memory.bounded(_PEAK_BYTES):
            return _feed(target, make, batch, findings, folder)
    except memory.MemoryGuardError as error:
        findings["memory at once"] = str(error)
        return make()


def _feed(
    target: Target, make: Make, batch: list[bytes], findings: dict[str, str], folder: Path
) -> Target:
    """Feed a batch; after a finding go on with a new target."""
    for data in batch:
        signal.setitimer(signal.ITIMER_REAL, _LONGEST_S)
        try:
            target(data)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what we look for
            key = _named(error)
            if key not in findings:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{target.name}-{len(findings)}.bin").write_bytes(data)
                findings[key] = traceback.format_exc(limit=-4)
            if key == _HANGS:
                break
            target = make()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return target


def _named(error: Exception) -> str:
    """Return what names a finding: two of the same name are one."""
    if isinstance(error, TimeoutError):
        return _HANGS
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError("one input takes for ever")


def _save(results: Path, how: str, name: str, figures: Mapping[str, Any]) -> None:
    found: dict[str, Any] = {}
    if results.exists():
        found = json.loads(results.read_text("utf-8"))
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    found["python"] = platform.python_version()
    found.setdefault(how, {})[name] = figures
    done = [one["inputs"] for way in ("seeded", "guided") for one in found.get(way, {}).values()]
    found["inputs"] = sum(done)
    beside = results.with_suffix(".new")
    beside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    beside.replace(results)


if __name__ == "__main__":
    raise SystemExit(main())
