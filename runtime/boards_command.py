"""`hedge boards`: the boards that hedge knows, and which of them this one is."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from ..models.errors import ConfigError
from ..telemetry.boards.detect import Detected, detect_in
from ..telemetry.boards.profile import (
    BoardProfile,
    Power,
    Software,
    find_profile,
    load_profiles,
)
from ..telemetry.boards.rails import FoundRail
from ..telemetry.boards.recording import plant, to_recording
from ..telemetry.boards.thermal import hottest
from ..telemetry.boards.tree import Tree
from .report import check_place, write_json

_GIB = 1 << 30


class Boards(Struct, frozen=True, kw_only=True):
    """Every board that hedge knows."""

    boards: tuple[BoardProfile, ...]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "boards",
        help="list the boards that hedge knows, and say which this one is",
        description="List the boards that hedge knows; docs/boards.md says how to add one.",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the profiles there too")
    parser.set_defaults(run=_run_list)
    verbs = parser.add_subparsers(metavar="VERB")
    one = verbs.add_parser("show", help="show a board's profile")
    one.add_argument("board", metavar="BOARD", help="a board's name, or a profile's file (.toml)")
    one.add_argument("--json", type=Path, metavar="PATH", help="write it there too")
    one.set_defaults(run=_run_show)
    one = verbs.add_parser(
        "detect",
        help="say which board this is, and what can be read of it",
        description="Say which board this is, how that was found, and what can be read of it "
        "now. Exits 0, or 1 if no profile fits.",
    )
    one.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="PATH",
        help="a copied tree, or what --record wrote",
    )
    one.add_argument("--board", metavar="BOARD", help="take this name or file, whatever it is")
    one.add_argument("--json", type=Path, metavar="PATH", help="write what was found there too")
    one.add_argument(
        "--record", type=Path, metavar="PATH", help="write the files that were read there"
    )
    one.set_defaults(run=_run_detect)


def _run_list(options: argparse.Namespace) -> int:
    found = Boards(boards=load_profiles())
    write_json(options.json, found)
    print(_row("board", "backends", "default", "power", "modes", "title"))
    for one in found.boards:
        backends = ",".join(_backends(one))
        default = f"{one.defaults.backend} x{one.defaults.threads}"
        print(_row(one.name, backends, default, one.power.scope, one.power_modes.kind, one.title))
    return 0


def _run_show(options: argparse.Namespace) -> int:
    found = find_profile(options.board)
    write_json(options.json, found)
    _print(_shown_text(found))
    return 0


def _run_detect(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_place(options.record)
    board = None if options.board is None else find_profile(options.board)
    with _tree(options.root) as tree:
        found = detect_in(tree, profiles=load_profiles(), board=board)
    write_json(options.json, found)
    if options.record is not None:
        _write(options.record, to_recording(tree))
    _print(_detected_text(found))
    return 0 if found.profile else 1


@contextmanager
def _tree(root: Path) -> Iterator[Tree]:
    """Give the tree below a folder, or a recording laid out in a folder of its own."""
    if root.is_dir():
        yield Tree(root)
        return
    with tempfile.TemporaryDirectory(prefix="hedge-board-") as folder:
        plant(root, Path(folder))
        yield Tree(Path(folder))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", where=str(path)) from error


def _print(lines: Iterator[str]) -> None:
    """Print lines of which parts come from files, which must not move the cursor."""
    for line in lines:
        print(line if line.isprintable() else ascii(line)[1:-1])


def _row(*cells: str) -> str:
    widths = (20, 20, 11, 8, 9)
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return " ".join([*padded, *cells[len(widths) :]])


def _backends(found: BoardProfile) -> tuple[str, ...]:
    """Return the backends that are usable on any of a board's systems."""
    return tuple(dict.fromkeys(name for one in found.software for name in one.backends))


