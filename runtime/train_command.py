"""`hedge train`: make a bundle by one of the recipes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..models.errors import BundleError
from ..models.training import RECIPES
from .report import check_place, write_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "train",
        help="make a bundle by a recipe",
        description="Train the models of a recipe, calibrate them, and write the bundle and, "
        "beside it, the rows that it has not seen.",
    )
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, metavar="FILE|DIR", help="the data set")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a folder, or NAME.hedge"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train; return the exit code."""
    check_place(options.json)
    if os.path.lexists(options.out) and not options.replace:
        raise BundleError(
            "is there already", where=str(options.out), hint="name another place, or --replace it"
        )
    trained = RECIPES[options.recipe](
        options.out,
        data=options.data,
        seed=options.seed,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write_json(options.json, trained)
    print(f"{trained}\nTry it: hedge demo {options.out}")
    return 0
