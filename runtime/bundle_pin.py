"""`hedge bundle pin`: write into a bundle which variant runs on a board."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import sys
from pathlib import Path
from typing import get_args

import msgspec

from ..models.bundle import Bundle, load_bundle, write_bundle
from ..models.errors import ConfigError
from ..models.manifest import Choice
from ..telemetry.boards.profile import find_profile, load_profiles
from .bench.record import BenchReport, Measured
from .bench.report_file import read_report
from .bench.selection import Bounds, By, Figures, Selection, select
from .shipped import bundle_path


def pin(bundle: Bundle, choice: Choice, out: Path, *, replace: bool = False) -> Bundle:
    """Write a copy of a bundle with one more choice, in the place of what was chosen before.

    Raises:
        BundleError, ModelError, MissingExtraError: as `write_bundle` does.
    """
    manifest = bundle.manifest
    place = (choice.board, choice.power_mode)
    others = [one for one in manifest.choice if (one.board, one.power_mode) != place]
    pinned = msgspec.structs.replace(manifest, choice=(*others, choice))
    files = {name: bundle.read(name) for name in manifest.files}
    return write_bundle(out, pinned, files, replace=replace)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with those of `hedge bundle`."""
    one = verbs.add_parser(
        "pin",
        help="write which variant runs on a board",
        description="Choose a variant by what hedge bench run found, or by name, and write "
        "the choice for its board and power mode into a copy of the bundle. Exits 1 if no "
        "variant keeps to the bounds; nothing is written then.",
    )
    one.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    one.add_argument(
        "--from", dest="report", type=Path, metavar="BENCH.json", help="what was measured"
    )
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument("--by", choices=get_args(By), help="the least, or the greatest accuracy")
    how.add_argument("--variant", metavar="NAME", help="this one, whatever was measured")
    one.add_argument(
        "--min-accuracy", type=_share, metavar="A", help="its share of right rows, 0 to 1"
    )
    one.add_argument(
        "--max-latency-ms", type=_positive, metavar="L", help="its latency's 90th percentile"
    )
    one.add_argument("--max-energy-j", type=_positive, metavar="E", help="its joules a sample")
    one.add_argument("--threads", type=int, metavar="N", help="as measured with so many")
    one.add_argument(
        "--board", metavar="B", help="a name or FILE.toml (default: where it was measured)"
    )
    one.add_argument("--power-mode", metavar="M", help="(default: as it was measured in)")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="or NAME.hedge")
    one.add_argument("--replace", action="store_true", help="replace another bundle that is there")
    one.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    bundle = load_bundle(options.bundle)
    report = None if options.report is None else read_report(options.report)
    if options.by is None:
        choice = _by_hand(bundle, report, options)
    elif report is None:
        raise ConfigError("is needed to choose by what was measured", where="--from")
    else:
        selection = _select(bundle, report, options)
        if selection.best is None:
            sys.stderr.write(f"hedge: {_why_none(selection)}\n")
            return 1
        choice = _by_figures(selection.best, report, options)
    pinned = pin(bundle, choice, options.out, replace=options.replace)
    mode = "" if choice.power_mode is None else f" in power mode {choice.power_mode}"
    what = f"{choice.variant} on {choice.board}{mode}, by {choice.by}"
    sys.stdout.write(f"{pinned.path}: {what}; digest {pinned.digest}\n")
    return 0


def _by_hand(bundle: Bundle, report: BenchReport | None, options: argparse.Namespace) -> Choice:
    names = [edge.name for edge in bundle.manifest.edge]
    if options.variant not in names:
        raise ConfigError(
            f"the bundle has no variant {options.variant!r}",
            where="--variant",
            hint=f"it has {', '.join(names) or 'none'}",
        )
    board, power_mode = _place(report, options)
    return Choice(board=board, power_mode=power_mode, variant=options.variant, by="hand")


def _select(bundle: Bundle, report: BenchReport, options: argparse.Namespace) -> Selection:
    bounds = Bounds(
        min_accuracy=options.min_accuracy,
        max_latency_ms=options.max_latency_ms,
        max_energy_j=options.max_energy_j,
    )
    return select(bundle, report, by=options.by, bounds=bounds, threads=options.threads)


def _by_figures(best: Measured, report: BenchReport, options: argparse.Namespace) -> Choice:
    board, power_mode = _place(report, options)
    if board != report.board or report.power_mode not in (None, power_mode):
        raise ConfigError(
            f"was measured on {report.board}, power mode {report.power_mode or 'unknown'}",
            where=str(options.report),
            hint="measure it there, or choose by hand: --variant NAME",
        )
    figures = Figures.of(best)
    return Choice(
        board=board,
        power_mode=power_mode,
        variant=best.variant,
        by=options.by,
        latency_ms=figures.median_ms,
        energy_j=figures.energy_j,
        accuracy=figures.accuracy,
    )


def _place(report: BenchReport | None, options: argparse.Namespace) -> tuple[str, str | None]:
    """Return board and power mode, by default those of the report."""
    board: str | None = options.board
    power_mode: str | None = options.power_mode
    if report is not None:
        board, power_mode = board or report.board, power_mode or report.power_mode
    if board is None:
        raise ConfigError("which board is it for?", where="--board")
    measured_on = None if report is None else report.board
    return board if board == measured_on else _hardware(board), power_mode


def _hardware(board: str) -> str:
    """Return what a device calls that board: a module's or a profile's name, or a file's.

    Raises:
        ConfigError: no device ever calls itself so, or the file is wrong.
    """
    if board.endswith(".toml"):
        return find_profile(board).name
    known = [name for one in load_profiles() for name in (one.name, *(m.name for m in one.module))]
    if board not in known:
        near = difflib.get_close_matches(board, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "`hedge boards` lists them"
        raise ConfigError(f"{board!r} is no board", where="--board", hint=hint)
    return board


def _why_none(selection: Selection) -> str:
    whys = (f"{name}: {', '.join(why)}" for name, why in selection.misses.items())
    return f"no variant keeps to the bounds: {'; '.join(whys)}"


def _share(text: str) -> float:
    value = _positive(text) if text != "0" else 0.0
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
