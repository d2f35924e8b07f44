"""`hedge bundle`: make one, verify it, show what it says, pack it, pin a variant for a board."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..models.bundle import Bundle, load_bundle, pack_bundle
from ..models.consistency import Part, parts
from ..models.errors import MissingExtraError, ModelError
from ..models.inputs.preprocess import preprocessor
from ..models.manifest import Calibration, Filter, Input, Manifest
from ..models.prepare import fed_dtype
from . import bundle_init, bundle_pin, bundle_split
from .backends import is_installed
from .probe.probe import Fed, probe_model
from .report import write_json
from .shipped import bundle_path


class ModelCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a verified bundle.

    ``opened`` is false where no backend for it is installed. ``output`` is the shape that
    one sample gave; None if it was not run, as are filters that do not take samples.
    """

    role: str
    file: str
    format: str
    size_bytes: int
    opened: bool
    output: tuple[int, ...] | None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found sound."""

    name: str
    version: str
    digest: str
    contract: str
    pinned: bool
    size_bytes: int
    files: dict[str, int]
    models: tuple[ModelCheck, ...]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself."""

    digest: str
    contract: str
    size_bytes: int
    manifest: Manifest


def verify(path: Path, *, pin: str | None = None) -> Verified:
    """Load a bundle, and prove its models by running them on a sample of zeros.

    Models whose backend is not installed are checked as far as that goes without it, and so is
    what makes samples of a live source's captures.

    Raises:
        BundleError, ModelError: what is wrong with it, and where.
    """
    bundle = load_bundle(path, pin=pin)
    _check_input(bundle)
    return Verified(
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        digest=bundle.digest,
        contract=bundle.contract,
        pinned=pin is not None,
        size_bytes=sum(bundle.files.values()),
        files=dict(bundle.files),
        models=tuple(_check(bundle, part) for part in parts(bundle.manifest)),
    )


def show(path: Path) -> Shown:
    """Load a bundle and return what it says of itself."""
    bundle = load_bundle(path)
    return Shown(
        digest=bundle.digest,
        contract=bundle.contract,
        size_bytes=sum(bundle.files.values()),
        manifest=bundle.manifest,
    )


def pack(directory: Path, out: Path, *, replace: bool = False) -> Bundle:
    """Write the bundle in ``directory`` as the one file ``out``."""
    return pack_bundle(directory, out, replace=replace)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bundle",
        help="make, verify, show, pack, pin or split a bundle",
        description="Look after bundles.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    bundle_init.add_parser(verbs)
    one = verbs.add_parser(
        "verify",
        help="check every file, and run every model once",
        description="Check hashes, manifest and graphs, and run every model on zeros. "
        "Exits 0 if the bundle is sound, else 2 with the reason.",
    )
    one.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    one.add_argument("--pin", metavar="DIGEST", help="the digest it must have")
    one.add_argument("--json", type=Path, metavar="PATH", help="write what was found there too")
    one.set_defaults(run=_run_verify)
    one = verbs.add_parser("show", help="show what a bundle says of itself")
    one.add_argument("bundle", type=bundle_path, metavar="BUNDLE")
    one.add_argument("--json", type=Path, metavar="PATH", help="write it there too")
    one.set_defaults(run=_run_show)
    one = verbs.add_parser("pack", help="make one .hedge file of a bundle's folder")
    one.add_argument("bundle", type=bundle_path, metavar="FOLDER")
    one.add_argument("out", type=Path, metavar="NAME.hedge")
    one.add_argument("--replace", action="store_true", help="replace another bundle that is there")
    one.set_defaults(run=_run_pack)
    bundle_pin.add_parser(verbs)
    bundle_split.add_parser(verbs)


def _run_verify(options: argparse.Namespace) -> int:
    found = verify(options.bundle, pin=options.pin)
    write_json(options.json, found)
    print("\n".join(_verified_text(found)))
    return 0


def _run_show(options: argparse.Namespace) -> int:
    found = show(options.bundle)
    write_json(options.json, found)
    print("\n".join(_shown_text(found)))
    return 0


def _run_pack(options: argparse.Namespace) -> int:
    bundle = pack(options.bundle, options.out, replace=options.replace)
    print(f"{bundle.path}: {bundle.path.stat().st_size} bytes, digest {bundle.digest}")
    return 0


