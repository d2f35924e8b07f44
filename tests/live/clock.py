"""A device whose wall clock can be set while it runs; see faults/device/clock.c."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "faults" / "device" / "clock.c"


class WallClock:
    """Shifts the wall clock of what is started within `around`; needs a compiler."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "clock.so"
        self._file = folder / "shift"
        self._shift_s = 0

    @contextlib.contextmanager
    def around(self) -> Iterator[bool]:
        """Have what is started meanwhile go by this clock; False: there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            yield False
            return
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE)]
        subprocess.run(command, check=True)
        self._file.write_bytes(bytes(4096))
        os.environ |= {"LD_PRELOAD": str(self._library), "HEDGE_CLOCK": str(self._file)}
        try:
            yield True
        finally:
            del os.environ["LD_PRELOAD"], os.environ["HEDGE_CLOCK"]

    def jump(self, seconds: int) -> None:
        """Set the clock ahead, or back."""
        self._shift_s += seconds
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", self._shift_s))
