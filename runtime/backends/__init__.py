"""The libraries that run models, each behind the `Model` protocol, imported on first use."""

from __future__ import annotations

from importlib.util import find_spec

from ...models.errors import MissingExtraError, ModelError
from ...models.model import Model


def is_installed(format: str) -> bool:  # noqa: A002  the manifest's own word
    """Tell whether this machine can open models of ``format``."""
    return format == "onnx" and find_spec("onnxruntime") is not None


def open_model(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    where: str,
    threads: int = 1,
) -> Model:
    """Open a model file's ``data`` with the library for its ``format``.

    ``where`` names the file in messages; ``threads`` is how many the library may use for
    one call. A graph that may not run (see `graph.check_graph`) is refused here too.

    Raises:
        ModelError: no backend for the format, or the library refuses the model.
        MissingExtraError: the library is not installed.
    """
    if format != "onnx":
        raise ModelError(f"this build has no backend for {format} models", where=where)
    if not is_installed(format):
        raise MissingExtraError("onnxruntime", extra="onnx")
    from .onnx import OnnxModel  # noqa: PLC0415  costs 20 MB and 0.2 s, so on first use

    return OnnxModel(data, where=where, threads=threads)
