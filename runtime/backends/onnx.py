"""ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...models.errors import ConfigError, ModelError
from ...models.graph import fits, model_spec, wrong_input
from ...models.model import ModelSpec, TensorSpec
from .first_line import first_line
from .give_back import give_back
from .options import CPU, BackendOptions

_log = logging.getLogger(__name__)

_Batch = NDArray[Any]
_Outputs = NDArray[np.floating[Any]]
_ERRORS_ONLY = 3
_NOTHING_BUT_CRASHES = 4
_LOOK = "its own log says why; fallback = true runs without"


class OnnxModel:
    """An ONNX graph with one input (B, ...) and an output (B, K).

    A single sample goes through buffers that were bound on opening, which saves a third to
    a half of the call of a small model; so one thread at a time. Outputs are fresh arrays.
    A graph whose batch axis is fixed at 1 is run row by row.
    """

    def __init__(
        self,
        data: bytes,
        *,
        where: str,
        options: BackendOptions | None = None,
        output: str | None = None,
    ) -> None:
        options = options or BackendOptions()
        self.spec: ModelSpec = model_spec(data, format="onnx", output=output, where=where)
        self._where = where
        self._input, self._output = self.spec.inputs[0], self.spec.outputs[0]
        threads = options.threads or 1
        self._session = _session(data, options, threads=threads, where=where)
        through = ", ".join(self._session.get_providers())
        many = "s" * (threads > 1)
        self.runs_on = f"onnxruntime {onnxruntime.__version__}, {through}, {threads} thread{many}"
        self._single_shape = cast("tuple[int, ...]", (1, *self._input.shape[1:]))
        self._dtype = self._input.dtype
        self._single = self._bound() if _is_fixed(self._input, self._output) else self._run
        self._several = self._row_by_row if self._input.shape[0] == 1 else self._run

    def infer(self, batch: _Batch) -> _Outputs:
        """Run ``batch`` (B, *input shape); return the output (B, K), NaN and all."""
        if batch.shape == self._single_shape and batch.dtype == self._dtype:
            return self._single(batch)
        if not fits(batch, self._input):
            raise wrong_input(batch, self._input, where=self._where)
        return self._several(batch)

    def reset(self) -> None:
        """Do nothing: it keeps nothing of a sample."""

    def close(self) -> None:
        """Free the session and its buffers."""
        self._single = self._several = self._refuse
        self._session = None
        give_back()

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
        return ModelError(f"ONNX Runtime failed: {first_line(error)}", where=self._where)


def _session(data: bytes, asked: BackendOptions, *, threads: int, where: str) -> Any:  # noqa: ANN401  the library is untyped
    providers = _providers(asked)
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)  # its sessions inherit it
    options = onnxruntime.SessionOptions()
    if providers == [CPU]:  # of which all that goes wrong is raised; others tell more in its log
        options.log_severity_level = _NOTHING_BUT_CRASHES
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guess
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting is no work
    if CPU not in providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in asked.session_options.items():
        options.add_session_config_entry(key, value)
    try:
        session = onnxruntime.InferenceSession(
            data,
            options,
            providers=providers,
            provider_options=[asked.provider_options.get(name, {}) for name in providers],
        )
    except Exception as error:  # the library's errors share no base
        hint = None if CPU in providers else "fallback = true lets the CPU run the rest"
        raise ModelError(
            f"ONNX Runtime refuses it: {first_line(error)}", where=where, hint=hint
        ) from error
    left_out = [name for name in asked.providers if name not in session.get_providers()]
    if left_out and not asked.fallback:
        raise ModelError(f"ONNX Runtime could not start {left_out[0]}", where=where, hint=_LOOK)
    for name in left_out:
        _log.warning("%s: runs without %s, which is not there or could not start", where, name)
    return session


def _providers(asked: BackendOptions) -> list[str]:
    """Return the providers to open with; with a fallback those that are there, and the CPU."""
    if not asked.providers:
        return [CPU]
    there = onnxruntime.get_available_providers()
    if asked.fallback:
        return [*(one for one in asked.providers if one in there and one != CPU), CPU]
    for name in asked.providers:
        if name not in there:
            raise ConfigError(
                "is not in the ONNX Runtime that is installed",
                where=f"backend provider {name}",
                hint=f"it has {', '.join(there)}; fallback = true runs without",
            )
    return list(asked.providers)


def _is_fixed(source: TensorSpec, target: TensorSpec) -> bool:
    """Tell whether all extents but the batch are known, so that buffers can be bound."""
    return None not in source.shape[1:] and target.shape[1] is not None
