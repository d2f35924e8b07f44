"""What installing or removing a service would do, step by step, before anything is done."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class WriteFile(Struct, frozen=True, kw_only=True, tag="write"):
    """Write a file, with its mark, unless it is there already as it is to be."""

    path: str
    text: str


class RemoveFile(Struct, frozen=True, kw_only=True, tag="remove"):
    """Remove a file that is ours."""

    path: str


class RemoveFolder(Struct, frozen=True, kw_only=True, tag="remove_folder"):
    """Remove a folder, which is empty by then."""

    path: str


class LetRead(Struct, frozen=True, kw_only=True, tag="let_read"):
    """Let everybody read a file, as `chmod a+r` does."""

    path: str


class Command(Struct, frozen=True, kw_only=True, tag="run"):
    """Run a command; ``may_fail`` where it does not matter, as for a unit that is not loaded."""

    words: tuple[str, ...]
    may_fail: bool = False


Step = WriteFile | RemoveFile | RemoveFolder | LetRead | Command


class Plan(Struct, frozen=True, kw_only=True):
    """The steps, what is in their way, and what else there is to know.

    Nothing is done while there are ``problems``. Paths are those below ``root``.
    """

    unit: str
    root: str
    steps: tuple[Step, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def place(self, path: str) -> Path:
        """Return where a path lies, seen from this machine."""
        return Path(self.root) / path.lstrip("/")
