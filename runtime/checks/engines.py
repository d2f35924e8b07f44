"""What TensorRT needs to build an engine of int8: rows to calibrate it with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...models.bundle import Bundle
from ...models.dataset import load_dataset
from ...models.manifest import Edge, Filter
from ..backends.options import BackendOptions
from ..backends.tensorrt.build import is_quantised
from .finding import Finding, error, ok


def check_rows(
    subject: str, bundle: Bundle, part: Edge | Filter, *, options: BackendOptions
) -> Iterator[Finding]:
    """Yield whether the rows are there and fit; nothing where none are needed.

    Raises:
        DataError: they cannot be read, or do not fit the bundle.
    """
    if options.use != "tensorrt" or options.precision != "int8" or part.format != "onnx":
        return
    if is_quantised(bundle.read(part.file), where=f"{bundle.path}/{part.file}"):
        return
    if options.calibration is None:
        yield error(
            "backend",
            subject,
            "int8 needs rows to be calibrated with, as the graph has no scales of its own",
            where="backend.calibration",
            todo='name an npz with X, or take precision = "fp16"',
        )
        return
    rows = load_dataset(Path(options.calibration)).fitted(bundle.input, where=options.calibration)
    yield ok("backend", subject, f"{len(rows.x)} rows to calibrate int8 with")
