"""A model served by TensorRT: at once if its engine is in the cache, else once it is built."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....models.errors import ConfigError, MissingExtraError, ModelError
from ....models.graph import model_spec
from ....models.model import Model, ModelSpec, TensorSpec
from ....models.prepare import Prepare
from .. import open_model
from ..options import BackendOptions
from ..swapping import SwappingModel
from .build import BuildRequest, is_quantised
from .calibration import KEY, Rows, load_rows
from .engine import RefusedPlanError, TensorRtModel
from .engine_build import LIMIT_S, BuildProgress, EngineBuild
from .engine_cache import MAX_BYTES, EngineCache, EngineKey, Shape
from .library import Library, load

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that serves, and the build that will make it faster; None: there is none.

    ``counts``: "cached", "fell_back", "without_gpu", each at most once; those of the
    build and of the cache are theirs.
    """

    model: SwappingModel
    build: EngineBuild | None
    counts: Counter[str]

    def close(self) -> None:
        """End the build and close the model; twice is harmless."""
        if self.build is not None:
            self.build.close()
        self.model.close()


def open_tensorrt(
    data: bytes,
    *,
    where: str,
    cache_dir: Path,
    options: BackendOptions | None = None,
    max_batch: int = 1,
    output: str | None = None,
    prepare: Prepare | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
    cache_max_bytes: int = MAX_BYTES,
    limit_s: float = LIMIT_S,
) -> Served:
    """Open an ONNX file's ``data`` for TensorRT, and serve it with ONNX Runtime meanwhile.

    ``max_batch`` is how many rows go through at once where the graph's batch axis is free.
    ``prepare`` turns the rows of ``options.calibration`` into what the graph takes;
    ``progress`` is told about the build once a second, in the loop's thread. With
    ``options.fallback`` ONNX Runtime also serves where TensorRT cannot, and takes over
    again should the GPU fail.

    Raises:
        ModelError: the graph may not run, there is no GPU, or no memory on it.
        MissingExtraError: a library is not installed.
        ConfigError: int8 without rows to calibrate with, or with rows that do not fit.
        DataError: those rows cannot be read.
    """
    options = options or BackendOptions()
    counts: Counter[str] = Counter()
    spec = model_spec(data, format="onnx", output=output, where=where)
    _check_input(spec.inputs[0], where=where)

    def spare() -> Model:
        return open_model(data, format="onnx", where=where, options=options, output=output)

    def serving(model: Model, *, engine: TensorRtModel | None = None) -> SwappingModel:
        fallback = spare if options.fallback else None
        return SwappingModel(model, engine=engine, spare=fallback, where=where, counts=counts)

    rows = _rows(data, spec, options, prepare=prepare, where=where)
    try:
        library = load(where=where)
        cache = EngineCache(cache_dir, max_bytes=cache_max_bytes)
        key = _key(data, spec, options, library, rows=rows, max_batch=max_batch)
        engine = _cached(cache, key, library, where=where, output=spec.outputs[0].name)
    except (ModelError, MissingExtraError) as error:
        if not options.fallback:
            raise
        counts["without_gpu"] += 1
        _log.warning("%s: runs without TensorRT: %s", where, error)
        return Served(model=serving(spare()), build=None, counts=counts)
    if engine is not None:
        counts["cached"] += 1
        return Served(model=serving(engine, engine=engine), build=None, counts=counts)
    model = serving(spare())

    def opened() -> TensorRtModel:
        plan = cache.load(key)
        if plan is None:
            raise ModelError("the engine was built and is not there", where=where)
        given = spec.outputs[0].name
        return TensorRtModel(plan, where=where, output=given, library=library)

    request = BuildRequest(
        model=data,
        where=where,
        key=key,
        rows=rows,
        cache=str(cache_dir.resolve()),
        cache_max_bytes=cache_max_bytes,
    )
    build = EngineBuild(
        request,
        folder=cache_dir,
        opened=opened,
        ready=model.swap,
        progress=progress,
        limit_s=limit_s,
    )
    return Served(model=model, build=build, counts=counts)


def _check_input(source: TensorSpec, *, where: str) -> None:
    if None in source.shape[1:]:
        raise ModelError(
            f"input {source.name!r} {source.shape} leaves more open than the batch",
            where=where,
            hint="TensorRT needs fixed extents: export the graph with them",
        )
    if source.dtype == np.float64:
        raise ModelError(
            f"input {source.name!r} is float64, which TensorRT has not",
            where=where,
            hint="export the graph in float32",
        )


def _rows(
    data: bytes,
    spec: ModelSpec,
    options: BackendOptions,
    *,
    prepare: Prepare | None,
    where: str,
) -> Rows | None:
    """Return what int8 is calibrated with; None where the graph has scales of its own."""
    if options.precision != "int8" or is_quantised(data, where=where):
        return None
    if options.calibration is None:
        raise ConfigError(
            f"int8 needs rows to be calibrated with: {where} carries no scales",
            where=KEY,
            hint='name an npz with X, or take precision = "fp16"',
        )
    as_it_is = prepare or (lambda batch: batch)
    return load_rows(Path(options.calibration), spec.inputs[0], prepare=as_it_is)


def _key(
    data: bytes,
    spec: ModelSpec,
    options: BackendOptions,
    library: Library,
    *,
    rows: Rows | None,
    max_batch: int,
) -> EngineKey:
    return EngineKey(
        model_sha256=hashlib.sha256(data).hexdigest(),
        tensorrt=library.version,
        gpu=library.gpu,
        precision=options.precision,
        shapes=_shapes(spec.inputs[0], max_batch),
        calibration_sha256=None if rows is None else rows.digest(),
    )


def _shapes(source: TensorSpec, max_batch: int) -> tuple[Shape, ...]:
    """Return the least, the usual and the largest shape; the one there is if it is fixed."""
    batch, *rest = source.shape
    shape = tuple(extent for extent in rest if extent is not None)
    if batch is not None:
        return ((batch, *shape),)
    return tuple((rows, *shape) for rows in (1, max_batch, max_batch))


def _cached(
    cache: EngineCache, key: EngineKey, library: Library, *, where: str, output: str
) -> TensorRtModel | None:
    """Return the engine that is in the cache; one that TensorRT refuses is removed from it."""
    plan = cache.load(key)
    if plan is None:
        return None
    try:
        return TensorRtModel(plan, where=where, output=output, library=library)
    except RefusedPlanError as error:
        _log.warning("%s: removed from the cache, and built anew", error)
        cache.remove(key)
        return None
