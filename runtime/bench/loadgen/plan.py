"""Which scenarios to run, over which parts of the device's way: flags and their record."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from msgspec import Struct

from ....models.manifest import Manifest
from ..scenario_record import Part, Scenario

FULL_S = 600.0
FULL_QUERIES = 1024
"""What a result to quote takes at least (MLPerf Inference rules)."""

FLOOR_S = 2.0
"""How long the null backend runs at most: LoadGen holds in memory what it will ask."""

Way = Literal["model", "filter", "evidence", "escalation"]
WAYS: Mapping[Way, tuple[Part, ...]] = {
    "model": ("infer",),
    "filter": ("filter", "infer"),
    "evidence": ("filter", "infer", "uncertainty"),
    "escalation": ("filter", "infer", "uncertainty", "escalation"),
}
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

_MOST_SECONDS = 86_400.0
_MOST_QUERIES = 1 << 30
_MOST_QPS = 1e6
_MOST_MS = 600_000.0


class ScenarioPlan(Struct, frozen=True, kw_only=True):
    """What LoadGen is to run: every one of ``scenarios`` over every one of ``ways``.

    Server's queries arrive at ``target_qps`` a second (None: a quarter of what the warm-up
    could serve, at most 10000), and 99 of 100 must be done in ``target_latency_ms``. An
    escalated sample is final by its answer, or after ``answer_within_ms``; the broker is the
    one at ``broker``, None: one of our own. The warm-up takes ``warm_up_s`` and does not count.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    ways: tuple[Way, ...] = ("model", "evidence")
    min_seconds: float = FULL_S
    min_queries: int = FULL_QUERIES
    target_qps: float | None = None
    target_latency_ms: float = 100.0
    answer_within_ms: int = 2000
    warm_up_s: float = 0.5
    broker: str | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> ScenarioPlan | None:
        """Return what the flags of `add_arguments` ask for; None: no scenario."""
        if not options.scenario:
            return None
        return cls(
            scenarios=options.scenario,
            ways=options.ways,
            min_seconds=options.min_seconds,
            min_queries=options.min_queries,
            target_qps=options.target_qps,
            target_latency_ms=options.target_latency_ms,
            broker=options.broker,
        )


def parts_of(way: Way, manifest: Manifest) -> tuple[Part, ...]:
    """Return the parts of a way that the bundle has: one may come without filters."""
    return tuple(part for part in WAYS[way] if part != "filter" or manifest.filter)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of LoadGen's scenarios."""
    group = parser.add_argument_group("MLPerf LoadGen")
    group.add_argument(
        "--scenario",
        type=_several(SCENARIOS),
        default=(),
        metavar="NAME,…",
        help=f"run these of LoadGen's scenarios: {', '.join(SCENARIOS)}; needs DATA",
    )
    group.add_argument(
        "--ways",
        type=_several(tuple(WAYS)),
        default=ScenarioPlan().ways,
        metavar="WAY,…",
        help=f"over these parts of the device, each with those before it: {', '.join(WAYS)} "
        "(default: model,evidence)",
    )
    flags: tuple[tuple[str, Callable[[str], float], float | None, str, str], ...] = (
        ("--min-seconds", _upto(_MOST_SECONDS), FULL_S, "S", "LoadGen's least duration"),
        ("--min-queries", _queries, FULL_QUERIES, "N", "LoadGen's least number of queries"),
        ("--target-latency-ms", _upto(_MOST_MS), 100.0, "MS", "Server: by then 99 %% are done"),
    )
    for flag, kind, default, metavar, text in flags:
        group.add_argument(
            flag,
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: %(default)g)",
        )
    group.add_argument(
        "--target-qps",
        type=_upto(_MOST_QPS),
        metavar="Q",
        help="Server: so many queries a second (default: a quarter of what the warm-up could "
        "serve, at most 10000)",
    )
    group.add_argument(
        "--broker",
        metavar="URL",
        help="escalate over this MQTT broker (default: one of our own); the worker is our own",
    )


def _several(names: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(filter(None, text.split(","))))
        for name in wanted:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        if not wanted:
            raise argparse.ArgumentTypeError(f"names none of {', '.join(names)}")
        return wanted

    return parse


def _upto(most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < float(text) <= most and math.isfinite(float(text)):
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {most:g}")

    return parse


def _queries(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_QUERIES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_QUERIES}")
    return int(text)
