"""`hedge filter`: give a bundle an input filter that its own model teaches, and place it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.errors import ConfigError
from ..models.filtering.rules import joint
from ..models.proposal import Wishes, propose
from .bundle_init import add_input, add_lines, labels_of, model_file
from .evidence.subject import Subject, of_model
from .filter.next_steps import beside
from .filter.train import TrainOrder, of_answering, train_filter
from .filter.tune import answering
from .filter_tune_command import add_tune_parser
from .filter_update_command import add_update_parser
from .report import check_apart, check_place, write_json
from .shipped import bundle_path

_SUFFIXES = frozenset({".onnx", ".tflite"})


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "filter",
        help="train and place filters that spare a model what does not matter",
        description="A filter drops what cannot matter, or answers from what was answered before.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_train_parser(verbs)
    add_tune_parser(verbs)
    add_update_parser(verbs)


def _add_train_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "train",
        help="teach a filter by what a model says, and write the bundle's next version",
        description="Run a model on rows that need no labels, teach a small net which of them do "
        "not matter by a rule about what the model says, and write the next version of the bundle "
        "with it.",
        conflict_handler="resolve",  # --kind is the filter's; a bare model's is --input-kind
    )
    add_input(parser)
    parser.add_argument("model", type=bundle_path, metavar="BUNDLE|MODEL")
    parser.add_argument("data", type=Path, metavar="DATA.npz", help="rows; they need no classes")
    parser.add_argument(
        "--redundant",
        dest="rules",
        action="append",
        metavar="RULE",
        help="what does not matter: 'labels A,B', 'confidence below 0.9', 'nothing above 0.5', "
        "'same as last', or module:function; several times for several tasks: dropped is what "
        "matters to none",
    )
    parser.add_argument(
        "--kind", dest="filter_kind", choices=("skip", "reuse"), default="skip", help="else skip"
    )
    parser.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME",
        help="how it sees a sample: text, image, video, audio, vector, feature; several times for "
        "parts, as in vector[0:6] (default: by the bundle's input)",
    )
    parser.add_argument(
        "--attach",
        choices=("input", "feature"),
        help="what it takes: samples, or the features of the bundle's [split] (default: these "
        "where no edge model takes samples)",
    )
    parser.add_argument("--variant", metavar="NAME", help="of the edge (default: the first)")
    parser.add_argument(
        "--out", type=Path, metavar="BUNDLE", help="default: NAME-filtered beside the bundle"
    )
    parser.add_argument("--format", choices=("onnx", "tflite"), help="else that of the edge")
    parser.add_argument("--int8", action="store_true", help="quantise the filter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="at most (default: 60; it stops by itself)"
    )
    parser.add_argument(
        "--rest", type=Path, metavar="NPZ", help="write the rows that judged it, for filter tune"
    )
    parser.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    bare = parser.add_argument_group("for a bare .onnx or .tflite, as of hedge bundle init")
    bare.add_argument("--labels", metavar="A,B,…|FILE", help="the classes in their order")
    bare.add_argument("--input-kind", dest="kind", choices=("tensor", "image", "audio", "text"))
    add_lines(parser)
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Train; return the exit code."""
    for path in (options.json, options.rest):
        check_place(path)
    out = options.out or beside(options.model, "filtered")
    check_apart((options.json, options.rest, out), inputs=(options.model, options.data))
    order = TrainOrder(
        kind=options.filter_kind,
        attach=options.attach,
        rule=joint(options.rules) if options.rules else None,
        modality=tuple(options.modality),
        seed=options.seed,
        epochs=options.epochs,
        format=options.format,
        int8=options.int8,
        replace=options.replace,
        rest=options.rest,
    )
    found = train_filter(
        _subject(options),
        options.data,
        order,
        out=out,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write_json(options.json, found)
    print(found)
    return 0


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
        bundle = load_bundle(path)
        return of_answering(bundle, answering(bundle, options.variant))
    if options.variant is not None:
        raise ConfigError("is for a bundle; a bare model is its only one", where="--variant")
    if options.labels is None:
        raise ConfigError(
            "a bare model does not say them", where="--labels", hint="A,B,… or a file"
        )
    wishes = Wishes(**{**wished, "labels": labels_of(options.labels)})
    return of_model(propose({"": model_file(path)}, None, wishes), where=str(path))
