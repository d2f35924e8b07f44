"""What a machine says of itself, and which profile that fits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct

from .profile import BoardProfile, Module, matches
from .tree import Tree

DEVICE_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
MODELS = (
    *(f"{folder}/model" for folder in DEVICE_TREES),
    "sys/devices/soc0/machine",  # the same, where a container hides the device tree
    "sys/class/dmi/id/product_name",
)
CPUINFO = "proc/cpuinfo"
ARCH = "proc/sys/kernel/arch"
RELEASE = "etc/nv_tegra_release"
JETPACKS = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""JetPack's major version by Jetson Linux's. Source: developer.nvidia.com, JetPack archive."""

_MAX_ENTRIES, _MAX_CHARS = 64, 256
Kind = Literal["compatible", "model", "machine"]
_RELEASE = re.compile(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3}){0,2})")
_MODEL_LINE = re.compile(r"^Model\s*:\s*(\S.*)$", re.MULTILINE)
_ARM_LINE = re.compile(r"^CPU architecture\s*:\s*(\d+)", re.MULTILINE)
_X86_LINE = re.compile(r"^flags\s*:.*\blm\b", re.MULTILINE)


class Evidence(Struct, frozen=True, kw_only=True):
    """Why it is this board: the text in ``file`` that the profile's ``pattern`` matched."""

    kind: Kind
    file: str
    text: str
    pattern: str


class Identity(NamedTuple):
    """The profile that fits and why; ``rivals`` fitted as well as each other, so none is taken."""

    profile: BoardProfile | None
    evidence: Evidence | None = None
    rivals: tuple[str, ...] = ()


class Fit(NamedTuple):
    """A text that a profile's pattern matched; the lowest ``rank`` is the best."""

    rank: tuple[int, int]
    profile: BoardProfile
    evidence: Evidence


def identify(tree: Tree, profiles: tuple[BoardProfile, ...]) -> Identity:
    """Return the profile that fits best: by compatible, else by model, else by machine.

    Of several that fit the same kind of evidence the earlier text wins (a device tree names
    the board before its chip), then the longer pattern.
    """
    rivals: tuple[str, ...] = ()
    for kind, texts in _evidence(tree):
        fits = [
            Fit(
                (place, -len(pattern)),
                one,
                Evidence(kind=kind, file=file, text=text, pattern=pattern),
            )
            for one in profiles
            for place, (file, text) in enumerate(texts)
            if (pattern := matches(text, getattr(one.detect, kind))) is not None
        ]
        first = min((fit.rank for fit in fits), default=None)
        best = [fit for fit in fits if fit.rank == first]
        if len(best) == 1:
            return Identity(best[0].profile, best[0].evidence, rivals)
        rivals += tuple(fit.profile.name for fit in best)
    return Identity(None, None, rivals)


def read_compatible(tree: Tree) -> tuple[str, tuple[str, ...]] | None:
    """Return the file and the entries of the device tree's ``compatible``, the board first."""
    for folder in DEVICE_TREES:
        raw = tree.raw(f"{folder}/compatible")
        texts = (raw or "").split("\0", _MAX_ENTRIES)[:_MAX_ENTRIES]
        entries = tuple(text.strip()[:_MAX_CHARS] for text in texts if text.strip())
        if entries:
            return f"{folder}/compatible", entries
    return None


def read_models(tree: Tree) -> tuple[tuple[str, str], ...]:
    """Return (file, text) of every name that the machine gives itself, the best first."""
    line = _MODEL_LINE.search(tree.text(CPUINFO) or "")
    found = [*((file, tree.text(file)) for file in MODELS), (CPUINFO, line and line[1].strip())]
    return tuple((file, text[:_MAX_CHARS]) for file, text in found if text)


def read_machine(tree: Tree) -> tuple[str, str] | None:
    """Return (where from, the machine's name as in `uname -m`).

    A copied tree is asked for its own kernel's or CPU's word; this process's would be wrong.
    """
    if tree.root == Path("/"):
        return "uname -m", os.uname().machine
    if name := tree.text(ARCH):
        return ARCH, name
    cpuinfo = tree.text(CPUINFO) or ""
    arm = _ARM_LINE.search(cpuinfo)
    if arm is not None:
        return CPUINFO, "aarch64" if int(arm[1]) >= 8 else "armv7l"
    return (CPUINFO, "x86_64") if _X86_LINE.search(cpuinfo) else None


def read_release(tree: Tree) -> tuple[str | None, int | None]:
    """Return Jetson Linux's release ("36.4.3") and JetPack's major version; None if not known."""
    found = _RELEASE.search(tree.text(RELEASE) or "")
    if found is None:
        return None, None
    return f"{found[1]}.{found[2]}", JETPACKS.get(int(found[1]))


def module_of(profile: BoardProfile, compatible: tuple[str, ...]) -> Module | None:
    """Return which of the profile's modules it is, None if no or several modules fit."""
    fitting = [
        one for one in profile.module if any(matches(entry, one.compatible) for entry in compatible)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _evidence(tree: Tree) -> Iterator[tuple[Kind, list[tuple[str, str]]]]:
    """Yield what the machine says, the best kind of evidence first, as (file, text)."""
    if compatible := read_compatible(tree):
        yield "compatible", [(compatible[0], entry) for entry in compatible[1]]
    for found in read_models(tree):
        yield "model", [found]
    if machine := read_machine(tree):
        yield "machine", [machine]
