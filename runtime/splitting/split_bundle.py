"""A model cut in two, and the version of its bundle whose features may leave the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from ...models.bundle import Bundle, write_bundle
from ...models.consistency import parts
from ...models.dataset import load_dataset
from ...models.errors import BundleError, ConfigError, ModelError
from ...models.graph import model_spec
from ...models.manifest import Cloud, Edge, Filter, Input, Manifest, Split
from ...models.next_version import next_version
from ...models.prepare import preparer
from ..bench.machine import this_machine
from .halves import tried
from .places import places, shapes_of, work_before
from .report import PlacesReport, SplitReport
from .samples import drawn

HEAD, TAIL = "split-head.onnx", "split-tail.onnx"
_ROWS = 16
CLOUD = "cloud"


class SplitOrder(Struct, frozen=True, kw_only=True):
    """Where to cut, as what features are to travel, and what becomes of the bundle's edge models.

    ``edge`` "keep": they stay; "none": they go, and with them the calibration, so that the far end
    answers alone; "tail": the variant that is cut runs in two halves on the device, too. ``data``
    are rows to try the halves on (None: drawn by ``seed``).
    """

    at: str
    dtype: Literal["float16", "float32"] = "float16"
    edge: Literal["keep", "none", "tail"] = "keep"
    data: Path | None = None
    seed: int = 0


class Whole(NamedTuple):
    """A model to be cut: its file, what one sample of it is, and in which bundle it is what."""

    data: bytes
    input: Input
    output_name: str | None
    where: str
    model: Edge | Cloud | None = None
    bundle: Bundle | None = None

    @property
    def title(self) -> str:
        """What it is called in reports."""
        if self.bundle is None or self.model is None:
            return self.where
        name = self.model.name if isinstance(self.model, Edge) else CLOUD
        return f"{self.bundle.manifest.name} {self.bundle.manifest.version}: {name}"

    @property
    def sample_bytes(self) -> int | None:
        """What one sample takes as it travels; None: of a bare file that is not known."""
        if self.bundle is None:
            return None
        return math.prod(self.input.shape) * np.dtype(self.input.dtype).itemsize

    def rows(self, path: Path | None, *, seed: int) -> NDArray[Any]:
        """Return some rows as the graph is fed them: of the data set at ``path``, or drawn.

        Raises:
            DataError: the data set does not fit.
        """
        takes = model_spec(
            self.data, format="onnx", output=self.output_name, where=self.where
        ).inputs[0]
        if path is None:
            return drawn(self.input, takes, count=_ROWS, seed=seed)
        data = load_dataset(path).fitted(self.input, where=str(path))
        return preparer(self.input, takes)(data.x[:_ROWS])


def of_bundle(bundle: Bundle, name: str | None) -> Whole:
    """Return the bundle's model ``name``, "cloud" or a variant's (None: cloud, else the first).

    Raises:
        BundleError: it has none that takes samples.
        ConfigError: it has no such model.
        ModelError: it is no ONNX file.
    """
    manifest = bundle.manifest
    known: dict[str, Edge | Cloud] = {} if manifest.cloud is None else {CLOUD: manifest.cloud}
    known |= {edge.name: edge for edge in manifest.edge if edge.attach == "input"}
    name = next(iter(known), "") if name is None else name
    if not known:
        raise BundleError(
            "has no model that takes samples, so there is none to cut",
            where=str(bundle.path),
            hint="take the bundle as it was before it was split",
        )
    if name not in known:
        has = ", ".join(known)
        raise ConfigError(f"no model {name!r}", where=str(bundle.path), hint=f"it has {has}")
    model = known[name]
    where = f"{bundle.path}/{model.file}"
    if model.format != "onnx":
        raise no_graph_to_cut(model.format, where=where)
    return Whole(bundle.read(model.file), bundle.input, model.output_name, where, model, bundle)


def no_graph_to_cut(format_: str, *, where: str) -> ModelError:
    """Return the error for a model that is no ONNX graph."""
    return ModelError(
        f"is a {format_} file, and only ONNX graphs are cut",
        where=where,
        hint="cut the ONNX graph of the same model: hedge bundle split MODEL.onnx",
    )


def of_file(path: Path) -> Whole:
    """Return a bare ONNX file's model.

    Raises:
        ModelError: it cannot be read, or its samples have no fixed shape.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    takes = model_spec(data, format="onnx", where=str(path)).inputs[0]
    shape = tuple(extent for extent in takes.shape[1:] if extent is not None)
    if not shape or len(shape) != len(takes.shape) - 1:
        raise ModelError(
            f"{takes.name!r} has extents that are free, so its features have no fixed number",
            where=str(path),
            hint="cut it in a bundle, which says what a sample is",
        )
    dtype = "int32" if takes.dtype == np.int64 else takes.dtype.name
    return Whole(data, Input(kind="tensor", shape=shape, dtype=dtype), None, str(path))  # type: ignore[arg-type]  # refused below


