"""`hedge bundle split` and `hedge bundle offload`: what of a model runs on the device, and where.

`split` cuts an ONNX graph at a tensor: the head runs on the device and gives features, the tail
answers from them. `offload` leaves the device no model but its filters.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.bundle import load_bundle
from ..models.errors import ConfigError
from .report import check_apart, check_place, write_json
from .shipped import bundle_path
from .splitting.places import lines
from .splitting.split_bundle import (
    SplitOrder,
    Whole,
    find_places,
    no_graph_to_cut,
    of_bundle,
    of_file,
    split,
    without_edge,
)

_ONNX, _TFLITE = ".onnx", ".tflite"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs with those of `hedge bundle`."""
    one = verbs.add_parser(
        "split",
        help="cut a model in two at a tensor, so that features leave the device",
        description="Cut an ONNX model in two at a tensor that separates its graph, try both "
        "halves against the whole, and write a new version of the bundle with a [split]. Without "
        "--at, list where it can be cut.",
    )
    one.add_argument("model", type=bundle_path, metavar="BUNDLE|MODEL.onnx")
    one.add_argument("--at", metavar="TENSOR", help="where (without it: list where it can be)")
    one.add_argument("--out", type=Path, metavar="DIR", help="or NAME.hedge; without it: only try")
    one.add_argument(
        "--model",
        dest="name",
        metavar="NAME",
        help='"cloud" or a variant of the edge (default: cloud, else the first variant)',
    )
    one.add_argument(
        "--edge",
        choices=("keep", "none", "tail"),
        default="keep",
        help='what becomes of the edge\'s models: they stay; "none": the far end answers alone; '
        '"tail": the variant that is cut runs in its halves on the device, too',
    )
    one.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="as what features travel"
    )
    one.add_argument(
        "--data", type=Path, metavar="DATA.npz", help="rows to try it on (default: drawn)"
    )
    one.add_argument("--seed", type=int, default=0, help="of the rows that are drawn")
    one.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    one.add_argument("--json", type=Path, metavar="PATH", help="write what was found there too")
    one.set_defaults(run=_run_split)
    one = verbs.add_parser(
        "offload",
        help="leave the model to the far end, and the device its filters",
        description="Write a version of a bundle without edge models: every sample that passes "
        "the filters is asked about.",
    )
    one.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="or NAME.hedge")
    one.add_argument("--replace", action="store_true", help="replace another bundle at --out")
    one.set_defaults(run=_run_offload)


def _run_split(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_apart((options.json, options.out), inputs=(options.model, options.data))
    if options.seed < 0:
        raise ConfigError(f"{options.seed} is below 0", where="--seed")
    whole = _whole(options)
    if options.at is None:
        _refuse_without_at(options)
        found = find_places(whole, data=options.data, seed=options.seed)
        write_json(options.json, found)
        size = "" if found.sample_bytes is None else f"; a sample takes {found.sample_bytes} B"
        text = (f"{found.model}: {found.macs} MACs{size}", *lines(found.places))
        sys.stdout.write("".join(f"{line}\n" for line in text))
        return 0
    order = SplitOrder(
        at=options.at,
        dtype=options.dtype,
        edge=options.edge,
        data=options.data,
        seed=options.seed,
    )
    report = split(whole, order, out=options.out, replace=options.replace)
    write_json(options.json, report)
    sys.stdout.write(f"{report}\n")
    return 0


def _run_offload(options: argparse.Namespace) -> int:
    check_apart((options.out,), inputs=(options.bundle,))
    written = without_edge(load_bundle(options.bundle), out=options.out, replace=options.replace)
    version = written.manifest.version
    sys.stdout.write(f"{written.path}: version {version}, digest {written.digest}\n")
    return 0


def _whole(options: argparse.Namespace) -> Whole:
    path: Path = options.model
    if path.suffix == _TFLITE and path.is_file():
        raise no_graph_to_cut(path.suffix[1:], where=str(path))
    if path.suffix == _ONNX and not path.is_dir():
        if options.name is not None:
            raise ConfigError("is for bundles", where="--model")
        return of_file(path)
    return of_bundle(load_bundle(path), options.name)


def _refuse_without_at(options: argparse.Namespace) -> None:
    """Refuse what says how to cut where nothing says where.

    Raises:
        ConfigError: there is such a flag.
    """
    if options.out is not None:
        raise ConfigError("nothing says where to cut", where="--out", hint="--at TENSOR does")
    if options.edge != "keep":
        raise ConfigError("nothing says where to cut", where="--edge", hint="--at TENSOR does")
