"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.graph import GraphInfo, check_graph
from ...models.model import ModelSpec, TensorSpec
from .mismatch import wrong_input

_Batch = NDArray[Any]
_Outputs = NDArray[np.floating[Any]]
_ERRORS_ONLY = 3


class OnnxModel:
    """An ONNX graph with one input (B, ...) and a first output (B, K).

    A single sample goes through buffers that were bound on opening, which saves a third to
    a half of the call of a small model; so one thread at a time. Outputs are fresh arrays.
    A graph whose batch axis is fixed at 1 is run row by row.
    """

    def __init__(
        self,
        data: bytes,
        *,
        where: str,
        threads: int = 1,
        inter_threads: int = 1,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        info = check_graph(data, where=where)
        _check_ends(info, where=where)
        self._spec = ModelSpec(info.inputs, info.outputs)
        self._where = where
        self._input, self._output = info.inputs[0], info.outputs[0]
        self._session = _session(
            data, where=where, threads=threads, inter_threads=inter_threads, provider=provider
        )
        self._single_shape = cast("tuple[int, ...]", (1, *self._input.shape[1:]))
        self._dtype = self._input.dtype
        self._single = self._bound() if _is_fixed(self._input, self._output) else self._run
        self._several = self._row_by_row if self._input.shape[0] == 1 else self._run

    @property
    def spec(self) -> ModelSpec:
        """The graph's inputs and outputs."""
        return self._spec

    def infer(self, batch: _Batch) -> _Outputs:
        """Run ``batch`` (B, *input shape); return the first output (B, K), NaN and all."""
        if batch.shape == self._single_shape and batch.dtype == self._dtype:
            return self._single(batch)
        if batch.dtype != self._dtype or not _fits(batch.shape, self._input.shape):
            raise wrong_input(batch, self._input, where=self._where)
        return self._several(batch)

    def close(self) -> None:
        """Free the session and its buffers."""
        self._single = self._several = self._refuse
        self._session = None

    def _bound(self) -> Callable[[_Batch], _Outputs]:
        """Return the way of one sample, through buffers of its own."""
        session = self._session
        fed = np.zeros(self._single_shape, self._dtype)
        given: _Outputs = np.zeros((1, cast("int", self._output.shape[1])), self._output.dtype)
        binding = session.io_binding()
        for bind, tensor, buffer in (
            (binding.bind_input, self._input, fed),
            (binding.bind_output, self._output, given),
        ):
            bind(tensor.name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

        def single(batch: _Batch) -> _Outputs:
            np.copyto(fed, batch)
            try:
                session.run_with_iobinding(binding)
            except Exception as error:  # the library's errors share no base
                raise self._failed(error) from error
            outputs: _Outputs = given.copy()
            return outputs

        return single

    def _run(self, batch: _Batch) -> _Outputs:
        try:
            outputs: _Outputs = self._session.run([self._output.name], {self._input.name: batch})[0]
        except Exception as error:  # the library's errors share no base
            raise self._failed(error) from error
        if outputs.ndim != 2 or len(outputs) != len(batch):
            raise ModelError(f"gave {outputs.shape} for a batch of {len(batch)}", where=self._where)
        return outputs

    def _row_by_row(self, batch: _Batch) -> _Outputs:
        outputs: _Outputs = np.concatenate([self._single(row[None]) for row in batch])
        return outputs

    def _refuse(self, batch: _Batch) -> NoReturn:  # noqa: ARG002  stands in for the ways above
        raise ModelError("is closed", where=self._where)

    def _failed(self, error: Exception) -> ModelError:
        return ModelError(f"ONNX Runtime failed: {_first_line(error)}", where=self._where)


def _session(  # the library is untyped
    data: bytes, *, where: str, threads: int, inter_threads: int, provider: str
) -> Any:  # noqa: ANN401
    if provider not in onnxruntime.get_available_providers():
        found = ", ".join(onnxruntime.get_available_providers())
        raise ModelError(f"no {provider} in this ONNX Runtime", where=where, hint=f"has {found}")
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)  # its sessions inherit it
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = inter_threads
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guess
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting is no work
    try:
        return onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as error:  # the library's errors share no base
        raise ModelError(f"ONNX Runtime refuses it: {_first_line(error)}", where=where) from error


def _check_ends(info: GraphInfo, *, where: str) -> None:
    if len(info.inputs) != 1 or not info.inputs[0].shape:
        raise ModelError(f"takes {len(info.inputs)} inputs, not one (B, ...)", where=where)
    if not info.outputs or len(info.outputs[0].shape) != 2:
        raise ModelError("its first output is not (B, K)", where=where)
    if not np.issubdtype(info.outputs[0].dtype, np.floating):
        raise ModelError(f"its output is {info.outputs[0].dtype}, not floating", where=where)


def _is_fixed(source: TensorSpec, target: TensorSpec) -> bool:
    """Tell whether all extents but the batch are known, so that buffers can be bound."""
    return None not in source.shape[1:] and target.shape[1] is not None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Tell whether a batch of at least one row has the shape, free extents aside."""
    return (
        len(shape) == len(wanted)
        and shape[0] > 0
        and all(want in (None, have) for have, want in zip(shape[1:], wanted[1:], strict=True))
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
