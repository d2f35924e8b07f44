"""`hedge bench`: what the variants of a bundle cost on this board."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from ..models.bundle import Bundle, load_bundle
from ..models.errors import BundleError, ConfigError, DataError
from ..models.manifest import Edge
from ..models.toml import read_toml
from ..telemetry.boards.detect import detect
from ..telemetry.boards.profile import find_profile
from . import bench_compare
from .backends.options import BackendOptions
from .bench.accuracy import unseen_rows
from .bench.lines import lines
from .bench.loadgen.library import load
from .bench.loadgen.plan import SCENARIOS, ScenarioPlan
from .bench.loadgen.plan import add_arguments as add_scenarios
from .bench.measure import Plan, measure
from .bench.page.page import write_page
from .bench.report_file import read_report
from .bench.rounds import LEAST_ROUNDS, MOST_CALLS, Budget
from .power_flags import add_power, bytes_of, opened_power, power_file, power_options
from .progress import Progress
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_MOST_THREADS = 256
_MOST_SECONDS = 86_400.0
_MOST_SEED = (1 << 32) - 1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bench", help="measure models on this board", description="Measure models on this board."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = verbs.add_parser(
        "run",
        help="measure the variants of a bundle side by side",
        description="Open every edge variant of a bundle in a process of its own, then time "
        "them in turn beside the null backend, and judge them on DATA. Exits 0 if all could be "
        "measured, 1 if one could not.",
    )
    one.add_argument("bundle", metavar="BUNDLE")
    one.add_argument(
        "data", type=Path, nargs="?", metavar="DATA.npz", help="rows to be right about"
    )
    one.add_argument("--variant", nargs="+", metavar="NAME", help="only these (default: all)")
    one.add_argument(
        "--threads",
        type=_threads,
        nargs="+",
        metavar="N",
        help="each with so many (default: the board's)",
    )
    _add_budget(one)
    add_power(one)
    add_scenarios(one)
    one.add_argument(
        "--logs", type=Path, metavar="DIR", help="keep LoadGen's own logs in this folder"
    )
    _add_place(one)
    one.set_defaults(run=_run)
    bench_compare.add_parser(verbs)
    other = verbs.add_parser(
        "page",
        help="draw a report again",
        description="Write the page of a report that hedge bench run --json wrote.",
    )
    other.add_argument("report", type=Path, metavar="BENCH.json")
    other.add_argument("-o", "--out", type=Path, required=True, metavar="PAGE.html")
    other.set_defaults(run=_page)


def _page(options: argparse.Namespace) -> int:
    check_place(options.out)
    check_apart([options.out], inputs=[options.report])
    write_page(options.out, read_report(options.report))
    return 0


def _add_budget(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--seconds",
        type=_seconds,
        default=Budget().seconds,
        metavar="S",
        help="time the calls for so long, all variants together (default: %(default)g)",
    )
    budget.add_argument("--runs", type=_runs, metavar="N", help="time so many calls of each")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="of the order, and of samples without DATA"
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.add_argument("--html", type=Path, metavar="PATH", help="draw them there, on one page")
    parser.add_argument(
        "--board", metavar="NAME|FILE.toml", help="the board's profile (default: as detected)"
    )
    parser.add_argument("--power-mode", metavar="M", help="its power mode (default: as detected)")
    parser.add_argument(
        "--backend",
        type=Path,
        metavar="FILE.toml",
        help="the keys of [stream.backend] to run with: library, providers, delegate",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where TensorRT's engines are kept (default: they are built anew)",
    )


def _run(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_place(options.html)
    check_apart([options.json, options.html], inputs=_inputs(options))
    if not options.scenario:
        _check_no_scenario(options)
    bundle = load_bundle(bundle_path(options.bundle))
    if options.scenario:
        _check_loadgen(options.data)
    data, seen = (None, None) if options.data is None else unseen_rows(options.data, bundle)
    with contextlib.ExitStack() as stack:
        state = options.state_dir
        if state is None:
            folder = tempfile.TemporaryDirectory(prefix="hedge-bench-")
            state = Path(stack.enter_context(folder))
        plan = _plan(bundle, options, state=state)
        power = opened_power(options, board=plan.board)
        progress = stack.enter_context(Progress())
        found = measure(bundle, plan, data=data, seen=seen, power=power, show=progress.show)
    with contextlib.ExitStack() as stack:  # no file that fails takes the figures with it
        stack.callback(write_page, options.html, found)
        stack.callback(write_json, options.json, found)
        print("\n".join(lines(found)), flush=True)
    return 1 if found.failed else 0


def _plan(bundle: Bundle, options: argparse.Namespace, *, state: Path) -> Plan:
    board = detect(board=None if options.board is None else find_profile(options.board))
    if board.profile is None:
        raise ConfigError("no profile fits this machine", where="--board", hint="name one")
    mode = None if board.power_mode is None else board.power_mode.name
    backend = _backend(options.backend)
    return Plan(
        edges=_edges(bundle, options.variant),
        threads=tuple(dict.fromkeys(options.threads or [backend.threads or board.threads])),
        board=board,
        board_name=board.hardware or board.profile.name,
        power_mode=options.power_mode or mode,
        options=backend,
        state=state,
        base=Path() if options.backend is None else options.backend.parent,
        budget=Budget(seconds=options.seconds, runs=options.runs),
        power_rate_hz=power_options(options).rate_hz,
        seed=options.seed,
        scenarios=ScenarioPlan.of(options),
        logs=options.logs,
    )


def _inputs(options: argparse.Namespace) -> list[Path | None]:
    files = [options.data, options.backend, options.power_recording, power_file(options)]
    board = options.board
    return [*files, Path(board) if board is not None and board.endswith(".toml") else None]


def _check_no_scenario(options: argparse.Namespace) -> None:
    """Refuse what would be said to LoadGen, which is not to run.

    Raises:
        ConfigError: there is such a flag.
    """
    of = ScenarioPlan()
    given = {
        "--ways": options.ways is not of.ways,  # the default's own tuple, if it is not given
        "--min-seconds": options.min_seconds != of.min_seconds,
        "--min-queries": options.min_queries != of.min_queries,
        "--target-latency-ms": options.target_latency_ms != of.target_latency_ms,
        "--target-qps": options.target_qps is not None,
        "--broker": options.broker is not None,
        "--logs": options.logs is not None,
    }
    for flag, there in given.items():
        if there:
            raise ConfigError(
                "is for LoadGen, which runs nothing without --scenario",
                where=flag,
                hint=f"--scenario {','.join(SCENARIOS)}",
            )


def _check_loadgen(data: Path | None) -> None:
    """Refuse at once what LoadGen would refuse after all else was measured.

    Raises:
        DataError: there are no rows to ask for.
        MissingExtraError: LoadGen is not installed.
    """
    load()
    if data is None:
        raise DataError("LoadGen needs rows to ask for", where="DATA", hint="name an .npz")


def _edges(bundle: Bundle, names: list[str] | None) -> tuple[Edge, ...]:
    edges = {edge.name: edge for edge in bundle.manifest.edge}
    if not edges:
        raise BundleError(
            "has no edge model",
            where=str(bundle.path),
            hint="bench measures those: what the far end takes, hedge worker tells",
        )
    for name in names or ():
        if name not in edges:
            raise ConfigError(
                f"the bundle has no variant {name!r}",
                where="--variant",
                hint=f"it has {', '.join(edges)}",
            )
    chosen = tuple(edges[name] for name in dict.fromkeys(names or edges))
    for edge in chosen:
        if edge.attach == "feature":
            raise BundleError(
                f"variant {edge.name!r} takes features, and bench feeds samples",
                where=str(bundle.path),
                hint="bench the bundle as it was before it was split",
            )
    return chosen


def _backend(path: Path | None) -> BackendOptions:
    if path is None:
        return BackendOptions()
    return read_toml(bytes_of(path), BackendOptions, where=str(path), error=ConfigError)


def _threads(text: str) -> int:
    return _between(text, 1, _MOST_THREADS)


def _runs(text: str) -> int:
    return _between(text, LEAST_ROUNDS, MOST_CALLS)


def _seed(text: str) -> int:
    return _between(text, 0, _MOST_SEED)


def _between(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= _MOST_SECONDS:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {_MOST_SECONDS:g}")
