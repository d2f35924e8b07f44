"""A board's profile: one TOML file of `board_configs`, or one of the user's own, as records.

Unknown keys are refused. A profile holds what cannot be asked of the machine: what runs
there, which rails make up the total, which thermal zones count. Whatever the machine can
say itself (its modes' names, its trip points) is read there first; see `detect`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...models.errors import ConfigError
from ...models.manifest import Name
from ...models.toml import parse_toml, to_record
from .small_file import read_small

FOLDER = Path(__file__).parents[2] / "board_configs"
"""Where the profiles that come with hedge lie, one file each, named for the board."""

MAX_BYTES = 65_536
Text = Annotated[str, Meta(min_length=1, max_length=400)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Pattern = Annotated[str, Meta(min_length=1, max_length=128)]
Address = Annotated[str, Meta(pattern=r"^[0-9]{1,3}-[0-9a-f]{4}$")]
Celsius = Annotated[float, Meta(gt=0, le=150)]
Backend = Literal["onnx", "tflite", "tensorrt"]
Driver = Literal["ina3221", "ina238", "rapl", "vcgencmd"]


class Detect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the board is told from others: shell patterns, upper and lower case kept apart.

    ``compatible`` is held against each entry of the device tree's root, ``model`` against
    the device tree's model or, where that cannot be read, the SoC's machine, the DMI's
    product and the model line of /proc/cpuinfo. ``machine`` (uname -m) tells little and
    is asked last. One matching pattern will do.
    """

    compatible: tuple[Pattern, ...] = ()
    model: tuple[Pattern, ...] = ()
    machine: tuple[Pattern, ...] = ()


