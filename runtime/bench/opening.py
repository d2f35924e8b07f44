"""What opening a variant costs: measured by the probe, which starts as a device does."""

from __future__ import annotations

from msgspec import Struct

from ...models.bundle import Bundle
from ...models.manifest import Edge
from ...models.prepare import fed_dtype
from ..backends.options import BackendOptions
from ..probe.probe import Fed, probe_model

_PATIENCE_S = 300.0  # an accelerator may compile its kernels first


class Opening(Struct, frozen=True, kw_only=True):
    """What it cost in a process of its own; ``runs_on`` is the backend that opened it there.

    That is ONNX Runtime where TensorRT takes over once its engine is built.
    ``open_ms`` includes loading the library, ``warm_up_ms`` are the first two calls.
    ``peak_bytes`` is the most memory that the process had resident, ``added_bytes`` how
    much of it came with library and model; an accelerator's memory is not in it.
    """

    open_ms: float
    warm_up_ms: float
    peak_bytes: int
    added_bytes: int
    runs_on: str


def measure_opening(bundle: Bundle, edge: Edge, *, options: BackendOptions) -> Opening:
    """Open and warm up a variant in a process of its own, which it may crash.

    Raises:
        HedgeError: it cannot be opened, or crashed that process.
    """
    found = probe_model(
        bundle.read(edge.file),
        format=edge.format,
        where=f"{bundle.path}/{edge.file}",
        options=options,
        output=edge.output_name,
        sample=Fed(bundle.input.shape, fed_dtype(bundle.input).name),
        timeout_s=_PATIENCE_S,
    )
    return Opening(
        open_ms=found.open_s * 1e3,
        warm_up_ms=(found.first_s + found.again_s) * 1e3,
        peak_bytes=found.peak_bytes,
        added_bytes=found.model_bytes,
        runs_on=found.runs_on,
    )
