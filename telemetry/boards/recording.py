"""A tree as one TOML file: path = text, to report a board and to test its profile with."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

from ...models.errors import ConfigError
from ...models.toml import parse_toml
from .identity import CPUINFO
from .small_file import read_small
from .tree import Tree

MAX_BYTES = 8 << 20
_SERIAL = re.compile(r"^Serial\s*:.*\n?", re.MULTILINE)


def to_recording(tree: Tree) -> bytes:
    """Return everything that was read of a tree; the board's serial number is left out."""
    texts = dict.fromkeys(tree.present, "") | tree.seen
    if CPUINFO in texts:
        texts[CPUINFO] = _SERIAL.sub("", texts[CPUINFO])
    lines = [f"{_quoted(path)} = {_quoted(text)}" for path, text in sorted(texts.items())]
    unread = [f"# {path!a}: {why!a}" for path, why in sorted(tree.unread.items())]
    return "\n".join([*lines, *unread, ""]).encode()


def plant(recording: Path, folder: Path) -> None:
    """Lay out a recording as a tree in an empty folder.

    Raises:
        ConfigError: it cannot be read, is no recording, or a path leads out of the folder.
    """
    for path, text in _read(recording).items():
        try:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot be laid out: {error}", where=f"{recording}: {path}"
            ) from error


def _read(recording: Path) -> dict[str, str]:
    data = read_small(recording, max_bytes=MAX_BYTES)
    found = parse_toml(data, where=str(recording), error=ConfigError)
    for path, text in found.items():
        if not isinstance(text, str):
            raise ConfigError("not a file's text", where=f"{recording}: {path}")
        parts = PurePosixPath(path)
        if parts.is_absolute() or not parts.parts or ".." in parts.parts:
            raise ConfigError("leads out of the tree", where=f"{recording}: {path}")
    return found


def _quoted(text: str) -> str:
    """Return a TOML basic string: JSON's escapes are TOML's too, but for DEL and surrogates."""
    whole = text.encode("utf-8", "replace").decode()
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
