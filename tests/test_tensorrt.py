"""TensorRT's engines on a GPU: the real one where there is one, and the fake everywhere."""

from __future__ import annotations

import inspect
import json
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from hedge.models.errors import MissingExtraError, ModelError
from hedge.runtime.backends import open_model
from hedge.runtime.backends.null import NullModel
from hedge.runtime.backends.swapping import SwappingModel
from hedge.runtime.backends.tensorrt import library
from hedge.runtime.backends.tensorrt.engine import RefusedPlanError, TensorRtModel

if TYPE_CHECKING:
    from .gpu_machine import Machine

Linear = Callable[..., bytes]
CLASSES = 5
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.15}
on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]
SIGNATURES = json.loads((Path(__file__).parent / "fake_tensorrt/signatures.json").read_text())


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


def samples(rows: int, *, seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def truth(data: bytes, rows: np.ndarray[Any, Any], output: int = 0) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    if session.get_inputs()[0].shape[0] == 1:
        return np.concatenate([session.run(None, {name: row[None]})[output] for row in rows])
    given: np.ndarray[Any, Any] = session.run(None, {name: rows})[output]
    return given


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_gives_what_onnx_runtime_gives_within_its_precision(
    machine: Machine, linear_onnx: Linear, precision: str
) -> None:
    data = linear_onnx(CLASSES, seed=11)
    rows = samples(6)
    expected = truth(data, rows)
    assert np.abs(expected).min() > 0
    given = machine.model(data, precision=precision, rows=None).infer(rows)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, atol=TOLERANCE[precision] * np.abs(expected).max())
    if precision != "fp32" and machine.kind == "fake":
        assert np.abs(given - expected).max() > 0  # it was not float32 after all


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
def test_a_batch_of_any_size_goes_through_in_pieces_that_fit(
    machine: Machine, linear_onnx: Linear, batch: str | int, rows: int
) -> None:
    data = linear_onnx(CLASSES, batch=batch)
    model = machine.model(data, max_batch=4)
    np.testing.assert_allclose(
        model.infer(samples(rows)), truth(data, samples(rows)), rtol=1e-4, atol=1e-5
    )


def test_the_shape_is_set_only_where_the_batch_changes(fake: Machine, linear_onnx: Linear) -> None:
    model = fake.model(linear_onnx(CLASSES), max_batch=4)
    assert fake.gpu.shapes_set == 1
    for rows, more in ((4, 0), (2, 1), (2, 0), (1, 1), (1, 0), (9, 2)):
        before = fake.gpu.shapes_set
        model.infer(samples(rows))
        assert fake.gpu.shapes_set - before == more, rows


def test_nothing_is_allocated_after_opening(fake: Machine, linear_onnx: Linear) -> None:
    model = fake.model(linear_onnx(CLASSES))
    held = (dict(fake.gpu.memory), fake.gpu.pinned_bytes, fake.gpu.next_address)
    addresses = list(held[0])
    for rows in (1, 4, 3, 9):
        model.infer(samples(rows))
    assert list(fake.gpu.memory) == addresses
    assert (fake.gpu.pinned_bytes, fake.gpu.next_address) == held[1:]
    assert fake.gpu.stack == []


def test_a_batch_axis_fixed_at_more_than_one_takes_just_that(
    machine: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES, batch=3)
    model = machine.model(data)
    np.testing.assert_allclose(
        model.infer(samples(3)), truth(data, samples(3)), rtol=1e-4, atol=1e-5
    )
    for rows in (1, 6):
        with pytest.raises(ModelError, match=r"'x' takes float32 \(3, 4\)"):
            model.infer(samples(rows))


def test_a_half_precision_graph_takes_either_float_and_gives_float32(
    machine: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES, dtype="float16")
    model = machine.model(data, precision="fp16")
    assert model.spec.inputs[0].dtype == np.float16
    rows = samples(2).astype(np.float16)
    given = model.infer(rows)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, truth(data, rows), atol=0.02)
    np.testing.assert_array_equal(model.infer(rows.astype(np.float32)), given)
    with pytest.raises(ModelError, match=r"'x' takes float16"):
        model.infer(rows.astype(np.float64))


