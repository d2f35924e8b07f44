"""Engines built in the background: served by ONNX Runtime meanwhile, whatever becomes of them."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import psutil
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from hedge.models.errors import ConfigError, MissingExtraError, ModelError
from hedge.runtime.backends.tensorrt import library
from hedge.runtime.backends.tensorrt.build import BuildRequest
from hedge.runtime.backends.tensorrt.build import build as build_here
from hedge.runtime.backends.tensorrt.engine_build import BuildProgress, EngineBuild
from hedge.runtime.backends.tensorrt.opening import Served, open_tensorrt
from hedge.telemetry.clock import boottime_ns

if TYPE_CHECKING:
    from .gpu_machine import Machine

Linear = Callable[..., bytes]
Eventually = Callable[[Callable[[], bool]], None]
CLASSES = 5
on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]


@pytest.fixture(params=["fake", "real"])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    with on_gpu(request.param, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with on_gpu("fake", tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Give `opened(machine, data, …)`; what it opens is closed before the machine goes."""
    served = []

    def make(machine: Machine, data: bytes, **options: Any) -> Served:  # noqa: ANN401 -- as it takes
        chosen = machine.options(**options.pop("options", {}))
        cache = tmp_path / "cache"
        served.append(
            open_tensorrt(data, where="edge.onnx", options=chosen, cache_dir=cache, **options)
        )
        return served[-1]

    yield make
    for one in served:
        one.close()


def samples(rows: int, *, seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def serve(served: Served) -> EngineBuild:
    """Turn the loop until the build is over, serving all the while."""
    assert served.build is not None
    until_s = time.monotonic() + 120
    while served.build.feed(boottime_ns()) is not None:
        assert time.monotonic() < until_s
        assert served.model.infer(samples(1)).shape == (1, CLASSES)
        time.sleep(0.01)
    return served.build


def names(folder: Path) -> set[str]:
    return {file.suffix or file.name for file in folder.iterdir()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnx_runtime_serves_until_the_engine_does(
    machine: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    precision: str,
) -> None:
    data = linear_onnx(CLASSES)
    np.savez(tmp_path / "rows.npz", X=samples(40))
    asked = {"precision": precision, "calibration": str(tmp_path / "rows.npz")}
    served = opened(machine, data, options=asked, max_batch=4)
    assert served.model.runs_on.startswith("onnxruntime")
    before = served.model.infer(samples(6))
    assert serve(served).counts == {"built": 1}
    assert served.model.runs_on.startswith("tensorrt 10.")
    atol = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.3}[precision] * np.abs(before).max()
    np.testing.assert_allclose(served.model.infer(samples(6)), before, atol=atol)
    assert names(tmp_path / "cache") == {".engine", ".timing", ".lock"}

    again = opened(machine, data, options=asked, max_batch=4)
    assert again.build is None  # the cache has it
    assert again.counts == {"cached": 1}
    np.testing.assert_array_equal(again.model.infer(samples(6)), served.model.infer(samples(6)))


def test_the_build_tells_how_far_it_is(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear
) -> None:
    fake.script(step_s=0.25)
    told: list[BuildProgress] = []
    served = opened(fake, linear_onnx(CLASSES), progress=told.append)
    serve(served)
    done = [one.done for one in told]
    assert done == sorted(done)
    assert done[-1] == 1
    assert any(0.5 <= one.done < 0.75 and one.what == "Timing tactics" for one in told)
    assert told[-1].what == "serving"
    assert [one.seconds for one in told] == sorted(one.seconds for one in told)
    assert all(one.where == "edge.onnx" for one in told)


def test_progress_reads_as_a_line_and_as_a_plea_for_time() -> None:
    state = BuildProgress("edge.onnx", 0.42, "Timing tactics", 61.4)
    line = "building an engine for edge.onnx: 42%, Timing tactics, 61 s"
    assert str(state) == line
    assert state.to_systemd(more_s=20) == f"STATUS={line}\nEXTEND_TIMEOUT_USEC=20000000"


def test_feeding_costs_the_loop_nothing_between_two_looks(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear
) -> None:
    fake.script(build="hangs")
    build = opened(fake, linear_onnx(CLASSES)).build
    assert build is not None
    now_ns = boottime_ns()
    due_ns = build.feed(now_ns)
    assert due_ns == now_ns + 250_000_000
    states = build._child
    build._child = None  # it is not so much as looked at
    assert build.feed(now_ns + 1) is None
    build._child = states
    assert build.feed(now_ns + 1) == due_ns


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ({"build": "fails"}, "exit code 1: edge.onnx: TensorRT builds no engine: Error Code 10"),
        ({"build": "crashes"}, "killed by SIGSEGV"),
        ({"parse_error": "No importer registered for op: Foo"}, "cannot run this graph: No impor"),
        ({"devices": 0}, "no NVIDIA GPU"),
    ],
)
def test_a_build_that_fails_is_said_once_and_onnx_runtime_goes_on(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    script: dict[str, Any],
    why: str,
) -> None:
    told: list[BuildProgress] = []
    fake.script(**script)
    fake.gpu.script.devices = 1  # here; the child finds what the script says
    served = opened(fake, linear_onnx(CLASSES), progress=told.append)
    assert serve(served).counts == {"failed": 1}
    assert served.model.runs_on.startswith("onnxruntime")
    _said_once(caplog, why)
    assert all(one.done < 1 for one in told)
    assert names(tmp_path / "cache") <= {".lock"}


