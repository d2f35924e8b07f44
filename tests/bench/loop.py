"""What the loop itself costs: per sample, against the bare model, in memory, at start.

Run by `make bench`. Every figure stands beside its floor, measured in the same run and in
turn with it, since machines are shared and noisy: trust the ratios and the medians.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hedge.models.manifest import Calibration, Input
from hedge.models.model import Model
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.runtime.backends import open_model
from hedge.runtime.backends.null import NullModel
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.gate.gate import Gate
from hedge.runtime.gate.options import AuditOptions, GateOptions
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.notify import Notifier
from hedge.runtime.policy import Policy
from hedge.runtime.sinks.json_lines import JsonLines
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.histogram import Histogram
from hedge.telemetry.ledger import STAGES, Ledger
from hedge.uplink.absent import Absent

SEED = 20261
CLASSES = 10
WIDTH = 64
SAMPLES = 20_000
PAIRS = 205
CHUNK = 100
CHANNELS = (4, 32, 48, 96)
_CALIBRATION = Calibration(
    score="vacuity",
    total=0.5,
    epistemic=0.5,
    aleatoric=0.5,
    reference=tuple(number / 20 for number in range(1, 20)),
    method="bench",
    rows=1,
    data_sha256="0" * 64,
)


def convnet(channels: int, *, rng: np.random.Generator) -> bytes:
    """Return an ONNX net of two convolutions over (WIDTH,), sure of every answer.

    Its weights are few, as those of a real model of that speed are (the keyword spotter of
    MLPerf Tiny takes 45 µs and has 54 KB), so that it leaves the caches as that one does.
    """

    def weight(name: str, *shape: int) -> TensorProto:
        scale = float(np.prod(shape[1:])) ** -0.5
        return numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Reshape", ["x", "as_image"], ["image"]),
        helper.make_node("Conv", ["image", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["y"], transB=1),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, 1, 8, WIDTH // 8]), "as_image"),
        weight("w0", channels, 1, 3, 3),
        weight("w1", channels, channels, 3, 3),
        weight("w2", CLASSES, channels),
        numpy_helper.from_array(np.full(CLASSES, 5.0, np.float32), "b2"),
    ]
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def lane(x: np.ndarray[Any, Any], model: Model, *, filtered: bool, gated: bool = True) -> Lane:
    """Return a lane over ``x`` with this model, with or without a null filter and a gate."""
    spec = Input(kind="tensor", shape=(WIDTH,), dtype="float32")
    keep = NullModel(np.ones((1, 1), np.float32), shape=(WIDTH,))
    skip = SkipFilter(keep, threshold=0.5, prepare=preparer(spec))
    return Lane(
        name="bench",
        source=Replay(x),
        input=spec,
        filters=[Screen(skip, name="skip", kind="skip")] if filtered else [],
        model=model,
        prepare=preparer(spec),
        assessor=Assessor(output="logits", head="evidential", classes=CLASSES),
        policy=Policy.of(_CALIBRATION),
        ledger=Ledger("bench"),
        clock=boottime_ns,
        answer_within_ns=10**9,
        gate=gate() if gated else None,
    )


def gate() -> Gate:
    """Return the gate that a device has: it audits its share, and watches for drift."""
    return Gate(_CALIBRATION, stream="bench", options=GateOptions(), audit=AuditOptions())


@contextlib.contextmanager
def json_lines(folder: Path) -> Iterator[JsonLines]:
    """Open the sink that a device has."""
    labels = {"bench": tuple(str(label) for label in range(CLASSES))}
    with contextlib.closing(JsonLines(folder / "outcomes.jsonl", labels=labels)) as sink:
        yield sink


def loop(one: Lane, *sinks: JsonLines) -> Loop:
    """Return a loop over one lane."""
    return Loop(
        [one],
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=sinks,
        uplink=Absent(),
        bell=threading.Event(),
        clock=boottime_ns,
        feeds=[Notifier({})],
    )


def per_sample(outputs: np.ndarray[Any, Any], folder: Path, *, filtered: bool) -> list[int]:
    """Return the nanoseconds of every turn of the loop with the null backend."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    one = lane(x, NullModel(outputs, shape=(WIDTH,)), filtered=filtered)
    with json_lines(folder) as sink:
        return _turns(loop(one, sink))