def test_an_output_is_taken_by_its_name(machine: Machine) -> None:
    model = machine.model(_two_outputs(), output="minus")
    np.testing.assert_allclose(model.infer(samples(3)), -samples(3), rtol=1e-3)
    assert model.spec.outputs[0].name == "minus"


def test_an_engine_without_the_output_is_refused(fake: Machine) -> None:
    plan = fake.plan(_two_outputs())
    with pytest.raises(ModelError, match=r"gives \['plus', 'minus'\], wanted other"):
        TensorRtModel(plan, where="edge.onnx", output="other")


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 4), np.float64),
        np.zeros((1, 4), np.float16),
        np.zeros((1, 4), ">f4"),
        np.zeros((1, 5), np.float32),
        np.zeros((4,), np.float32),
        np.zeros((1, 4, 1), np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros((), np.float32),
    ],
    ids=lambda batch: f"{batch.dtype.str} {batch.shape}",
)
def test_a_batch_that_does_not_fit_is_refused_and_the_next_is_served(
    machine: Machine, linear_onnx: Linear, batch: np.ndarray[Any, Any]
) -> None:
    model = machine.model(linear_onnx(CLASSES))
    with pytest.raises(ModelError, match=r"^edge\.onnx: given .*'x' takes float32 \(B, 4\)"):
        model.infer(batch)
    assert model.infer(samples(1)).shape == (1, CLASSES)


def test_rows_may_lie_scattered_in_memory(machine: Machine, linear_onnx: Linear) -> None:
    model = machine.model(linear_onnx(CLASSES))
    scattered = np.asfortranarray(samples(8))[::2]
    np.testing.assert_array_equal(
        model.infer(scattered), model.infer(np.ascontiguousarray(scattered))
    )


def test_an_output_belongs_to_the_caller(machine: Machine, linear_onnx: Linear) -> None:
    model = machine.model(linear_onnx(CLASSES))
    first = model.infer(samples(2))
    kept = first.copy()
    model.infer(samples(2, seed=9))[...] = 7
    np.testing.assert_array_equal(first, kept)


def test_closing_twice_is_harmless_and_then_nothing_is_run(
    machine: Machine, linear_onnx: Linear
) -> None:
    model = machine.model(linear_onnx(CLASSES))
    model.close()
    model.close()
    with pytest.raises(ModelError, match=r"^edge\.onnx: is closed"):
        model.infer(samples(1))


def test_two_engines_share_the_gpu_and_outlive_each_other(
    machine: Machine, linear_onnx: Linear
) -> None:
    one, other = (linear_onnx(CLASSES, seed=seed) for seed in (1, 2))
    first, second = machine.model(one), machine.model(other)
    first.close()
    np.testing.assert_allclose(
        second.infer(samples(2)), truth(other, samples(2)), rtol=1e-4, atol=1e-5
    )


# ---- what goes wrong


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"memory_bytes": 4100}, r"out of memory: 64 bytes were asked for, 4 of 4100 are free"),
        ({"memory_bytes": 4000}, r"out of memory: 4096 bytes were asked for, 4000 of 4000"),
        ({"pinned_bytes": 100}, r"out of memory: 80 bytes were asked for, \d+ of \d+ are free"),
        ({"context_refused": True}, r"4096 bytes were asked for.*free: Requested amount of GPU"),
        ({"plan_too_large": True}, r"out of memory: \d+ bytes were asked for.*OutOfMemory"),
        ({"memory_refused": True}, r"takes no memory for 'x': IExecutionContext::setTensorAd"),
        ({"shapes_refused": True}, r"TensorRT refuses a batch of 4: .*not in profile"),
        ({"tensorrt": "10.9.0"}, r"TensorRT refuses the engine: .*not compatible with this ver"),
        ({"capability": (8, 9)}, r"TensorRT refuses the engine: .*incompatible device"),
        ({"tensorrt": "11.4.0"}, r"TensorRT 11\.4\.0 is installed, supported is 10"),
        ({"devices": 0}, r"no NVIDIA GPU: cuInit failed: no CUDA-capable device"),
    ],
)
def test_what_goes_wrong_on_opening_is_said_in_one_line_and_leaves_nothing_behind(
    fake: Machine, linear_onnx: Linear, script: dict[str, Any], message: str
) -> None:
    plan = fake.plan(linear_onnx(CLASSES))
    fake.script(**script)
    with pytest.raises(ModelError, match=rf"^edge\.onnx: .*{message}") as caught:
        TensorRtModel(plan, where="edge.onnx")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RefusedPlanError) == ("refuses the engine" in message)
    assert fake.gpu.left_over() == {}


