"""Run the suite, without its slowest parts, on aarch64 binaries under emulation.

    cd tests; python -m arm64

The first run makes a root file system and fetches wheels, which are kept in HEDGE_CACHE, or
else in ~/.cache/hedge. What is found is kept beside this file, in results.json.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from . import comparison, emulator, report, root, rows, wheels
from .left_out import LEFT_OUT, options
from .processors import PROCESSORS, Processor

_REPOSITORY = Path(__file__).parents[2]
_RESULTS = Path(__file__).with_name("results.json")
_TIMEOUT_S = 1200  # of a single test
_ENDED = (0, 1)  # how pytest ends that has run every test
_PYTHON = ("python", "-P")  # what lies in the current folder is not to be imported

Run = Callable[[Sequence[str], Processor], int]


def main() -> int:
    """Run; return 1 if a test failed or a model's output is too far from this machine's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--fresh", action="store_true", help="make the root and the wheels anew")
    parser.add_argument("tests", nargs="*", help="only these, such as tests/test_wire.py; not kept")
    chosen = parser.parse_args()
    lacking = emulator.missing()
    for what in lacking:
        sys.stderr.write(f"test-arm64: {what}\n")
    if lacking:
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so leave nothing behind
    cache = Path(os.environ.get("HEDGE_CACHE", Path.home() / ".cache" / "hedge")) / "arm64"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"test-arm64: another run is at work in {cache}\n")
            return 2
        _clear(cache, everything=chosen.fresh)
        with (
            tempfile.TemporaryDirectory(prefix="work-", dir=cache) as work,
            emulator.registered(),
        ):
            try:
                found = _found(cache, Path(work), chosen.tests)
            except subprocess.CalledProcessError as error:
                sys.stderr.write(f"test-arm64: {error}\n")
                return 2
    sys.stderr.write(json.dumps(found, indent=1) + "\n")
    if not chosen.tests:
        chosen.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(bool(found["faults"]))


def _clear(cache: Path, *, everything: bool) -> None:
    """Remove what a killed run has left; or all that was made."""
    for pattern in ("work-*", *(("debian-*", "venv-*") if everything else ())):
        for made in cache.glob(pattern):
            shutil.rmtree(made)


def _found(cache: Path, work: Path, tests: Sequence[str]) -> dict[str, Any]:
    """Make what is needed, run everything, and return the results."""
    begun_s = time.monotonic()
    commit = _copy_sources(work / "src")
    wheel = wheels.build(work / "src", work)
    place = root.made(cache)
    venv = wheels.environment(cache, wheels.requirements(wheel))
    wheels.install_ours(wheel, venv)
    data = _data()

    def run(command: Sequence[str], processor: Processor) -> int:
        entered = ("sh", "-c", 'cd /work/src && exec "$@"', "sh", *command)
        return root.run(entered, root=place, venv=venv, work=work, processor=processor, data=data)

    suite = _suite(run, work, tests)
    models = _models(run, work, data) if data and not tests else {}
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "emulator": emulator.version(),
        "processor": f"{PROCESSORS[0].cpu}: {PROCESSORS[0].board}",
        **_versions(run, work),
        "seconds": round(time.monotonic() - begun_s),
        "tests": suite,
        "left_out": [one._asdict() for one in LEFT_OUT],
        "models": models,
        "faults": _faults(suite, models),
    }


def _copy_sources(folder: Path) -> str:
    """Copy the working tree, so that nothing changes below the tests; return its commit."""
    git = ["git", "-C", str(_REPOSITORY)]
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (_REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_REPOSITORY / name, folder / name)
    told = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(told, capture_output=True, check=True, text=True).stdout.strip()


def _data() -> Path | None:
    named = os.environ.get("HEDGE_DATA")
    if named is None:
        sys.stderr.write("test-arm64: HEDGE_DATA does not say where the data sets are\n")
    return Path(named).resolve() if named else None


def _suite(run: Run, work: Path, tests: Sequence[str]) -> dict[str, Any]:
    """Run the tests as on the least of the boards."""
    pytest = [
        *(*_PYTHON, "-m", "pytest", "-p", "no:cacheprovider"),
        *(f"--timeout={_TIMEOUT_S}", "--junitxml=/work/junit.xml", "-o", "junit_family=xunit1"),
        *options(),
    ]
    begun_s = time.monotonic()
    if run([*pytest, *tests], PROCESSORS[0]) not in _ENDED:
        raise SystemExit("test-arm64: pytest has not come to its end")
    found = report.read(work / "junit.xml")
    return {**found, "seconds": round(time.monotonic() - begun_s)}


def _versions(run: Run, work: Path) -> dict[str, Any]:
    run((*_PYTHON, "tests/arm64/versions.py", "/work/versions.json"), PROCESSORS[0])
    told: dict[str, Any] = json.loads((work / "versions.json").read_bytes())
    return told


def _models(run: Run, work: Path, data: Path) -> dict[str, Any]:
    """Run the ready-made models here and as on each board; return what differs."""
    given = rows.load(data)
    arrays: dict[str, Any] = {name: one.x for one in given for name in one.models}
    np.savez(work / "rows.npz", **arrays)
    here = [sys.executable, "-m", "arm64.outputs", str(data / "models")]
    files = [str(work / "rows.npz"), str(work / "here.npz")]
    subprocess.run([*here, *files], check=True, cwd=Path(__file__).parents[1])
    found = {}
    for processor in PROCESSORS:
        begun_s, there = time.monotonic(), f"{processor.cpu}.npz"
        command = (*_PYTHON, "tests/arm64/outputs.py", "/data/models", "/work/rows.npz")
        if run((*command, f"/work/{there}"), processor):
            found[processor.cpu] = {"board": processor.board, "failed": True}
            continue
        found[processor.cpu] = {
            "board": processor.board,
            "seconds": round(time.monotonic() - begun_s),
            "models": comparison.compare(given, work / "here.npz", work / there),
        }
    return found


def _faults(suite: dict[str, Any], models: dict[str, Any]) -> list[str]:
    """Return what must not be."""
    found = [f"failed: {name}" for name in suite["failed_tests"]]
    for cpu, told in models.items():
        if "failed" in told:
            found.append(f"{cpu}: the models do not run")
        for name, one in told.get("models", {}).items():
            if one.get("most_steps", 0) > comparison.MOST_STEPS:
                found.append(f"{cpu}: {name} differs by {one['most_steps']} steps")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
