"""`hedge evidence report`: what a bundle's evidence is worth, as a page and as figures."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from ..models.bundle import load_bundle
from .evidence_report.lines import lines
from .evidence_report.measure import Plan, measure
from .evidence_report.page.page import write_page
from .progress import Progress
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_MOST_SEED = (1 << 32) - 1


def add_report_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "report",
        help="measure how right and how honest a bundle is, and what cooperation buys",
        description="Run a bundle's edge and cloud on rows that it has not seen: accuracy, "
        "calibration, every score by which it could gate beside chance and the oracle, speed, "
        "rows of another kind, and the uncertainty map of pictures.",
    )
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows with their classes")
    parser.add_argument(
        "--out-of-distribution",
        type=Path,
        metavar="OTHER.npz",
        help="rows of another kind (default: the same, their values mixed among rows)",
    )
    parser.add_argument("--variant", metavar="NAME", help="of the edge (default: the first)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--html", type=Path, metavar="PATH", help="draw them there, on one page")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="of the bootstrap, and of the rows that are timed"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure and report; return the exit code."""
    place = bundle_path(options.bundle)
    for path in (options.json, options.html):
        check_place(path)
    inputs = (place, options.data, options.out_of_distribution)
    check_apart([options.json, options.html], inputs=inputs)
    bundle = load_bundle(place)
    plan = Plan(
        data=options.data,
        other=options.out_of_distribution,
        variant=options.variant,
        seed=options.seed,
    )
    with Progress() as progress:
        found = measure(bundle, plan, show=progress.show)
    with contextlib.ExitStack() as stack:  # no file that fails takes the figures with it
        stack.callback(write_page, options.html, found, bundle.input)
        stack.callback(write_json, options.json, found.report)
        print("\n".join(lines(found.report)), flush=True)
    return 0


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_SEED):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_MOST_SEED}")
    return int(text)