def _shown_text(found: BoardProfile) -> Iterator[str]:
    yield f"{found.name}: {found.title}"
    for one in (*found.detect.compatible, *found.detect.model, *found.detect.machine):
        yield f"  known by    {one}"
    for module in found.module:
        yield f"  module      {module.name}: {module.title}"
    for system in found.software:
        yield f"  system      {_system(system)}"
        yield from (f"              {note}" for note in system.wheels)
    yield f"  default     {found.defaults.backend}, threads: {found.defaults.threads}"
    sizes = ", ".join(f"{size:g}" for size in found.memory.sizes_gib) or "any"
    shared = ", shared with the GPU" if found.memory.shared_with_gpu else ""
    yield f"  memory      {sizes} GiB{shared}; {found.memory.keep_free_mib} MiB to keep free"
    yield from _power_text(found.power)
    trips = (("throttles", found.thermal.throttle_c), ("critical", found.thermal.critical_c))
    known = [f"{what} at {temp_c:g} C" for what, temp_c in trips if temp_c is not None]
    yield f"  thermal     {', '.join((*found.thermal.zones, *known)) or 'what the machine has'}"
    modes = [f"{mode.id} {mode.name}" for mode in found.power_modes.mode]
    yield f"  modes       {found.power_modes.kind}: {', '.join(modes) or 'what the kernel has'}"
    yield from (f"  note        {note}" for note in found.notes)


def _power_text(power: Power) -> Iterator[str]:
    for rail in power.rail:
        place = rail.driver if rail.address is None else f"{rail.driver} at {rail.address}"
        inside = "" if rail.within is None else f", inside {rail.within}"
        yield f"  rail        {rail.label}: {place}{inside}"
    total = f"{' + '.join(power.total)} ({power.scope})" if power.total else "not measured"
    yield f"  power       {total}"
    yield from (f"              {note}" for note in power.notes)


def _system(system: Software) -> str:
    python = "" if system.python is None else f", Python {system.python}"
    where = "" if system.runs == "host" else " in a container"
    return f"{system.system}{python}: {', '.join(system.backends)}{where}"


def _detected_text(found: Detected) -> Iterator[str]:
    board = found.profile
    yield "no known board" if board is None else f"{board.name}: {board.title}"
    if found.evidence is not None:
        yield f"  known by    {found.evidence.file}: {found.evidence.text}"
    release = None if found.l4t is None else f"Jetson Linux {found.l4t}"
    for what, known in (
        ("model", found.model),
        ("module", found.module and found.module.title),
        ("machine", found.machine),
        ("release", release),
        ("system", found.software and _system(found.software)),
    ):
        yield from [] if known is None else [f"  {what:<11} {known}"]
    yield f"  cpus online {_or_unknown(found.cpus)}"
    yield f"  default     {_or_unknown(found.backend)}, threads: {found.threads}"
    yield f"  memory      {_memory(found)}"
    yield from _state_text(found)
    if board is not None:
        yield from _rails_text(found, board.power)
    yield from (f"  note        {note}" for note in found.notes)


def _state_text(found: Detected) -> Iterator[str]:
    mode = found.power_mode
    name = None if mode is None else mode.name or f"number {mode.id}"
    yield f"  power mode  {_or_unknown(name)}"
    hot = hottest(found.thermal)
    if hot is None:
        yield "  temperature not known"
    else:
        limit = "" if hot.throttle_c is None else f", slowed down from {hot.throttle_c:g} C"
        yield f"  temperature {hot.temp_c:.1f} C at {hot.name}, the hottest{limit}"
    slow = {None: "not known", False: "no", True: f"yes: {', '.join(found.throttling.by)}"}
    yield f"  throttled   {slow[found.throttling.now]}"


def _rails_text(found: Detected, power: Power) -> Iterator[str]:
    if found.rails:
        yield f"  rails       {', '.join(_rail(one) for one in found.rails)}"
    if found.rails_missing:
        yield f"  missing     {', '.join(found.rails_missing)}"
    if power.total:
        readings = [one.power_w for one in found.rails if one.in_total]
        known = [power_w for power_w in readings if power_w is not None]
        whole = len(known) == len(readings) >= len(power.total)
        now = f"{sum(known):.3f} W" if whole else "not read"
        yield f"  power       {now}: {' + '.join(power.total)} ({power.scope})"


def _rail(one: FoundRail) -> str:
    return one.label if one.power_w is None else f"{one.label} {one.power_w:.3f} W"


def _memory(found: Detected) -> str:
    if found.memory_bytes is None:
        return "not known"
    free = "" if found.available_bytes is None else f", {found.available_bytes / _GIB:.1f} free"
    return f"{found.memory_bytes / _GIB:.1f} GiB{free}"


def _or_unknown(value: object) -> str:
    return "not known" if value is None else str(value)
