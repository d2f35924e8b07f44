"""The units that ship with hedge, and how the paths of an installation get into them.

What is installed begins with a line that holds the SHA-256 of the rest: so a unit that
somebody has changed by hand is known, and is not overwritten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Kind = Literal["device", "worker"]
Need = Literal["gpu", "pmic", "rapl", "camera", "sound", "serial"]
Ownership = Literal["missing", "ours", "changed", "foreign"]

UNITS: Mapping[Kind, str] = {"device": "hedge.service", "worker": "hedge-worker.service"}
RULES = "70-hedge-rapl.rules"

_SHIPPED = Path(__file__).parents[2] / "board_configs" / "systemd"
_MARK = "# Installed by `hedge service install`; sha256 of what follows: "
_CREDENTIAL = re.compile(r"^#LoadCredential=.*\n", re.MULTILINE)
_EXEC = re.compile(r"^ExecStart=.*$", re.MULTILINE)
_STOP = re.compile(r"^TimeoutStopSec=.*$", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@,+-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def shipped(name: str) -> str:
    """Return the text of a file that ships: a unit, a drop-in (``drop-ins/gpu.conf``), a rule."""
    return (_SHIPPED / name).read_text("utf-8")


def unit_text(
    kind: Kind,
    *,
    command: Sequence[str],
    credentials: Mapping[str, Path],
    stop_s: int | None = None,
) -> str:
    """Return a unit with its command, and with the secrets that are handed to it, by name.

    ``stop_s`` is the time it gets to leave; None: the shipped one.
    """
    loads = "".join(
        f"LoadCredential={name}:{quoted_specifiers(str(path))}\n"
        for name, path in sorted(credentials.items())
    )
    text = _CREDENTIAL.sub(lambda _: loads, shipped(UNITS[kind]))
    if stop_s is not None:
        text = _STOP.sub(f"TimeoutStopSec={stop_s}s", text)
    line = f"ExecStart={' '.join(map(quoted, command))}"
    return _EXEC.sub(lambda _: line, text)


def credential_problem(path: Path) -> str | None:
    """Say why systemd cannot hand a file over by its bare name, None if it can."""
    if _CONTROL.search(str(path)) or path.name in {"", ".", ".."} or not _NAME.fullmatch(path.name):
        return f"{str(path)!a}: rename the file: a credential's name has A-Z, a-z, 0-9, . _ -"
    return None


def quoted(word: str) -> str:
    """Return a word of a command line as systemd reads it (systemd.service(5)).

    ``${CREDENTIALS_DIRECTORY}`` at its beginning stays a variable.
    """
    variable = "${CREDENTIALS_DIRECTORY}"
    head, rest = (variable, word[len(variable) :]) if word.startswith(variable) else ("", word)
    escaped = quoted_specifiers(rest).replace("$", "$$")
    if _PLAIN.fullmatch(escaped):
        return head + escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    escaped = _CONTROL.sub(lambda one: f"\\x{ord(one[0]):02x}", escaped)
    return f'"{head}{escaped}"'


def quoted_specifiers(text: str) -> str:
    """Return text in which a percent sign is one."""
    return text.replace("%", "%%")


def marked(text: str) -> str:
    """Return a text with the line that says whose it is."""
    return f"{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def ownership(path: Path) -> Ownership:
    """Return whose an installed file is.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return "missing"
    first, _, rest = text.partition("\n")
    if not first.startswith(_MARK):
        return "foreign"
    return "ours" if marked(rest) == text else "changed"
