"""What a backend adds to its library: per call, over a million calls, at opening, over swaps.

Run by `make bench`. Our `infer` and the bare library's call on the same model are taken in
turn in short rounds, with one thread: machines are shared and noisy, so trust the ratios and
the medians. Where HEDGE_DATA says where they lie, the TFLite models are those of MLPerf Tiny.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.manifest import DType, Edge, Input, Manifest
from hedge.models.model import Model
from hedge.runtime.backends import open_model, open_part
from hedge.runtime.backends.null import NullModel
from hedge.runtime.backends.warm_up import warm_up
from hedge.runtime.bench.latency import Nanoseconds, paired_ratio
from hedge.runtime.bench.machine import this_machine
from hedge.runtime.bench.rounds import Budget, Contender, timed_rounds
from hedge.runtime.probe.probe import probe_model
from hedge.runtime.shipped import bundle_path

HERE = Path(__file__).parent
SEED = 20261
ROWS = 64
SWAPS = 100
SETTLING = 10  # swaps before the memory counts: allocators keep what they will need again
TENTH = 10
OPENINGS = 5
CHANNELS = (4, 32, 96, 192)
READY_MADE = (
    *("mlperf_tiny_ad_autoencoder_int8", "mlperf_tiny_ad_autoencoder_float"),
    *("tflm_mnist_lstm_float", "mlperf_tiny_kws_dscnn_int8", "mlperf_tiny_kws_dscnn_float"),
    *("mlperf_tiny_ic_resnet8_int8", "mlperf_tiny_vww_mobilenet96_int8"),
    "mlperf_tiny_ic_resnet8_float",
)
LIMIT_US = 50.0  # above it the ratio counts, below it what is added
MOST_RATIO = 1.05
MOST_ADDED = 3.0
MOST_SWAP_MB = 2.0
MOST_TRACED_BYTES = 1024  # the measuring itself takes some hundred

# A Python that knows nothing of hedge, for what a library takes by itself.
BARE_BEGIN = """
import json, re, sys, time
import numpy as np
def kept(field):
    found = re.search(rf"{field}:\\s+(\\d+)", open("/proc/self/status").read())
    return int(found[1]) * 1024 / 1e6
data, before, begun = sys.stdin.buffer.read(), kept("VmRSS"), time.perf_counter()
"""
BARE_OPENING = {
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
opened, wanted = time.perf_counter(), session.get_inputs()[0]
dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[wanted.type]
zeros = np.zeros([one if isinstance(one, int) else 1 for one in wanted.shape], dtype)
for _ in range(2):
    session.run(None, {wanted.name: zeros})
""",
    "tflite": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=data, num_threads=1)
interpreter.allocate_tensors()
opened, wanted = time.perf_counter(), interpreter.get_input_details()[0]
target = interpreter.get_output_details()[0]["index"]
for _ in range(2):
    interpreter.set_tensor(wanted["index"], np.zeros(wanted["shape"], wanted["dtype"]))
    interpreter.invoke()
    interpreter.get_tensor(target)
