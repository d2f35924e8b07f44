"""What this machine has that a stream could be fed by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ...telemetry.boards.detect import detect_in
from ...telemetry.boards.profile import load_profiles
from ...telemetry.boards.tree import Tree
from .cameras import Camera, find_cameras
from .serial_ports import SerialPort, find_serial_ports
from .sound_cards import SoundCard, find_sound_cards


class Hardware(Struct, frozen=True, kw_only=True):
    """The board, by its profile and its own name (None: not known), and what it has."""

    board: str | None
    model: str | None
    cameras: tuple[Camera, ...] = ()
    sound_cards: tuple[SoundCard, ...] = ()
    serial_ports: tuple[SerialPort, ...] = ()


def find_hardware(root: Path) -> Hardware:
    """Look at the machine whose /proc, /sys and /dev lie below ``root``."""
    tree = Tree(root)
    board = detect_in(tree, profiles=load_profiles())
    return Hardware(
        board=board.hardware,
        model=board.model,
        cameras=find_cameras(tree),
        sound_cards=find_sound_cards(tree),
        serial_ports=find_serial_ports(tree),
    )


def hardware_lines(found: Hardware) -> Iterator[str]:
    """Yield what was found, with the flags that would take it; what is foreign is made plain."""
    for line in _lines(found):
        yield line if line.isprintable() else ascii(line)[1:-1]


def _lines(found: Hardware) -> Iterator[str]:
    named = f" ({found.model})" if found.model else ""
    yield f"board   {found.board or 'not known'}{named}"
    for camera in found.cameras:
        way = f"--url {camera.url}" if camera.url else f"--pipeline '{camera.pipeline}'"
        yield f"camera  {camera.name}: {way}{f' ({camera.note})' if camera.note else ''}"
    for card in found.sound_cards:
        yield f"sound   {card.name}: --device {card.device}"
    for port in found.serial_ports:
        yield f"serial  {port.name}: --port {port.port}"
    for what, there in (
        ("camera", found.cameras),
        ("sound", found.sound_cards),
        ("serial", found.serial_ports),
    ):
        if not there:
            yield f"{what:<7} none"
