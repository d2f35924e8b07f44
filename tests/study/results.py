"""What the study found, as it is kept under version control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hedge.runtime.bench.machine import Machine

from .figures import Figures


class Ran(Struct, frozen=True, kw_only=True):
    """When something was run, where, and with how much of the training."""

    date: str
    machine: Machine
    effort: float


class Results(Struct, frozen=True, kw_only=True):
    """The figures of each task's edges and seeds, and of what is shown with their models.

    ``ran`` is by the names of both.
    """

    ran: dict[str, Ran] = {}
    tasks: dict[str, tuple[Figures, ...]] = {}
    parts: dict[str, Any] = {}


def read(file: Path) -> Results:
    """Return what is kept; nothing, if there is no file."""
    return msgspec.json.decode(file.read_bytes(), type=Results) if file.exists() else Results()


def write(file: Path, results: Results) -> None:
    """Keep the results, in the order of their names."""
    document = msgspec.json.encode(results, order="deterministic")
    file.write_bytes(msgspec.json.format(document) + b"\n")
