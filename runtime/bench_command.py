"""`hedge bench`: what the variants of a bundle cost on this board."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from ..models.bundle import Bundle, load_bundle
from ..models.errors import BundleError, ConfigError
from ..models.manifest import Edge
from ..models.toml import read_toml
from ..telemetry.boards.detect import detect
from ..telemetry.boards.profile import find_profile
from .backends.options import BackendOptions
from .bench.accuracy import unseen_rows
from .bench.lines import lines
from .bench.measure import Plan, measure
from .bench.rounds import LEAST_ROUNDS, MOST_CALLS, Budget
from .progress import Progress
from .report import check_place, write_json
from .shipped import bundle_path

_MOST_THREADS = 256
_MOST_SECONDS = 86_400.0
_MOST_SEED = (1 << 32) - 1
_MOST_BYTES = 1 << 20


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
    _add_place(one)
    one.set_defaults(run=_run)


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
    bundle = load_bundle(bundle_path(options.bundle))
    data, seen = (None, None) if options.data is None else unseen_rows(options.data, bundle)
    with contextlib.ExitStack() as stack:
        state = options.state_dir
        if state is None:
            folder = tempfile.TemporaryDirectory(prefix="hedge-bench-")
            state = Path(stack.enter_context(folder))
        plan = _plan(bundle, options, state=state)
        progress = stack.enter_context(Progress())
        found = measure(bundle, plan, data=data, seen=seen, show=progress.show)
    write_json(options.json, found)
    print("\n".join(lines(found)))
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
        seed=options.seed,
    )


def _edges(bundle: Bundle, names: list[str] | None) -> tuple[Edge, ...]:
    edges = {edge.name: edge for edge in bundle.manifest.edge}
    if not edges:
        raise BundleError("has no edge model", where=str(bundle.path))
    for name in names or ():
        if name not in edges:
            raise ConfigError(
                f"the bundle has no variant {name!r}",
                where="--variant",
                hint=f"it has {', '.join(edges)}",
            )
    return tuple(edges[name] for name in dict.fromkeys(names or edges))


def _backend(path: Path | None) -> BackendOptions:
    if path is None:
        return BackendOptions()
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > _MOST_BYTES:
        raise ConfigError("is too large", where=str(path))
    return read_toml(data, BackendOptions, where=str(path), error=ConfigError)


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