def test_a_lost_context_fails_once_and_every_time_after(
    fake: Machine, linear_onnx: Linear, capfd: pytest.CaptureFixture[str]
) -> None:
    model = fake.model(linear_onnx(CLASSES))
    model.infer(samples(1))
    fake.script(lost_at=fake.gpu.executions + 1)
    for _ in range(3):
        with pytest.raises(ModelError, match=r"^edge\.onnx: the GPU failed: cuStream.*restart the"):
            model.infer(samples(1))
        assert model.lost
    assert fake.gpu.stack == []
    executions = fake.gpu.executions
    with pytest.raises(ModelError, match="the GPU failed"):
        model.infer(samples(2))
    assert fake.gpu.executions == executions  # a dead GPU is not asked again
    model.close()
    assert "PyCUDA WARNING" in capfd.readouterr().err  # which is pycuda's, and no exception


def test_an_execution_that_tensorrt_refuses_is_one_sample_only(
    fake: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES)
    model = fake.model(data)
    fake.script(refused_at=fake.gpu.executions + 1)
    with pytest.raises(ModelError, match=r"^edge\.onnx: TensorRT failed: .*enqueueV3"):
        model.infer(samples(1))
    assert not model.lost
    np.testing.assert_allclose(model.infer(samples(1)), truth(data, samples(1)), rtol=1e-5)


def test_an_execution_refused_because_the_context_is_gone_is_a_loss(
    fake: Machine, linear_onnx: Linear
) -> None:
    model = fake.model(linear_onnx(CLASSES))
    fake.script(refused_at=fake.gpu.executions + 1)
    execution = model._execution
    refuse = execution.execute_async_v3

    def lose(stream_handle: int) -> bool:
        fake.gpu.lost = "unspecified launch failure"
        return bool(refuse(stream_handle))

    execution.execute_async_v3 = lose
    with pytest.raises(ModelError, match="the GPU failed: cuStreamSynchronize failed: unspec"):
        model.infer(samples(1))
    assert model.lost
    del vars(execution)["execute_async_v3"]


def test_a_shape_refused_midway_is_set_again_for_the_next_sample(
    fake: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES)
    model = fake.model(data)
    model.infer(samples(1))
    fake.script(shapes_refused=True)
    with pytest.raises(ModelError, match="TensorRT refuses a batch of 2"):
        model.infer(samples(2))
    fake.script(shapes_refused=False)
    np.testing.assert_allclose(model.infer(samples(1)), truth(data, samples(1)), rtol=1e-5)


@pytest.mark.parametrize("missing", ["tensorrt", "pycuda"])
def test_a_missing_library_says_what_to_install(
    fake: Machine, monkeypatch: pytest.MonkeyPatch, linear_onnx: Linear, missing: str
) -> None:
    plan = fake.plan(linear_onnx(CLASSES))
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == missing else name)
    assert not library.is_installed()
    with pytest.raises(MissingExtraError, match=rf"{missing} .*'hedge-runtime\[tensorrt\]'"):
        TensorRtModel(plan, where="edge.onnx")


def test_a_library_that_does_not_load_is_no_stack_trace(
    fake: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "tensorrt"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        'raise ImportError("libnvinfer.so.10: cannot open shared object file")'
    )
    monkeypatch.delitem(import_module("sys").modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(broken.parent))
    with pytest.raises(ModelError, match=r"^x: TensorRT does not load: libnvinfer\.so\.10"):
        library.load(where="x")
    assert fake.kind == "fake"


# ---- serving with one until the other is ready