def find_places(whole: Whole, *, data: Path | None = None, seed: int = 0) -> PlacesReport:
    """Return where the model can be cut.

    Raises:
        ModelError: it cannot be run.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    graph = _graph(whole)
    shapes = shapes_of(graph, _two(whole.rows(data, seed=seed)), where=whole.where)
    return PlacesReport(
        model=whole.title,
        sample_bytes=whole.sample_bytes,
        macs=work_before(graph, shapes, graph.tensors[-1])[1],
        places=tuple(places(graph, shapes)),
    )


def split(
    whole: Whole, order: SplitOrder, *, out: Path | None = None, replace: bool = False
) -> SplitReport:
    """Cut the model, try both halves, and write them (``out`` None: nowhere).

    Of a bundle's model a new version of it with a [split], of a bare file's a folder with
    head.onnx and tail.onnx.

    Raises:
        ModelError: it cannot be cut there, or its halves do not give what the whole does.
        ConfigError: what the order asks for cannot be.
        BundleError: ``out`` cannot be written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    _check(whole, order)
    graph = _graph(whole)
    graph.check(order.at)
    fed = whole.rows(order.data, seed=order.seed)
    shapes = shapes_of(graph, _two(fed), where=whole.where)
    seam = shapes.seam(order.at, where=whole.where)
    halves = graph.halves(seam, shape=fed.shape[1:])
    found = tried(
        whole.data,
        halves,
        fed,
        dtype=order.dtype,
        where=whole.where,
        output=whole.output_name,
    )
    head_macs, macs = work_before(graph, shapes, order.at)
    report = SplitReport(
        model=whole.title,
        tensor=order.at,
        shape=seam.shape,
        width=seam.width,
        feature_bytes=seam.width * np.dtype(order.dtype).itemsize,
        sample_bytes=whole.sample_bytes,
        head_macs=head_macs,
        macs=macs,
        head_bytes=len(halves.head),
        tail_bytes=len(halves.tail),
        seed=order.seed if order.data is None else None,
        agreement=found.agreement,
        speed=found.speed,
        machine=this_machine(),
    )
    if out is None:
        return report
    if whole.bundle is None or whole.model is None:
        _write_files(out, {"head.onnx": halves.head, "tail.onnx": halves.tail})
        return replaced(report, place=str(out))
    cut = Split(
        file=HEAD,
        output_name=halves.head_output,
        width=seam.width,
        shape=seam.shape if len(seam.shape) > 1 else (),
        dtype=order.dtype,
        cloud=_cloud(whole.model),
    )
    written = _write(whole.bundle, whole.model, cut, order, halves, out=out, replace=replace)
    return replaced(report, place=str(out), version=written.manifest.version, digest=written.digest)


def _graph(whole: Whole) -> Any:  # noqa: ANN401  a CutGraph, whose module needs an extra
    from ...models.splitting.onnx_cut import CutGraph  # noqa: PLC0415  imports the library

    return CutGraph(whole.data, output=whole.output_name, where=whole.where)


def _two(fed: NDArray[Any]) -> NDArray[Any]:
    """Return two rows, the first twice where there is one."""
    return fed[:2] if len(fed) > 1 else np.concatenate([fed, fed])


def _check(whole: Whole, order: SplitOrder) -> None:
    if order.edge == "tail" and not isinstance(whole.model, Edge):
        raise ConfigError(
            "is for a variant of the edge",
            where="--edge tail",
            hint="--model NAME cuts one; the cloud's tail is too much for a device, or it would "
            "run there",
        )
    if whole.bundle is None and order.edge != "keep":
        raise ConfigError("is for bundles", where=f"--edge {order.edge}")
    manifest = None if whole.bundle is None else whole.bundle.manifest
    if manifest is not None and manifest.split is not None:
        models: list[Edge | Filter] = [*manifest.edge, *manifest.filter]
        attached = [one.file for one in models if one.attach == "feature"]
        if attached:
            raise BundleError(
                f"{attached[0]} takes the features of the [split] that is there",
                where=str(whole.where),
                hint="take the bundle as it was before",
            )


def _cloud(model: Edge | Cloud) -> Cloud:
    """Return the far end's half of a model: its outputs mean what the whole's do."""
    return Cloud(
        file=TAIL,
        output=model.output,
        head=model.head,
        output_name=model.output_name,
        evidence=model.evidence,
    )


def _write(
    bundle: Bundle,
    model: Edge | Cloud,
    cut: Split,
    order: SplitOrder,
    halves: Any,  # noqa: ANN401  Halves, whose module needs an extra
    *,
    out: Path,
    replace: bool,
) -> Bundle:
    manifest = bundle.manifest
    changed = replaced(manifest, split=cut, version=next_version(manifest.version))
    if order.edge == "none":
        changed = replaced(changed, edge=(), choice=(), calibration=None)
    if order.edge == "tail":
        edges = [
            replaced(one, file=TAIL, attach="feature") if one is model else one
            for one in manifest.edge
        ]
        changed = replaced(changed, edge=tuple(edges))
    return write_bundle(
        out,
        changed,
        {**_files(bundle, changed), HEAD: halves.head, TAIL: halves.tail},
        replace=replace,
    )


def without_edge(bundle: Bundle, *, out: Path, replace: bool = False) -> Bundle:
    """Write a version of a bundle whose model runs at the far end alone; its filters stay.

    Raises:
        BundleError: it has nothing for the far end, a filter that needs an edge model, or cannot
            be written.
    """
    manifest = bundle.manifest
    if manifest.cloud is None and manifest.split is None:
        raise BundleError(
            "has no model for the far end",
            where=str(bundle.path),
            hint="it needs [cloud] or [split]",
        )
    changed = replaced(
        manifest,
        edge=(),
        choice=(),
        calibration=None,
        version=next_version(manifest.version),
    )
    return write_bundle(out, changed, _files(bundle, changed), replace=replace)


def _files(bundle: Bundle, manifest: Manifest) -> Mapping[str, bytes]:
    """Return the bundle's files that ``manifest`` still needs, or that no model ever was."""
    needed = {part.file for part in parts(manifest)}
    models = {part.file for part in parts(bundle.manifest)}
    kept = (name for name in bundle.manifest.files if name in needed or name not in models)
    return {name: bundle.read(name) for name in kept}


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in files:
        if (folder / name).exists():
            raise BundleError("is there already", where=str(folder / name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(folder)) from error
