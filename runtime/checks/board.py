"""The board: which one it is, and whether what the device wants runs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...telemetry.boards.detect import CONTAINERS, Detected
from ..backends.options import BackendOptions
from .finding import Finding, error, ok, warning


def check_board(
    found: Detected, *, root: Path, wanted: Mapping[str, tuple[str, BackendOptions]]
) -> Iterator[Finding]:
    """Yield what is known of the board, whose files lie below ``root``.

    ``wanted``: by stream, the format of its model and how it is to run.
    """
    profile = found.profile
    if profile is None:
        yield warning(
            "board",
            found.model or "unknown",
            "no profile fits: the defaults are used, and no power is measured",
            todo="`hedge boards` lists the profiles; docs/boards.md says how to add one",
        )
        return
    yield ok("board", profile.name, "; ".join(_facts(found)))
    contained = any((root / one).exists() for one in CONTAINERS)
    if found.software is not None and found.software.runs == "container" and not contained:
        yield warning(
            "board",
            profile.name,
            f"{found.software.system} has no Python that hedge runs on",
            todo="run hedge in a container there; the board's profile has notes",
        )
    for stream, (format_, options) in wanted.items():
        yield from _backend(found, stream, options.use if options.use != "auto" else format_)


def _facts(found: Detected) -> Iterator[str]:
    profile = found.profile
    yield found.model or (profile.title if profile else "")
    if found.jetpack is not None:
        yield f"JetPack {found.jetpack} (L4T {found.l4t})"
    if found.power_mode is not None and found.power_mode.name is not None:
        yield f"power mode {found.power_mode.name}"
    if found.cpus is not None:
        yield f"{found.cpus} CPUs"
    yield from found.notes


def _backend(found: Detected, stream: str, backend: str) -> Iterator[Finding]:
    software = found.software
    if software is None or backend in software.backends:
        return
    runs = ", ".join(software.backends)
    if backend == "tensorrt":
        yield error(
            "board",
            f"stream {stream}",
            f"TensorRT does not run here: {software.system}",
            where="backend.use",
            todo=f"use one of {runs}",
        )
    else:
        yield warning(
            "board",
            f"stream {stream}",
            f"{backend} is not known to run on {software.system}",
            todo=f"known to run: {runs}",
        )
