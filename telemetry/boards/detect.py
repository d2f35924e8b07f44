"""Which board this is, and what can be read of it now.

Every path lies below a root, so that a copied tree is read like the machine itself. What
cannot be read is None and the notes say why: a container often hides the device tree, and
a guess would be worse than a generic profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from . import identity
from .identity import Evidence, Identity
from .power_mode import NAMES, PowerMode, read_power_mode
from .profile import Backend, BoardProfile, Module, Power, Software, Thermal, load_profiles
from .rails import FoundRail, find_rails, missing_rails
from .thermal import ThermalZone, Throttling, read_throttling, read_zones
from .tree import Tree

CONTAINERS = (".dockerenv", "run/.containerenv", "run/systemd/container")
ONLINE = "sys/devices/system/cpu/online"
MEMINFO = "proc/meminfo"
_WITH_DEVICE_TREE = ("aarch64", "armv7l")
_MAX_CPUS = 4096
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_PROCESSOR = re.compile(r"^processor\s*:", re.MULTILINE)


class Detected(Struct, frozen=True, kw_only=True):
    """The board, and what can be read of it now; what is not known is None.

    ``module`` is which of the profile's modules it is, ``model`` what the machine calls
    itself. ``l4t`` is Jetson Linux's release, ``jetpack`` the major version of JetPack that
    it belongs to, ``software`` the profile's words on it. ``backend`` is the profile's where
    it is usable on that system, else one that is. ``cpus`` are those online; ``threads`` the
    profile's, but no more than leave one CPU to the rest of the device.
    ``rails_missing`` are labels of the profile that are not there. ``notes`` say what could
    not be read and what does not fit.
    """

    profile: BoardProfile | None
    module: Module | None
    evidence: Evidence | None
    model: str | None
    machine: str | None
    l4t: str | None
    jetpack: int | None
    software: Software | None
    backend: Backend | None
    cpus: int | None
    threads: int
    memory_bytes: int | None
    available_bytes: int | None
    power_mode: PowerMode | None
    thermal: tuple[ThermalZone, ...]
    throttling: Throttling
    rails: tuple[FoundRail, ...]
    rails_missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What it goes by: its module's name, then its profile's; empty: nothing fits."""
        return tuple(one.name for one in (self.module, self.profile) if one is not None)

    @property
    def hardware(self) -> str | None:
        """What figures of speed and energy hold for: the module, else the board."""
        return next(iter(self.names), None)


def detect(
    *,
    root: Path = Path("/"),
    profiles: tuple[BoardProfile, ...] | None = None,
    board: BoardProfile | None = None,
) -> Detected:
    """Return which board this is, and what can be read of it.

    ``profiles`` are those to choose from, None: those that come with hedge. ``board`` is
    the one that the configuration names: it is taken, and a note says so if the machine
    looks like another.

    Raises:
        ConfigError: a profile that comes with hedge is wrong.
    """
    known = load_profiles() if profiles is None else profiles
    return detect_in(Tree(root), profiles=known, board=board)


def detect_in(
    tree: Tree, *, profiles: tuple[BoardProfile, ...], board: BoardProfile | None = None
) -> Detected:
    """Return what `detect` does; the tree keeps what was read."""
    others = profiles if board is None else [one for one in profiles if one.name != board.name]
    found = identity.identify(tree, (*others, *([board] if board else [])))
    chosen = found.profile if board is None else board
    compatible = identity.read_compatible(tree)
    models = identity.read_models(tree)
    machine = identity.read_machine(tree)
    l4t, jetpack = identity.read_release(tree)
    cpus = _cpus(tree)
    module = identity.module_of(chosen, compatible[1]) if chosen and compatible else None
    power = chosen.power if chosen else Power()
    rails = find_rails(tree, power)
    software = _software(chosen, jetpack) if chosen else None
    detected = Detected(
        profile=chosen,
        module=module,
        evidence=found.evidence if chosen == found.profile else None,
        model=models[0][1] if models else None,
        machine=machine[1] if machine else None,
        l4t=l4t,
        jetpack=jetpack,
        software=software,
        backend=_backend(chosen, software) if chosen else None,
        cpus=cpus,
        threads=_threads(chosen, cpus),
        memory_bytes=_memory(tree, "MemTotal"),
        available_bytes=_memory(tree, "MemAvailable"),
        power_mode=read_power_mode(tree, chosen.power_modes, module=module) if chosen else None,
        thermal=read_zones(tree, chosen.thermal if chosen else Thermal()),
        throttling=read_throttling(tree),
        rails=rails,
        rails_missing=missing_rails(rails, power),
        notes=(),
    )
    return msgspec.structs.replace(detected, notes=tuple(_notes(tree, detected, found)))


