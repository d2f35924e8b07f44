"""`hedge service`: run the device, or a worker, as a service of systemd."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..models.errors import ConfigError
from .report import check_place, write_json
from .service.device_install import plan_device
from .service.plan import Command, LetRead, Plan, RemoveFile, RemoveFolder, Step, WriteFile
from .service.removal import plan_removal
from .service.status import exit_code, lines, status
from .service.steps import apply, is_booted, not_ours
from .service.units import Kind, Need, marked
from .service.worker_install import plan_worker

_CONFIG = Path("/etc/hedge/hedge.toml")
_NEEDS: dict[Need, str] = {
    "gpu": "let it use an NVIDIA GPU or a Jetson's",
    "pmic": "let it read the power sensor of a Raspberry Pi 5",
    "rapl": "let it read the energy counters of an x86 processor",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "service",
        help="run the device or a worker under systemd",
        description="Install, remove or look at the device's service, or a worker's. Nothing is "
        "changed without --apply.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = _changing(verbs, "install", "say what would be installed; with --apply install it")
    one.add_argument(
        "what",
        nargs="*",
        metavar="CONFIG",
        help=f"the device's configuration (default: {_CONFIG}); with --worker, after --, "
        "the arguments of `hedge worker`",
    )
    for name, about in _NEEDS.items():
        one.add_argument(f"--{name}", action="store_true", help=about)
    one.set_defaults(run=_run_install)
    one = _changing(verbs, "uninstall", "say what would be removed; with --apply remove it")
    one.set_defaults(run=_run_uninstall)
    one = verbs.add_parser("status", help="say how it fares; exits 1 unless it serves")
    one.add_argument("--worker", action="store_true", help="the worker's")
    one.add_argument("--json", type=Path, metavar="PATH", help="write it there too")
    one.set_defaults(run=_run_status)


def _changing(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about)
    parser.add_argument("--worker", action="store_true", help="the worker instead of the device")
    parser.add_argument("--apply", action="store_true", help="do it (root may)")
    parser.add_argument(
        "--force", action="store_true", help="also overwrite or remove what is not ours"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="the file system to change, such as an image; nothing is started there",
    )
    return parser


def _run_install(options: argparse.Namespace) -> int:
    root = _folder(options.root)
    needs: list[Need] = [name for name in _NEEDS if getattr(options, name)]
    for word in (*options.what, *_program()):
        _check_text(word)
    if options.worker:
        if needs:
            raise ConfigError("is for a device only", where=f"--{needs[0]}")
        plan = plan_worker(options.what, program=_program(), root=root)
    else:
        if len(options.what) > 1:
            raise ConfigError("one configuration is enough", where=" ".join(options.what))
        config = (Path(options.what[0]) if options.what else _CONFIG).absolute()
        _check_text(str(config))
        plan = plan_device(
            config,
            program=_program(),
            root=root,
            needs=needs,
            environ=os.environ,
        )
    return _carry_out(plan, options)


def _run_uninstall(options: argparse.Namespace) -> int:
    return _carry_out(plan_removal(_kind(options), root=_folder(options.root)), options)


def _run_status(options: argparse.Namespace) -> int:
    check_place(options.json)
    found = status(_kind(options))
    write_json(options.json, found)
    for line in lines(found):
        print(line)
    return exit_code(found)


def _kind(options: argparse.Namespace) -> Kind:
    return "worker" if options.worker else "device"


def _folder(root: Path) -> Path:
    _check_text(str(root))
    if not root.is_dir():
        raise ConfigError("is no folder", where=str(root))
    return root.resolve()


def _program() -> tuple[str, ...]:
    """Return the command that starts this very installation."""
    python = Path(sys.executable).absolute()
    script = python.with_name("hedge")
    if script.exists():
        return (str(script),)
    return (str(python), "-I", "-X", "faulthandler", "-m", "hedge")


def _check_text(word: str) -> None:
    """Refuse what no unit file can say: bytes that are no UTF-8 reach Python as surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        what = "is not UTF-8, as a unit file must be"
        raise ConfigError(what, where=ascii(word), hint="rename it") from error


def _carry_out(plan: Plan, options: argparse.Namespace) -> int:
    if options.apply:
        apply(plan, force=options.force)
    obstacles = plan.problems
    if not (options.apply or options.force):
        obstacles += tuple(not_ours(plan))
    for line in _told(plan, obstacles, done=options.apply):
        print(line)
    return 0


def _told(plan: Plan, obstacles: Sequence[str], *, done: bool) -> Iterator[str]:
    """Say what a plan does, or has done; what is printed is a unit file with comments."""
    if plan.root != "/":
        yield f"# {plan.root} is changed, not this machine: nothing is started or stopped"
    elif plan.steps and not is_booted():
        yield "# systemd does not run this machine: systemctl starts and stops nothing here"
    for step in plan.steps:
        yield f"# {_step_text(step, plan, done=done)}"
        if isinstance(step, WriteFile) and not done:
            yield marked(step.text)
    if not plan.steps:
        yield f"# {plan.unit} is not installed"
    yield from (f"# {note}" for note in plan.notes)
    yield from (f"# in the way: {problem}" for problem in obstacles)
    if not done and plan.steps:
        yield "# nothing was done: --apply does it"


def _step_text(step: Step, plan: Plan, *, done: bool) -> str:
    match step:
        case WriteFile(path=path):
            return f"{'wrote' if done else 'would write'} {plan.place(path)}"
        case RemoveFile(path=path):
            return f"{'removed' if done else 'would remove'} {plan.place(path)}"
        case RemoveFolder(path=path):
            return f"{'removed' if done else 'would remove'} the folder {plan.place(path)}"
        case LetRead(path=path):
            words = f"chmod a+r {plan.place(path)}"
        case Command(words=parts):
            words = " ".join(parts)
    return f"{'ran' if done else 'would run'}: {words}"
