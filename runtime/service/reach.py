"""What a service can reach that runs as a user of its own, without homes and with its own /tmp.

Paths are absolute, as seen from within ``root``; a link is followed there, not on this machine.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 -- told, not used
_MOST_LINKS = 40  # as the kernel has it: path_resolution(7)


def hidden(path: Path, *, root: Path = Path("/")) -> str | None:
    """Return the folder that ProtectHome and PrivateTmp hide and through which a path leads."""
    for way in _ways(path, root):
        for place in _HIDDEN:
            if way.is_relative_to(place):
                return place
    return None


def closed(path: Path, *, root: Path = Path("/")) -> Path | None:
    """Return the first part of an absolute path that others may not read, None if they may.

    A part that is not there is taken for open: to look for it is another's business.
    """
    for way in _ways(path, root):
        for part in (*reversed(way.parents), way):
            if _on(part, root).is_symlink():
                break  # the next way goes on from where it leads
            if not _may(part, root, last=part == way):
                return part
    return None


def resolved(path: Path, *, root: Path = Path("/")) -> Path:
    """Return where a path leads, without links."""
    return list(_ways(path, root))[-1]


def on_this_machine(path: Path, *, root: Path) -> Path:
    """Return where this machine finds what the service finds at a path."""
    return _on(resolved(path, root=root), root)


def is_missing(path: Path, *, root: Path) -> bool:
    """Return whether nothing is at a path; what we may not look at is taken to be there."""
    try:
        on_this_machine(path, root=root).stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def is_open(path: Path, *, root: Path) -> bool:
    """Return whether a service can read a path by itself; else systemd has to hand it over."""
    return closed(path, root=root) is None and hidden(path, root=root) is None


def unreachable(path: Path, *, root: Path, what: str) -> Iterator[str]:
    """Say why a service could not read a path."""
    if place := hidden(path, root=root):
        yield f"{what}: {path}: the service does not see {place}"
    elif shut := closed(path, root=root):
        yield f"{what}: {path}: others may not read {shut} (chmod a+rX {shut})"


def program_problems(program: Sequence[str], *, root: Path) -> Iterator[str]:
    """Say why the service could not even be started."""
    start = Path(program[0])
    if is_missing(start, root=root):
        yield f"{_on(start, root)} is not there: install hedge there first"
    yield from unreachable(start, root=root, what="hedge")
    if root == Path("/"):  # what this very installation consists of
        for path in (Path(sys.executable).resolve(), Path(__file__).resolve()):
            yield from unreachable(path, root=root, what="hedge")


def _ways(path: Path, root: Path) -> Iterator[Path]:
    """Give a path, and what it becomes with each link on its way; the last has none."""
    yield path
    rest, done, links = list(reversed(path.parts[1:])), Path("/"), 0
    while rest:
        part = rest.pop()
        if part == "..":
            done = done.parent
            continue
        try:
            target = _on(done / part, root).readlink()
        except OSError:  # no link
            done /= part
            continue
        links += 1
        if links > _MOST_LINKS:
            done = done.joinpath(part, *reversed(rest))
            break
        if target.is_absolute():
            done = Path("/")
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        yield done.joinpath(*reversed(rest))
    yield done


def _on(path: Path, root: Path) -> Path:
    return root / path.relative_to("/")


def _may(path: Path, root: Path, *, last: bool) -> bool:
    try:
        mode = _on(path, root).stat().st_mode
    except FileNotFoundError:
        return True
    except OSError:
        return False
    wanted = stat.S_IXOTH if stat.S_ISDIR(mode) or not last else 0
    wanted |= stat.S_IROTH if last else 0
    return mode & wanted == wanted
