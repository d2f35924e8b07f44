"""The last steps of every plan, and doing what a plan says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...models.errors import ConfigError
from ...telemetry.whole_file import write_whole
from .plan import Command, LetRead, Plan, RemoveFile, RemoveFolder, Step, WriteFile
from .units import marked, ownership

_SYSTEMCTL_S = 120
_BOOTED = Path("/run/systemd/system")  # there only where systemd is number 1: sd_booted(3)


def finish(
    unit: str,
    steps: Sequence[Step],
    *,
    root: Path,
    problems: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> Plan:
    """Return the plan that writes files and then has systemd start the unit.

    A file that is there as it is to be is no step. Below another root nothing is started.
    """
    draft = Plan(unit=unit, root=str(root), steps=tuple(steps))
    wanted = tuple(step for step in steps if not is_done(step, draft))
    change = any(isinstance(step, WriteFile) for step in wanted)
    problems = list(problems)
    if root != Path("/"):
        last = [Command(words=("systemctl", f"--root={root}", "enable", unit))]
    else:
        if not is_booted():
            problems.append("systemd does not run this machine; --root installs into an image")
        last = [
            *([Command(words=("systemctl", "daemon-reload"))] if change else []),
            Command(words=("systemctl", "enable", unit)),
            Command(words=("systemctl", "restart" if change else "start", unit)),
        ]
    return Plan(
        unit=unit,
        root=str(root),
        steps=(*wanted, *last),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def is_booted() -> bool:
    """Return whether systemd runs this machine."""
    return _BOOTED.is_dir()


def is_done(step: Step, plan: Plan) -> bool:
    """Return whether a file is there already as it is to be."""
    if not isinstance(step, WriteFile):
        return False
    try:
        return plan.place(step.path).read_text("utf-8") == marked(step.text)
    except (OSError, UnicodeDecodeError):
        return False


def apply(plan: Plan, *, force: bool = False) -> None:
    """Do what a plan says.

    Raises:
        ConfigError: something is in its way; a file is not ours, or somebody has changed it,
            and ``force`` is not given; a file cannot be written; systemd refuses.
    """
    problems = [*plan.problems, *(() if force else not_ours(plan))]
    if problems:
        raise ConfigError("; ".join(problems), hint="nothing was done")
    for step in plan.steps:
        match step:
            case Command(words=words, may_fail=may_fail):
                _run(words, may_fail=may_fail)
            case WriteFile() | RemoveFile() | RemoveFolder() | LetRead():
                _change(step, plan.place(step.path))


def not_ours(plan: Plan) -> Iterator[str]:
    """Say which files we have not written, or were changed since: only force touches them."""
    for step in plan.steps:
        if isinstance(step, WriteFile | RemoveFile) and (why := _not_ours(plan.place(step.path))):
            yield f"{plan.place(step.path)}: {why}"


def _not_ours(path: Path) -> str | None:
    force = "--force overwrites or removes it"
    try:
        whose = ownership(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return {
        "foreign": f"was not installed by hedge ({force})",
        "changed": "was changed since hedge installed it; `systemctl edit` is for changes "
        f"({force})",
    }.get(whose)


def _change(step: WriteFile | RemoveFile | RemoveFolder | LetRead, path: Path) -> None:
    try:
        match step:
            case WriteFile(text=text):
                path.parent.mkdir(parents=True, exist_ok=True)  # which others may enter
                write_whole(path, marked(text).encode(), mode=0o644)
                path.chmod(0o644)  # whatever the umask
            case RemoveFile():
                path.unlink(missing_ok=True)
            case RemoveFolder():
                path.rmdir()
            case LetRead():
                path.chmod(path.stat().st_mode | 0o444)
    except OSError as error:
        hint = "root may" if os.geteuid() else None
        what = f"cannot be changed: {error.strerror}"
        raise ConfigError(what, where=str(path), hint=hint) from error


def _run(words: Sequence[str], *, may_fail: bool) -> None:
    where = " ".join(words)
    try:
        done = subprocess.run(  # noqa: S603 -- systemctl, from a list of words
            words, capture_output=True, text=True, check=False, timeout=_SYSTEMCTL_S
        )
    except FileNotFoundError as error:
        if may_fail:
            return
        raise ConfigError("is not there: this machine runs no systemd", where=words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"has not ended after {_SYSTEMCTL_S} s", where=where) from error
    if done.returncode and not may_fail:
        told = (done.stderr or done.stdout).strip().splitlines()
        what = told[0] if told else f"exit code {done.returncode}"
        raise ConfigError(what, where=where, hint="see `hedge service status`")
