"""`hedge calibrate`: find anew when a bundle's edge asks, and write a new version of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.calibration import (
    SCORES,
    Aim,
    BudgetAim,
    PaperQuantiles,
    TargetAccuracy,
    TargetRate,
)
from ..models.errors import ConfigError
from ..models.manifest import Budget
from .calibrate.calibrate_bundle import CalibrateOrder, calibrate_bundle
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_CONFIDENCE = 0.95
_AIMS = ("rate", "quantiles", "accuracy", "messages_per_hour", "bytes_per_hour")
_AN_HOUR_S = 3600.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "calibrate",
        help="find when the edge is to ask, on rows it has not seen",
        description="Run a bundle's models on rows that training has not seen, choose the score "
        "that gates and where it stands, and write a new version of the bundle.",
    )
    parser.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows with their classes")
    _add_aims(parser)
    parser.add_argument("--variant", metavar="NAME", help="of the edge (default: the first)")
    parser.add_argument(
        "--score", choices=SCORES, metavar="NAME", help=f"that gates: {', '.join(SCORES)} (by data)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a folder, or NAME.hedge"
    )
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what was found there too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Calibrate; return the exit code."""
    check_place(options.json)
    check_apart((options.json, options.out), inputs=(options.bundle, options.data))
    if options.seed < 0:
        raise ConfigError(f"{options.seed} is below 0", where="--seed")
    report = calibrate_bundle(
        load_bundle(options.bundle),
        options.data,
        CalibrateOrder(
            aim=_aim(options), variant=options.variant, score=options.score, seed=options.seed
        ),
        out=options.out,
        replace=options.replace,
    )
    print(report, flush=True)  # no file that fails takes the figures with it
    write_json(options.json, report)
    return 0


def _add_aims(parser: argparse.ArgumentParser) -> None:
    aims = parser.add_argument_group("where the gate is to stand: one of")
    aims.add_argument("--rate", type=float, metavar="SHARE", help="of the samples that escalate")
    aims.add_argument(
        "--quantiles", action="store_true", help="the paper's: 0.7 quantiles of the uncertainties"
    )
    aims.add_argument(
        "--accuracy", type=float, metavar="A", help="promised of what the edge answers alone"
    )
    aims.add_argument("--messages-per-hour", type=float, metavar="N", help="that may escalate")
    aims.add_argument("--bytes-per-hour", type=float, metavar="N", help="that escalation may take")
    more = parser.add_argument_group("with these")
    more.add_argument(
        "--confidence",
        type=float,
        metavar="C",
        help=f"with which the accuracy is held (default: {_CONFIDENCE})",
    )
    more.add_argument(
        "--by-group", action="store_true", help="promise it for new groups: people, devices, sites"
    )
    more.add_argument("--rate-hz", type=float, metavar="HZ", help="samples a second, for a budget")
    more.add_argument(
        "--bytes-per-ask", type=float, metavar="N", help="that one takes, for a budget of bytes"
    )


def _aim(options: argparse.Namespace) -> Aim:
    """Return the one aim that was named.

    Raises:
        ConfigError: none was, or two, or what belongs to another.
    """
    _check(options)
    if options.rate is not None:
        return TargetRate(options.rate)
    if options.quantiles:
        return PaperQuantiles()
    if options.accuracy is not None:
        return TargetAccuracy(
            accuracy=options.accuracy,
            confidence=_CONFIDENCE if options.confidence is None else options.confidence,
            by="group" if options.by_group else "row",
        )
    if options.rate_hz is None:
        raise ConfigError("of how many samples?", where="budget", hint="--rate-hz says so")
    return BudgetAim(
        budget=Budget(
            messages_per_hour=options.messages_per_hour, bytes_per_hour=options.bytes_per_hour
        ),
        samples_per_hour=options.rate_hz * _AN_HOUR_S,
        bytes_per_ask=options.bytes_per_ask,
    )


def _is_given(value: object) -> bool:
    """Tell whether an option was given; 0 is, and says what is wrong with it elsewhere."""
    return value is not None and value is not False


def _check(options: argparse.Namespace) -> None:
    named = [name for name in _AIMS if _is_given(getattr(options, name))]
    budget = {"messages_per_hour", "bytes_per_hour"}
    flags = [f"--{name.replace('_', '-')}" for name in _AIMS]
    if not named:
        raise ConfigError("where is the gate to stand?", hint=f"give one of {', '.join(flags)}")
    if len(named) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in named)
        raise ConfigError(f"{both} contradict each other", hint="give one")
    if options.quantiles and options.score not in (None, "vacuity"):
        raise ConfigError("the paper's quantiles are vacuity's", where=f"--score {options.score}")
    needs = {
        "confidence": {"accuracy"},
        "by_group": {"accuracy"},
        "rate_hz": budget,
        "bytes_per_ask": {"bytes_per_hour"},
    }
    for name, aims in needs.items():
        if _is_given(getattr(options, name)) and not aims & set(named):
            wanted = " or ".join(f"--{aim.replace('_', '-')}" for aim in sorted(aims))
            raise ConfigError(f"goes with {wanted} only", where=f"--{name.replace('_', '-')}")