class Module(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the modules that share the profile, by its device tree ``compatible`` entries."""

    name: Name
    title: Text
    compatible: tuple[Pattern, ...]


class Software(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs on one of the board's systems.

    ``runs`` says where hedge and its backends run: "host" with the system's own Python
    (``python``), or "container" where that is too old for it. ``jetpack`` is the major
    version; None: no JetPack. ``wheels`` are notes for whoever installs.
    """

    system: Text
    jetpack: Annotated[int, Meta(ge=1, le=99)] | None = None
    python: Annotated[str, Meta(pattern=r"^3\.[0-9]{1,2}$")] | None = None
    runs: Literal["host", "container"] = "host"
    backends: tuple[Backend, ...]
    wheels: tuple[Text, ...] = ()


class Defaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device of this kind starts from where its configuration is silent."""

    backend: Backend
    threads: Annotated[int, Meta(ge=1, le=256)]


class Memory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The board's memory: what it is sold with, and what must be free to open a model."""

    sizes_gib: tuple[Annotated[float, Meta(gt=0)], ...] = ()
    shared_with_gpu: bool = False
    keep_free_mib: Annotated[int, Meta(ge=0)]


class Rail(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is measured. It is found by its label, whatever its hwmon's number.

    ``driver`` "ina3221" stands for the older ``ina3221x`` too. ``address`` (I2C bus and
    address) is where it was documented; a rail of the same label elsewhere is not it.
    None: wherever the label is. ``within`` names the rail that its power is already in.
    """

    label: Label
    driver: Driver
    address: Address | None = None
    within: Label | None = None


class Power(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The power rails, and which of them add up to the total.

    ``scope`` says what the total covers. ``resolution_w`` is one step of its coarsest
    rail; ``negative``: rails can read below zero, and do so for good reasons.
    """

    rail: tuple[Rail, ...] = ()
    total: tuple[Label, ...] = ()
    scope: Literal["none", "module", "board", "pmic", "package"] = "none"
    resolution_w: Annotated[float, Meta(gt=0)] | None = None
    negative: bool = False
    notes: tuple[Text, ...] = ()


class Thermal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The thermal zones by their type.

    ``ignored`` ones are constants or estimates: never the hottest. ``throttle_c`` and
    ``critical_c`` hold where the zone itself does not say.
    """

    zones: tuple[Pattern, ...] = ()
    ignored: tuple[Pattern, ...] = ()
    throttle_c: Celsius | None = None
    critical_c: Celsius | None = None


class Mode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One power mode of NVIDIA's nvpmodel; ``modules`` that have it, empty: all."""

    id: Annotated[int, Meta(ge=0, le=99)]
    name: Label
    modules: tuple[Name, ...] = ()


class PowerModes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the board is told to save power: nvpmodel's modes, or the CPU's governor."""

    kind: Literal["nvpmodel", "governor"]
    mode: tuple[Mode, ...] = ()


class BoardProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board, or several that differ in nothing that matters here but their modules."""

    name: Name
    title: Text
    detect: Detect
    module: tuple[Module, ...] = ()
    software: Annotated[tuple[Software, ...], Meta(min_length=1)]
    defaults: Defaults
    memory: Memory
    power: Power = Power()
    thermal: Thermal = Thermal()
    power_modes: PowerModes
    notes: tuple[Text, ...] = ()


def load_profiles(folder: Path = FOLDER) -> tuple[BoardProfile, ...]:
    """Return every profile of ``folder``, by file name.

    Raises:
        ConfigError: a file is wrong, or not named for its board.
    """
    found = []
    for path in sorted(folder.glob("*.toml")):
        found.append(load_profile(path))
        if found[-1].name != path.stem:
            raise ConfigError(f"holds the board {found[-1].name!r}", where=str(path))
    if not found:
        raise ConfigError("no board profiles here", where=str(folder))
    return tuple(found)


def load_profile(path: Path) -> BoardProfile:
    """Return the profile in the file ``path``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or a key is wrong; says which.
    """
    data = read_small(path, max_bytes=MAX_BYTES)
    document = parse_toml(data, where=str(path), error=ConfigError)
    found = to_record(document, BoardProfile, where=str(path), error=ConfigError)
    for key, what in _contradictions(found):
        raise ConfigError(what, where=f"{path}: $.{key}")
    return found


def profile(name: str) -> BoardProfile:
    """Return the profile of that name among those that come with hedge.

    Raises:
        ConfigError: there is none; ``hint`` names the nearest.
    """
    files = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if name in files:
        return load_profile(files[name])
    near = difflib.get_close_matches(name, files, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(files)}"
    raise ConfigError(f"{name!r} is no board", hint=hint)


def find_profile(board: str, *, base: Path = Path()) -> BoardProfile:
    """Return the profile that a configuration's ``board`` means: a file from ``base``, or a name.

    What ends in ``.toml`` is a path.

    Raises:
        ConfigError: it is neither, or the file is wrong.
    """
    return load_profile(base / board) if board.endswith(".toml") else profile(board)


def matches(text: str, patterns: tuple[str, ...]) -> str | None:
    """Return the longest of the patterns that ``text`` matches, None if it matches none."""
    fitting = [pattern for pattern in patterns if fnmatchcase(text, pattern)]
    return max(fitting, key=len, default=None)


def _contradictions(found: BoardProfile) -> Iterator[tuple[str, str]]:
    """Yield (key, what) for each thing that the profile says twice or differently."""
    usable = {backend for system in found.software for backend in system.backends}
    if found.defaults.backend not in usable:
        yield "defaults.backend", f"{found.defaults.backend!r} is usable on none of its systems"
    yield from _power_contradictions(found.power)
    modules = {one.name for one in found.module}
    for place, mode in enumerate(found.power_modes.mode):
        for name in set(mode.modules) - modules:
            yield f"power_modes.mode[{place}].modules", f"{name!r} is no module of the board"
    if found.power_modes.mode and found.power_modes.kind == "governor":
        yield "power_modes.mode", "governors are the kernel's: only nvpmodel has modes"


def _power_contradictions(power: Power) -> Iterator[tuple[str, str]]:
    labels = [rail.label for rail in power.rail]
    for place, rail in enumerate(power.rail):
        if labels.index(rail.label) != place:
            yield f"power.rail[{place}].label", f"{rail.label!r} stands twice"
        if rail.within is not None and rail.within not in labels:
            yield f"power.rail[{place}].within", f"{rail.within!r} is no rail"
        if rail.label in power.total and rail.within in power.total:
            yield f"power.rail[{place}].within", "the total counts it twice"
    for place, label in enumerate(power.total):
        if label not in labels:
            yield f"power.total[{place}]", f"{label!r} is no rail"
    if bool(power.total) != (power.scope != "none"):
        yield "power.scope", "a total has a scope, and no total has none"