def _software(chosen: BoardProfile, jetpack: int | None) -> Software | None:
    fitting = [one for one in chosen.software if one.jetpack == jetpack]
    return fitting[0] if len(fitting) == 1 else None


def _backend(chosen: BoardProfile, software: Software | None) -> Backend | None:
    """Return the default where the system has it; where that is not known, what all have."""
    systems = chosen.software if software is None else (software,)
    usable = [one for one in systems[0].backends if all(one in other.backends for other in systems)]
    default = chosen.defaults.backend
    return default if default in usable else next(iter(usable), None)


def _threads(chosen: BoardProfile | None, cpus: int | None) -> int:
    """Return the profile's threads, less where they would take the last CPU; 1 if not known."""
    most = 1 if cpus is None else max(1, cpus - 1)
    return 1 if chosen is None else min(chosen.defaults.threads, most)


def _cpus(tree: Tree) -> int | None:
    """Return how many CPUs are online: a power mode switches some off."""
    ranges = (tree.text(ONLINE) or "").split(",")
    found = [_RANGE.fullmatch(one) for one in ranges]
    sizes = [int(one[2] or one[1]) - int(one[1]) + 1 for one in found if one]
    if len(sizes) == len(ranges) and all(0 < size <= _MAX_CPUS for size in sizes):
        return sum(sizes)
    return len(_PROCESSOR.findall(tree.text(identity.CPUINFO) or "")) or None


def _memory(tree: Tree, key: str) -> int | None:
    line = re.search(rf"^{key}:\s+(\d{{1,15}}) kB$", tree.text(MEMINFO) or "", re.MULTILINE)
    return None if line is None else int(line[1]) * 1024


def _notes(tree: Tree, found: Detected, seen: Identity) -> Iterator[str]:
    """Say what could not be read, and what does not fit."""
    inside = next((name for name in CONTAINERS if tree.has(name)), None)
    if inside is not None:
        yield f"in a container ({inside}): what it hides of /proc, /sys and /etc is not known"
    yield from (f"{path} cannot be read: {why}" for path, why in tree.unread.items())
    if seen.rivals:
        yield f"fits several boards alike: {', '.join(seen.rivals)}"
    yield from _notes_on_board(tree, found, seen)
    mode = found.power_mode
    if mode is not None and mode.name is None:
        names = f"one of {', '.join(mode.candidates)}" if mode.candidates else "none of the known"
        yield f"power mode {mode.id} is {names}: {NAMES} does not say"
    if found.profile is not None and any(one.jetpack for one in found.profile.software):
        yield from _notes_on_jetpack(found)


def _notes_on_board(tree: Tree, found: Detected, seen: Identity) -> Iterator[str]:
    compatible = identity.read_compatible(tree)
    if compatible is None and found.machine in _WITH_DEVICE_TREE:
        yield f"no device tree: neither {' nor '.join(identity.DEVICE_TREES)} can be read"
    if found.profile is None:
        yield f"no profile fits a machine of the kind {found.machine or 'unknown'}"
    elif seen.profile is None or seen.evidence is None:
        return
    elif found.profile != seen.profile and seen.evidence.kind != "machine":
        yield f"the configuration says {found.profile.name}, it looks like {seen.profile.name}"
    elif found.profile == seen.profile and seen.evidence.kind == "machine" and compatible:
        yield f"no profile knows {compatible[1][0]}: docs/boards.md says how to add one"


def _notes_on_jetpack(found: Detected) -> Iterator[str]:
    if found.l4t is None:
        yield f"{identity.RELEASE} does not say which JetPack this is"
    elif found.jetpack is None:
        yield f"Jetson Linux {found.l4t} belongs to no known JetPack"
    elif found.software is None:
        yield f"the profile says nothing of JetPack {found.jetpack}"
