"""Builds one engine and puts it into the cache: `python -m hedge.runtime.backends.tensorrt.build`.

It runs in a process of its own, for it takes minutes, a gigabyte, and may crash: nice, first to
go where memory runs out, and gone with the daemon that started it. The request comes on standard
input; progress goes out as a service's does to systemd; what is wrong is its last line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ....models.errors import HedgeError, ModelError
from ....models.onnx_graph import check_graph
from ...children import die_with_parent
from ...notify import Notifier
from ..first_line import first_line
from .calibration import Rows, calibrator
from .engine_cache import EngineCache, EngineKey, TimingKey
from .library import Library, current, listener, load, said

WAITING = "waiting for another build"
_NICE = 10
_FIRST_VICTIM = "1000"
_EVERY_S = 0.2
_DEEPEST = 16
_QDQ = frozenset({("", "QuantizeLinear"), ("", "DequantizeLinear")})

Report = Callable[[float, str], None]
"""Takes how much is done, 0 to 1, and what is being done."""


class BuildRequest(Struct, frozen=True, kw_only=True):
    """What to build: the ONNX file, the key to keep it under, and where.

    ``rows`` calibrate int8; None where the graph carries its own scales, or for floats.
    """

    model: bytes
    where: str
    key: EngineKey
    rows: Rows | None
    cache: str
    cache_max_bytes: int


def is_quantised(model: bytes, *, where: str) -> bool:
    """Tell whether an ONNX graph carries its own scales, in QuantizeLinear and its like.

    Raises:
        ModelError: the graph may not run.
    """
    return bool(check_graph(model, where=where).operators & _QDQ)


def main() -> int:
    """Build what standard input asks for; return the exit code."""
    die_with_parent(os.environ)
    os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM, "ascii")
    with contextlib.closing(Notifier()) as notifier:

        def report(done: float, what: str) -> None:
            notifier.send(f"X_HEDGE_DONE={done:.3f}\nSTATUS={what}")

        try:
            request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=BuildRequest)
            build(request, report=report)
        except HedgeError as error:
            print(error, file=sys.stderr)  # noqa: T201  the last line is what the parent reads
            return 1
    return 0


def build(request: BuildRequest, *, report: Report) -> None:
    """Build an engine and keep it, unless another process has done so meanwhile.

    Raises:
        HedgeError: this machine is not what the key says, or TensorRT or the disk refuses.
    """
    library = load(where=request.where)
    if (library.version, library.gpu) != (request.key.tensorrt, request.key.gpu):
        raise ModelError("TensorRT or the GPU has changed meanwhile", where=request.where)
    if hashlib.sha256(request.model).hexdigest() != request.key.model_sha256:
        raise ModelError("is not the model that was asked for", where=request.where)
    cache = EngineCache(Path(request.cache), max_bytes=request.cache_max_bytes)
    with cache.building(waits=lambda: report(0.0, WAITING)):
        if cache.load(request.key) is None:
            report(0.0, "reading the model")
            plan = _plan(request, library, cache, report=report)
            cache.store(request.key, plan)


class _Made(NamedTuple):
    """What one build is made of; TensorRT wants them alive until it ends."""

    builder: Any
    network: Any
    config: Any
    profile: Any


def _plan(request: BuildRequest, library: Library, cache: EngineCache, *, report: Report) -> bytes:
    trt, says = library.trt, listener(library.trt)
    try:
        with contextlib.ExitStack() as stack:
            context = library.cuda.Device(0).retain_primary_context()
            stack.callback(context.detach)
            stack.enter_context(current(library, context))
            trt.init_libnvinfer_plugins(None, "")
            made = _network(request, library)
            _set_precision(made, request, library)
            _calibrate(made, request, library, stack)
            _bound_memory(made.config, library)
            timing = _use_timing(made.config, library, cache)
            watch = _monitor(trt, report)
            made.config.progress_monitor = watch
            says.heard.clear()
            plan = made.builder.build_serialized_network(made.network, made.config)
            if plan is None:
                raise ModelError(f"TensorRT builds no engine{said(says)}", where=request.where)
            with contextlib.suppress(ModelError):  # it only makes the next build faster
                cache.store(timing, bytes(made.config.get_timing_cache().serialize()))
            return bytes(plan)
    except library.cuda.Error as error:
        raise ModelError(f"the GPU failed: {first_line(error)}", where=request.where) from error


def _network(request: BuildRequest, library: Library) -> _Made:
    """Parse the model; give its free batch axis the profile that the key states."""
    trt, says = library.trt, listener(library.trt)
    says.heard.clear()
    try:
        builder = trt.Builder(says)
    except TypeError as error:  # pybind11's word for a constructor that gave nothing
        raise ModelError(f"TensorRT does not start{said(says)}", where=request.where) from error
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, says)
    if not parser.parse(request.model):
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        first = f": {errors[0]}".partition("\n")[0] if errors else said(says)
        raise ModelError(
            f"TensorRT cannot run this graph{first}",
            where=request.where,
            hint='use = "onnx" does without TensorRT',
        )
    config, profile = builder.create_builder_config(), None
    if len(request.key.shapes) > 1:
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, *request.key.shapes)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f"no such shapes{said(says)}", where=request.where)
    return _Made(builder, network, config, profile)


def _set_precision(made: _Made, request: BuildRequest, library: Library) -> None:
    """Allow what the precision allows; TensorRT still takes float32 where that is faster.

    float32 is meant: TF32, which keeps 10 bits of 23, is off. int8 falls back to float16.
    """
    flags, config = library.trt.BuilderFlag, made.config
    config.clear_flag(flags.TF32)
    if request.key.precision != "fp32":
        config.set_flag(flags.FP16)
    if request.key.precision == "int8" or is_quantised(request.model, where=request.where):
        config.set_flag(flags.INT8)


def _calibrate(
    made: _Made, request: BuildRequest, library: Library, stack: contextlib.ExitStack
) -> None:
    """Let TensorRT see the rows go through, where there are any."""
    if request.rows is None:
        return
    usual = request.key.shapes[len(request.key.shapes) // 2][0]
    rows = calibrator(library.trt, library.cuda, request.rows.array(), batch=usual)
    stack.callback(rows.free)
    made.config.int8_calibrator = rows
    if made.profile is not None:
        made.config.set_calibration_profile(made.profile)


def _bound_memory(config: Any, library: Library) -> None:  # noqa: ANN401  untyped
    """Leave half of what is free to whoever else uses it: on a Jetson that is the system."""
    free_bytes, _ = library.cuda.mem_get_info()
    config.set_memory_pool_limit(library.trt.MemoryPoolType.WORKSPACE, free_bytes // 2)


def _use_timing(config: Any, library: Library, cache: EngineCache) -> TimingKey:  # noqa: ANN401
    """Begin with the times that an earlier build has measured; an empty cache if none has."""
    key = TimingKey(tensorrt=library.version, gpu=library.gpu)
    times = config.create_timing_cache(cache.load(key) or b"")
    if times is None or not config.set_timing_cache(times, False):  # noqa: FBT003  ignore_mismatch
        config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003
    return key


def _monitor(trt: Any, report: Report) -> Any:  # noqa: ANN401  untyped
    """Return TensorRT's IProgressMonitor that reports, now and then, how far the build is.

    Phases nest: a step of one may be a phase of its own. TensorRT calls from several threads.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is untyped
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps done, of all
            self._told_s = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (parent_phase, 0, max(1, num_steps))
            self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, _, steps = self._phases.get(phase_name, (None, 0, 1))
            self._phases[phase_name] = (parent, step + 1, steps)
            self._tell(phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _tell(self, name: str) -> None:
            now_s = time.monotonic()
            if now_s - self._told_s >= _EVERY_S:
                self._told_s = now_s
                report(self._done(name), name)

        def _done(self, name: str) -> float:
            """Return how much of the outermost phase is done, ``name`` being the innermost."""
            done = 0.0
            inside = self._phases.get(name)
            for _ in range(_DEEPEST):
                if inside is None:
                    break
                parent, steps, of = inside
                done = min(1.0, (steps + done) / of)
                inside = None if parent is None else self._phases.get(parent)
            return done

    return Monitor()


if __name__ == "__main__":
    sys.exit(main())
