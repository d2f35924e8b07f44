"""`hedge adapt`: what workers have kept, and an edge model that learns from it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from msgspec import Struct

from ..models.bundle import load_bundle
from ..models.errors import ConfigError, DataError
from .adapt.adaptation import Order, adapt_bundle
from .adapt.pair_store import Line, PairStore, stores_in
from .adapt.pairs import About, Pair, State
from .adapt.rules import Rule, chosen, matches
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

WORSE = 3
_LIMIT = 20


class Folder(Struct, frozen=True, kw_only=True):
    """The pairs of one contract: how many of each kind."""

    file: str
    about: About
    pairs: tuple[Line, ...]


class Listing(Struct, frozen=True, kw_only=True):
    """All pairs that a worker's folder holds, by contract."""

    place: str
    folders: tuple[Folder, ...]


class PairLine(Struct, frozen=True, kw_only=True):
    """One pair, as it is shown."""

    device: str
    stream: str
    id: str
    state: State
    at_s: float
    edge: str | None
    score: float | None
    cloud: str
    confidence: float
    doubt: float


class Shown(Struct, frozen=True, kw_only=True):
    """Some pairs of one contract, in the order in which they were kept."""

    file: str
    pairs: tuple[PairLine, ...]


class Done(Struct, frozen=True, kw_only=True):
    """How many pairs were ``released`` or ``dropped``, and how many of each state there are now."""

    place: str
    released: int = 0
    dropped: int = 0
    quarantined_now: int = 0
    released_now: int = 0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "adapt",
        help="improve the edge model from the cloud's answers",
        description="Look at the pairs, or labels, that hedge worker --pairs or --labels has "
        "kept, let them out of quarantine, and teach a bundle's edge model by them.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = _verb(verbs, "ls", "count the pairs by device, stream, state and label")
    one.set_defaults(run=_run_ls)
    one = _verb(verbs, "show", "list single pairs, and write their samples to look at")
    _add_which(one)
    one.add_argument("--limit", type=_count, default=_LIMIT, metavar="N", help="the first N (20)")
    one.add_argument(
        "--npz", type=Path, metavar="FILE", help="write X, y (the cloud's label) and group there"
    )
    one.set_defaults(run=_run_show)
    one = _verb(verbs, "release", "let pairs out of quarantine, so that they may teach")
    _add_which(one)
    _add_rule(one)
    one.set_defaults(run=_run_release)
    one = _verb(verbs, "drop", "remove pairs for good, those released too")
    _add_which(one)
    one.add_argument("--all", action="store_true", help="all that there are")
    one.set_defaults(run=_run_drop)
    _add_run(verbs)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about)
    parser.add_argument(
        "place", type=Path, metavar="DIR", help="of hedge worker --pairs, or --labels"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what is found there too")
    return parser


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", action="append", default=[], metavar="D", help="only of SITE/DEVICE or DEVICE"
    )
    parser.add_argument("--stream", action="append", default=[], metavar="S", help="only of it")
    parser.add_argument("--id", action="append", default=[], metavar="ID", help="only this sample")


def _add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="all of these, without a rule")
    parser.add_argument(
        "--per-device", type=_count, metavar="N", help="at most N of a device, released ones too"
    )
    parser.add_argument(
        "--device-share", type=_share, metavar="X", help="no device more than this share of all"
    )
    parser.add_argument(
        "--class-share", type=_share, metavar="X", help="no class more than this share of all"
    )
    parser.add_argument(
        "--least-confidence", type=_share, metavar="P", help="the cloud's greatest probability"
    )


