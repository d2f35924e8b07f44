"""`hedge filter tune`: put a filter where it keeps what matters, if it pays there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.errors import ConfigError
from ..models.filtering.rules import joint
from ..telemetry.boards.detect import detect
from .filter.costs import Power
from .filter.placing import TuneOrder
from .filter.tune import tune_filter
from .power_flags import add_power, opened_power, power_options
from .progress import Progress
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_SHARES = ("recall", "confidence", "accuracy")


def add_tune_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "tune",
        help="put a filter where it keeps what matters, if it pays there",
        description="Find how much a bundle's filter may take for a recall of what matters, or for "
        "an accuracy, on rows that it has not seen and that reach it; and write the bundle's next "
        "version, unless the filter clearly costs more than it saves: in time, and, where "
        "something reads the board's power, in energy, too.",
    )
    default = TuneOrder()
    parser.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows; they need no classes")
    parser.add_argument(
        "--recall",
        type=float,
        metavar="R",
        help=f"of what matters, to be held with confidence (default: {default.recall})",
    )
    parser.add_argument("--confidence", type=float, default=default.confidence, metavar="C")
    parser.add_argument(
        "--by-group", action="store_true", help="the recall of new groups: empirical"
    )
    parser.add_argument(
        "--accuracy",
        type=float,
        metavar="A",
        help="in place of a recall: the share of the model's results that is kept, without a bound",
    )
    parser.add_argument("--filter", type=int, default=0, metavar="N", help="which one, from 0")
    parser.add_argument("--variant", metavar="NAME", help="of the edge (default: the first)")
    parser.add_argument(
        "--redundant",
        action="append",
        metavar="RULE",
        help="in place of the filter's own, and the bundle says so; several times for several "
        "tasks",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--anyway", action="store_true", help="write one that does not pay, too")
    add_power(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=run_tune)


def run_tune(options: argparse.Namespace) -> int:
    """Tune; return the exit code, 1 where the filter does not pay."""
    check_place(options.json)
    check_apart((options.json, options.out), inputs=(options.bundle, options.data))
    check_aims(options)
    default = TuneOrder()
    order = TuneOrder(
        recall=None if options.accuracy is not None else options.recall or default.recall,
        confidence=options.confidence,
        accuracy=options.accuracy or default.accuracy,
        by_group=options.by_group,
        variant=options.variant,
        place=options.filter,
        rule=joint(options.redundant) if options.redundant else None,
        anyway=options.anyway,
    )
    bundle = load_bundle(options.bundle)
    rate_hz, board = power_options(options).rate_hz, detect()
    with Progress() as progress:
        report = tune_filter(
            bundle,
            options.data,
            order,
            out=options.out,
            replace_it=options.replace,
            power=Power(lambda: opened_power(options, board=board), board, rate_hz),
            show=progress.show,
        )
    print(report)
    write_json(options.json, report)
    if not report.written:
        print("not written, since it costs more than it saves; --anyway does", file=sys.stderr)
    return 0 if report.written else 1


def check_aims(options: argparse.Namespace) -> None:
    """See to it that what is aimed at are shares, and one of both.

    Raises:
        ConfigError: they are not.
    """
    for name in _SHARES:
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{value} is no share between 0 and 1", where=f"--{name}")
    if options.recall is not None and options.accuracy is not None:
        raise ConfigError("--recall and --accuracy contradict each other", hint="give one")