""",
}
BARE_END = """
spent = [1e3 * (opened - begun), 1e3 * (time.perf_counter() - opened)]
peak = kept("VmHWM")
print(json.dumps([*spent, peak, peak - before]))
"""

Batch = NDArray[Any]
Call = Callable[[Batch], Batch]


class Subject(NamedTuple):
    """A model to measure."""

    name: str
    format: str
    data: bytes


# ---- The models, and the bare libraries.


def subjects() -> Iterator[Subject]:
    """Yield every model there is to measure, the small ones of a format first."""
    rng = np.random.default_rng(SEED)
    digits = (bundle_path("digits") / "edge.onnx").read_bytes()
    yield Subject("digits, a perceptron", "onnx", digits)
    convnet = borrowed(HERE / "loop.py").convnet
    for channels in CHANNELS:
        yield Subject(f"convnet, {channels} channels", "onnx", convnet(channels, rng=rng))
    place = os.environ.get("HEDGE_DATA")
    if place is None:
        for name, data in _made():
            yield Subject(name, "tflite", data)
        return
    for name in READY_MADE:
        yield Subject(name, "tflite", Path(place, "models", f"{name}.tflite").read_bytes())


def _made() -> Iterator[tuple[str, bytes]]:
    """Yield TFLite files of one layer, by the maker that the tests have."""
    tests = borrowed(HERE.parent / "conftest.py")
    for width, outputs in ((64, 10), (2048, 256)):
        yield f"{width} x {outputs}, float", tests._linear_tflite(outputs, width=width)
        yield f"{width} x {outputs}, int8", tests._linear_tflite(outputs, width=width, int8=True)


def borrowed(file: Path) -> ModuleType:
    """Return a module beside this one, which is in no package."""
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is not there")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened(subject: Subject) -> Model:
    """Open a model as the device does."""
    return open_model(subject.data, format=subject.format, where=subject.name)


def bare(subject: Subject) -> Call:
    """Open a model by the library alone; return its usual call."""
    return _bare_onnx(subject.data) if subject.format == "onnx" else _bare_tflite(subject.data)


def _bare_onnx(data: bytes) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Batch) -> Batch:
        given: Batch = session.run(None, {name: batch})[0]
        return given

    return run


def _bare_tflite(data: bytes) -> Call:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 -- onnx needs it not

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(batch: Batch) -> Batch:
        interpreter.set_tensor(source, batch)
        interpreter.invoke()
        given: Batch = interpreter.get_tensor(target)
        return given

    return run


def samples(model: Model) -> list[Batch]:
    """Return single samples (1, ...) of noise in the dtype that the graph takes."""
    rng, wanted = np.random.default_rng(SEED), model.spec.inputs[0]
    shape = (ROWS, *(extent or 1 for extent in wanted.shape[1:]))
    if wanted.dtype.kind == "f":
        rows = rng.standard_normal(shape).astype(wanted.dtype)
    else:
        limits = np.iinfo(wanted.dtype)
        rows = rng.integers(limits.min, limits.max, shape, wanted.dtype, endpoint=True)
    return [row[None] for row in rows]


# ---- What is measured.


def per_call(subject: Subject, seconds: float) -> dict[str, Any]:
    """Return the microseconds of the bare library's call, of ours and of none, in turn."""
    with contextlib.closing(opened(subject)) as model:
        batches = samples(model)
        null = NullModel(np.zeros((1, 2), np.float32), shape=batches[0].shape[1:])
        zeros = [np.zeros(batches[0].shape, np.float32)]
        calls = (bare(subject), model.infer, lambda _: null.infer(zeros[0]))
        for call in calls:
            for batch in batches:
                call(batch)
        theirs, ours, none = timed_rounds(
            [Contender(lambda batch: batch, call) for call in calls],
            batches,
            budget=Budget(seconds=seconds),
            seed=SEED,
        )
    ratio = paired_ratio(ours, theirs, seed=SEED)
    pairs = zip(ours, theirs, strict=True)
    added_us = float(np.median([np.median(one) - np.median(other) for one, other in pairs])) / 1e3
    bare_us = _median_us(theirs)
    return {
        "bare_us": bare_us,
        "ours_us": _median_us(ours),
        "null_us": _median_us(none),
        "added_us": round(added_us, 2),
        "ratio": round(ratio.median, 4),
        "ratio_95": [round(ratio.low, 4), round(ratio.high, 4)],
        "rounds": ratio.pairs,
        "calls": sum(map(len, ours)),
        "within_aim": ratio.median <= MOST_RATIO if bare_us > LIMIT_US else added_us <= MOST_ADDED,
    }


def _median_us(rounds: Sequence[Nanoseconds]) -> float:
    return round(float(np.median(np.concatenate(rounds))) / 1e3, 2)