def test_a_swap_is_seen_by_the_next_call_and_closes_what_served_before(
    machine: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES)
    before = open_model(data, format="onnx", where="edge.onnx")
    counts: Counter[str] = Counter()
    with closing(SwappingModel(before, where="edge.onnx", spare=None, counts=counts)) as model:
        expected = model.infer(samples(3))
        assert model.runs_on.startswith("onnxruntime")
        model.swap(machine.model(data))
        assert model.runs_on.startswith("tensorrt 10.")
        np.testing.assert_allclose(model.infer(samples(3)), expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(ModelError, match="is closed"):
            before.infer(samples(1))
    assert counts == Counter()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"outputs": 3}, "its engine has"),
        ({"shape": (2, 2)}, "its engine has"),
        ({"batch": 1}, "its engine has"),
    ],
)
def test_an_engine_of_another_form_is_closed_and_not_served(
    fake: Machine, linear_onnx: Linear, other: dict[str, Any], message: str
) -> None:
    data = linear_onnx(CLASSES, batch="B")
    engine = fake.model(linear_onnx(**{"outputs": CLASSES, **other}))
    if other == {"batch": 1}:
        data, engine = linear_onnx(CLASSES, batch=1), fake.model(data)
    before = open_model(data, format="onnx", where="edge.onnx")
    with closing(SwappingModel(before, where="edge.onnx", spare=None, counts=Counter())) as model:
        with pytest.raises(ModelError, match=rf"^edge\.onnx: {message}"):
            model.swap(engine)
        assert model.runs_on.startswith("onnxruntime")
        assert model.infer(samples(1)).shape == (1, CLASSES)
    with pytest.raises(ModelError, match="is closed"):
        engine.infer(samples(1))


def test_an_engine_that_overflows_where_the_model_does_not_is_not_served(
    fake: Machine, linear_onnx: Linear
) -> None:
    data = linear_onnx(CLASSES)
    before = open_model(data, format="onnx", where="edge.onnx")
    with closing(SwappingModel(before, where="edge.onnx", spare=None, counts=Counter())) as model:
        fake.script(infinite=True)
        with pytest.raises(ModelError, match=r"answers zeros with NaN .*precision = \"fp32\""):
            model.swap(fake.model(data))
        assert np.isfinite(model.infer(samples(1))).all()


def test_a_lost_engine_is_replaced_by_the_spare_and_counted(
    fake: Machine, linear_onnx: Linear, caplog: pytest.LogCaptureFixture
) -> None:
    data = linear_onnx(CLASSES)
    engine, counts = fake.model(data), Counter[str]()
    model = SwappingModel(
        engine,
        engine=engine,
        where="edge.onnx",
        spare=lambda: open_model(data, format="onnx", where="edge.onnx"),
        counts=counts,
    )
    fake.script(lost_at=fake.gpu.executions + 2)
    with closing(model):
        for seed in range(4):  # no sample is lost with the engine
            rows = samples(1, seed=seed)
            np.testing.assert_allclose(model.infer(rows), truth(data, rows), rtol=1e-5)
        assert model.runs_on.startswith("onnxruntime")
        with pytest.raises(ModelError, match="is closed"):
            engine.infer(samples(1))
    assert counts == {"fell_back": 1}
    assert sum("without its engine" in line for line in caplog.messages) == 1


def test_a_lost_engine_stays_lost_without_a_spare(fake: Machine, linear_onnx: Linear) -> None:
    engine = fake.model(linear_onnx(CLASSES))
    counts: Counter[str] = Counter()
    model = SwappingModel(engine, engine=engine, where="edge", spare=None, counts=counts)
    fake.script(lost_at=fake.gpu.executions + 1)
    with closing(model):
        for _ in range(2):
            with pytest.raises(ModelError, match="the GPU failed"):
                model.infer(samples(1))
    assert counts == Counter()


def test_a_batch_that_does_not_fit_is_no_reason_to_fall_back(
    fake: Machine, linear_onnx: Linear
) -> None:
    engine, counts = fake.model(linear_onnx(CLASSES)), Counter[str]()
    spare = NullModel(np.ones((1, CLASSES), np.float32), shape=(4,))
    model = SwappingModel(engine, engine=engine, where="edge", spare=lambda: spare, counts=counts)
    with closing(model), pytest.raises(ModelError, match="given float32"):
        model.infer(np.zeros((1, 9), np.float32))
    assert counts == Counter()