def _check_input(bundle: Bundle) -> None:
    """Open what makes samples of a live source's captures, where the bundle has that."""
    if getattr(bundle.input, bundle.input.kind) is not None:
        with contextlib.suppress(MissingExtraError):
            preprocessor(bundle.input, read=bundle.read, where=str(bundle.path))


def _check(bundle: Bundle, part: Part) -> ModelCheck:
    """Run a model on one and two samples of zeros, in a process that may crash of it."""
    data, where = bundle.read(part.file), f"{bundle.path}/{part.file}"
    spec = part.takes or bundle.input
    opened, output = is_installed(part.format), None
    if opened:
        output = probe_model(
            data,
            format=part.format,
            where=where,
            output=part.output_name,
            sample=Fed(spec.shape, fed_dtype(spec).name),
        ).given
        wanted = part.outputs or max(1, math.prod(output[1:]))  # None: any
        if output != (1, wanted):
            raise ModelError(f"gives {output} for one sample, not (1, {wanted})", where=where)
    return ModelCheck(
        role=part.role,
        file=part.file,
        format=part.format,
        size_bytes=len(data),
        opened=opened,
        output=output,
    )


def _verified_text(found: Verified) -> Iterator[str]:
    yield f"{found.name} {found.version} is sound{', and the pinned one' if found.pinned else ''}"
    yield f"  digest    {found.digest}"
    yield f"  contract  {found.contract}"
    yield f"  files     {len(found.files)}, {_size(found.size_bytes)}"
    for model in found.models:
        done = "opened" if model.opened else f"not opened: no {model.format} backend installed"
        given = f"gives {model.output}" if model.output else done
        yield f"  {model.role:<16} {model.file:<20} {_size(model.size_bytes):>9}  {given}"


def _shown_text(found: Shown) -> Iterator[str]:
    manifest = found.manifest
    sample = manifest.input
    yield f"{manifest.name} {manifest.version}: {manifest.task}, {_size(found.size_bytes)}"
    yield f"  digest      {found.digest}"
    yield f"  contract    {found.contract}"
    yield f"  labels      {len(manifest.labels)}: {', '.join(manifest.labels)}"
    yield f"  input       {_input_text(sample)}"
    for edge in manifest.edge:
        yield f"  edge        {edge.name}: {edge.file}, {edge.precision}, {edge.head}"
    for part in manifest.filter:
        yield f"  filter      {_filter_text(part)}"
    if manifest.cloud is not None:
        yield f"  cloud       {manifest.cloud.file}, {manifest.cloud.head}"
    if manifest.split is not None:
        split = manifest.split
        there = f"{split.cloud.file}, {split.cloud.head}"
        yield f"  split       {split.file}: {split.width} {split.dtype} to {there}"
    if manifest.calibration is not None:
        yield f"  calibration {_calibration_text(manifest.calibration)}"
    if manifest.training is not None:
        yield f"  training    {manifest.training.recipe}, seed {manifest.training.seed}"
    yield f"  licence     {manifest.licence}"
    yield from (f"  cite        {text}" for text in manifest.citations)


def _filter_text(part: Filter) -> str:
    """Return what a filter does: where it stands, and by which rule."""
    rule = part.rule or ", ".join(part.redundant)
    if part.reuse is not None:
        by = f", by {rule}" if rule else ""
        return f"reuse up to {part.reuse.distance:g}: {part.file}{by}"
    at = ", ".join(f"{one:g}" for one in part.thresholds or (part.threshold,))
    return f"skip at {at}: {part.file}, drops {rule or 'what it has learnt to'}"


def _input_text(sample: Input) -> str:
    """Return what a sample is, and how it is made of what a live source captures."""
    text = f"{sample.kind} {sample.shape} {sample.dtype}"
    table = getattr(sample, sample.kind)
    if table is None:
        return f"{text}; no [input.{sample.kind}], so none from live sources"
    set_ = msgspec.structs.asdict(table)
    defaults = {field.name: field.default for field in msgspec.structs.fields(table)}
    said = (f"{name} {value}" for name, value in set_.items() if value != defaults[name])
    return f"{text}, made by {', '.join(said) or 'the defaults'}"


def _calibration_text(calibration: Calibration) -> str:
    gate = f"{calibration.score} above {calibration.total:g}"
    fusion = "on" if calibration.fusion else "off"
    return f"asks where {gate}; {calibration.method} on {calibration.rows} rows; fusion {fusion}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes} B" if size_bytes < 10_000 else f"{size_bytes / 1000:.0f} kB"
