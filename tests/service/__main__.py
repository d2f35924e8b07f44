"""Boot a systemd in a container, install hedge there, and do to it what happens in the field.

    cd tests; python -m service [--quick] [--only kill,reboot]

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
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from arm64.wheels import build

from . import image
from .container import Container, Wrong, clear_away
from .device import BROKER, UNIT, WORKER, Device
from .scenarios import SCENARIOS

_REPOSITORY = Path(__file__).parents[2]
_RESULTS = Path(__file__).with_name("results.json")
_ROWS = _REPOSITORY / "models" / "zoo" / "digits-unseen.npz"
_ALWAYS = ("install", "deliver", "account")


def main() -> int:
    """Run; return 1 if a scenario went wrong, 2 if this machine cannot run them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats; not kept")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(SCENARIOS)}; not kept")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--fresh", action="store_true", help="make the root and the wheels anew")
    chosen = parser.parse_args()
    names = set(SCENARIOS if chosen.only is None else (*chosen.only.split(","), *_ALWAYS))
    if names - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(names - set(SCENARIOS)))}")
    lacking = image.missing()
    for what in lacking:
        sys.stderr.write(f"service-test: skipped: {what}\n")
    if lacking:
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so leave nothing behind
    cache = Path(os.environ.get("HEDGE_CACHE", Path.home() / ".cache" / "hedge")) / "service"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"service-test: another run is at work in {cache}\n")
            return 2
        _clear(cache, everything=chosen.fresh)
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        try:
            found = _found(cache, work, names, quick=chosen.quick)
        finally:
            clear_away(work)
    sys.stderr.write(json.dumps(found, indent=1) + "\n")
    if not chosen.quick and chosen.only is None:
        chosen.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(bool(found["wrong"]))


def _clear(cache: Path, *, everything: bool) -> None:
    """Remove what a killed run has left; or all that was made."""
    for left in cache.glob("work-*"):
        clear_away(left)
    for pattern in ("debian-*", "libraries-*") if everything else ():
        for made in cache.glob(pattern):
            shutil.rmtree(made)


def _found(cache: Path, work: Path, names: set[str], *, quick: bool) -> dict[str, Any]:
    """Make what is needed, run the scenarios, and return the results."""
    begun_s, load = time.monotonic(), os.getloadavg()[0]
    commit = _copy_sources(work / "src")
    wheel = build(work / "src", work)
    image.install_ours(wheel, work / "ours")
    layers = (work / "ours", image.libraries(cache, wheel), image.debian(cache))
    container = Container(layers, work)
    try:
        container.boot()
        booted_s = time.monotonic()
        device = Device(container)
        device.prepare(_ROWS)
        scenarios, wrong = _run(device, names, quick=quick)
        return {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "commit": commit,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "kernel": platform.release().split("-")[0],
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "system": _version(device),
            "seconds_until_booted": round(booted_s - begun_s, 1),
            "seconds": round(time.monotonic() - begun_s),
            "wrong": wrong,
            "scenarios": scenarios,
        }
    finally:
        container.close()


def _run(device: Device, names: set[str], *, quick: bool) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for name, (scenario, often, quickly) in SCENARIOS.items():
        repeats = quickly if quick else often
        if name not in names or not repeats:
            continue
        begun_s = time.monotonic()
        try:
            found[name] = scenario(device, repeats)
        except (Wrong, subprocess.TimeoutExpired) as error:
            found[name] = {"wrong": str(error), "log": _log(device)}
            wrong.append(f"{name}: {error}")
            _recover(device)
        found[name]["seconds"] = round(time.monotonic() - begun_s, 1)
        sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")
    return found, wrong


def _log(device: Device) -> list[str]:
    units = [option for unit in (UNIT, WORKER, BROKER) for option in ("-u", unit)]
    told = device.run("journalctl", *units, "-n", "25", "--no-pager", "-o", "short", check=False)
    return told.splitlines()


def _recover(device: Device) -> None:
    """Give the next scenario a device that serves, as far as that is possible."""
    device.container.ensure_running()
    device.free_disk()
    device.network(up=True)
    device.configure()
    device.run("systemctl", "reset-failed", UNIT, check=False)
    device.run("systemctl", "restart", UNIT, check=False)


def _copy_sources(folder: Path) -> str:
    """Copy the working tree, so that nothing changes below the run; return its commit."""
    git = ["git", "-C", str(_REPOSITORY)]
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (_REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_REPOSITORY / name, folder / name)
    told = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(told, capture_output=True, check=True, text=True).stdout.strip()


def _version(device: Device) -> str:
    system = device.run("sh", "-c", ". /etc/os-release; echo $PRETTY_NAME").strip()
    return f"{system}, {device.run('systemctl', '--version').splitlines()[0]}"


if __name__ == "__main__":
    raise SystemExit(main())
