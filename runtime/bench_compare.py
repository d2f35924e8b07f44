"""`hedge bench compare`: what became worse from one report to another."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from .bench.compare import compare
from .bench.comparison import Comparison, Margins
from .bench.comparison_lines import lines
from .bench.report_file import read_report
from .report import check_apart, check_place, write_json

UNJUDGED = 3
"""The exit code of a comparison that is done, and not to be taken for "no regression"."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with those of `hedge bench`."""
    one = verbs.add_parser(
        "compare",
        help="say what became worse from one report to another",
        description="Compare two reports of hedge bench run --json, variant by variant. A figure "
        "is worse if its whole 95 % interval lies beyond the margin. Exits 1 if one is, "
        "or a variant fails now, 0 if none is, 2 if the reports are not to be compared, "
        f"{UNJUDGED} if no latency could be judged.",
    )
    one.add_argument("before", type=Path, metavar="A.json")
    one.add_argument("after", type=Path, metavar="B.json")
    one.add_argument(
        "--margin",
        type=_part,
        default=Margins().ratio,
        metavar="PART",
        help="how much more latency or energy is nothing yet (default: %(default)g)",
    )
    one.add_argument(
        "--accuracy-margin",
        type=_part,
        default=Margins().accuracy,
        metavar="SHARE",
        help="how many fewer right rows are nothing yet (default: %(default)g)",
    )
    one.add_argument(
        "--tails",
        action="store_true",
        help="judge 99th percentiles, too: on a shared machine they differ from run to run",
    )
    one.add_argument(
        "--anyway",
        action="store_true",
        help="compare reports of other boards, power modes, processors or bundles too",
    )
    one.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    one.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_apart([options.json], inputs=(options.before, options.after))
    found = compare(
        read_report(options.before),
        read_report(options.after),
        names=(str(options.before), str(options.after)),
        margins=Margins(
            ratio=options.margin, accuracy=options.accuracy_margin, tails=options.tails
        ),
        anyway=options.anyway,
    )
    with contextlib.ExitStack() as stack:  # it is said though it cannot be kept, and vice versa
        stack.callback(write_json, options.json, found)
        sys.stdout.writelines(f"{line}\n" for line in lines(found))
        sys.stdout.flush()
    return _code(found)


def _code(found: Comparison) -> int:
    if found.worse:
        return 1
    return 0 if found.latencies_judged else UNJUDGED


def _part(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
