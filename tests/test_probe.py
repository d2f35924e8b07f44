"""The probe: models that crash, hang or eat memory end a process of their own, with one line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedge.models.errors import ConfigError, HedgeError, ModelError
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.probe.free_memory import free_bytes
from hedge.runtime.probe.messages import Probed
from hedge.runtime.probe.probe import Fed, probe_model
from hedge.runtime.probe.verdicts import Verdicts, ensure_opens

Linear = Callable[..., bytes]
Eventually = Callable[..., None]
_MIB = 1 << 20


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give `runtime(code)`: from now on probes find an ONNX Runtime that runs this instead."""

    def replace(code: str) -> None:
        folder = tmp_path / "library"
        folder.mkdir(exist_ok=True)
        (folder / "onnxruntime.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return replace


def _probe(data: bytes, **options: object) -> Probed:
    return probe_model(data, format="onnx", where="edge.onnx", **options)  # type: ignore[arg-type]


def _refusal(data: bytes, **options: object) -> HedgeError:
    with pytest.raises(HedgeError) as caught:
        _probe(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_sound_model_tells_what_it_takes_gives_and_costs(linear_onnx: Linear) -> None:
    found = _probe(linear_onnx(3), sample=Fed((4,), "float32"))
    assert [str(one) for one in found.inputs] == ["x float32 (B, 4)"]
    assert [str(one) for one in found.outputs] == ["y float32 (B, 3)"]
    assert found.given == (1, 3)
    assert found.runs_on.startswith("onnxruntime ")
    assert "CPUExecutionProvider" in found.runs_on
    assert found.peak_bytes > found.model_bytes > _MIB
    assert found.open_s > found.first_s > 0
    assert found.again_s > 0


def test_a_model_of_which_only_the_graph_is_known_is_fed_as_the_graph_says(
    linear_onnx: Linear,
) -> None:
    assert _probe(linear_onnx(2, shape=(2, 3), dtype="float16")).given == (1, 2)


@pytest.mark.parametrize(("operator", "finite"), [("Log", False), ("Exp", True)])
def test_whether_zeros_give_numbers_is_told(*, operator: str, finite: bool) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset)
    assert _probe(model.SerializeToString()).finite is finite


def test_a_sample_that_does_not_fit_is_refused(linear_onnx: Linear) -> None:
    refusal = _refusal(linear_onnx(3), sample=Fed((5,), "float32"))
    assert isinstance(refusal, ModelError)
    assert "takes float32 (B, 4)" in str(refusal)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, sys; print('it is the heap', file=sys.stderr); os.abort()", "it is the heap"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "killed by SIGKILL, as the system does where memory runs out",
        ),
    ],
)
def test_a_runtime_that_crashes_is_one_line_that_says_how(
    linear_onnx: Linear, runtime: Callable[[str], None], code: str, said: str
) -> None:
    runtime(code)
    refusal = _refusal(linear_onnx(3))
    assert isinstance(refusal, ModelError)
    assert str(refusal).startswith("edge.onnx: crashes its runtime: ")
    assert said in str(refusal)


@pytest.mark.parametrize(
    ("format_", "code", "hint"),
    [
        ("tflite", "os.abort()", "with the delegate /opt/lib.so; try without it"),
        ("tflite", "time.sleep(600)", "with the delegate /opt/lib.so; try without it"),
        ("onnx", "os.abort()", "try another variant or version"),
    ],
)
def test_a_crash_with_a_delegate_is_blamed_on_the_delegate_where_it_is_loaded(
    linear_onnx: Linear,
    linear_tflite: Linear,
    runtime: Callable[[str], None],
    tmp_path: Path,
    format_: str,
    code: str,
    hint: str,
) -> None:
    runtime(f"import os, time; {code}")
    (tmp_path / "library" / "ai_edge_litert").mkdir()
    (tmp_path / "library" / "ai_edge_litert" / "__init__.py").write_text(f"import os, time; {code}")
    options = BackendOptions(delegate="/opt/lib.so", fallback=True)
    data = (linear_tflite if format_ == "tflite" else linear_onnx)(3)
    with pytest.raises(ModelError) as caught:
        probe_model(data, format=format_, where="edge", options=options, timeout_s=5)
    assert hint in str(caught.value.hint)