def test_an_engine_that_does_not_fit_into_memory_is_kept_for_better_times(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = linear_onnx(CLASSES)
    served = opened(fake, data)
    fake.gpu.script.plan_too_large = True  # here, once it is built
    assert serve(served).counts == {"failed": 1}
    assert served.model.infer(samples(2)).shape == (2, CLASSES)
    _said_once(caplog, "the GPU is out of memory")
    with pytest.raises(ModelError, match="the GPU is out of memory"):
        opened(fake, data)
    assert opened(fake, data, options={"fallback": True}).counts == {"without_gpu": 1}
    fake.gpu.script.plan_too_large = False
    assert opened(fake, data).counts == {"cached": 1}
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 1


def test_the_folder_may_be_deleted_at_any_time(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.script(build="fails", step_s=0.05)
    served = opened(fake, linear_onnx(CLASSES))
    shutil.rmtree(tmp_path / "cache")
    assert serve(served).counts == {"failed": 1}
    _said_once(caplog, "its log is gone")
    fake.script(build="works")
    again = opened(fake, linear_onnx(CLASSES))
    assert serve(again).counts == {"built": 1}


def test_a_bug_in_opening_the_engine_leaves_onnx_runtime_serving(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = opened(fake, linear_onnx(CLASSES))
    engine = import_module("tensorrt").ICudaEngine
    monkeypatch.setattr(engine, "get_tensor_profile_shape", lambda *_: 1 / 0)
    assert serve(served).counts == {"failed": 1}
    assert served.model.infer(samples(2)).shape == (2, CLASSES)
    _said_once(caplog, "division by zero")


def test_a_process_that_cannot_be_started_is_a_build_that_failed(
    fake: Machine, linear_onnx: Linear, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = linear_onnx(CLASSES)
    build = EngineBuild(
        BuildRequest(
            model=data,
            where="edge.onnx",
            key=fake.key(data),
            rows=None,
            cache=str(fake.folder),
            cache_max_bytes=1 << 20,
        ),
        folder=tmp_path / "gone",
        opened=lambda: pytest.fail("there is nothing to open"),
        ready=lambda _: pytest.fail("there is nothing to take"),
    )
    assert build.is_over
    assert build.feed(boottime_ns()) is None
    assert build.counts == {"failed": 1}
    _said_once(caplog, "No such file or directory")


def _said_once(caplog: pytest.LogCaptureFixture, why: str) -> None:
    said = [line for line in caplog.messages if "no engine" in line]
    assert len(said) == 1
    assert why in said[0]
    assert "\n" not in said[0]


def _child() -> psutil.Process:
    """Return the process that builds, once it is that: between fork and exec it looks like us."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "hedge.runtime.backends.tensorrt.build" in child.cmdline():
                    return child
        time.sleep(0.005)
    pytest.fail("nothing builds")


def test_a_build_that_hangs_is_ended_at_its_time_limit(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.script(build="hangs")
    served = opened(fake, linear_onnx(CLASSES), limit_s=2.5)
    child = _child()
    assert serve(served).counts == {"failed": 1}
    assert not child.is_running()
    assert "not ready within 2.5 s" in caplog.text


def test_a_build_that_is_killed_leaves_nothing_half_done(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.script(build="hangs")
    served = opened(fake, linear_onnx(CLASSES))
    child = _child()
    child.kill()
    assert serve(served).counts == {"failed": 1}
    assert "killed by SIGKILL" in caplog.text
    assert names(tmp_path / "cache") <= {".lock"}


def test_closing_ends_the_build(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    fake.script(build="hangs")
    served = opened(fake, linear_onnx(CLASSES))
    child = _child()
    served.close()
    served.close()
    assert not child.is_running()
    assert served.build is not None
    assert served.build.feed(boottime_ns()) is None
    assert names(tmp_path / "cache") <= {".lock"}


def test_the_child_is_nice_first_to_be_killed_and_gone_with_its_parent(
    fake: Machine, linear_onnx: Linear, tmp_path: Path, eventually: Eventually
) -> None:
    fake.script(build="hangs")
    (tmp_path / "edge.onnx").write_bytes(linear_onnx(CLASSES))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from hedge.runtime.backends.options import BackendOptions\n"
        "from hedge.runtime.backends.tensorrt.opening import open_tensorrt\n"
        "folder = Path(sys.argv[1])\n"
        "served = open_tensorrt((folder / 'edge.onnx').read_bytes(), where='edge.onnx',\n"
        "    options=BackendOptions(use='tensorrt'), cache_dir=folder / 'cache')\n"
        "print('serves', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd="/", stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"serves\n"
        try:
            child = _child()
            wanted = min(19, psutil.Process().nice() + 10)
            eventually(lambda: child.nice() == wanted)
            score = Path(f"/proc/{child.pid}/oom_score_adj")
            eventually(lambda: score.read_text() == "1000\n")
        finally:
            parent.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_build_that_waits_for_another_one_says_so_and_its_time_does_not_run(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    holder = type(fake.cache)(tmp_path / "cache")
    told: list[BuildProgress] = []
    with holder.building(waits=lambda: None):
        served = opened(fake, linear_onnx(CLASSES), progress=told.append)
        assert served.build is not None
        now_ns = boottime_ns()
        while not any(one.what.startswith("waiting") for one in told):
            assert served.build.feed(boottime_ns()) is not None
            assert boottime_ns() - now_ns < 60e9
            time.sleep(0.02)
        hours = 3_600_000_000_000
        for later in range(2, 5):  # hours of waiting, with a limit of one
            assert served.build.feed(boottime_ns() + later * hours) is not None
        served.build._due_ns, served.build._since_ns = 0, boottime_ns()  # back in our own time
    assert serve(served).counts == {"built": 1}


def test_two_that_want_the_same_engine_build_it_once(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    fake.script(step_s=0.05)
    data = linear_onnx(CLASSES)
    both = [opened(fake, data), opened(fake, data)]
    assert [serve(one).counts["built"] for one in both] == [1, 1]
    timing = next((tmp_path / "cache").glob("*.timing")).read_bytes()
    assert b"times of 1 build" in timing  # it was measured once
    assert all(one.model.runs_on.startswith("tensorrt") for one in both)


def test_the_next_build_begins_with_the_times_of_the_last(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    for seed in (1, 2):
        serve(opened(fake, linear_onnx(CLASSES, seed=seed)))
    timing = next((tmp_path / "cache").glob("*.timing")).read_bytes()
    assert timing.endswith(b"times of 2 builds")


def _engine(folder: Path) -> Path:
    (found,) = (folder / "cache").glob("*.engine")
    return found


@pytest.mark.parametrize("at", [0, 100, -1])
def test_a_damaged_engine_is_built_anew_and_never_deserialised(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path, at: int
) -> None:
    data = linear_onnx(CLASSES)
    serve(opened(fake, data))
    held = bytearray(_engine(tmp_path).read_bytes())
    held[at] ^= 1
    _engine(tmp_path).write_bytes(held)
    served = opened(fake, data)  # the fake asserts if it is given what is not sound
    assert serve(served).counts == {"built": 1}
    assert served.model.runs_on.startswith("tensorrt")


@pytest.mark.parametrize(
    "changed", [{"tensorrt": "10.9.0"}, {"multiprocessors": 4}, {"name": "Fake Thor"}]
)
def test_another_tensorrt_or_gpu_gets_an_engine_of_its_own(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    changed: dict[str, Any],
) -> None:
    data = linear_onnx(CLASSES)
    serve(opened(fake, data))
    fake.script(**changed)
    serve(opened(fake, data))
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 2


def test_an_engine_that_tensorrt_refuses_is_removed_and_built_anew(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    data = linear_onnx(CLASSES)
    foreign = fake.plan(data, max_batch=1)
    cache, key = type(fake.cache)(tmp_path / "cache"), fake.key(data, max_batch=1)
    sealed = sys.modules["tensorrt"]._opened(foreign)
    cache.store(key, sys.modules["tensorrt"]._sealed({**sealed[0], "version": "10.0"}, sealed[1]))
    served = opened(fake, data)
    assert serve(served).counts == {"built": 1}
    assert served.model.runs_on.startswith("tensorrt")


# ---- int8


def test_int8_without_rows_says_what_to_name(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear
) -> None:
    with pytest.raises(ConfigError, match=r"^backend\.calibration: int8 needs rows .*an npz"):
        opened(fake, linear_onnx(CLASSES), options={"precision": "int8"})


def test_int8_rows_that_do_not_fit_are_refused(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((3, 7), np.float32))
    asked = {"precision": "int8", "calibration": str(tmp_path / "rows.npz")}
    with pytest.raises(ConfigError, match=r"rows are float32 \(7,\), the model takes float32 \(4,"):
        opened(fake, linear_onnx(CLASSES), options=asked)


def test_int8_is_calibrated_with_the_rows_as_the_graph_takes_them(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, tmp_path: Path
) -> None:
    data = linear_onnx(CLASSES)
    rows = np.repeat(np.arange(250, dtype=np.uint8), 16).reshape(1000, 4)
    np.savez(tmp_path / "rows.npz", X=rows)
    asked = {"precision": "int8", "calibration": str(tmp_path / "rows.npz")}

    def halved(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        assert len(batch) == 512  # spread over all of them
        half: np.ndarray[Any, Any] = np.multiply(batch, 0.5, dtype=np.float32)
        return half

    def known(factor: float) -> dict[str, Any]:
        served = opened(
            fake, data, options=asked, max_batch=5, prepare=lambda batch: halved(batch) * factor
        )
        serve(served)
        engine: Any = served.model._engine
        about: dict[str, Any] = engine._engine._about
        return about

    largest = 0.5 * 249  # the last row's
    assert known(1.0)["ranges"]["input"] == pytest.approx(largest, rel=0.02)
    assert known(np.float32(0.25))["ranges"]["input"] == pytest.approx(largest / 4, rel=0.02)
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 2  # each rows have their own


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    def __init__(self) -> None:
        self._rows = iter(samples(16))

    def get_next(self) -> dict[str, Any] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[None]}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_with_scales_of_its_own_needs_no_rows(
    machine: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    tmp_path: Path,
    precision: str,
) -> None:
    (tmp_path / "float.onnx").write_bytes(linear_onnx(CLASSES))
    quantize_static(tmp_path / "float.onnx", tmp_path / "qdq.onnx", _Rows())
    graph = onnx.load(tmp_path / "qdq.onnx")
    del graph.opset_import[1:]
    served = opened(machine, graph.SerializeToString(), options={"precision": precision})
    before = served.model.infer(samples(3))
    assert serve(served).counts == {"built": 1}
    np.testing.assert_allclose(
        served.model.infer(samples(3)), before, atol=0.1 * np.abs(before).max()
    )


# ---- where TensorRT cannot serve


@pytest.mark.parametrize("free", ["inside", "float64"])
def test_a_graph_that_tensorrt_cannot_take_is_refused_with_what_to_do(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, free: str
) -> None:
    data = linear_onnx(CLASSES, dtype="float64" if free == "float64" else "float32")
    if free == "inside":
        graph = onnx.load_from_string(data)
        graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "N"
        data = graph.SerializeToString()
    with pytest.raises(ModelError, match=r"^edge\.onnx: input 'x' .*export the graph"):
        opened(fake, data)


@pytest.mark.parametrize("missing", ["gpu", "library"])
def test_without_a_gpu_nothing_is_served_unless_a_fallback_is_asked_for(
    fake: Machine,
    opened: Callable[..., Served],
    linear_onnx: Linear,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    data = linear_onnx(CLASSES)
    if missing == "gpu":
        fake.script(devices=0)
    else:
        monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises((ModelError, MissingExtraError), match=r"no NVIDIA GPU|not installed"):
        opened(fake, data)
    served = opened(fake, data, options={"fallback": True})
    assert served.build is None
    assert served.counts == {"without_gpu": 1}
    assert served.model.infer(samples(1)).shape == (1, CLASSES)
    assert "runs without TensorRT" in caplog.text


@pytest.mark.parametrize("cached", [False, True])
def test_an_engine_that_is_lost_falls_back_only_where_that_is_asked_for(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear, *, cached: bool
) -> None:
    data = linear_onnx(CLASSES)
    for fallback in (True, False):
        served = opened(fake, data, options={"fallback": fallback})
        if served.build is not None:
            serve(served)
        if cached:
            served = opened(fake, data, options={"fallback": fallback})
            assert served.build is None
        fake.script(lost_at=fake.gpu.executions + 1)
        if fallback:
            assert served.model.infer(samples(1)).shape == (1, CLASSES)
            assert served.counts["fell_back"] == 1
        else:
            with pytest.raises(ModelError, match="the GPU failed"):
                served.model.infer(samples(1))
        for one in (served,):
            one.close()
        fake.gpu.lost = None  # a new process


def test_a_folder_that_cannot_be_written_leaves_no_process_and_no_engine(
    fake: Machine, linear_onnx: Linear, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ModelError, match="engines cannot be kept"):
        open_tensorrt(
            linear_onnx(CLASSES),
            where="edge.onnx",
            options=fake.options(),
            cache_dir=tmp_path / "cache",
        )


def test_the_process_refuses_a_request_that_is_not_for_this_machine(
    fake: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES)
    fake.plan(data)
    request = BuildRequest(
        model=data,
        where="edge.onnx",
        key=fake.key(linear_onnx(CLASSES, seed=9)),
        rows=None,
        cache=str(fake.folder),
        cache_max_bytes=1 << 20,
    )
    with pytest.raises(ModelError, match="is not the model that was asked for"):
        build_here(request, report=lambda *_: None)
    fake.script(tensorrt="10.9.0")
    with pytest.raises(ModelError, match="has changed meanwhile"):
        build_here(request, report=lambda *_: None)


def test_an_interrupt_of_the_terminal_does_not_reach_the_build(
    fake: Machine, opened: Callable[..., Served], linear_onnx: Linear
) -> None:
    fake.script(build="hangs")
    with closing(opened(fake, linear_onnx(CLASSES))):
        child = _child()
        assert os.getsid(child.pid) != os.getsid(0)  # Ctrl-C goes to a terminal's own session
        os.kill(child.pid, signal.SIGTERM)
        child.wait(30)
