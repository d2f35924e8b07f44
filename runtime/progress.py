"""How long work shows itself: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

_EVERY_S = 2.0


class Progress:
    """Shows the latest state of long work on standard error."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._terminal = self._out.isatty()
        self._shown_s = -_EVERY_S
        self._last = ""

    def __enter__(self) -> Progress:  # noqa: PYI034 -- typing has Self from 3.11
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the last state standing."""
        if self._terminal:
            self._out.write("\n" if self._last else "")
        elif self._last:
            self._out.write(f"{self._last}\n")
        self._out.flush()

    def show(self, state: str) -> None:
        """Show a state: in place on a terminal, else at most every two seconds."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r{state[:width]:<{width}}")
            self._last = state
        elif state != self._last and time.monotonic() - self._shown_s >= _EVERY_S:
            self._shown_s = time.monotonic()
            self._out.write(f"{state}\n")
            self._last = ""
        else:
            self._last = state
        self._out.flush()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._out.write(f"\r{line}\n" if self._terminal else f"{line}\n")
        self._out.flush()