def test_a_library_that_cannot_be_imported_is_one_line(
    linear_onnx: Linear, runtime: Callable[[str], None]
) -> None:
    runtime("raise OSError('libcudnn.so.9: cannot open shared object file')")
    refusal = _refusal(linear_onnx(3))
    assert "fails with OSError: libcudnn.so.9" in str(refusal)


def test_what_a_library_prints_is_no_part_of_the_report(
    linear_onnx: Linear, runtime: Callable[[str], None]
) -> None:
    runtime("import os; os.write(1, b'hello ' * 100_000); raise RuntimeError('after a long talk')")
    assert "RuntimeError: after a long talk" in str(_refusal(linear_onnx(3)))


def test_a_model_that_hangs_is_ended(
    linear_onnx: Linear, runtime: Callable[[str], None], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    runtime(f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    refusal = _refusal(linear_onnx(3), timeout_s=8)
    assert str(refusal) == "edge.onnx: does not open and run within 8 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_probe_ends_with_the_process_that_wanted_it(
    linear_onnx: Linear, runtime: Callable[[str], None], tmp_path: Path, eventually: Eventually
) -> None:
    pid, model = tmp_path / "pid", tmp_path / "m.onnx"
    model.write_bytes(linear_onnx(3))
    runtime(f"import os, time; open({str(pid)!r}, 'w').write(f'{{os.getpid()}};'); time.sleep(600)")
    code = (
        "import pathlib; from hedge.runtime.probe.probe import probe_model; "
        f"probe_model(pathlib.Path({str(model)!r}).read_bytes(), format='onnx', where='m')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd="/")
    try:
        eventually(lambda: pid.exists() and pid.read_text().endswith(";"))
    finally:
        parent.kill()
        parent.wait()
    child = Path(f"/proc/{pid.read_text()[:-1]}/stat")
    eventually(lambda: not child.exists() or " Z " in child.read_text())


def test_a_probe_knows_no_secrets_and_does_not_speak_for_the_service(
    linear_onnx: Linear, runtime: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEDGE_BROKER_PASSWORD", "HEDGE__UPLINK__BROKER", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "secret")
    runtime("import os; raise RuntimeError([n for n, v in os.environ.items() if v == 'secret'])")
    assert str(_refusal(linear_onnx(3))).endswith("RuntimeError: []")


def _four_gigabytes() -> bytes:
    """Return a graph of 300 bytes that makes 2^30 floats of its input when it runs."""
    size = numpy_helper.from_array(np.array([1 << 30], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceSum", ["much"], ["sum"], keepdims=1),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "greedy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [size],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def test_a_small_file_that_wants_four_gigabytes_does_not_get_them() -> None:
    refusal = _refusal(_four_gigabytes(), max_bytes=256 * _MIB)
    assert isinstance(refusal, ModelError)


def test_memory_that_python_cannot_get_is_one_line(
    linear_onnx: Linear, runtime: Callable[[str], None]
) -> None:
    runtime("bytearray(1 << 32)")
    refusal = _refusal(linear_onnx(3), max_bytes=128 * _MIB)
    assert "needs more memory than the 128 MiB it may have" in str(refusal)


def test_the_limit_is_on_memory_and_not_on_addresses(
    linear_onnx: Linear, runtime: Callable[[str], None]
) -> None:
    private = "flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ"
    runtime(f"import mmap; mmap.mmap(-1, 1 << 40, {private}); raise RuntimeError('fine')")
    assert "RuntimeError: fine" in str(_refusal(linear_onnx(3), max_bytes=128 * _MIB))


def test_a_probe_is_the_first_to_go_and_leaves_no_core(
    linear_onnx: Linear, runtime: Callable[[str], None]
) -> None:
    runtime(
        """
        import resource
        score = open("/proc/self/oom_score_adj").read().strip()
        raise RuntimeError(f"{score} {resource.getrlimit(resource.RLIMIT_CORE)[0]}")
        """
    )
    assert str(_refusal(linear_onnx(3))).endswith(("1000 1", "1000 0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda _data: b"", "is empty"),
        (lambda data: data[:-4] + bytes(4), "ONNX"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    linear_onnx: Linear, change: Callable[[bytes], bytes], message: str
) -> None:
    refusal = _refusal(change(linear_onnx(3)))
    assert isinstance(refusal, ModelError)
    assert str(refusal).startswith("edge.onnx: ")
    assert message in str(refusal)


def test_a_provider_that_is_not_there_is_the_configurations_fault(linear_onnx: Linear) -> None:
    options = BackendOptions(providers=("AcmeExecutionProvider",))
    refusal = _refusal(linear_onnx(3), options=options)
    assert isinstance(refusal, ConfigError)
    assert "AcmeExecutionProvider" in str(refusal)


@pytest.mark.parametrize(
    ("own", "limits", "left"),
    [
        ("0::/\n", {"": "1000000"}, 900_000),
        ("0::/a/b\n", {"a": "500000", "a/b": "max"}, 400_000),
        ("0::/a/b\n", {"a": "max", "a/b": "50000"}, 0),
        ("0::/a\n", {}, 10_000_000),
        ("4:memory:/old\n", {"": "1000000"}, 900_000),
        (None, {"": "1000000"}, 10_000_000),
    ],
)
def test_a_group_may_leave_less_memory_than_the_system(
    tmp_path: Path, own: str | None, limits: dict[str, str], left: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    if own is not None:
        (tmp_path / "proc/self/cgroup").write_text(own)
    for group, limit in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("130000\n")
        (folder / "memory.stat").write_text("anon 100000\ninactive_file 30000\n")
    assert free_bytes(root=tmp_path, available_bytes=10_000_000) == left


# ---- What is remembered.


@pytest.fixture
def ensure(tmp_path: Path, linear_onnx: Linear) -> Callable[..., None]:
    """Give `ensure(options=…, seed=…)`, with verdicts in the file `state/probed`."""

    def call(*, options: BackendOptions | None = None, seed: int = 1) -> None:
        ensure_opens(
            linear_onnx(3, seed=seed),
            format="onnx",
            where="edge.onnx",
            options=options,
            verdicts=tmp_path / "state" / "probed",
        )

    return call


def test_a_model_is_probed_once_and_again_when_anything_is_different(
    ensure: Callable[..., None], runtime: Callable[[str], None], tmp_path: Path
) -> None:
    ensure()
    assert stat.S_IMODE((tmp_path / "state" / "probed").stat().st_mode) == 0o600
    runtime("import os; os.abort()")
    ensure()
    for other in ({"options": BackendOptions(threads=2)}, {"seed": 2}):
        with pytest.raises(ModelError, match="SIGABRT"):
            ensure(**other)


def test_a_crash_is_not_held_against_a_model(
    ensure: Callable[..., None], runtime: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime("import os; os.abort()")
    with pytest.raises(ModelError, match="SIGABRT"):
        ensure()
    monkeypatch.delenv("PYTHONPATH")
    ensure()


@pytest.mark.parametrize("left", [b"", b"{", b"[2,[]]", b"\xff" * 100, b"[" * 70_000])
def test_a_damaged_file_of_verdicts_costs_a_probe_and_nothing_else(
    tmp_path: Path, left: bytes
) -> None:
    file = tmp_path / "probed"
    file.write_bytes(left)
    verdicts = Verdicts(file)
    assert "a" not in verdicts
    verdicts.add("a")
    assert "a" in Verdicts(file)


def test_verdicts_are_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "probed")
    for number in range(300):
        verdicts.add(f"{number:064}")
    again = Verdicts(tmp_path / "probed")
    assert f"{299:064}" in again
    assert f"{44:064}" in again
    assert f"{43:064}" not in again


def test_verdicts_that_cannot_be_written_do_not_stop_a_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    Verdicts(tmp_path / "state" / "probed").add("a")
    assert "not remembered" in caplog.text


def test_verdicts_are_json_that_says_its_version(tmp_path: Path) -> None:
    Verdicts(tmp_path / "probed").add("a")
    assert msgspec.json.decode((tmp_path / "probed").read_bytes()) == [1, ["a"]]
