"""`hedge bundle init`: make a bundle of ready-made models, and say where its lines come from."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..models.archive import MAX_FILE_BYTES
from ..models.bundle import write_bundle
from ..models.calibration import PAPER_QUANTILE, TargetRate, calibrate, threshold_for_rate
from ..models.calibration.outputs import check_outputs
from ..models.dataset import Dataset, digest, load_dataset, row_digests
from ..models.errors import BundleError, ConfigError, ModelError
from ..models.evidence import Figures
from ..models.manifest import (
    Calibration,
    Cloud,
    DType,
    Edge,
    Fit,
    Head,
    Manifest,
    Output,
    Resize,
    State,
)
from ..models.opinion import Assessor, default_score
from ..models.prepare import fed_dtype
from ..models.proposal import ModelFile, Proposal, Wishes, propose
from ..models.toml import write_toml
from ..models.unseen import with_seen
from .backends import open_model
from .both_models import model_outputs
from .probe.probe import Fed, probe_model
from .report import check_apart, check_place, write_json

_MAX_LABELS_BYTES = 1 << 20
_SHARE = 0.2
_COLUMN = 46  # where the remarks begin
_LIST = re.compile(r"\[\n((?: {4}.*,\n)+)\]")
_LINE = 90  # what a list may take to stand on one line


class Initialised(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that was written; ``origins`` says by dotted key where values come from."""

    bundle: str
    digest: str
    contract: str
    manifest: Manifest
    origins: dict[str, str]


def init(
    out: Path,
    proposal: Proposal,
    *,
    data: Path | None = None,
    escalate: float = _SHARE,
    replace: bool = False,
) -> Initialised:
    """Write the proposed bundle, calibrated on ``data`` if that is given.

    Calibrated, it asks for at most the share ``escalate`` of these rows.

    Raises:
        BundleError, ModelError: it would be refused on loading, or cannot be written.
        ConfigError, DataError, MissingExtraError: it cannot be calibrated.
    """
    manifest, files, origins = proposal.manifest, proposal.files, dict(proposal.origins)
    if data is not None:
        rows = load_dataset(data).fitted(manifest.input, labels=manifest.labels, where=str(data))
        calibration = _calibrated(proposal, rows, rate=escalate)
        manifest = msgspec.structs.replace(manifest, calibration=calibration)
        manifest, files = with_seen(manifest, files, rows)
        origins["calibration.total"] = f"from {calibration.rows} rows of {data.name}"
        origins["training.seen"] = "these rows: nothing is measured on them from now on"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(out)) from error
    bundle = write_bundle(out, manifest, files, replace=replace)
    return Initialised(
        bundle=str(out),
        digest=bundle.digest,
        contract=bundle.contract,
        manifest=bundle.manifest,
        origins=origins,
    )


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "init",
        help="make a bundle of ready-made models",
        description="Make a bundle of ONNX or TFLite models that classify. What the graph does "
        "not say is asked for or guessed; the manifest is shown with where each line comes from.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="the small model")
    parser.add_argument(
        "--labels", required=True, metavar="A,B,…|FILE", help="the classes in their order"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--replace", action="store_true", help="replace another bundle there")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what was done there too")
    _add_models(parser)
    add_lines(parser)
    add_input(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the bundle, print its manifest, return the exit code."""
    check_place(options.json)
    models = (options.model, options.cloud, *(path for _, path in options.edge))
    check_apart((options.json, options.out), inputs=(*models, options.calibrate))
    edges = {"": model_file(options.model)}
    for name, path in options.edge:
        if name in edges:
            raise ConfigError("is there twice", where=f"--edge {name}")
        edges[name] = model_file(path)
    wishes = Wishes(
        labels=labels_of(options.labels),
        **{name: getattr(options, name) for name in Wishes.__struct_fields__[1:]},
    )
    cloud = None if options.cloud is None else model_file(options.cloud)
    rate = _rate(options)
    proposal = propose(edges, cloud, wishes)
    made = init(
        options.out,
        proposal,
        data=options.calibrate,
        escalate=rate,
        replace=options.replace,
    )
    write_json(options.json, made)
    print("\n".join(_text(made)))  # noqa: T201  a command prints its answer
    return 0


def _rate(options: argparse.Namespace) -> float:
    """Return which share is to be asked for.

    Raises:
        ConfigError: it is no share, or there are no rows to find it on.
    """
    rate = _SHARE if options.escalate is None else float(options.escalate)
    if not 0 <= rate <= 1:
        raise ConfigError(f"{rate} is not within [0, 1]", where="--escalate")
    if options.escalate is not None and options.calibrate is None:
        raise ConfigError("on which rows?", where="--escalate", hint="--calibrate names an npz")
    return rate


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("more models, and when to ask")
    models.add_argument("--cloud", type=Path, metavar="MODEL", help="the large model")
    models.add_argument(
        "--edge",
        type=_variant,
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="another variant of the small model",
    )
    models.add_argument(
        "--calibrate", type=Path, metavar="NPZ", help="rows on which to find when to ask"
    )
    models.add_argument(
        "--escalate",
        type=float,
        metavar="SHARE",
        help=f"of them to ask for: {_SHARE}",
    )


def add_lines(parser: argparse.ArgumentParser) -> None:
    """Add the flags for lines of the manifest that a model does not say itself."""
    lines = parser.add_argument_group("lines of the manifest")
    lines.add_argument("--name", help="of the bundle; else from the file's")
    lines.add_argument("--version", help="of the bundle; else 1.0.0")
    lines.add_argument("--licence", metavar="TEXT")
    lines.add_argument("--output", choices=get_args(Output), help="else by how the graph ends")
    lines.add_argument("--output-name", metavar="NAME", help="which of the graph's outputs")
    lines.add_argument(
        "--state",
        choices=get_args(State),
        help="of a recurrent net: kept from sample to sample, or reset before each",
    )
    lines.add_argument("--head", choices=get_args(Head), help="else softmax")


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what one sample is."""
    sample = parser.add_argument_group(
        "what one sample is; the graph is fed (x - offset) * scale, or x itself without either"
    )
    sample.add_argument("--kind", choices=("tensor", "image", "audio", "text"))
    sample.add_argument(
        "--shape", type=_shape, metavar="N,N,…", help="where the graph leaves it open"
    )
    sample.add_argument("--layout", metavar="TEXT")
    sample.add_argument("--input-dtype", dest="dtype", choices=get_args(DType))
    sample.add_argument("--scale", type=_number, metavar="S", help="a number, or one like 1/255")
    sample.add_argument("--offset", type=_number, metavar="O")
    sample.add_argument("--fit", choices=get_args(Fit), help="of a picture; else stretch")
    sample.add_argument("--resize", choices=get_args(Resize), help="of a picture; else bilinear")


def _variant(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z0-9_-]{1,64}", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODEL, NAME of a-z, 0-9, _ and -")
    return name, Path(path)


