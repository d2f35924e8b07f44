"""LiteRT, which runs TFLite files; `tflite-runtime` where only that is installed."""

from __future__ import annotations

import ctypes
import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, MissingExtraError, ModelError
from ...models.graph import fits, model_spec, wrong_input
from ...models.model import ModelSpec
from ...models.quantisation import dequantiser, quantise
from ...models.tflite_graph import check_tflite
from ..trust import why_untrusted
from .first_line import first_line
from .give_back import give_back
from .options import BackendOptions

_LIBRARIES = ("ai_edge_litert", "tflite_runtime")
_Batch = NDArray[Any]
_Outputs = NDArray[np.floating[Any]]


def library() -> str | None:
    """Return the name of the first library that is installed; None: there is none."""
    return next((name for name in _LIBRARIES if find_spec(name) is not None), None)


class TfliteModel:
    """A TFLite graph with one input (B, ...) and an output (B, K), integers or floats.

    A batch axis that the file leaves free is resized when another batch comes; one that is
    fixed at 1 is run row by row. So is a graph that keeps a state (a recurrent net) from one
    row to the next; unless ``keeps_state``, it starts anew with every row.
    """

    def __init__(
        self,
        data: bytes,
        *,
        where: str,
        options: BackendOptions | None = None,
        output: str | None = None,
        keeps_state: bool = True,
    ) -> None:
        options = options or BackendOptions()
        self._remembers = check_tflite(data, where=where).stateful
        self.spec: ModelSpec = model_spec(data, format="tflite", output=output, where=where)
        self._where = where
        self._input, given = self.spec.inputs[0], self.spec.outputs[0]
        self._dtype, self._quantised = self._input.dtype, self._input.quantisation
        threads = options.threads or 1
        found, module = _interpreters(where=where)
        self._interpreter = _interpreter(module, data, options, threads=threads, where=where)
        self._from = _index(self._interpreter.get_input_details(), self._input.name)
        self._to = _index(self._interpreter.get_output_details(), given.name)
        self._real = (
            None if given.quantisation is None else dequantiser(given.quantisation, given.dtype)
        )
        self._forgets = self._remembers and not keeps_state
        self._one_by_one = self._remembers or self._input.shape[0] == 1
        self._shape: tuple[int, ...] = ()
        self._resize((1, *(1 if extent is None else extent for extent in self._input.shape[1:])))
        through = "XNNPACK" if options.delegate is None else options.delegate
        self.runs_on = f"{found}, {through}, {threads} thread{'s' * (threads > 1)}"

    def infer(self, batch: _Batch) -> _Outputs:
        """Run ``batch`` (B, *input shape); return the output (B, K), NaN and all."""
        if batch.shape != self._shape:
            return self._reshaped(batch)
        if batch.dtype != self._dtype:
            batch = self._stored(batch)
        interpreter = self._interpreter
        try:
            if self._forgets:
                interpreter.reset_all_variables()
            interpreter.set_tensor(self._from, batch)
            interpreter.invoke()
            given: _Batch = interpreter.get_tensor(self._to)
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error
        return given if self._real is None else self._real(given)

    def reset(self) -> None:
        """Forget what a recurrent net has kept."""
        if self._remembers and self._interpreter is not None:
            self._interpreter.reset_all_variables()

    def close(self) -> None:
        """Free the interpreter and its tensors."""
        self._interpreter = None
        self._shape = (-1,)
        self._reshaped = self._refuse  # type: ignore[method-assign]
        give_back()

    def _stored(self, batch: _Batch) -> _Batch:
        if self._quantised is None or batch.dtype != np.float32:
            raise wrong_input(batch, self._input, where=self._where)
        return quantise(batch, self._quantised, self._dtype)

    def _reshaped(self, batch: _Batch) -> _Outputs:
        """Run a batch of another shape than the last."""
        if not fits(batch, self._input):
            raise wrong_input(batch, self._input, where=self._where)
        if self._one_by_one and len(batch) > 1:
            rows: _Outputs = np.concatenate([self.infer(row[None]) for row in batch])
            return rows
        self._resize(batch.shape)
        outputs = self.infer(batch)
        if outputs.ndim != 2 or len(outputs) != len(batch):
            raise ModelError(f"gave {outputs.shape} for a batch of {len(batch)}", where=self._where)
        return outputs

    def _resize(self, shape: tuple[int, ...]) -> None:
        try:
            if self._shape or None in self._input.shape[1:]:
                self._interpreter.resize_tensor_input(self._from, shape)
            self._shape = ()  # unknown, should it fail
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error
        self._shape = shape

    def _refuse(self, batch: _Batch) -> NoReturn:  # noqa: ARG002  stands in for the way above
        raise ModelError("is closed", where=self._where)

    def _failed(self, error: Exception) -> ModelError:
        return ModelError(f"LiteRT failed: {first_line(error)}", where=self._where)


def _interpreters(*, where: str) -> tuple[str, Any]:
    """Return the library's name and version, and its module of interpreters."""
    name = library()
    if name is None:
        raise MissingExtraError("ai-edge-litert", extra="tflite")
    try:
        module = importlib.import_module(f"{name}.interpreter")
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{name} cannot be imported: {first_line(error)}",
            where=where,
            hint="pip install 'hedge-runtime[tflite]'; tflite-runtime needs numpy < 2",
        ) from error
    version = getattr(importlib.import_module(name), "__version__", "of no version")
    return f"{name} {version}", module


def _interpreter(
    module: Any,  # noqa: ANN401  one of two libraries
    data: bytes,
    options: BackendOptions,
    *,
    threads: int,
    where: str,
) -> Any:  # noqa: ANN401
    delegates = None if options.delegate is None else [_delegate(module, options)]
    try:
        return module.Interpreter(
            model_content=data, num_threads=threads, experimental_delegates=delegates
        )
    except Exception as error:  # tflite-runtime beside numpy 2 raises what it likes
        raise ModelError(
            f"LiteRT refuses it: {first_line(error)}",
            where=where,
            hint="tflite-runtime needs numpy < 2" if "numpy" in str(error).lower() else None,
        ) from error


def _delegate(module: Any, options: BackendOptions) -> Any:  # noqa: ANN401
    path = cast("str", options.delegate)
    if not path.startswith("/"):
        raise ConfigError("is no absolute path", where=f"delegate {path!r}")
    try:
        why_not = why_untrusted(Path(path))
        if why_not is not None:
            raise ConfigError(
                f"is not trusted: {why_not}",
                where=f"delegate {path!r}",
                hint="a library runs with all our rights: chown root, chmod go-w",
            )
        ctypes.PyDLL(path)  # theirs, when it fails, prints a traceback of its own
        return module.load_delegate(path, dict(options.delegate_options))
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cannot be loaded: {first_line(error)}",
            where=f"delegate {path!r}",
            hint="is it built for this machine and this version of the library?",
        ) from error


def _index(details: list[dict[str, Any]], name: str) -> int:
    found: int = next(one["index"] for one in details if one["name"] == name)
    return found
