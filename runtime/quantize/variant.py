"""An int8 variant of a bundle's float one: made, measured beside it, and put into a copy."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from ...models.bundle import Bundle, write_bundle
from ...models.dataset import (
    Dataset,
    digest,
    load_dataset,
)
from ...models.errors import BundleError, ConfigError, DataError
from ...models.graph import model_spec
from ...models.manifest import Edge, Manifest, Name, Quantised
from ...models.prepare import preparer
from ...models.unseen import seen_rows, with_seen
from .int8 import Calibrator, Int8Model, Recipe, to_int8
from .report import QuantizeReport
from .rows import LEAST_RANGES, MOST_RANGES, divide
from .side_by_side import Variant, side_by_side
from .verdict import concerns


class Order(Struct, frozen=True, kw_only=True):
    """What to make: the variant ``name`` of ``variant`` (None: the first that is float).

    ``rows`` and ``seed``: see `divide`. ``float_output`` is whether the output layer stays
    float; None: where evidence or probabilities come out of it, which eight bits crush.
    """

    variant: str | None = None
    name: str = "int8"
    rows: int | None = None
    seed: int = 0
    calibrator: Calibrator = "minmax"
    float_output: bool | None = None


def quantize(
    bundle: Bundle,
    data_path: Path,
    order: Order,
    *,
    out: Path,
    accept: bool = False,
    replace: bool = False,
) -> QuantizeReport:
    """Make an int8 variant, compare it with its float one, and write the bundle's copy ``out``.

    With ``concerns`` in the report nothing is written, unless ``accept``.

    Raises:
        ConfigError: no such float variant, a name that is taken, or a number out of range.
        DataError: the data does not fit the bundle, has no classes, or too few rows.
        ModelError: the library cannot quantise the model, or a model fails.
        BundleError: ``out`` cannot be written, or is something else already.
        MissingExtraError: a library is not installed.
    """
    _check(order)
    if not out.parent.is_dir():  # said now, not after minutes of work
        raise BundleError("lies in no folder that exists", where=str(out))
    edge = _source(bundle.manifest, order)
    data = _data(bundle, data_path)
    division = divide(data, seen=seen_rows(bundle, data), rows=order.rows, seed=order.seed)
    ranges = data.rows(division.ranges)
    original = Variant(edge, bundle.read(edge.file))
    made = _made(bundle, original, ranges.x, order)
    variant = Variant(_edge(bundle.manifest, edge, made, ranges, name=order.name), made.data)
    found = side_by_side(bundle, (original, variant), data, division, seed=order.seed)
    worse = tuple(concerns(found.comparison))
    written = None
    if accept or not worse:
        written = _write(bundle, variant, ranges, out=out, replace=replace)
    assert variant.edge.quantised is not None  # noqa: S101  `_edge` has just made it
    return QuantizeReport(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        out=None if written is None else str(out),
        digest=None if written is None else written.digest,
        variant=order.name,
        made_from=variant.edge.quantised,
        divided_by=division.by,
        seen_rows_left_out=division.seen,
        size_before_bytes=len(original.data),
        size_after_bytes=len(made.data),
        comparison=found.comparison,
        gate=found.gate,
        latency=found.latency,
        concerns=worse,
    )


def _check(order: Order) -> None:
    try:
        msgspec.convert(order.name, Name)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{order.name!r} is no name for a variant", where="--name") from error
    if order.rows is not None and not LEAST_RANGES <= order.rows <= MOST_RANGES:
        raise ConfigError(
            f"{order.rows} is not within {LEAST_RANGES} to {MOST_RANGES}", where="--rows"
        )
    if order.seed < 0:
        raise ConfigError(f"{order.seed} is below 0", where="--seed")


def _source(manifest: Manifest, order: Order) -> Edge:
    """Return the float variant that is meant."""
    names = [edge.name for edge in manifest.edge]
    if order.name in names:
        raise ConfigError(
            f"the bundle has a variant {order.name!r} already", where="--name", hint="give another"
        )
    if order.variant is not None and order.variant not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"no variant {order.variant!r}", where="--variant", hint=f"has {known}")
    chosen = [edge for edge in manifest.edge if order.variant in (None, edge.name)]
    edge = next((edge for edge in chosen if edge.precision == "float"), None)
    if edge is None:
        what = "no float variant" if order.variant is None else f"{order.variant!r} is int8 already"
        raise ConfigError(what, where=manifest.name, hint="only a float model can be quantised")
    return edge


def _data(bundle: Bundle, path: Path) -> Dataset:
    where = str(path)
    data = load_dataset(path).fitted(bundle.input, labels=bundle.labels, where=where)
    if data.y is None:
        raise DataError("no array y", where=where, hint="accuracy cannot be measured without")
    return data


def _made(bundle: Bundle, original: Variant, rows: NDArray[Any], order: Order) -> Int8Model:
    edge, where = original.edge, f"{bundle.path}/{original.edge.file}"
    takes = model_spec(
        original.data, format=edge.format, output=edge.output_name, where=where
    ).inputs[0]
    delicate = edge.head == "evidential" or edge.output == "probabilities"
    return to_int8(
        original.data,
        preparer(bundle.input, takes)(rows),
        format=edge.format,
        recipe=Recipe(
            order.calibrator, delicate if order.float_output is None else order.float_output
        ),
        where=where,
        output=edge.output_name,
    )


def _edge(manifest: Manifest, edge: Edge, made: Int8Model, ranges: Dataset, *, name: str) -> Edge:
    """Return the manifest's entry for the int8 variant, its file named like the float one."""
    path = PurePosixPath(edge.file)
    file = str(path.with_name(f"{path.stem}-{name}{path.suffix}"))
    if file in manifest.files:
        raise ConfigError(f"the bundle has a file {file!r}", where="--name", hint="give another")
    quantised = Quantised(
        variant=edge.name, method=made.method, rows=len(ranges.x), data_sha256=digest(ranges)
    )
    return replaced(edge, name=name, file=file, precision="int8", quantised=quantised)


def _write(
    bundle: Bundle, variant: Variant, ranges: Dataset, *, out: Path, replace: bool
) -> Bundle:
    """Write the bundle with one variant more; the rows that gave its ranges are seen now."""
    manifest = bundle.manifest
    files = {name: bundle.read(name) for name in manifest.files}
    files[variant.edge.file] = variant.data
    manifest, files = with_seen(manifest, files, ranges)
    wider = replaced(manifest, edge=(*manifest.edge, variant.edge))
    return write_bundle(out, wider, files, replace=replace)
