"""The terminal as a place to draw on: another screen while it lasts, and as it was before."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TextIO

from .lines import Line, coloured, uncoloured

Key = Literal["quit", "up", "down", "enter"]
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[0m\x1b[?25h\x1b[?1049l"
_PRESSED = re.compile(rb"\x1b[\[O][A-D]|[^\x1b]", re.DOTALL)
_KEYS: dict[bytes, Key] = {
    **dict.fromkeys((b"q", b"Q", b"\x04"), "quit"),
    **dict.fromkeys((b"k", b"\x1b[A", b"\x1bOA"), "up"),
    **dict.fromkeys((b"j", b"\x1b[B", b"\x1bOB"), "down"),
    **dict.fromkeys((b"\r", b"\n"), "enter"),
}
_POORER = str.maketrans("█▒·–─…µ°", "#%.--~uo")  # noqa: RUF001 -- a dash, as numbers has it


class Terminal:
    """Draws on ``out``, a terminal, and hears the keys of ``keys``; made by `on_terminal`."""

    def __init__(self, out: TextIO, keys: int | None, *, colours: bool) -> None:
        self._out = out
        self._keys = keys
        self._text = coloured if colours else uncoloured

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and rows, now."""
        columns, rows = shutil.get_terminal_size()
        return columns, rows

    def draw(self, lines: Sequence[Line]) -> None:
        """Show lines, no longer than the terminal is wide, in the place of all before."""
        cleared = "\r\n".join(f"\x1b[K{self._text(line)}" for line in lines)
        write(self._out, f"\x1b[H{cleared}\x1b[J")

    def pressed(self) -> list[Key]:
        """Return the keys that were pressed since the last call; it does not wait."""
        if self._keys is None or not select.select([self._keys], [], [], 0)[0]:
            return []
        data = os.read(self._keys, 64)
        if not data:  # the terminal is gone
            return ["quit"]
        return [_KEYS[one] for one in _PRESSED.findall(data) if one in _KEYS]


@contextlib.contextmanager
def on_terminal(
    out: TextIO, keys: TextIO | None, *, environ: Mapping[str, str]
) -> Iterator[Terminal]:
    """Give the terminal; whatever happens meanwhile, it is as it was before afterwards."""
    with contextlib.ExitStack() as stack:
        fd = None if keys is None or not keys.isatty() else keys.fileno()
        if fd is not None:
            stack.enter_context(_each_key(fd))
        stack.callback(_leave, out)
        write(out, _ENTER)
        yield Terminal(out, fd, colours=takes_colours(out, environ))


@contextlib.contextmanager
def _each_key(fd: int) -> Iterator[None]:
    """Get each key as it is pressed, unseen; Ctrl-Z and Ctrl-S do nothing meanwhile."""
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        mode = termios.tcgetattr(fd)
        mode[0] &= ~termios.IXON
        mode[6][termios.VSUSP] = bytes([os.fpathconf(fd, "PC_VDISABLE")])
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


def _leave(out: TextIO) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        write(out, _LEAVE)


def takes_colours(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether ``out`` is a terminal whose owner wants colours (NO_COLOR, no-color.org)."""
    return out.isatty() and not environ.get("NO_COLOR")


def write(out: TextIO, text: str) -> None:
    """Write text; what the encoding of ``out`` does not have is written with poorer signs."""
    encoding = out.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_POORER).encode(encoding, "replace").decode(encoding)
    out.write(text)
    out.flush()
