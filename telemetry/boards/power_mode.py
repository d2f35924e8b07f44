"""Which power mode a board is in now, from files alone: `nvpmodel` itself wants a terminal.

nvpmodel keeps the mode's number in its status file ("pmode:0002", with "fmode:quiet" behind
it on some releases) and its names in nvpmodel.conf ("< POWER_MODEL ID=2 NAME=MAXN_SUPER >").
Numbers mean different modes on different modules and releases, so the board's own file says
what they are; the profile's table only where that file is out of reach and all rows agree.
"""

from __future__ import annotations

import re

from msgspec import Struct

from .profile import Module, PowerModes
from .tree import Tree

STATUS = "var/lib/nvpmodel/status"
NAMES = "etc/nvpmodel.conf"
GOVERNORS = "sys/devices/system/cpu/cpufreq"
_PMODE = re.compile(r"\bpmode:(\d{1,4})\b")
_MODEL = re.compile(
    r"^\s*<\s*POWER_MODEL\s+ID\s*=\s*(\d{1,4})\s+NAME\s*=\s*([^\s>]+)", re.MULTILINE
)


class PowerMode(Struct, frozen=True, kw_only=True):
    """The mode that is set, and the file below the root that says so.

    ``name`` is None where only its number is known; ``candidates`` are then what the profile
    calls it.
    """

    id: int | None = None
    name: str | None = None
    file: str
    candidates: tuple[str, ...] = ()


def read_power_mode(
    tree: Tree, modes: PowerModes, *, module: Module | None = None
) -> PowerMode | None:
    """Return the mode that is set, None if it cannot be read."""
    if modes.kind == "governor":
        return _governor(tree)
    found = _PMODE.search(tree.text(STATUS) or "")
    if found is None:
        return None
    number = int(found[1])
    name = _own_names(tree).get(number)
    if name is not None:
        return PowerMode(id=number, name=name, file=STATUS)
    rows = [row for row in modes.mode if row.id == number]
    mine = [row for row in rows if not row.modules or module is None or module.name in row.modules]
    names = tuple(dict.fromkeys(row.name for row in mine))
    if len(names) == 1:
        return PowerMode(id=number, name=names[0], file=STATUS)
    return PowerMode(id=number, file=STATUS, candidates=names)


def _own_names(tree: Tree) -> dict[int, str]:
    return {int(number): name for number, name in _MODEL.findall(tree.text(NAMES) or "")}


def _governor(tree: Tree) -> PowerMode | None:
    """Return the governor of the first CPUs that have one."""
    for policy in tree.names(GOVERNORS):
        file = f"{GOVERNORS}/{policy}/scaling_governor"
        if policy.startswith("policy") and (name := tree.text(file)):
            return PowerMode(name=name[:64], file=file)
    return None
