"""What to install for a worker, found from its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError
from ...uplink.link.broker_url import Broker
from .. import worker_command
from ..shipped import bundle_path
from ..tracing.opening import traces_url
from .plan import Plan, WriteFile
from .reach import is_missing, is_open, program_problems, unreachable
from .steps import finish
from .units import UNITS, credential_problem, unit_text

_FILES = (
    *("--password-file", "--ca-file", "--cert-file", "--key-file", "--model-ca-file"),
    *("--traces-headers-file", "--traces-ca-file"),
)
_LEAVING_S = 10
"""What a worker may take to leave beyond its drain."""

_WHOLE = "give the whole path; the service starts in /"


def plan_worker(
    arguments: Sequence[str], *, program: Sequence[str], root: Path = Path("/")
) -> Plan:
    """Return what would be done to have a worker run as a service.

    ``arguments`` are those of `hedge worker`; its own parser refuses what is wrong with them,
    with its words and exit code 2. Files that others may not read are handed over by systemd,
    so their paths become those of credentials.

    Raises:
        ConfigError: an address is wrong, or holds a password, which the unit would show.
    """
    options = _parsed(arguments)
    _check_addresses(options)
    words: list[str] = []
    secrets: dict[str, Path] = {}
    problems = [
        *program_problems(program, root=root),
        *_bundle_problems(options.bundles, root=root),
    ]
    for word, path in _with_files(arguments):
        if path is None:
            words.append(word)
        elif why := _file_problem(path, root=root):
            problems.append(why)
        elif is_open(path, root=root):
            words.append(str(path))
        elif secrets.setdefault(path.name, path) != path:
            problems.append(f"{path}: two secrets are called {path.name}; rename one")
        else:
            words.append(f"${{CREDENTIALS_DIRECTORY}}/{path.name}")
    text = unit_text(
        "worker",
        command=(*program, "worker", *words),
        credentials=secrets,
        stop_s=options.drain_s + _LEAVING_S,
    )
    step = WriteFile(path=f"/etc/systemd/system/{UNITS['worker']}", text=text)
    return finish(UNITS["worker"], [step], root=root, problems=problems)


class _Unabridged(argparse.ArgumentParser):
    """A parser, and parsers below it, that take no flag cut short: we look for whole ones."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 -- whatever argparse hands on
        super().__init__(**{**options, "allow_abbrev": False})


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser: argparse.ArgumentParser = _Unabridged(prog="hedge service install --worker --")
    worker_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["worker", *arguments])


def _check_addresses(options: argparse.Namespace) -> None:
    """Refuse addresses that are wrong now, before they are printed or written."""
    try:
        Broker.parse(options.broker)
    except ConfigError as error:
        hint = "use --password-file" if "password" in error.what else error.hint
        raise ConfigError(error.what, where=error.where, hint=hint) from error
    if options.traces is not None:
        traces_url(options.traces)


def _bundle_problems(bundles: Sequence[str], *, root: Path) -> Iterator[str]:
    for name in bundles:
        path = Path(name)
        if path.is_absolute():
            if is_missing(path, root=root):
                yield f"{path}: the bundle is not there"
            yield from unreachable(path, root=root, what="bundle")
        elif bundle_path(name, base=root) == root / name:
            yield f"{name}: no bundle that ships with hedge; {_WHOLE}"


def _file_problem(path: Path, *, root: Path) -> str | None:
    if not path.is_absolute():
        return f"{path}: {_WHOLE}"
    if is_missing(path, root=root):
        return f"{path}: the file is not there"
    return None if is_open(path, root=root) else credential_problem(path)


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
        names_file = not names_file and word in _FILES
    return found
