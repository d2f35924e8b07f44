"""What to install for a worker, found from its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .plan import Plan, WriteFile
from .reach import closed, hidden
from .steps import finish
from .units import UNITS, unit_text

_FILES = (
    *("--password-file", "--ca-file", "--cert-file", "--key-file", "--model-ca-file"),
    *("--traces-headers-file", "--traces-ca-file"),
)


def plan_worker(
    arguments: Sequence[str], *, program: Sequence[str], root: Path = Path("/")
) -> Plan:
    """Return what would be done to have a worker run as a service.

    ``arguments`` are those of `hedge worker`, which the caller has checked. Files that others
    may not read are handed over by systemd, so their paths become those of credentials.
    """
    words: list[str] = []
    secrets: dict[str, Path] = {}
    problems: list[str] = []
    files = _with_files(arguments)
    for word, path in files:
        if path is None:
            words.append(word)
            continue
        if not path.is_absolute():
            problems.append(f"{path}: give the whole path; the service starts in /")
        elif closed(path, root=root) is None and not hidden(path):
            words.append(str(path))
        elif secrets.setdefault(path.name, path) != path:
            problems.append(f"{path}: two secrets are called {path.name}; rename one")
        else:
            words.append(f"${{CREDENTIALS_DIRECTORY}}/{path.name}")
    text = unit_text("worker", command=(*program, "worker", *words), credentials=secrets)
    step = WriteFile(path=f"/etc/systemd/system/{UNITS['worker']}", text=text)
    return finish(UNITS["worker"], [step], root=root, problems=problems)


def _with_files(arguments: Sequence[str]) -> list[tuple[str, Path | None]]:
    """Return each word of the arguments, and the path where it is one of a file."""
    found: list[tuple[str, Path | None]] = []
    names_file = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if names_file:
            found.append((word, Path(word)))
        elif name in _FILES and equals:
            found += [(name, None), (value, Path(value))]
        else:
            found.append((word, None))
        names_file = word in _FILES
    return found
