"""A wall clock that can be stepped: a small library, compiled here and preloaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")
_PRELOAD = "LD_PRELOAD"


def begin_anew() -> None:
    """Start this program once more, with the library before all others and no other threads.

    Where there is no compiler it starts without the library.
    """
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    if environ == dict(os.environ):
        return
    compiler = shutil.which("cc")
    if compiler is not None:
        library = Path(tempfile.mkdtemp(prefix="hedge-clock-")) / "clock.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        subprocess.run(command, check=True)
        environ[_PRELOAD] = str(library)
    os.execve(sys.executable, [sys.executable, "-m", "faults.device", *sys.argv[1:]], environ)  # noqa: S606 -- ourselves


def clear_away() -> None:
    """Remove the library's file; it is loaded."""
    library = os.environ.pop(_PRELOAD, None)
    if library is not None:
        shutil.rmtree(Path(library).parent, ignore_errors=True)


def shift() -> ctypes.c_int64 | None:
    """Return by how many seconds the wall clock is shifted, to be set; None: it cannot be."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "hedge_shift_s"):
        return None
    library.hedge_shift_s.restype = ctypes.POINTER(ctypes.c_int64)
    where: ctypes.c_int64 = library.hedge_shift_s().contents
    return where
