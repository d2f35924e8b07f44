"""The serial ports of this machine that something is plugged into."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...telemetry.boards.tree import Tree
from .by_id import names_by_node

_BY_ID = "dev/serial/by-id"
_TTYS = "sys/class/tty"
_PORT = re.compile(r"tty(USB|ACM|AMA|THS|XRUSB|AP)\d+")


class SerialPort(Struct, frozen=True, kw_only=True):
    """A port: ``port`` is its device, by the name that stays its own where it has one."""

    name: str
    port: str


def find_serial_ports(tree: Tree) -> tuple[SerialPort, ...]:
    """Return the ports below a root; those of this very machine as pyserial knows them."""
    stable = names_by_node(tree, _BY_ID)
    described = _described() if tree.root == Path("/") else {}
    nodes = {name for name in (*tree.names("dev"), *tree.names(_TTYS)) if _PORT.fullmatch(name)}
    return tuple(
        SerialPort(
            name=described.get(node) or _readable(stable.get(node)) or node,
            port=f"/{_BY_ID}/{stable[node]}" if node in stable else f"/dev/{node}",
        )
        for node in sorted({*nodes, *stable, *described}, key=lambda one: (len(one), one))
    )


def _described() -> dict[str, str]:
    """Return by node what pyserial says of it; nothing where that is not installed."""
    if find_spec("serial") is None:
        return {}
    ports: Any = importlib.import_module("serial.tools.list_ports")
    return {
        one.name: one.description if one.description not in {None, "n/a"} else ""
        for one in ports.comports()
    }


def _readable(name: str | None) -> str | None:
    """Return ``usb-Arduino_Uno_1234-if00`` as a person would say it."""
    if name is None:
        return None
    return re.sub(r"-if\d+.*$", "", name.partition("-")[2]).replace("_", " ") or name
