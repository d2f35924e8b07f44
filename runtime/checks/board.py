"""The board: which one it is, and whether what the device wants runs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...telemetry.boards.detect import CONTAINERS, Detected
from ...telemetry.boards.identity import RELEASE
from ...telemetry.boards.profile import matches
from ..backends.options import BackendOptions
from .finding import Finding, error, ok, warning

_SAYS_OTHERWISE = "the configuration says"  # how a note of `detect` on another board begins
_PCS = ("x86_64", "amd64", "i686", "i386")  # have no device tree that a board is known by


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
    misfit = _misfit(found)
    yield ok("board", profile.name, "; ".join(_facts(found, misfit=misfit)))
    if misfit is not None:
        yield warning(
            "board",
            profile.name,
            misfit,
            where="device.board",
            todo="name this one (`hedge boards detect`), or leave the key out",
        )
    contained = any((root / one).exists() for one in CONTAINERS)
    if found.software is not None and found.software.runs == "container" and not contained:
        yield warning(
            "board",
            profile.name,
            f"{found.software.system} has no Python that hedge runs on",
            todo="run hedge in a container there; the board's profile has notes",
        )
    if any(_could_use_tensorrt(*one) for one in wanted.values()):
        yield from _no_tensorrt(found)
    for stream, (format_, options) in wanted.items():
        yield from _backend(found, stream, options.use if options.use != "auto" else format_)


def _facts(found: Detected, *, misfit: str | None) -> Iterator[str]:
    profile = found.profile
    yield found.model or (profile.title if profile else "")
    if found.jetpack is not None:
        yield f"JetPack {found.jetpack} (L4T {found.l4t})"
    if found.power_mode is not None and found.power_mode.name is not None:
        yield f"power mode {found.power_mode.name}"
    if found.cpus is not None:
        yield f"{found.cpus} CPUs"
    yield from (note for note in found.notes if note != misfit)


def _misfit(found: Detected) -> str | None:
    """Return why the board that the configuration names is not this one; None: it may be."""
    if found.profile is None:
        return None
    known_by = found.profile.detect
    if known_by.compatible or known_by.model:
        otherwise = (note for note in found.notes if note.startswith(_SAYS_OTHERWISE))
        if note := next(otherwise, None):
            return note
    machine = found.machine
    if machine is None or found.evidence is not None:
        return None
    if known_by.machine:
        fits = matches(machine, known_by.machine) is not None
    else:
        fits = machine not in _PCS
    return None if fits else f"the configuration says {found.profile.name}, and this is {machine}"


def _could_use_tensorrt(format_: str, options: BackendOptions) -> bool:
    return format_ == "onnx" and options.use == "auto" and not options.providers


def _no_tensorrt(found: Detected) -> Iterator[Finding]:
    """Yield that the board's profile prefers TensorRT, if it is not what serves."""
    profile, software = found.profile, found.software
    if profile is None or profile.defaults.backend != "tensorrt" or found.backend == "tensorrt":
        return
    if software is not None:
        why, todo = f"which {software.system} has not", "upgrade it"
    elif found.l4t is None:
        why, todo = "but which JetPack this is, is not known", f"mount /{RELEASE}"
    else:
        why, todo = f"but no JetPack is known with Jetson Linux {found.l4t}", "upgrade hedge"
    yield warning(
        "board",
        profile.name,
        f"the profile prefers TensorRT, {why}: ONNX Runtime on the CPU serves",
        todo=f"{todo}, or set [stream.backend] use",
    )


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
