"""A TensorRT engine, run through pycuda's buffers and stream."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ....models.errors import ModelError
from ....models.graph import wrong_input
from ....models.model import ModelSpec, TensorSpec
from ..first_line import first_line
from .library import Library, current, listener, load, said

_Batch = NDArray[Any]
_Outputs = NDArray[np.floating[Any]]
_REOPEN = "what the GPU held is gone: restart the daemon, or open the backend anew"
_FEWER = "run fewer models at once, or a smaller one"
_MEMORY = re.compile("OutOfMemory|could not be allocated")  # what TensorRT says of it


class RefusedPlanError(ModelError):
    """TensorRT does not take a plan: it was built by another version or for another GPU."""


class TensorRtModel:
    """An engine with one input (B, ...) and an output (B, K), which comes as float32.

    ``plan`` must come from `EngineCache`, which has checked it: TensorRT executes what it
    is given. Memory on both sides is allocated here, for the largest batch of the engine's
    profile; larger ones are run in pieces, and row by row where the batch axis is fixed
    at 1. A float16 input takes float16 or float32. One thread at a time.

    Raises:
        RefusedPlanError: TensorRT does not take the plan.
        ModelError: no GPU, no memory, or the engine is of another form.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        where: str,
        output: str | None = None,
        library: Library | None = None,
    ) -> None:
        self._library = load(where=where) if library is None else library
        self._where = where
        self._says = listener(self._library.trt)
        self._lost: str | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._execution: Any = None
        self._stream: Any = None
        self._memory: list[Any] = []
        self._fed: Any = None
        self._given: Any = None
        self._fed_now: Any = None  # of both, as many rows as the engine is set to
        self._given_now: Any = None
        self._ready: tuple[int, ...] | None = None  # the shape that the engine is set to
        self.runs_on = f"tensorrt {self._library.version}, {self._library.gpu.name}"
        cuda = self._library.cuda
        try:
            self._context = cuda.Device(0).retain_primary_context()
        except cuda.Error as error:
            raise ModelError(f"the GPU refuses: {first_line(error)}", where=where) from error
        try:
            with current(self._library, self._context):
                self._open(plan, output)
        except cuda.Error as error:
            self.close()
            raise ModelError(f"the GPU refuses: {first_line(error)}", where=where) from error
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> bool:
        """Whether the GPU's context is gone, so that no call can succeed any more."""
        return self._lost is not None

    def infer(self, batch: _Batch) -> _Outputs:
        """Run ``batch`` (B, *input shape); return the output (B, K) float32, NaN and all.

        Raises:
            ModelError: it does not fit, the engine failed, or the context is `lost`.
        """
        if batch.shape == self._ready and batch.dtype == self._dtype:
            return self._once(batch)
        if self._fed is None:
            raise ModelError("is closed", where=self._where)
        if self._lost is not None:
            raise ModelError(self._lost, where=self._where, hint=_REOPEN)
        if batch.dtype not in self._dtypes or not self._fits(batch.shape):
            raise wrong_input(batch, self.spec.inputs[0], where=self._where)
        starts = range(0, len(batch), self._capacity)
        pieces = [self._piece(batch[start : start + self._capacity]) for start in starts]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def reset(self) -> None:
        """Do nothing: it keeps nothing of a sample."""

    def close(self) -> None:
        """Free what is on the GPU, the engine before what it works on; twice is harmless."""
        if self._context is None:
            return
        context, self._context = self._context, None
        cuda = self._library.cuda
        with contextlib.suppress(cuda.Error), contextlib.ExitStack() as pushed:
            with contextlib.suppress(cuda.Error):  # a lost one may refuse: free what can be freed
                pushed.enter_context(current(self._library, context))
            self._execution = None
            self._engine = None
            self._runtime = None
            self._fed = self._given = self._fed_now = self._given_now = self._ready = None
            for memory in self._memory:
                with contextlib.suppress(cuda.Error):
                    memory.free()
            self._memory = []
            self._stream = None
        with contextlib.suppress(cuda.Error):
            context.detach()

    def _open(self, plan: bytes, output: str | None) -> None:
        """Make everything that a call needs; the context is current."""
        trt, says = self._library.trt, self._says
        says.heard.clear()
        trt.init_libnvinfer_plugins(None, "")
        try:
            self._runtime = trt.Runtime(says)
        except TypeError as error:  # pybind11's word for a constructor that gave nothing
            raise ModelError(f"TensorRT does not start{said(says)}", where=self._where) from error
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            if any(_MEMORY.search(line) for line in says.heard):
                raise self._no_memory(len(plan))
            raise RefusedPlanError(f"TensorRT refuses the engine{said(says)}", where=self._where)
        self._describe(output)
        self._execution = self._engine.create_execution_context()
        if self._execution is None:
            raise self._no_memory(self._engine.device_memory_size)
        self._allocate()

    def _describe(self, output: str | None) -> None:
        """Read input and output off the engine; see `spec`."""
        engine, modes = self._engine, self._library.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == modes.OUTPUT]
        wanted = [name for name in outputs if output in (None, name)]
        if len(inputs) != 1 or not wanted:
            raise self._misfit(f"takes {inputs} and gives {outputs}, wanted {output or 'any'}")
        self._outputs = outputs
        source, target = self._tensor(inputs[0]), self._tensor(wanted[0])
        self.spec = ModelSpec((source,), (target,))
        if not source.shape or None in source.shape[1:]:
            raise self._misfit(f"input {source.name!r} {source.shape} has free extents")
        if len(target.shape) != 2 or target.shape[1] is None or target.dtype.kind != "f":
            raise self._misfit(f"output {target.name!r} is {target.dtype} {target.shape}")
        self._classes = target.shape[1]
        self._shape = cast("tuple[int, ...]", source.shape[1:])
        floats = {source.dtype, np.dtype(np.float32)}
        self._dtype = source.dtype
        self._dtypes = floats if source.dtype == np.float16 else {source.dtype}
        self._capacity = source.shape[0] or self._largest(source.name)

    def _tensor(self, name: str) -> TensorSpec:
        trt = self._library.trt
        try:
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise self._misfit(f"tensor {name!r} is of a type that numpy has not") from error
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise self._misfit(f"tensor {name!r} is not on the GPU")
        extents = (int(extent) for extent in self._engine.get_tensor_shape(name))
        return TensorSpec(name, dtype, tuple(None if one < 0 else one for one in extents))

    def _largest(self, name: str) -> int:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        if least[0] > 1 or most[0] < 1:
            raise self._misfit(f"is built for batches of {least[0]} to {most[0]}")
        return int(most[0])

    def _allocate(self) -> None:
        """Allocate memory on both sides for the largest batch, and tell the engine where."""
        cuda, (source,), (target,) = self._library.cuda, *self.spec
        self._stream = cuda.Stream()
        self._set_shape(self._capacity)
        fed_shape = (self._capacity, *self._shape)
        self._fed = self._pinned(fed_shape, source.dtype)
        self._to = self._on_gpu(source.name, self._fed.nbytes)
        for name in self._outputs:
            shape = tuple(self._execution.get_tensor_shape(name))
            if min(shape, default=1) < 0:
                raise self._misfit(f"output {name!r} {shape} depends on the data")
            memory = self._on_gpu(name, math.prod(shape) * self._tensor(name).dtype.itemsize)
            if name == target.name:
                self._from = memory
                self._given = self._pinned(shape, target.dtype)
                if shape != (self._capacity, self._classes):
                    raise self._misfit(f"gives {shape} for {self._capacity} rows")
        self._make_ready(self._capacity)

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Batch:
        """Return page-locked memory, which the GPU reads and writes without a copy between."""
        try:
            memory: _Batch = self._library.cuda.pagelocked_empty(shape, dtype)
        except self._library.cuda.MemoryError as error:
            raise self._no_memory(math.prod(shape) * dtype.itemsize) from error
        self._memory.append(memory.base)  # freed by name: an error's traceback may hold the array
        return memory

    def _on_gpu(self, name: str, size_bytes: int) -> Any:  # noqa: ANN401  untyped
        try:
            memory = self._library.cuda.mem_alloc(max(size_bytes, 1))
        except self._library.cuda.MemoryError as error:
            raise self._no_memory(size_bytes) from error
        self._memory.append(memory)
        if not self._execution.set_tensor_address(name, int(memory)):
            raise self._misfit(f"takes no memory for {name!r}{said(self._says)}")
        return memory

    def _set_shape(self, rows: int) -> None:
        """Tell the engine how many rows come; what a fixed batch axis knows by itself."""
        source = self.spec.inputs[0]
        self._ready = None  # unknown, should it fail
        if source.shape[0] is not None:
            return
        self._says.heard.clear()
        if not self._execution.set_input_shape(source.name, (rows, *self._shape)):
            raise ModelError(
                f"TensorRT refuses a batch of {rows}{said(self._says)}", where=self._where
            )

    def _make_ready(self, rows: int) -> None:
        self._fed_now, self._given_now = self._fed[:rows], self._given[:rows]
        self._ready = (rows, *self._shape)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        batch = self.spec.inputs[0].shape[0]
        whole = batch in (None, 1) or (bool(shape) and shape[0] == batch)
        return whole and len(shape) > 0 and shape[0] > 0 and shape[1:] == self._shape

    def _piece(self, rows: _Batch) -> _Outputs:
        """Run as many rows as the memory holds, at most."""
        if rows.shape != self._ready:
            try:
                with current(self._library, self._context):
                    self._set_shape(len(rows))
            except self._library.cuda.Error as error:
                raise self._failed(error) from error
            self._make_ready(len(rows))
        return self._once(rows)

    def _once(self, rows: _Batch) -> _Outputs:
        """Run rows of the shape that the engine is set to; on the way of every sample."""
        cuda = self._library.cuda
        try:
            self._context.push()
            try:
                np.copyto(self._fed_now, rows, casting="same_kind")
                cuda.memcpy_htod_async(self._to, self._fed_now, self._stream)
                self._says.heard.clear()
                if not self._execution.execute_async_v3(self._stream.handle):
                    self._stream.synchronize()  # raises if it was the context's end
                    raise ModelError(f"TensorRT failed{said(self._says)}", where=self._where)
                cuda.memcpy_dtoh_async(self._given_now, self._from, self._stream)
                self._stream.synchronize()
            finally:
                cuda.Context.pop()
        except cuda.Error as error:
            raise self._failed(error) from error
        outputs: _Outputs = self._given_now.astype(np.float32)
        return outputs

    def _failed(self, error: Exception) -> ModelError:
        """Return what CUDA's error means; all but a want of memory stick to the context."""
        if isinstance(error, self._library.cuda.MemoryError):
            what = f"the GPU is out of memory: {first_line(error)}"
            return ModelError(what, where=self._where, hint=_FEWER)
        self._ready = None
        self._lost = f"the GPU failed: {first_line(error)}"
        return ModelError(self._lost, where=self._where, hint=_REOPEN)

    def _misfit(self, what: str) -> ModelError:
        return ModelError(f"an engine of another form: {what}", where=self._where)

    def _no_memory(self, asked_bytes: int) -> ModelError:
        free_bytes, total_bytes = self._library.cuda.mem_get_info()
        return ModelError(
            f"the GPU is out of memory: {asked_bytes} bytes were asked for, "
            f"{free_bytes} of {total_bytes} are free{said(self._says)}",
            where=self._where,
            hint=_FEWER,
        )
