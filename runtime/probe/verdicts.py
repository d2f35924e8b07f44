"""What the probe has found sound, remembered, so that a start of the daemon is not slowed twice."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec import Struct

from ...telemetry.whole_file import write_whole
from ..backends.options import BackendOptions
from ..version import installed
from .probe import TIMEOUT_S, Fed, probe_model

_log = logging.getLogger(__name__)

VERDICTS = "probed"
"""The file's name, in a device's state directory."""

_MAX = 256
_MAX_BYTES = 1 << 16
_PATIENCE_S = 300.0  # an accelerator may compile its kernels first
_MODULES = ("onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorrt", "pycuda", "numpy")


class _Kept(Struct, frozen=True, array_like=True):
    v: int
    sound: tuple[str, ...]


class Verdicts:
    """The last 256 models that opened and ran here, as a file of mode 0600.

    What crashed is not remembered: it may have been for want of memory, or a driver that is
    newer by now. A file that is damaged or cannot be written costs a probe, and nothing else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sound = _read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._sound

    def add(self, key: str) -> None:
        """Remember a model that is sound; the oldest is forgotten beyond the bound."""
        self._sound = (*(one for one in self._sound if one != key), key)[-_MAX:]
        try:
            write_whole(self._file, msgspec.json.encode(_Kept(1, self._sound)))
        except OSError as error:
            _log.warning("%s: not remembered (%s)", self._file, error)


def ensure_opens(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    where: str,
    options: BackendOptions | None = None,
    output: str | None = None,
    sample: Fed | None = None,
    verdicts: Path,
) -> None:
    """Return once it is known that opening and running the model crashes no process.

    What was found sound before, with the same library and options, is believed.

    Raises:
        ModelError, ConfigError: as `probe_model` does.
    """
    options = options or BackendOptions()
    known = Verdicts(verdicts)
    key = _key(data, format, options, output, sample)
    if key in known:
        return
    patient = bool(options.providers or options.delegate) or options.use == "tensorrt"
    probe_model(
        data,
        format=format,
        where=where,
        options=options,
        output=output,
        sample=sample,
        timeout_s=_PATIENCE_S if patient else TIMEOUT_S,
    )
    known.add(key)


def _key(data: bytes, *asked: object) -> str:
    """Return what names a model, how it is run, and everything here that runs it."""
    machine = os.uname()
    options = next(one for one in asked if isinstance(one, BackendOptions))
    here = (
        installed(),
        machine.release,
        machine.machine,
        [_stamp(_origin(module)) for module in _MODULES],
        _stamp(options.delegate),
    )
    named = msgspec.json.encode((hashlib.sha256(data).hexdigest(), asked, here), order="sorted")
    return hashlib.sha256(named).hexdigest()


def _origin(module: str) -> str | None:
    """Return the file that a library is imported from, without importing it."""
    spec = find_spec(module)
    return None if spec is None else spec.origin


def _stamp(path: str | None) -> tuple[str, int, int] | None:
    """Return what changes when a file does; None where there is none."""
    if path is not None:
        with contextlib.suppress(OSError):
            found = Path(path).stat()
            return path, found.st_size, found.st_mtime_ns
    return None


def _read(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as stream:
            kept = msgspec.json.decode(stream.read(_MAX_BYTES), type=_Kept)
    except (OSError, ValueError, RecursionError):
        return ()
    return kept.sound[-_MAX:] if kept.v == 1 else ()
