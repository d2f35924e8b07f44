"""ONNX: static quantisation by ONNX Runtime, as pairs of QuantizeLinear and DequantizeLinear.

Only layers with weights are quantised, and what hands integers on as they are. Other
arithmetic costs little, and much may hang on it: a logarithm of eight bits ruins an input.

Weights get seven bits. x86 processors without VNNI add pairs of products of eight bits in
sixteen, which overflows; of seven bits they fit, so that the file means the same on every
processor. (docs/quantize.md has the figures of both.)
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx.inliner
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from ...models.errors import ModelError
from ...models.onnx_graph import MAX_IR, check_graph
from ..backends.first_line import first_line
from .int8 import Calibrator, Int8Model, Recipe, nothing_quantised

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSING = (
    *("Relu", "Clip", "MaxPool"),
    *("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INTEGER = ("QLinear", "ConvInteger", "MatMulInteger")
_LEAST_OPSET = 13  # from here on scales may be per channel
_METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
}


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands the rows over one by one: calibrators want batches of one size."""

    def __init__(self, name: str, fed: NDArray[Any]) -> None:
        self._samples = iter({name: fed[place : place + 1]} for place in range(len(fed)))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._samples, None)


def onnx_int8(
    data: bytes, fed: NDArray[Any], *, recipe: Recipe, where: str, output: str | None
) -> Int8Model:
    """See `to_int8`; needs operator set 13."""
    _check(data, where=where)
    with _translated(where), tempfile.TemporaryDirectory(prefix="hedge-quantize-") as folder:
        plain = _plain(data, Path(folder))
        keep = _output_layer(plain, output) if recipe.float_output else []
        made = _quantised(plain, fed, Path(folder), keep=keep, calibrator=recipe.calibrator)
    found = check_graph(made, where=where)
    if ("", "QuantizeLinear") not in found.operators:
        raise nothing_quantised(recipe, layers=" or ".join(WEIGHTED), where=where)
    kept = "float" if recipe.float_output else "int8"
    return Int8Model(
        made,
        f"ONNX Runtime {onnxruntime.__version__} static QDQ, {recipe.calibrator}, "
        f"7-bit weights per channel, output layer {kept}",
    )


def _check(data: bytes, *, where: str) -> None:
    info = check_graph(data, where=where)
    names = {name for domain, name in info.operators if domain == ""}
    for name in sorted(names):
        if name in _QUANTISED or name.startswith(_INTEGER):
            raise ModelError(f"is quantised already: it holds {name}", where=where)
    opset = next((version for domain, version in info.opsets if domain == ""), 0)
    if opset < _LEAST_OPSET:
        raise ModelError(
            f"is of operator set {opset}, and int8 per channel needs {_LEAST_OPSET}",
            where=where,
            hint="export it anew",
        )


def _plain(data: bytes, folder: Path) -> Any:  # noqa: ANN401  the library is untyped
    """Return the model with shapes inferred, constants folded, and every node named.

    ONNX Runtime lists all domains that it knows; only those in use are kept.
    """
    model = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
    quant_pre_process(model, folder / "plain.onnx", skip_symbolic_shape=True)
    plain = onnx.load(folder / "plain.onnx")
    used = {node.domain for node in plain.graph.node} | {""}
    kept = [one for one in plain.opset_import if one.domain in used]
    del plain.opset_import[:]
    plain.opset_import.extend(kept)
    for place, node in enumerate(plain.graph.node):
        node.name = f"node {place}"
    return plain


def _output_layer(model: Any, output: str | None) -> list[str]:  # noqa: ANN401
    """Return the names of the nodes from the last weights to the output, weights included."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [output or model.graph.output[0].name]
    names = set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.add(node.name)
        if node.op_type not in WEIGHTED:
            waiting.extend(node.input)
    return sorted(names)


def _quantised(
    plain: Any,  # noqa: ANN401  the library is untyped
    fed: NDArray[Any],
    folder: Path,
    *,
    keep: list[str],
    calibrator: Calibrator,
) -> bytes:
    (source,) = (
        tensor.name
        for tensor in plain.graph.input
        if tensor.name not in {one.name for one in plain.graph.initializer}
    )
    out = folder / "int8.onnx"
    quantization.quantize_static(
        plain,
        out,
        _Reader(source, fed),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=[*WEIGHTED, *_PASSING],
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=keep,
        calibrate_method=_METHODS[calibrator],
    )
    made = onnx.load(out)
    made.ir_version = min(made.ir_version, MAX_IR)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """Silence the library's progress, and translate what it raises."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # the library's errors share no base
        raise ModelError(
            f"ONNX Runtime cannot quantise it: {first_line(error)}", where=where
        ) from error
