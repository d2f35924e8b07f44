"""From what a source captures to a sample, as the manifest's `[input]` says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from ..errors import BundleError
from ..manifest import Input


class Preprocess(Protocol):
    """Makes a sample (the `Input`'s shape and dtype) of what was captured.

    ``data`` is, by the kind: a picture (height, width, 3) uint8 in RGB; mono sound (n,) float32
    in [-1, 1), ``sample_rate_hz`` in ``meta``; rows (rows, channels) float32; the UTF-8 bytes
    of a text (n,) uint8.

    Raises:
        DataError: what was captured cannot become a sample.
    """

    def __call__(self, data: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[Any]:
        """Return the sample."""


def preprocessor(spec: Input, *, read: Callable[[str], bytes], where: str) -> Preprocess:
    """Return what makes samples of captures for ``spec``; ``read`` gives the bundle's files.

    Raises:
        BundleError: the manifest does not say how (no table of its kind), or a file is no good.
        MissingExtraError: a library that it needs is not installed.
    """
    if getattr(spec, spec.kind) is None:
        raise BundleError(
            f"no [input.{spec.kind}], so nothing says how a live source becomes a sample",
            where=where,
            hint="add it to the manifest; a replay of ready samples needs none",
        )
    match spec.kind:  # each with libraries of its own
        case "image":
            from .image import image_preprocessor  # noqa: PLC0415

            return image_preprocessor(spec, where=where)
        case "audio":
            from .audio import audio_preprocessor  # noqa: PLC0415

            return audio_preprocessor(spec, where=where)
        case "tensor":
            from .tensor import tensor_preprocessor  # noqa: PLC0415

            return tensor_preprocessor(spec, where=where)
        case "text":
            from .text import text_preprocessor  # noqa: PLC0415

            return text_preprocessor(spec, read=read, where=where)
