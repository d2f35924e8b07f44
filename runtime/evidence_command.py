"""`hedge evidence`: give a classifier evidence, and measure what it is worth."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.errors import ConfigError
from ..models.proposal import Wishes, propose
from . import evidence_report_command
from .bundle_init import add_input, add_lines, labels_of, model_file
from .evidence.fit import Order, Proxy, fit
from .evidence.record import EvidenceFit
from .evidence.subject import Subject, of_bundle, of_model
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_SUFFIXES = frozenset({".onnx", ".tflite"})


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "evidence",
        help="give a classifier evidence; measure what evidence is worth",
        description="Evidence says how sure a model is of what it answers.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_fit_parser(verbs)
    evidence_report_command.add_report_parser(verbs)


def _add_fit_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "fit",
        help="give a softmax classifier evidence, without training it anew",
        description="Learn from some rows how much evidence stands behind a classifier's answers, "
        "which stay what they are; measure it on others, beside plainer scores; and write the next "
        "version of the bundle. Its calibration is dropped: hedge calibrate makes a new one.",
    )
    parser.add_argument("model", type=bundle_path, metavar="BUNDLE|MODEL")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows with their classes")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a folder, or NAME.hedge"
    )
    parser.add_argument("--part", choices=("edge", "cloud"), default="edge", help="else the edge")
    parser.add_argument("--variant", metavar="NAME", help="of the edge (default: the first)")
    parser.add_argument(
        "--proxy",
        type=bundle_path,
        metavar="BUNDLE",
        help="learn from its evidential edge how sure to be; then no classes are needed",
    )
    parser.add_argument("--proxy-variant", metavar="NAME", help="of it (default: the first)")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the rows that teach (default: 0.5)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--place",
        choices=("graph", "manifest"),
        default="graph",
        help="keep it in an ONNX graph, so that it travels with the file, or in the manifest, "
        "which is read in less time (default: graph; TFLite has it in the manifest)",
    )
    parser.add_argument(
        "--rest", type=Path, metavar="NPZ", help="write the other rows there, for hedge calibrate"
    )
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    bare = parser.add_argument_group("for a bare .onnx or .tflite, as of hedge bundle init")
    bare.add_argument("--labels", metavar="A,B,…|FILE", help="the classes in their order")
    add_lines(parser)
    add_input(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fit; return the exit code."""
    for path in (options.json, options.rest):
        check_place(path)
    _check_apart(options)
    order = Order(
        share=options.share,
        seed=options.seed,
        replace=options.replace,
        rest=options.rest,
        place=options.place,
    )
    found = fit(_subject(options), options.data, order, proxy=_proxy(options), out=options.out)
    print(found)
    print(f"wrote {found.out}, digest {found.digest}", flush=True)
    _say_next(found, rest=options.rest)
    write_json(options.json, found)  # last: a file that fails takes no figures with it
    return 0


def _check_apart(options: argparse.Namespace) -> None:
    """Refuse outputs that are inputs, or each other: nothing is overwritten that was given."""
    inputs = (options.model, options.data, options.proxy)
    check_apart((options.out, options.rest, options.json), inputs=inputs)
    if options.out.parent != Path() and not options.out.parent.is_dir():
        raise ConfigError("lies in no folder that exists", where=f"--out {options.out}")


def _subject(options: argparse.Namespace) -> Subject:
    """Return the model that is meant, in a bundle or bare."""
    wished = {name: getattr(options, name) for name in Wishes.__struct_fields__}
    path: Path = options.model
    if path.suffix not in _SUFFIXES:
        odd = next((name for name, value in wished.items() if value is not None), None)
        if odd is not None:
            raise ConfigError(
                "is for a bare model; the bundle says that itself",
                where=f"--{odd.replace('_', '-')}",
            )
        return of_bundle(load_bundle(path), part=options.part, variant=options.variant)
    if options.part != "edge" or options.variant is not None:
        flag = "--variant" if options.part == "edge" else "--part"
        raise ConfigError("is for a bundle; a bare model is its only one", where=flag)
    if options.labels is None:
        raise ConfigError(
            "a bare model does not say them", where="--labels", hint="A,B,… or a file"
        )
    wishes = Wishes(**{**wished, "labels": labels_of(options.labels)})
    return of_model(propose({"": model_file(path)}, None, wishes), where=str(path))


def _proxy(options: argparse.Namespace) -> Proxy | None:
    if options.proxy is None:
        if options.proxy_variant is not None:
            raise ConfigError("of which proxy?", where="--proxy-variant", hint="--proxy names it")
        return None
    return Proxy(load_bundle(options.proxy), options.proxy_variant)


def _say_next(found: EvidenceFit, *, rest: Path | None) -> None:
    """Say what comes next, as a command that works as it stands where the rows for it are there."""
    has_rows = rest is not None and found.measured is not None
    rows = str(rest) if has_rows else "ROWS.npz"
    words = ["hedge", "calibrate", found.out, rows, "--rate", "0.2", "--out", _free(found.out)]
    why = "its calibration was dropped: " if found.calibration_dropped else ""
    which = "" if has_rows else " (rows with classes, of which none taught)"
    print(f"{why}a device needs to know when to ask: {shlex.join(words)}{which}", file=sys.stderr)


def _free(out: str) -> str:
    """Return a place for the next bundle at which there is nothing."""
    path = Path(out)
    suffix = path.suffix if path.suffix == ".hedge" else ""
    stem = path.name.removesuffix(suffix)
    names = (f"{stem}-calibrated{count}{suffix}" for count in ("", *range(2, 100)))
    free = (str(one) for one in map(path.with_name, names) if not os.path.lexists(one))
    return next(free, f"{stem}-next{suffix}")
