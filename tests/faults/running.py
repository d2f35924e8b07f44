"""What all harnesses of faults share: cycles that go on where they were, figures that are kept.

A run that is cut short goes on at the cycle it had reached, as long as the seed and the
code under test are the same. A cycle counts when its fault has really struck.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import hedge
from hedge.runtime.version import installed

STRUCK = "struck"
"""The counter of the cycles in which the fault has really struck."""

_MEMORY = Path("/dev/shm")  # noqa: S108 -- the images lie there where it can be
_SAVE_S = 10.0
_MOST_CYCLES = 20  # times those asked for, until so many have been struck
_MOST_FAULTS = 20


class Bench(Protocol):
    """Where cycles of one kind run.

    ``counts`` is what was seen in all cycles, ``faults`` what must not be.
    """

    @property
    def counts(self) -> Counter[str]:
        """Return what was seen."""

    @property
    def faults(self) -> list[str]:
        """Return what was wrong."""

    def missing(self) -> str | None:
        """Prepare the place; return what this machine lacks for the kind."""

    def cycle(self, number: int) -> None:
        """Live through one cycle, and check what is left."""

    def finish(self) -> None:
        """End a row of cycles: with no more faults, what is owed goes and new asks pass."""

    def close(self) -> None:
        """Leave nothing behind."""


def main(
    kinds: Sequence[str],
    bench: Callable[[str, Path, int], Bench],
    *,
    about: str,
    results: Path,
    code: Iterable[str],
    cycles: Callable[[str], int],
) -> int:
    """Run what the command line asks for; return 1 if anything was wrong.

    ``bench`` makes the place for a kind, a folder and a seed; ``code`` names the files, as
    patterns below the package, whose change makes former figures void.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--cycles", type=int, help="per kind (default: those of the issue)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(kinds), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=results)
    options = parser.parse_args()
    unknown = set(options.kinds.split(",")) - set(kinds)
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    logging.getLogger("hedge").addHandler(logging.NullHandler())  # what fails here is meant to
    wanted = [kind for kind in kinds if kind in options.kinds.split(",")]
    of = _of(code, seed=options.seed)
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so leave nothing behind
    folder = Path(tempfile.mkdtemp(prefix="hedge-faults-", dir=place))
    try:
        for kind in wanted:
            count = options.cycles or cycles(kind)
            _run(kind, lambda one: bench(one, folder, options.seed), count, options.results, of)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = load(options.results)
    return int(any(found[kind].get("faults") for kind in wanted))


def _run(
    kind: str, make: Callable[[str], Bench], cycles: int, results: Path, of: dict[str, Any]
) -> None:
    """Run the cycles of one kind that are not yet done."""
    before = load(results).get(kind, {})
    same = all(before.get(key) == of[key] for key in ("seed", "code"))
    figures: dict[str, Any] = before if same else {}
    done, seconds = figures.get("cycles", 0), figures.get("seconds", 0.0)
    counts = Counter(figures.get("counts", {}))
    if counts[STRUCK] >= cycles:
        return
    bench = make(kind)
    try:
        why = bench.missing()
        if why is not None:
            _save(results, kind, {**of, "cycles": 0, "skipped": why})
            sys.stderr.write(f"{kind}: skipped: {why}\n")
            return
        bench.counts.update(counts)
        bench.faults.extend(figures.get("faults", []))
        begun = saved = time.monotonic()
        while True:
            bench.cycle(done)
            done += 1
            enough = bench.counts[STRUCK] >= cycles
            if not enough and done >= _MOST_CYCLES * cycles:
                bench.faults.append(f"struck in {bench.counts[STRUCK]} of {done} cycles only")
                enough = True
            if enough:
                bench.finish()
            now = time.monotonic()
            if enough or now > saved + _SAVE_S:
                saved = now
                _save(results, kind, {**of, **_figures(kind, bench, done, seconds + now - begun)})
            if enough:
                return
    finally:
        bench.close()


def _figures(kind: str, bench: Bench, cycles: int, seconds: float) -> dict[str, Any]:
    counts, faults = bench.counts, bench.faults
    sys.stderr.write(
        f"{kind}: {cycles} cycles, {counts[STRUCK]} struck, {seconds:.0f} s, "
        f"{counts['committed']} committed, {counts['lost']} lost, {len(faults)} faults\n"
    )
    return {
        "cycles": cycles,
        "seconds": round(seconds, 1),
        "counts": dict(sorted((+counts).items())),
        "faults": faults[:_MOST_FAULTS],
    }


def load(results: Path) -> dict[str, Any]:
    """Return the figures by kind, as far as there are any."""
    try:
        found: dict[str, Any] = json.loads(results.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _save(results: Path, kind: str, figures: dict[str, Any]) -> None:
    """Keep the figures of one kind, beside those that another process may be writing."""
    fd = os.open(results.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        found = {**load(results), kind: figures}
        beside = results.with_suffix(".new")
        beside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
        beside.replace(results)
    finally:
        os.close(fd)


def _of(code: Iterable[str], *, seed: int) -> dict[str, Any]:
    """Return what figures belong to: the seed, the code and the machine."""
    root = Path(hedge.__file__).parent
    digest = hashlib.sha256()
    for pattern in code:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return {
        "seed": seed,
        "code": digest.hexdigest()[:12],
        "version": installed(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}",
    }
