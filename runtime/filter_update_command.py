"""`hedge filter update`: teach a filter anew by labels from the field, if that makes it better."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.filtering.rules import joint
from .filter.placing import TuneOrder
from .filter.update import UpdateOrder, update_filter
from .filter_tune_command import check_aims
from .report import check_apart, check_place, write_json
from .shipped import bundle_path


def add_update_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "update",
        help="teach a filter anew by labels that devices have asked for",
        description="Teach a bundle's filter anew by the labels that hedge worker --labels has "
        "kept and hedge adapt release has let out, and by older rows; and write the bundle's next "
        "version if the filter is better on labels that taught neither. Exits 1, with nothing "
        "written, if it is not.",
    )
    default = TuneOrder()
    parser.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    parser.add_argument("place", type=Path, metavar="LABELS", help="DIR of hedge worker --labels")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="ROWS.npz", help="older rows, without classes"
    )
    parser.add_argument(
        "--recall",
        type=float,
        metavar="R",
        help=f"of what matters, to be held with confidence (default: {default.recall})",
    )
    parser.add_argument("--confidence", type=float, default=default.confidence, metavar="C")
    parser.add_argument("--accuracy", type=float, metavar="A", help="in place of a recall")
    parser.add_argument("--filter", type=int, default=0, metavar="N", help="which one, from 0")
    parser.add_argument(
        "--redundant", action="append", metavar="RULE", help="in place of the filter's own"
    )
    parser.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME",
        help="how it sees a sample, as for hedge filter train",
    )
    parser.add_argument("--int8", action="store_true", help="quantise the filter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="at most (default: 60; it stops by itself)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=run_update)


def run_update(options: argparse.Namespace) -> int:
    """Update; return the exit code, 1 where the filter is not better."""
    check_place(options.json)
    check_apart((options.json, options.out), inputs=(options.bundle, options.place, options.data))
    check_aims(options)
    default = TuneOrder()
    order = UpdateOrder(
        tune=TuneOrder(
            recall=None if options.accuracy is not None else options.recall or default.recall,
            confidence=options.confidence,
            accuracy=options.accuracy or default.accuracy,
            place=options.filter,
            rule=joint(options.redundant) if options.redundant else None,
        ),
        modality=tuple(options.modality),
        epochs=options.epochs,
        int8=options.int8,
        seed=options.seed,
        replace=options.replace,
    )
    report = update_filter(
        load_bundle(options.bundle),
        options.place,
        options.data,
        order,
        out=options.out,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report)
    write_json(options.json, report)
    for reason in report.why:
        print(f"not written: {reason}", file=sys.stderr)
    return 0 if report.written else 1