def _add_run(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "run",
        help="teach the edge model, and write a new bundle if it is better",
        description="Teach a bundle's edge model by the pairs that have been released and by "
        "labelled rows, calibrate it, and judge it on labelled rows that the bundle has not seen. "
        f"Exits {WORSE}, with nothing written, unless it is better.",
    )
    parser.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    parser.add_argument("place", type=Path, metavar="PAIRS", help="DIR of hedge worker --pairs")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="LABELLED.npz", help="rows with their classes"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a folder, or NAME.hedge"
    )
    parser.add_argument(
        "--all-layers", action="store_true", help="teach all of it, not only its last layer"
    )
    parser.add_argument("--variant", metavar="NAME", help="which edge (default: the first)")
    parser.add_argument("--version", metavar="V", help="the new bundle's (default: one more)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=_run_run)


def _run_ls(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_apart((options.json,), inputs=(options.place,))
    with _opened(options.place) as stores:
        folders = tuple(
            Folder(file=str(one.path), about=one.about, pairs=tuple(one.lines())) for one in stores
        )
    write_json(options.json, Listing(place=str(options.place), folders=folders))
    for folder in folders:
        about = folder.about
        print(f"{folder.file}: {about.name}, {about.dtype} {about.shape}")
        print(f"  {'device':<24} {'stream':<12} {'state':<12} {'label':<20} {'pairs':>6}")
        for line in folder.pairs:
            print(
                f"  {line.device:<24} {line.stream:<12} {line.state:<12} {line.label:<20} "
                f"{line.pairs:>6}"
            )
    return 0


def _check_new(path: Path | None) -> None:
    """Refuse to write rows over anything, before there are any."""
    if path is not None and os.path.lexists(path):
        raise ConfigError("is there already", where=f"--npz {path}", hint="name another file")


def _run_show(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_place(options.npz)
    _check_new(options.npz)
    check_apart((options.json, options.npz), inputs=(options.place,))
    with _opened(options.place) as stores:
        found = {one: _matching(one, options)[: options.limit] for one in stores}
        if options.npz is not None:
            _write_npz(options.npz, found)
        shown = [
            Shown(
                file=str(store.path),
                pairs=tuple(_line(pair, store.about) for pair in pairs),
            )
            for store, pairs in found.items()
        ]
    if options.json is not None:
        write_json(options.json, _AllShown(folders=tuple(shown)))
    for one in shown:
        print(one.file)
        print(
            f"  {'device':<24} {'stream':<10} {'id':<14} {'state':<11} {'at':<20} "
            f"{'edge':<16} {'score':>6} {'cloud':<16} {'p':>5} {'doubt':>5}"
        )
        for line in one.pairs:
            at = datetime.fromtimestamp(line.at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            print(
                f"  {line.device:<24} {line.stream:<10} {line.id:<14} {line.state:<11} {at:<20} "
                f"{line.edge or '-':<16} {_score(line):>6} {line.cloud:<16} "
                f"{line.confidence:>5.2f} {line.doubt:>5.2f}"
            )
    return 0


def _score(line: PairLine) -> str:
    return "-" if line.score is None else f"{line.score:.3f}"


class _AllShown(Struct, frozen=True, kw_only=True):
    folders: tuple[Shown, ...]


def _run_release(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_apart((options.json,), inputs=(options.place,))
    rule = Rule(
        devices=tuple(options.device),
        streams=tuple(options.stream),
        ids=tuple(options.id),
        least_confidence=options.least_confidence,
        per_device=options.per_device,
        device_share=options.device_share,
        class_share=options.class_share,
    )
    if rule == Rule() and not options.all:
        raise ConfigError(
            "which pairs?",
            where="hedge adapt release",
            hint="--device, --stream, --id, a rule such as --per-device 200, or --all",
        )
    count = 0
    with _opened(options.place) as stores:
        for store in stores:
            pairs = list(store.pairs())
            waiting, out = (
                [one for one in pairs if one.state == state]
                for state in ("quarantined", "released")
            )
            count += store.release([one.key for one in chosen(rule, waiting, out)])
        done = _done(options.place, stores, released=count)
    write_json(options.json, done)
    print(
        f"{done.place}: {count} pairs released; {done.released_now} are now, "
        f"{done.quarantined_now} are in quarantine"
    )
    return 0


def _run_drop(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_apart((options.json,), inputs=(options.place,))
    if not (options.device or options.stream or options.id or options.all):
        raise ConfigError(
            "which pairs?",
            where="hedge adapt drop",
            hint="--device, --stream, --id, or --all",
        )
    with _opened(options.place) as stores:
        count = sum(one.drop([pair.key for pair in _matching(one, options)]) for one in stores)
        done = _done(options.place, stores, dropped=count)
    write_json(options.json, done)
    print(f"{done.place}: {count} pairs dropped, {done.released_now + done.quarantined_now} left")
    return 0


def _run_run(options: argparse.Namespace) -> int:
    check_place(options.json)
    inputs = (options.bundle, options.place, options.data)
    check_apart((options.json, options.out), inputs=inputs)
    report = adapt_bundle(
        load_bundle(options.bundle),
        options.place,
        options.data,
        Order(
            variant=options.variant,
            all_layers=options.all_layers,
            version=options.version,
            seed=options.seed,
        ),
        out=options.out,
        replace=options.replace,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write_json(options.json, report)
    print(report)
    if report.out is None:
        for reason in report.verdict.reasons:
            print(f"not better: {reason}", file=sys.stderr)
        print("nothing was written", file=sys.stderr)
        return WORSE
    for name in report.left_out:
        print(f"warning: variant {name} is left out, for it has the old weights", file=sys.stderr)
    print(f"{report.out}: {report.bundle} {report.new_version}, digest {report.digest}")
    return 0


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[Sequence[PairStore]]:
    if not place.is_dir():
        raise DataError("no such folder", where=str(place))
    stores = stores_in(place)
    try:
        yield stores
    finally:
        for one in stores:
            one.close()


def _matching(store: PairStore, options: argparse.Namespace) -> list[Pair]:
    rule = Rule(devices=tuple(options.device), streams=tuple(options.stream), ids=tuple(options.id))
    return [one for one in store.pairs() if matches(rule, one)]


def _done(place: Path, stores: Sequence[PairStore], *, released: int = 0, dropped: int = 0) -> Done:
    now = [one.state for store in stores for one in store.pairs()]
    return Done(
        place=str(place),
        released=released,
        dropped=dropped,
        quarantined_now=now.count("quarantined"),
        released_now=now.count("released"),
    )


def _line(pair: Pair, about: About) -> PairLine:
    return PairLine(
        device=pair.whose,
        stream=pair.stream,
        id=pair.id,
        state=pair.state,
        at_s=pair.at_s,
        edge=None if pair.edge is None else about.labels[int(np.argmax(pair.edge))],
        score=pair.score,
        cloud=about.labels[pair.label],
        confidence=pair.confidence,
        doubt=pair.doubt,
    )


def _write_npz(path: Path, found: dict[PairStore, list[Pair]]) -> None:
    """Write samples as a data set: a person may look at them, and mend their classes.

    Raises:
        ConfigError: there are several contracts, or the file cannot be written.
    """
    if len(found) != 1:
        raise ConfigError(
            "pairs of several contracts do not fit one file",
            where=str(path),
            hint="name one of the folders in DIR",
        )
    ((store, pairs),) = found.items()
    whole, x = store.samples(pairs)
    try:
        np.savez_compressed(
            path,
            allow_pickle=False,
            X=x,
            y=np.array([one.label for one in whole], np.int64),
            group=np.array([one.whose for one in whole], np.str_),
            id=np.array([one.id for one in whole], np.str_),
            labels=np.array(store.about.labels),
        )
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", where=str(path)) from error


def _count(text: str) -> int:
    if not (text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, 1 at most")
