"""`hedge check`: whether a device will run, before it has to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..models.errors import ConfigError
from .checks.device import check_device
from .checks.finding import Finding
from .checks.model import check_bundle_alone, check_model_file
from .checks.report import CheckReport, lines
from .checks.target import Target, target_of
from .report import check_place, write_json
from .version import installed


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "check",
        help="say whether a configuration, a bundle or a model will run here",
        description="Look at everything that a configuration names (bundles, backends, board, "
        "sensors, heat, memory, disk, clock, broker, sources, sinks), or at a bundle or a model "
        "file alone, and say what is wrong and what to do. Exits 0 if nothing is in the way, 1 if "
        "something is.",
    )
    parser.add_argument(
        "target",
        metavar="CONFIG|BUNDLE|MODEL",
        help="a TOML file, a bundle, an ONNX or TFLite file",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the findings there too")
    parser.add_argument(
        "--warnings-as-errors", action="store_true", help="exit 1 for warnings, too"
    )
    parser.add_argument("--offline", action="store_true", help="leave the broker alone")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="PATH",
        help="read the board's /proc and /sys below this folder",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, and print what was found; return the exit code."""
    check_place(options.json)
    if not options.root.is_dir():
        raise ConfigError("is no folder", where=f"--root {options.root}")
    target = target_of(options.target)
    report = CheckReport.of(
        list(_shown(_findings(target, options))),
        version=installed(),
        target=options.target,
        kind=target.kind,
    )
    write_json(options.json, report)
    print("\n".join(lines(report, colours=_takes_colours())))
    return 1 if report.errors or (report.warnings and options.warnings_as_errors) else 0


def _findings(target: Target, options: argparse.Namespace) -> Iterator[Finding]:
    if target.format is not None:
        return check_model_file(target.path, format=target.format, root=options.root)
    if target.kind == "bundle":
        return check_bundle_alone(target.path, root=options.root)
    return check_device(target.path, environ=os.environ, root=options.root, offline=options.offline)


def _shown(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass findings on; show on a terminal how far the check has come."""
    terminal = sys.stderr.isatty()
    for one in findings:
        if terminal:
            print(f"\r\033[Kchecked {one.area}", end="", file=sys.stderr, flush=True)
        yield one
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _takes_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
