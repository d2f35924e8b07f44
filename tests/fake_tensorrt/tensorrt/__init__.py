"""The fake of TensorRT 10: what hedge calls of its Python API, with the bindings' signatures.

A "plan" is the ONNX file with what it was built for; an engine runs it in ONNX Runtime, on
what lies in the fake GPU's memory, and rounds as its precision would.
"""

# ruff: noqa: ARG002 -- what is to be overridden has the bindings' argument names

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

GPU = importlib.import_module("fake_gpu").GPU
__version__: str = GPU.script.tensorrt
_PLAN = b"fake plan\n"
_SCRATCH_BYTES = 4096


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class BuilderFlag(IntEnum):
    FP16 = 0
    INT8 = 1
    TF32 = 6


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


_TYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int8)": DataType.INT8,
    "tensor(uint8)": DataType.UINT8,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(bool)": DataType.BOOL,
    "tensor(bfloat16)": DataType.BF16,
}
_NUMPY: dict[DataType, type[np.generic]] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}


def nptype(trt_type: DataType) -> type[np.generic]:
    if trt_type in _NUMPY:
        return _NUMPY[trt_type]
    raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")


def init_libnvinfer_plugins(logger: ILogger | None, namespace: str) -> bool:  # noqa: ARG001
    return True


class ILogger:
    class Severity(IntEnum):
        """How bad it is."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise AssertionError("to be overridden")


class _First:
    """TensorRT keeps the first logger of the process, and ignores all others."""

    logger: ILogger | None = None

    @classmethod
    def error(cls, text: str) -> None:
        assert cls.logger is not None
        lines = f"{text}\nand a second line"
        cls.logger.log(ILogger.Severity.ERROR, lines)

    @classmethod
    def take(cls, logger: ILogger) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError("incompatible constructor arguments")
        if cls.logger is None:
            cls.logger = logger
        if GPU.script.devices == 0:
            cls.error("CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")


class Dims:
    """A shape; no tuple, but equal to one, as the binding's."""

    def __init__(self, shape: Any = ()) -> None:  # noqa: ANN401  a sequence
        self._shape = tuple(int(one) for one in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (tuple, list, Dims)) and self._shape == tuple(other)

    def __hash__(self) -> int:
        return hash(self._shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __getitem__(self, arg0: Any) -> Any:  # noqa: ANN401  an index or a slice
        return self._shape[arg0]


class IHostMemory(bytes):
    """What can be read as a buffer."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return super().__len__()


# ---- running


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _First.take(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        GPU.check("deserialize")
        about, model = _opened(bytes(serialized_engine))
        if GPU.script.plan_too_large:
            _First.error(
                "[defaultAllocator.cpp::allocate] Error Code 1: Cuda Runtime (OutOfMemory)"
            )
            _First.error("[engine.cpp::readEngine] Error Code 2: OutOfMemory")
            return None
        if about["version"] != __version__:
            _First.error("The engine plan file is not compatible with this version of TensorRT")
            return None
        if tuple(about["capability"]) != GPU.script.capability:
            _First.error("The engine plan file is generated on an incompatible device")
            return None
        return ICudaEngine(about, model)


def _opened(plan: bytes) -> tuple[dict[str, Any], bytes]:
    head, rest = plan[: len(_PLAN)], plan[len(_PLAN) :]
    digest, body = rest[:32], rest[32:]
    if head != _PLAN or hashlib.sha256(body).digest() != digest:
        raise AssertionError("a plan that nobody has checked: the real library crashes or worse")
    line, model = body.split(b"\n", 1)
    about: dict[str, Any] = json.loads(line)
    return about, model


def _sealed(about: dict[str, Any], model: bytes) -> IHostMemory:
    body = json.dumps(about).encode() + b"\n" + model
    return IHostMemory(_PLAN + hashlib.sha256(body).digest() + body)


class _Tensor:
    def __init__(self, found: Any, mode: TensorIOMode) -> None:  # noqa: ANN401
        self.name: str = found.name
        self.mode = mode
        self.dtype = _TYPES[found.type]
        self.shape = tuple(one if isinstance(one, int) else -1 for one in found.shape)

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(nptype(self.dtype))


class ICudaEngine:
    def __init__(self, about: dict[str, Any], model: bytes) -> None:
        self._about = about
        self._session = _session(model)
        self._tensors = {
            one.name: one
            for one in (
                *(_Tensor(one, TensorIOMode.INPUT) for one in self._session.get_inputs()),
                *(_Tensor(one, TensorIOMode.OUTPUT) for one in self._session.get_outputs()),
            )
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def device_memory_size(self) -> int:
        return _SCRATCH_BYTES

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name].mode

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name].shape)

    def get_tensor_location(self, name: str) -> TensorLocation:
        assert name in self._tensors
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        assert profile_index == 0
        return [Dims(one) for one in self._about["profile"][name]]

    def create_execution_context(self, strategy: int = 0) -> IExecutionContext | None:
        GPU.check("create_execution_context")
        if GPU.script.context_refused or GPU.free_bytes() < _SCRATCH_BYTES:
            _First.error("Requested amount of GPU memory (4096 bytes) could not be allocated")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {
            one.name: one.shape
            for one in engine._tensors.values()
            if one.mode is TensorIOMode.INPUT
        }
        GPU.reserved_bytes += _SCRATCH_BYTES

    def __del__(self) -> None:
        if hasattr(self, "_addresses"):
            GPU.reserved_bytes -= _SCRATCH_BYTES

    def set_input_shape(self, name: str, shape: Any) -> bool:  # noqa: ANN401  tuple, list or Dims
        GPU.shapes_set += 1
        tensor = self._engine._tensors[name]
        least, _, most = self._engine._about["profile"].get(name, [tensor.shape] * 3)
        wanted = tuple(shape)
        fits = len(wanted) == len(most) and all(
            low <= have <= high for low, have, high in zip(least, wanted, most, strict=True)
        )
        if GPU.script.shapes_refused or not fits:
            self._shapes[name] = (-1,) * len(wanted)  # nobody says what it is after a refusal
            _First.error(f"IExecutionContext::setInputShape: Error Code 3: {wanted} not in profile")
            return False
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return Dims(self._shapes[name])
        rows = next(iter(self._shapes.values()))[0]
        first, *rest = self._engine._tensors[name].shape
        return Dims((rows if first < 0 else first, *rest))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if GPU.script.memory_refused or type(memory) is not int:
            _First.error("IExecutionContext::setTensorAddress: Error Code 3")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        GPU.executions += 1
        tensors = self._engine._tensors
        unset = [name for name in tensors if name not in self._addresses]
        free = [name for name, shape in self._shapes.items() if min(shape) < 0]
        if unset or free or GPU.executions == GPU.script.refused_at or GPU.lost:
            _First.error(f"IExecutionContext::enqueueV3: Error Code 3: {unset}{free}{GPU.lost}")
            return False
        last, shapes = GPU.executions == GPU.script.lost_at, dict(self._shapes)
        GPU.streams[stream_handle].append(lambda: self._compute(shapes, last=last))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], *, last: bool) -> None:
        if last:
            GPU.lost = "unspecified launch failure"
            return
        engine, fed = self._engine, {}
        for name, shape in shapes.items():
            dtype = engine._tensors[name].numpy
            size = int(np.prod(shape)) * dtype.itemsize
            held = np.frombuffer(GPU.at(self._addresses[name], size), dtype).reshape(shape)
            fed[name] = _rounded(held, engine._about)
        names = [one.name for one in engine._session.get_outputs()]
        for name, given in zip(names, engine._session.run(names, fed), strict=True):
            outputs = np.ascontiguousarray(_rounded(given, {**engine._about, "ranges": {}}))
            if GPU.script.infinite:
                outputs = np.full_like(outputs, np.nan)
            GPU.at(self._addresses[name], outputs.nbytes)[:] = outputs.tobytes()


def _rounded(values: NDArray[Any], about: dict[str, Any]) -> NDArray[Any]:
    """Return ``values`` as the precision would hold them."""
    if values.dtype.kind != "f" or about["precision"] == "fp32":
        return values
    if about["ranges"]:
        scale = about["ranges"]["input"] / 127
        held: NDArray[Any] = np.clip(np.rint(values / scale), -128, 127) * scale
        return held.astype(values.dtype)
    return values.astype(np.float16).astype(values.dtype)


def _session(model: bytes) -> Any:  # noqa: ANN401  untyped
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ---- building


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise AssertionError("to be overridden")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise AssertionError("to be overridden")

    def phase_finish(self, phase_name: str) -> None:
        raise AssertionError("to be overridden")


class IInt8EntropyCalibrator2:
    def get_batch_size(self) -> int:
        raise AssertionError("to be overridden")

    def get_batch(self, names: list[str]) -> list[int] | None:
        raise AssertionError("to be overridden")

    def read_calibration_cache(self) -> bytes | None:
        raise AssertionError("to be overridden")

    def write_calibration_cache(self, cache: memoryview) -> None:
        raise AssertionError("to be overridden")


class ITimingCache:
    def __init__(self, held: bytes) -> None:
        self._held = held

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._held)


class ITensor:
    def __init__(self, tensor: _Tensor) -> None:
        self.name = tensor.name
        self.dtype = tensor.dtype
        self.shape = Dims(tensor.shape)


class INetworkDefinition:
    def __init__(self) -> None:
        self._model: bytes | None = None

    def get_input(self, index: int) -> ITensor:
        assert self._model is not None
        return ITensor(_Tensor(_session(self._model).get_inputs()[index], TensorIOMode.INPUT))


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002, ANN401
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._calibration_profile: IOptimizationProfile | None = None
        self._timing: ITimingCache | None = None
        self._limits: dict[MemoryPoolType, int] = {}
        self.int8_calibrator: IInt8EntropyCalibrator2 | None = None
        self.progress_monitor: IProgressMonitor | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return True

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        assert not ignore_mismatch
        self._timing = cache
        return cache.serialize() in (b"", b"times of 1 build", b"times of 2 builds")

    def get_timing_cache(self) -> ITimingCache:
        assert self._timing is not None
        many = b"2 builds" if self._timing.serialize() else b"1 build"
        return ITimingCache(b"times of " + many)


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        assert path is None
        if GPU.script.parse_error is not None:
            self._errors.append(ParserError(GPU.script.parse_error))
            return False
        self._network._model = bytes(model)
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        _First.take(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 0
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        assert network._model is not None
        model = network._model
        if not _reported(config.progress_monitor):
            return None
        _misbehave(GPU.script.build)
        problem = _problem(network, config, model)
        if problem is not None:
            _First.error(problem)
            return None
        calibrator = config.int8_calibrator
        about = {
            "version": __version__,
            "capability": GPU.script.capability,
            "precision": _precision(config),
            "profile": config._profiles[0]._shapes if config._profiles else {},
            "ranges": {} if calibrator is None else _calibrated(calibrator, network),
        }
        return _sealed(about, model)


def _misbehave(how: str) -> None:
    if how == "hangs":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # as in C++, Python hears nothing
        time.sleep(600)
    if how == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)


def _reported(monitor: IProgressMonitor | None) -> bool:
    """Report an outer phase of four steps, the third of which is a phase of ten; False: stop."""
    if monitor is None:
        return True
    monitor.phase_start("Building Engine", None, 4)
    for step in range(4):
        if step == 2:
            monitor.phase_start("Timing tactics", "Building Engine", 10)
            for inner in range(10):
                time.sleep(GPU.script.step_s)
                if not monitor.step_complete("Timing tactics", inner):
                    return False
            monitor.phase_finish("Timing tactics")
        if not monitor.step_complete("Building Engine", step):
            return False
    monitor.phase_finish("Building Engine")
    return True


def _problem(network: INetworkDefinition, config: IBuilderConfig, model: bytes) -> str | None:
    if GPU.script.build == "fails":
        return "Error Code 10: Internal Error (Could not find any implementation for node /fc.)"
    free = min(tuple(network.get_input(0).shape)) < 0
    if free and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    quantised, int8 = b"QuantizeLinear" in model, BuilderFlag.INT8 in config._flags
    if quantised and not int8:
        return "Network has INT8 Q/DQ layers, but the INT8 flag is not set."
    if int8 and not quantised and config.int8_calibrator is None:
        return "Calibration failure: no calibrator and no dynamic ranges."
    if int8 and not quantised and free and config._calibration_profile is None:
        return "Calibration profile is not defined."
    return None


def _precision(config: IBuilderConfig) -> str:
    if BuilderFlag.INT8 in config._flags:
        return "int8"
    if BuilderFlag.FP16 in config._flags:
        return "fp16"
    return "tf32" if BuilderFlag.TF32 in config._flags else "fp32"


def _calibrated(
    calibrator: IInt8EntropyCalibrator2, network: INetworkDefinition
) -> dict[str, float]:
    """Return the largest value that went in: what a calibration comes to, at its simplest."""
    rows, source, largest = calibrator.get_batch_size(), network.get_input(0), 0.0
    dtype = np.dtype(nptype(source.dtype))
    size = rows * int(np.prod(source.shape[1:])) * dtype.itemsize
    assert calibrator.read_calibration_cache() is None
    while True:
        addresses = calibrator.get_batch([source.name])
        if not addresses:
            break
        held = np.frombuffer(GPU.at(addresses[0], size), dtype)
        largest = max(largest, float(np.abs(held).max()))
    calibrator.write_calibration_cache(memoryview(b"ranges"))
    return {"input": largest}
