"""From the bytes of a float model to those of an int8 one, by the library for its format."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from ...models.errors import ConfigError, MissingExtraError, ModelError

Calibrator = Literal["minmax", "average", "percentile"]
_CALIBRATORS: dict[str, tuple[Calibrator, ...]] = {
    "onnx": ("minmax", "percentile"),  # entropy, with its 128 bins for 128 steps, is minmax
    "tflite": ("minmax", "average"),
}
_NEEDS = {
    "onnx": {"onnx": "onnx", "onnxruntime": "onnxruntime"},
    "tflite": {"ai_edge_quantizer": "ai-edge-quantizer", "ai_edge_litert": "ai-edge-litert"},
}


class Recipe(NamedTuple):
    """How to quantise: by which ``calibrator``, and whether the output layer stays float.

    ``minmax`` takes what was least and greatest over all rows; ``average`` a moving average of
    that, row by row; ``percentile`` leaves a little out on either side.
    """

    calibrator: Calibrator = "minmax"
    float_output: bool = True


def nothing_quantised(recipe: Recipe, *, layers: str, where: str) -> ModelError:
    """Return the error for a model without ``layers`` to quantise, or with just the output's."""
    return ModelError(
        "nothing in it was quantised",
        where=where,
        hint="--no-keep-output-float quantises its output layer, too"
        if recipe.float_output
        else f"it has no {layers}",
    )


class Int8Model(NamedTuple):
    """The file of an int8 model, and how it was made, in words."""

    data: bytes
    method: str


def check_installed(format: Literal["onnx", "tflite"]) -> None:  # noqa: A002  as above
    """See to it that models of ``format`` can be quantised here.

    Raises:
        MissingExtraError: the library is not installed.
    """
    for module, library in _NEEDS[format].items():
        if find_spec(module) is None:
            raise MissingExtraError(library, extra="quantize")


def to_int8(
    data: bytes,
    fed: NDArray[Any],
    *,
    format: Literal["onnx", "tflite"],  # noqa: A002  the manifest's own word
    recipe: Recipe,
    where: str,
    output: str | None = None,
) -> Int8Model:
    """Return the model ``data`` quantised statically, with ranges from ``fed`` (n, *shape).

    ``fed`` is what the graph is fed (see `prepare`). The int8 model takes the same input and
    gives the same output as the float one, floating. ``output`` names the output that counts.

    Raises:
        ModelError: it is quantised already, holds nothing to quantise, or the library failed.
        MissingExtraError: the library is not installed.
        ConfigError: the library has no such calibrator.
    """
    check_installed(format)
    known = _CALIBRATORS[format]
    if recipe.calibrator not in known:
        raise ConfigError(
            f"{recipe.calibrator!r} is not for {format} files",
            where="--calibrator",
            hint=f"they know {', '.join(known)}",
        )
    if format == "onnx":
        from .onnx_int8 import onnx_int8  # noqa: PLC0415  imports the library

        return onnx_int8(data, fed, recipe=recipe, where=where, output=output)
    from .tflite_int8 import tflite_int8  # noqa: PLC0415  imports the library

    return tflite_int8(data, fed, recipe=recipe, where=where, output=output)