# ---- the fake itself


@pytest.mark.parametrize("module", ["tensorrt", "pycuda.driver"])
def test_the_fake_has_the_signatures_of_the_real_bindings(fake: Machine, module: str) -> None:
    assert fake.kind == "fake"
    names = SIGNATURES[module]["names"]
    for name, wanted in names.items():
        part: Any = import_module(module)
        for step in name.split("."):
            owner, part = part, inspect.getattr_static(part, step, None)
        _check_signature(f"{module}.{name}", owner, part, wanted)
    invented = {
        f"{kind}.{name}"
        for kind, value in vars(import_module(module)).items()
        if inspect.isclass(value) and value.__module__ == module and not kind.startswith("_")
        for name, member in vars(value).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert not invented - set(names)


def _check_signature(name: str, owner: object, part: Any, wanted: Any) -> None:  # noqa: ANN401 -- whatever the fake has there
    if isinstance(wanted, dict):
        assert {one: part.__members__[one].value for one in wanted} == wanted, name
    elif wanted == "property":
        sets = isinstance(part, property) or part is None  # None: an attribute of instances
        assert sets, name
    elif isinstance(wanted, str):
        base = wanted.split()[1]
        assert part.__bases__[0].__name__ == base, name
    else:
        function = part.__func__ if isinstance(part, staticmethod) else part
        assert callable(function), name
        found = list(inspect.signature(function).parameters.values())
        if inspect.isclass(owner) and not isinstance(part, staticmethod):
            found = found[1:]
        said = [
            "?"
            if one.kind is one.POSITIONAL_ONLY
            else one.name + "=" * (one.default is not one.empty)
            for one in found
        ]
        if name.endswith("Dims.__init__"):
            said = [one.rstrip("=") for one in said]
        assert said in wanted, name


def test_the_table_of_signatures_is_that_of_the_tensorrt_which_is_installed() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed", exc_type=ImportError)
    for name, wanted in SIGNATURES["tensorrt"]["names"].items():
        part = trt
        for step in name.split("."):
            part = getattr(part, step)
        if isinstance(wanted, dict):
            assert {one: int(part.__members__[one]) for one in wanted} == wanted, name
        elif wanted == "property":
            assert isinstance(part, property), name
        elif name != "nptype":
            for overload in wanted:
                assert all(f"{one.rstrip('=')}: " in part.__doc__ for one in overload), name


def test_the_fake_does_nothing_before_somebody_waits(fake: Machine) -> None:
    found = library.load(where="x")
    cuda, context = found.cuda, found.cuda.Device(0).retain_primary_context()
    with library.current(found, context):
        stream, memory = cuda.Stream(), cuda.mem_alloc(16)
        source, target = (cuda.pagelocked_empty(4, np.float32) for _ in range(2))
        source[:], target[:] = 1, 9
        cuda.memcpy_htod_async(memory, source, stream)
        cuda.memcpy_dtoh_async(target, memory, stream)
        source[:] = 2  # the copy has not happened yet, so it takes this
        assert target.tolist() == [9] * 4
        stream.synchronize()
        assert target.tolist() == [2] * 4
        garbage = cuda.mem_alloc(16)
        cuda.memcpy_dtoh_async(target, garbage, stream)
        stream.synchronize()
        assert target.tolist() != [2] * 4
        cuda.memcpy_dtoh_async(target, int(memory) + 8, stream)  # eight bytes too far
        with pytest.raises(cuda.LogicError, match="illegal memory access"):
            stream.synchronize()
        with pytest.raises(cuda.Error, match="illegal memory access"):
            cuda.mem_get_info()
        memory.free()
        garbage.free()
        del source, target, stream
    context.detach()
    assert fake.gpu.left_over() == {}


def _two_outputs() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "one"], ["plus"]),
            helper.make_node("Neg", ["x"], ["minus"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["B", 4])],
        [helper.make_tensor_value_info(name, 1, ["B", 4]) for name in ("plus", "minus")],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data