def _turns(turning: Loop) -> list[int]:
    serve, spent = turning._serve, []

    def timed(at: Lane, now_ns: int) -> None:
        begun_ns = time.perf_counter_ns()
        serve(at, now_ns)
        spent.append(time.perf_counter_ns() - begun_ns)

    turning._serve = timed  # type: ignore[assignment]
    turning.run()
    return spent[SAMPLES // 20 :]


def ratio_to_bare(channels: int, folder: Path) -> dict[str, Any]:
    """Return the bare model's microseconds and the loop's ratio to them, with and without a sink.

    Each is run for CHUNK samples in turn, so short that all three meet the same noise.
    """
    rng = np.random.default_rng(SEED)
    data = convnet(channels, rng=rng)
    x = rng.normal(size=(CHUNK, WIDTH)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    bare = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    model = open_model(data, format="onnx", where="convnet")

    def alone() -> None:
        for row in x:
            bare.run(None, {"x": row[None]})

    with json_lines(folder) as sink:
        seconds = np.array(
            [
                (
                    _seconds(alone),
                    _seconds(loop(lane(x, model, filtered=False), sink).run),
                    _seconds(loop(lane(x, model, filtered=False)).run),
                )
                for _ in range(PAIRS)
            ]
        )[5:]
    ratios = seconds[:, 1:] / seconds[:, :1]
    return {
        "bare_us": round(float(np.median(seconds[:, 0])) / CHUNK * 1e6, 2),
        "ratio_with_json_lines": _spread(ratios[:, 0]),
        "ratio_without_sink": _spread(ratios[:, 1]),
        "pairs": len(ratios),
    }


class Deaf(Histogram):
    """A histogram that records nothing."""

    def record(self, value_ns: int) -> None:
        """Do nothing."""


def deafened(one: Lane) -> Lane:
    """Return the lane with a ledger that counts, but keeps no time."""
    for name in STAGES:
        setattr(one.ledger.stages, name, Deaf())
    one.ledger.first = dict.fromkeys(one.ledger.first, Deaf())
    one.ledger.final = dict.fromkeys(one.ledger.final, Deaf())
    return one


def bookkeeping(times: int) -> float:
    """Return the seconds of so many accepted samples' entries in a ledger, and nothing else."""
    ledger = Ledger("bench")
    stages, spent_ns = ledger.stages, range(10_000, 10_000 + times)
    begun = time.perf_counter()
    for ns in spent_ns:
        ledger.read += 1
        ledger.routes["accepted"] += 1
        ledger.reasons["sure"] += 1
        stages.filter.record(ns)
        stages.infer.record(ns)
        stages.uncertainty.record(ns)
        ledger.busy_ns["accepted"] += ns
        ledger.first["accepted"].record(ns)
        ledger.final["edge"].record(ns)
    return time.perf_counter() - begun


def ledger_cost(outputs: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the microseconds a sample that the ledger takes: its entries alone, in a bare loop.

    Beside them, the loop with histograms and with deaf ones, in turn, CHUNK samples each.
    """
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(CHUNK, WIDTH)).astype(np.float32)
    model = NullModel(outputs, shape=(WIDTH,))
    entries = [bookkeeping(SAMPLES) / SAMPLES * 1e6 for _ in range(PAIRS // 5)]
    pairs = np.array(
        [
            (
                _seconds(loop(lane(x, model, filtered=True)).run),
                _seconds(loop(deafened(lane(x, model, filtered=True))).run),
            )
            for _ in range(PAIRS)
        ]
    )[5:]
    cuts = np.percentile(entries, [10, 50, 90]).round(3).tolist()
    return {
        "entries_us": dict(zip(("p10", "p50", "p90"), cuts, strict=True)),
        "loop_with_us": round(float(np.median(pairs[:, 0])) / CHUNK * 1e6, 2),
        "loop_deaf_us": round(float(np.median(pairs[:, 1])) / CHUNK * 1e6, 2),
        "histograms_us": round(float(np.median(pairs[:, 0] - pairs[:, 1])) / CHUNK * 1e6, 2),
        "pairs": len(pairs),
    }


def gate_cost(outputs: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the microseconds a sample that the gate takes: its note alone, and in the loop.

    Every 512th sample it looks for drift, which ``note_us`` has its share of. Beside that, the
    loop with a gate and without one, in turn, CHUNK samples each.
    """
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(CHUNK, WIDTH)).astype(np.float32)
    model = NullModel(outputs, shape=(WIDTH,))
    scores = rng.random(SAMPLES).tolist()
    one, notes = gate(), []
    for _ in range(PAIRS // 5):
        begun = time.perf_counter()
        for score in scores:
            one.note(score)
        notes.append((time.perf_counter() - begun) / SAMPLES * 1e6)
    pairs = np.array(
        [
            [
                _seconds(loop(lane(x, model, filtered=True, gated=gated)).run)
                for gated in (True, False)
            ]
            for _ in range(PAIRS)
        ]
    )[5:]
    return {
        "note_us": _spread(np.array(notes)),
        "loop_with_us": round(float(np.median(pairs[:, 0])) / CHUNK * 1e6, 2),
        "loop_without_us": round(float(np.median(pairs[:, 1])) / CHUNK * 1e6, 2),
        "ratio": _spread(pairs[:, 0] / pairs[:, 1]),
        "pairs": len(pairs),
    }


def _spread(ratios: np.ndarray[Any, Any]) -> dict[str, float]:
    cuts = np.percentile(ratios, [10, 50, 90]).round(3).tolist()
    return dict(zip(("p10", "p50", "p90"), cuts, strict=True))


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def started(code: str) -> tuple[float, float]:
    """Return the median seconds and megabytes of a fresh Python that runs ``code``."""
    tail = "\nimport psutil; print(psutil.Process().memory_info().rss)"
    seconds, sizes = [], []
    for _ in range(7):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True, cwd="/"
        )
        seconds.append(time.perf_counter() - begun)
        sizes.append(int(done.stdout.split()[-1]) / 1e6)
    return statistics.median(seconds), statistics.median(sizes)


def machine() -> str:
    """Return what was measured on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )


def _quantiles(spent_ns: Sequence[int]) -> dict[str, float]:
    cuts = np.percentile(np.array(spent_ns) / 1e3, [50, 90, 99, 99.9])
    return dict(zip(("p50", "p90", "p99", "p99.9"), cuts.round(2).tolist(), strict=True))


def main() -> None:
    """Measure, print, and keep the figures beside this file."""
    sure = np.full((1, CLASSES), 5.0, np.float32) + np.arange(CLASSES, dtype=np.float32)
    unsure = np.linspace(-9.0, -6.0, CLASSES, dtype=np.float32)[None]
    found: dict[str, Any] = {"machine": machine(), "seed": SEED, "samples": SAMPLES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gc.collect()
        found["per_sample_us"] = {
            "accepted, filter": _quantiles(per_sample(sure, folder, filtered=True)),
            "accepted, no filter": _quantiles(per_sample(sure, folder, filtered=False)),
            "escalated, filter": _quantiles(per_sample(unsure, folder, filtered=True)),
        }
        found["ledger"] = ledger_cost(sure)
        found["gate"] = gate_cost(sure)
        for channels in CHANNELS:
            found[f"loop_against_bare_run_{channels}_channels"] = ratio_to_bare(channels, folder)
    for title, code in {
        "python": "pass",
        "numpy": "import numpy",
        "daemon": "import hedge.runtime.daemon",
        "command line": "import hedge.runtime.cli",
    }.items():
        seconds, megabytes = started(code)
        found[f"start_{title}"] = {"seconds": round(seconds, 3), "rss_mb": round(megabytes, 1)}
    print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
    if "--keep" in sys.argv:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