def _shape(text: str) -> tuple[int, ...]:
    try:
        extents = tuple(int(extent) for extent in text.split(","))
    except ValueError:
        extents = (0,)
    if min(extents) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not N,N,… with every N above 0")
    return extents


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error


def labels_of(given: str) -> tuple[str, ...]:
    """Return the labels: those in a file, one per line, or those in the text itself.

    Raises:
        ConfigError: the file cannot be read, or is no text.
    """
    path = Path(given)
    try:
        if not _is_file(path):
            return tuple(label.strip() for label in given.split(","))
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise ConfigError(f"more than {_MAX_LABELS_BYTES} bytes of labels", where=given)
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8", where=given) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=given) from error
    return tuple(line.strip() for line in lines if line.strip())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the labels of a thousand classes name no file
            return False
        raise


def model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        ModelError: it is too large, no plain file, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelError(f"{size} bytes, at most {MAX_FILE_BYTES}", where=str(path))
        if not path.is_file():
            raise ModelError("is no plain file", where=str(path))
        return ModelFile(str(path), path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _calibrated(proposal: Proposal, data: Dataset, *, rate: float) -> Calibration:
    """Find when to ask, for the first variant: with the cloud's help if it can be measured."""
    manifest = proposal.manifest
    edge, sha256 = manifest.edge[0], digest(data)
    outputs = _outputs(edge, proposal, data)
    check_outputs(outputs, model=edge, where=edge.file)
    if manifest.cloud is not None and data.y is not None:
        return calibrate(
            outputs,
            _outputs(manifest.cloud, proposal, data),
            data.y,
            edge=edge,
            cloud=manifest.cloud,
            aim=TargetRate(rate),
            group=data.group,
            data_sha256=sha256,
            same=row_digests(data.x),
        )
    assessor = Assessor.of(edge, classes=len(manifest.labels))
    opinions = assessor.deepen_batch(assessor.assess_batch(outputs), outputs)
    return Calibration(
        score=default_score(edge.head),
        total=threshold_for_rate(opinions.score, rate=rate),
        epistemic=_split(opinions.epistemic),
        aleatoric=_split(opinions.aleatoric),
        method=f"escalation rate {rate:g}, without a cloud model to compare with",
        rows=len(data.x),
        data_sha256=sha256,
    )


def _split(figures: Figures | None) -> float | None:
    return None if figures is None else float(np.quantile(figures, PAPER_QUANTILE))


def _outputs(part: Edge | Cloud, proposal: Proposal, data: Dataset) -> NDArray[np.floating[Any]]:
    """Return the raw outputs (N, K) of a model for all rows, once it has proved to end."""
    content, where, spec = proposal.files[part.file], part.file, proposal.manifest.input
    probe_model(
        content,
        format=part.format,
        where=where,
        output=part.output_name,
        sample=Fed(spec.shape, fed_dtype(spec).name),
    )
    model = open_model(
        content,
        format=part.format,
        where=where,
        output=part.output_name,
        keeps_state=isinstance(part, Edge) and part.state != "reset",
    )
    with closing(model):
        return model_outputs(model, spec, data)


def _text(made: Initialised) -> Iterator[str]:
    """Yield the manifest as it was written, with where its lines come from, and what is next."""
    table, counts = "", dict[str, int]()
    document = _LIST.sub(_on_one_line, write_toml(made.manifest).decode())
    for line in document.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
            if line.startswith("[["):
                counts[table] = counts.get(table, -1) + 1
                table = f"{table}.{counts[table]}"
        key = line.partition(" = ")[0]
        origin = made.origins.get(f"{table}.{key}".lstrip("."))
        yield line if origin is None else f"{line:<{_COLUMN}}  # {origin}"
    yield f"\nwrote {made.bundle}, digest {made.digest}"
    yield f"run its models once: hedge bundle verify {made.bundle}"
    if made.manifest.calibration is None:
        yield "hedge run needs to know when to ask: give --calibrate ROWS.npz --escalate SHARE"


def _on_one_line(found: re.Match[str]) -> str:
    items = " ".join(line.strip() for line in found[1].splitlines()).rstrip(",")
    return f"[{items}]" if len(items) <= _LINE else found[0]
