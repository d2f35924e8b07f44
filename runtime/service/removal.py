"""What to remove of a service; its state stays."""

from __future__ import annotations

from pathlib import Path

from .device_install import STATE
from .plan import Command, Plan, RemoveFile, RemoveFolder, Step
from .steps import is_booted
from .units import RULES, UNITS, Kind, ownership

_PLACES = ("etc/systemd/system/{unit}.d/*.conf", f"etc/udev/rules.d/{RULES}")


def plan_removal(kind: Kind, *, root: Path = Path("/")) -> Plan:
    """Return what would be done to have the service gone.

    Drop-ins that are not ours stay where they are, and so do state and configuration.
    """
    unit = UNITS[kind]
    live = root == Path("/") and is_booted()
    steps: list[Step] = []
    path = root / "etc/systemd/system" / unit
    notes: list[str] = []
    if path.exists():
        words = ("disable", "--now", unit) if live else (f"--root={root}", "disable", unit)
        steps.append(Command(words=("systemctl", *words), may_fail=True))
        steps.append(RemoveFile(path=_inside(path, root)))
        if kind == "device":
            notes.append(f"{STATE} stays, with all that was not delivered: rm -r it to drop that")
    patterns = _PLACES if kind == "device" else _PLACES[:1]
    for found in (one for pattern in patterns for one in root.glob(pattern.format(unit=unit))):
        if ownership(found) == "ours":
            steps.append(RemoveFile(path=_inside(found, root)))
        else:
            notes.append(f"{found} stays: it is not as hedge installed it")
    folder = root / "etc/systemd/system" / f"{unit}.d"
    gone = {step.path for step in steps if isinstance(step, RemoveFile)}
    if folder.is_dir() and {_inside(one, root) for one in folder.iterdir()} <= gone:
        steps.append(RemoveFolder(path=_inside(folder, root)))
    if live and steps:
        steps.append(Command(words=("systemctl", "daemon-reload")))
    return Plan(unit=unit, root=str(root), steps=tuple(steps), notes=tuple(notes))


def _inside(path: Path, root: Path) -> str:
    return f"/{path.relative_to(root)}"
