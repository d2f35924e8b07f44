"""`hedge quantize`: make an int8 variant of a bundle's model, and show what it costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from ..models.bundle import load_bundle
from .quantize.int8 import Calibrator
from .quantize.report import QuantizeReport
from .quantize.variant import Order, quantize
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

WORSE = 3


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "quantize",
        help="make an int8 variant, and show what it does to accuracy and evidence",
        description="Quantise a float variant to int8, with ranges from some rows of the data; "
        "measure both on others; write a copy of the bundle that has both. "
        f"Exits {WORSE}, with nothing written, if the int8 one is clearly worse.",
    )
    parser.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows with their classes")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a folder, or NAME.hedge"
    )
    parser.add_argument("--variant", metavar="NAME", help="the float one (default: the first)")
    parser.add_argument("--name", default="int8", help="of the new variant (default: int8)")
    parser.add_argument("--rows", type=int, metavar="N", help="how many give ranges (256)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibrator", choices=get_args(Calibrator), default="minmax")
    parser.add_argument(
        "--keep-output-float",
        action=argparse.BooleanOptionalAction,
        help="leave the output layer float (default: if evidence or probabilities come out)",
    )
    parser.add_argument("--accept", action="store_true", help="write it even if it is worse")
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Quantise; return the exit code."""
    check_place(options.json)
    check_apart((options.json,), inputs=(options.bundle, options.data))
    report = quantize(
        load_bundle(options.bundle),
        options.data,
        Order(
            variant=options.variant,
            name=options.name,
            rows=options.rows,
            seed=options.seed,
            calibrator=options.calibrator,
            float_output=options.keep_output_float,
        ),
        out=options.out,
        accept=options.accept,
        replace=options.replace,
    )
    write_json(options.json, report)
    print(report)
    return _verdict(report, bundle=options.bundle)


def _verdict(report: QuantizeReport, *, bundle: Path) -> int:
    for concern in report.concerns:
        print(f"warning: {concern}", file=sys.stderr)
    if report.out is None:
        print("nothing was written; --accept writes it all the same", file=sys.stderr)
        return WORSE
    print(f"{report.out}: {bundle.name} with the variant {report.variant}, digest {report.digest}")
    return 0