def growth(subject: Subject, calls: int) -> dict[str, Any]:
    """Return what has grown after so many calls, and as many again with Python's tracing."""
    with contextlib.closing(opened(subject)) as model:
        batches = samples(model)
        _call(model, batches, calls // 50)
        first, blocks = _rss(), sys.getallocatedblocks()
        resident = []
        for _ in range(TENTH):
            _call(model, batches, calls // TENTH)
            resident.append(_rss() - first)
        blocks = sys.getallocatedblocks() - blocks
        tracemalloc.start()
        _call(model, batches, calls // 50)
        traced = _traced()
        _call(model, batches, calls)
        traced = _traced() - traced
    return {
        "calls": calls,
        "traced_bytes": traced,
        "python_blocks": blocks,
        "resident_kb_by_tenth": [round(size / 1e3) for size in resident],
        "within_aim": traced < MOST_TRACED_BYTES,
    }


def _call(model: Model, batches: Sequence[Batch], calls: int) -> None:
    infer, count = model.infer, len(batches)
    for number in range(calls):
        infer(batches[number % count])


def _rss() -> int:
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def opening(subject: Subject) -> dict[str, Any]:
    """Return milliseconds and megabytes of fresh processes that open a model, ours and bare."""
    ours, theirs = [], []
    for _ in range(OPENINGS):
        found = probe_model(subject.data, format=subject.format, where=subject.name)
        sizes = (found.peak_bytes / 1e6, found.model_bytes / 1e6)
        ours.append((found.open_s * 1e3, (found.first_s + found.again_s) * 1e3, *sizes))
        code = BARE_OPENING[subject.format]
        done = subprocess.run(
            [sys.executable, "-c", BARE_BEGIN + code + BARE_END],
            input=subject.data,
            capture_output=True,
            check=True,
            cwd="/",
        )
        theirs.append(json.loads(done.stdout))
    return {"processes": OPENINGS, "ours": _opened(ours), "bare": _opened(theirs)}


def _opened(figures: Sequence[Sequence[float]]) -> dict[str, float]:
    names = ("open_ms", "warm_up_ms", "peak_mb", "added_mb")
    middle = [round(statistics.median(column), 2) for column in zip(*figures, strict=True)]
    return dict(zip(names, middle, strict=True))


def swaps(subject: Subject) -> dict[str, Any]:
    """Return how the resident memory went while two bundles took each other's place."""
    sizes = []
    with tempfile.TemporaryDirectory(prefix="hedge-bench-") as folder, contextlib.ExitStack() as at:
        paths = [_bundled(subject, Path(folder, version), version) for version in ("1.0", "2.0")]
        for number in range(SETTLING + SWAPS):
            bundle = load_bundle(paths[number % 2])
            fresh = open_part(bundle, bundle.manifest.edge[0])
            warm_up(fresh)
            at.close()
            at.callback(fresh.close)
            sizes.append(_rss() / 1e6)
    return _grown(sizes)


def bare_swaps(subject: Subject) -> dict[str, Any]:
    """Return the same of the library alone, whose allocator is not ours."""
    with contextlib.closing(opened(subject)) as model:
        batch = samples(model)[0]
    sizes = []
    for _ in range(SETTLING + SWAPS):
        call = bare(subject)
        call(batch)
        sizes.append(_rss() / 1e6)
    return _grown(sizes)


def _grown(sizes_mb: Sequence[float]) -> dict[str, Any]:
    counted = np.array(sizes_mb[SETTLING:])
    grown_mb = float(np.median(counted[-TENTH:]) - np.median(counted[:TENTH]))
    slope_kb = float(np.polyfit(range(SWAPS), counted, 1)[0]) * 1e3
    return {
        "swaps": SWAPS,
        "resident_mb": round(float(np.median(counted)), 2),
        "grown_mb": round(grown_mb, 2),
        "spread_mb": round(float(np.ptp(counted)), 2),
        "slope_kb_per_swap": round(slope_kb, 2),
        "within_aim": grown_mb <= MOST_SWAP_MB,
    }


def _bundled(subject: Subject, out: Path, version: str) -> Path:
    with contextlib.closing(opened(subject)) as model:
        source, target = model.spec.inputs[0], model.spec.outputs[0]
    file = f"edge.{subject.format}"
    manifest = Manifest(
        format=1,
        name="bench",
        version=version,
        task="classification",
        labels=tuple(str(place) for place in range(target.shape[1] or 1)),
        licence="none: made for a benchmark",
        input=Input(
            kind="tensor",
            shape=tuple(extent or 1 for extent in source.shape[1:]),
            dtype=cast("DType", str(source.dtype)),
        ),
        edge=(Edge(name="small", file=file, format=cast("Any", subject.format)),),
        files={},
    )
    return write_bundle(out, manifest, {file: subject.data}).path


# ---- The table.


def child(work: str, subject: Subject, calls: int) -> dict[str, Any]:
    """Do one kind of work on one model in a fresh process of this file."""
    command = [sys.executable, __file__, "--as", work, subject.name, "--calls", str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(only: Sequence[str], *, seconds: float, calls: int) -> dict[str, Any]:
    """Measure what is asked for."""
    found: dict[str, Any] = {"machine": str(this_machine()), "seed": SEED}
    models = list(subjects())
    if "calls" in only:
        found["per_call"] = {one.name: per_call(one, seconds) for one in models}
    small = {one.format: one for one in reversed(models)}.values()
    large = {one.format: one for one in models}.values()
    if "growth" in only:
        found["growth"] = {one.name: child("growth", one, calls) for one in small}
    if "opening" in only:
        found["opening"] = {one.name: opening(one) for one in models}
    if "swaps" in only:
        found["swaps"] = {
            one.name: {
                "ours": child("swaps", one, calls),
                "bare": child("bare-swaps", one, calls),
            }
            for one in (*small, *large)
        }
    return found


def main() -> None:
    """Measure, print, and with --keep keep the figures beside this file."""
    everything = "calls,growth,opening,swaps"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--as", dest="role", nargs=2, metavar=("WORK", "MODEL"))
    parser.add_argument("--only", default=everything, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="for the calls of each model")
    parser.add_argument("--calls", type=int, default=1_000_000, help="in which nothing may grow")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.role is not None:
        work, name = options.role
        subject = next(one for one in subjects() if one.name == name)
        works = {"swaps": swaps, "bare-swaps": bare_swaps}
        found = works[work](subject) if work in works else growth(subject, options.calls)
    else:
        found = measure(options.only.split(","), seconds=options.seconds, calls=options.calls)
    print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
    if options.keep:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
