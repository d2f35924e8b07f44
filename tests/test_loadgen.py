"""Tests of MLPerf LoadGen's scenarios: the real library, bundles, broker and worker."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset, load_dataset
from hedge.models.errors import ConfigError, DataError, HedgeError, MissingExtraError, ModelError
from hedge.models.manifest import Edge, Manifest
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.bench.energy_record import Energy
from hedge.runtime.bench.loadgen import scenarios
from hedge.runtime.bench.loadgen.histogram import log_histogram
from hedge.runtime.bench.loadgen.messages import ROWS
from hedge.runtime.bench.loadgen.plan import SCENARIOS, Way, add_arguments
from hedge.runtime.bench.loadgen.plan import ScenarioPlan as Plan
from hedge.runtime.bench.loadgen.scenarios import Setup, run_scenarios
from hedge.runtime.bench.loadgen.settings import settings_for
from hedge.runtime.bench.loadgen.verdict import parse_detail, parse_summary, read_verdict
from hedge.runtime.bench.loadgen.warm_up import Warm
from hedge.runtime.bench.loadgen.way import _judging
from hedge.runtime.bench.record import Failed
from hedge.runtime.bench.scenario_record import Scenario, ScenarioResult
from hedge.runtime.filters.filtered import DROPPED, Filtered
from hedge.runtime.lane import Lane
from hedge.runtime.shipped import bundle_path
from hedge.telemetry.boards.detect import detect

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

Run = Callable[..., ScenarioResult]
TINY = {"min_seconds": 0.1, "min_queries": 100, "warm_up_s": 0.02}
EVIDENCE = ("filter", "infer", "uncertainty")
UNSEEN = bundle_path("digits").with_name("digits-unseen.npz")
Found = Mapping[tuple[str, str], ScenarioResult]
KEPT = Path(__file__).parent / "bench" / "loadgen"


@pytest.fixture(scope="module")
def digits() -> Bundle:
    """The shipped bundle."""
    return load_bundle(bundle_path("digits"))


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """How models run here; what was probed once is remembered."""
    state = tmp_path_factory.mktemp("state")
    return Setup(board=detect(), options=BackendOptions(), state=state, seed=11)


@pytest.fixture
def run_one(digits: Bundle, setup: Setup, tmp_path: Path) -> Run:
    """Give `run_one(scenario, way, …)`: a tiny run of one way, without its floor beside it."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")

    def tiny(
        scenario: Scenario,
        way: Way = "evidence",
        *,
        bundle: Bundle = digits,
        rows: NDArray[np.generic] | None = None,
        broker: str | None = None,
        **plan: float,
    ) -> ScenarioResult:
        asked = {"scenarios": (scenario,), "ways": (way,), "broker": broker}
        wanted = msgspec.convert(TINY | asked | plan, Plan)
        contenders = [(bundle.manifest.edge[0], 1)]
        _, task = scenarios._tasks(bundle, wanted, contenders, setup=setup)
        np.savez(tmp_path / ROWS, X=load_dataset(UNSEEN).x if rows is None else rows)
        if broker is not None:
            return scenarios._run_alone(task, tmp_path, logs=None, show=str).result
        return scenarios._run(task, bundle, tmp_path, logs=None, show=str).result

    return tiny


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the logs of `found` are."""
    return tmp_path_factory.mktemp("logs") / "of" / "loadgen"


@pytest.fixture(scope="module")
def found(digits: Bundle, setup: Setup, logs: Path) -> Found:
    """Every scenario once, over the null backend and over filter, model, evidence and policy."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    windows: list[tuple[int, int]] = []

    def energy(begun_ns: int, ended_ns: int, samples: int) -> Energy:
        windows.append((begun_ns, ended_ns))
        window_s = (ended_ns - begun_ns) / 1e9
        return Energy(per_sample_j=1.5, source="test", window_s=window_s, samples=samples)

    failed: list[Failed] = []
    results = run_scenarios(
        digits,
        msgspec.convert(TINY | {"ways": ("evidence",)}, Plan),
        contenders=[(digits.manifest.edge[0], 1)],
        data=load_dataset(UNSEEN),
        setup=setup,
        failed=failed,
        logs=logs,
        energy=energy,
    )
    assert not failed
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(windows))
    return {(one.scenario, one.variant): one for one in results}


def test_every_scenario_runs_beside_the_floor_and_says_that_it_is_too_short(
    found: Found,
) -> None:
    assert set(found) == {(scenario, name) for scenario in SCENARIOS for name in ("null", "small")}
    for (_, variant), one in found.items():
        assert one.parts == (("null",) if variant == "null" else EVIDENCE)
        assert not one.valid
        assert "asked for 0.1 s: a result takes 600 s" in one.why_invalid
        assert one.loadgen
        assert one.seed == 11
        assert one.seconds > 0
        assert one.samples_per_s > 0
        assert one.warm_up_samples > 0
        assert sum(count for _, count in one.histogram_ms) == one.latency.count
        assert one.energy is not None
        assert one.energy.samples == one.samples


def test_a_query_is_one_sample_eight_or_all_of_them(
    found: Found,
) -> None:
    for variant in ("null", "small"):
        for scenario in ("SingleStream", "Server"):
            one = found[scenario, variant]
            assert one.queries == one.samples == one.latency.count
        multi, offline = found["MultiStream", variant], found["Offline", variant]
        assert multi.samples == 8 * multi.queries
        assert multi.latency.count == multi.queries
        assert offline.queries == 1
        assert offline.latency.count == offline.samples >= 100


def test_our_own_clock_and_loadgens_agree(
    found: Found,
) -> None:
    # ours runs within LoadGen's: of each query, and so at each percentile
    for one in found.values():
        for percentile, loadgens_ms in one.loadgen_ms.items():
            below = sum(
                count
                for place, (_, count) in enumerate(one.histogram_ms)
                if place == 0 or one.histogram_ms[place - 1][0] < loadgens_ms
            )
            assert below >= float(percentile) / 100 * one.latency.count - 1
        if one.scenario in ("SingleStream", "MultiStream"):
            assert one.latency.median_ms < one.loadgen_ms["50.00"] < one.latency.median_ms + 5


def test_what_is_scored_is_loadgens_estimate(
    found: Found,
) -> None:
    single, server = found["SingleStream", "small"], found["Server", "small"]
    assert single.scored_percentile == 0.9
    assert single.scored_ms is not None
    assert single.scored_ms >= single.loadgen_ms["90.00"]
    assert server.scored_ms == server.loadgen_ms["99.00"]
    assert server.target_latency_ms == 100
    assert server.target_qps is not None
    assert found["Offline", "small"].scored_ms is None


def test_the_gate_and_the_filter_are_counted(
    found: Found,
) -> None:
    for scenario in SCENARIOS:
        one, floor = found[scenario, "small"], found[scenario, "null"]
        assert one.dropped is not None
        assert one.escalated is not None
        assert 0 < one.dropped + one.escalated < one.samples
        assert one.answered is None
        assert (floor.dropped, floor.escalated, floor.answered) == (None, None, None)


def test_loadgens_own_logs_are_kept(found: Found, logs: Path) -> None:
    folder = logs / "Offline-small-1-thread-filter+infer+uncertainty"
    verdict = read_verdict(folder)
    assert verdict.scenario == "Offline"
    assert verdict.samples_per_s == found["Offline", "small"].samples_per_s
    assert len(list(logs.iterdir())) == 2 * len(SCENARIOS)


def test_parts_are_those_of_the_way(run_one: Run) -> None:
    model, filtered = (run_one("SingleStream", way) for way in ("model", "filter"))
    assert model.parts == ("infer",)
    assert (model.dropped, model.escalated) == (None, None)
    assert filtered.parts == ("filter", "infer")
    assert filtered.dropped
    assert filtered.escalated is None


def test_a_bundle_without_a_filter_runs_each_way_once(digits: Bundle, setup: Setup) -> None:
    bare = msgspec.structs.replace(digits.manifest, filter=())
    digits = dataclasses.replace(digits, manifest=bare)
    plan = Plan(scenarios=("Offline",), ways=("model", "filter", "evidence"))
    contenders = [(bare.edge[0], 1), (bare.edge[0], 2)]
    tasks = list(scenarios._tasks(digits, plan, contenders, setup=setup))
    assert [(one.parts, one.options.threads) for one in tasks] == [
        (("null",), 1),
        *((parts, threads) for threads in (1, 2) for parts in (("infer",), EVIDENCE[1:])),
    ]


def test_escalated_samples_are_answered_by_a_real_worker(run_one: Run) -> None:
    pytest.importorskip("amqtt", reason="amqtt, the embedded broker, is not installed")
    one = run_one("MultiStream", "escalation", answer_within_ms=60_000)
    assert one.parts == (*EVIDENCE, "escalation")
    assert one.escalated
    assert one.answered == one.escalated
    assert one.dropped
    assert one.dropped + one.escalated < one.samples == 8 * one.queries


def test_a_query_that_no_worker_answers_is_done_at_its_deadline(
    run_one: Run, free_port: int, start_broker: Callable[..., object]
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    one = run_one("SingleStream", "escalation", broker=url, min_queries=40, answer_within_ms=20)
    assert one.escalated
    assert one.answered == 0
    assert one.latency.max_ms >= 20
    assert one.latency.min_ms < one.latency.max_ms


def test_arrivals_that_are_far_too_many_are_no_valid_run(run_one: Run) -> None:
    one = run_one("Server", min_seconds=0.3, target_qps=200_000)
    assert not one.valid
    assert any("Too many outstanding queries" in words for words in one.why_invalid)
    assert "Min duration satisfied : NO" in one.why_invalid
    assert one.latency.count == one.queries > 10_000


def test_a_latency_bound_that_is_missed_is_no_valid_run(run_one: Run) -> None:
    one = run_one("Server", target_latency_ms=0.001, target_qps=500)
    assert not one.valid
    assert "Performance constraints satisfied : NO" in one.why_invalid
    assert any("Reduce target QPS" in words for words in one.why_invalid)


def test_too_few_queries_for_an_estimate_have_none(run_one: Run) -> None:
    one = run_one("MultiStream", min_seconds=0.001, min_queries=7)
    assert one.scored_ms is None
    assert any("Need to process at least 662 queries" in words for words in one.why_invalid)
    assert any("a result takes 1024" in words for words in one.why_invalid)


def test_more_queries_than_the_memory_holds_are_refused(run_one: Run) -> None:
    with pytest.raises(ConfigError, match=r"LoadGen would hold .* in memory.*--min-seconds"):
        run_one("SingleStream", min_seconds=86_400)


def _table(rows: int) -> bytes:
    """A model that looks its first input up in a table, and fails beyond it."""
    table = np.random.default_rng(2).normal(size=(rows, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Cast", ["first"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(0), "zero")],
    )
    imports = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, ir_version=8, opset_imports=imports).SerializeToString()
    return model


def test_a_model_that_fails_in_the_run_ends_it_and_is_named_and_the_others_go_on(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], setup: Setup
) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    edges = (Edge(name="frail", file="frail.onnx", head="evidential"), *manifest.edge)
    frail = msgspec.structs.replace(manifest, edge=edges)
    bundle = write_bundle(tmp_path / "frail", frail, bundle_files | {"frail.onnx": _table(5)})
    x = np.zeros((300, 4), np.float32)
    x[299] = 99  # beyond what the warm-up serves
    failed: list[Failed] = []
    found = run_scenarios(
        bundle,
        msgspec.convert(
            TINY | {"scenarios": ("Server",), "ways": ("model",), "target_qps": 10_000}, Plan
        ),
        contenders=[(edge, 1) for edge in edges],
        data=Dataset(x=x),
        setup=setup,
        failed=failed,
    )
    assert [one.variant for one in found] == ["null", "tiny"]
    (one,) = failed
    assert one.variant == "frail"
    assert one.reason.startswith("Server, frail, 1 thread, infer: ")
    assert "frail.onnx" in one.reason


@pytest.mark.parametrize("way", ["filter", "evidence", "escalation"])
def test_whatever_part_fails_ends_the_run(
    run_one: Run,
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    free_port: int,
    start_broker: Callable[..., object],
    way: Way,
) -> None:
    broker = None
    if way == "escalation":
        start_broker("mosquitto", free_port)
        broker = f"mqtt://127.0.0.1:{free_port}"
    files = bundle_files | {"edge.onnx": _table(5)}
    bare = msgspec.structs.replace(manifest, filter=())
    del files["skip.onnx"]
    bundle = write_bundle(tmp_path / "frail", bare, files)
    rows = np.zeros((300, 4), np.float32)
    rows[299] = 99
    with pytest.raises(ModelError, match=r"edge\.onnx"):
        run_one(
            "SingleStream",
            way,
            bundle=bundle,
            rows=rows,
            broker=broker,
            min_queries=5000,
            answer_within_ms=1,
        )


def test_without_rows_or_a_place_for_the_logs_nothing_begins(
    digits: Bundle, setup: Setup, tmp_path: Path
) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    with pytest.raises(DataError, match="needs rows"):
        run_scenarios(digits, Plan(), contenders=[], data=None, setup=setup, failed=[])
    (tmp_path / "file").write_text("")
    data, logs = load_dataset(UNSEEN), tmp_path / "file" / "logs"
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        run_scenarios(digits, Plan(), contenders=[], data=data, setup=setup, failed=[], logs=logs)


def test_a_bundle_that_asks_nobody_cannot_escalate(digits: Bundle, setup: Setup) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    alone = msgspec.structs.replace(digits.manifest, cloud=None)
    bundle, data = dataclasses.replace(digits, manifest=alone), load_dataset(UNSEEN)
    plan = Plan(scenarios=("Offline",), ways=("escalation",), min_seconds=0.01, warm_up_s=0.01)
    failed: list[Failed] = []
    contenders = [(alone.edge[0], 1)]
    (floor,) = run_scenarios(
        bundle, plan, contenders=contenders, data=data, setup=setup, failed=failed
    )
    assert floor.variant == "null"
    assert "has no cloud model to escalate to" in failed[0].reason


def test_what_is_not_installed_is_named_with_how_to_build_it(
    digits: Bundle, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"ARM64 .* g\+\+ .*hedge-runtime\[bench\]"):
        run_scenarios(digits, Plan(), contenders=[], data=None, setup=setup, failed=[])


_ENDLESS = """
import msgspec, sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.runtime.bench.loadgen.messages import ROWS
from hedge.runtime.bench.loadgen.plan import ScenarioPlan as Plan
from hedge.runtime.bench.loadgen.scenarios import Setup, run_scenarios
from hedge.runtime.backends.options import BackendOptions
from hedge.telemetry.boards.detect import detect
bundle = load_bundle(Path(sys.argv[1]))
run_scenarios(
    bundle,
    Plan(
        scenarios=("Server",), ways=("evidence",), min_seconds=600, target_qps=50, min_queries=1
    ),
    contenders=[(bundle.manifest.edge[0], 1)],
    data=load_dataset(Path(sys.argv[2])),
    setup=Setup(board=detect(), options=BackendOptions(), state=Path(sys.argv[3])),
    failed=[],
    show=lambda state: print(state, flush=True),
)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_even_a_kill_end_loadgens_process(
    setup: Setup,
    tmp_path: Path,
    number: signal.Signals,
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    command = [sys.executable, "-c", _ENDLESS, bundle_path("digits"), UNSEEN, setup.state]
    with subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a kill leaves what lies there
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "running for" in line:
                break
        children = psutil.Process(process.pid).children()
        assert len(children) == 1
        process.send_signal(number)
        assert process.wait(30) != 0
    eventually(lambda: not any(one.is_running() for one in children))


def test_a_process_that_crashes_is_reported_with_how_it_ended(
    run_one: Run, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    def ours() -> list[psutil.Process]:
        children = psutil.Process().children()
        return [one for one in children if any("loadgen.child" in w for w in one.cmdline())]

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_one, "Server", min_seconds=600, target_qps=50, min_queries=1)
        eventually(lambda: bool(ours()))
        ours()[0].send_signal(signal.SIGSEGV)
        with pytest.raises(HedgeError, match="LoadGen's process: killed by SIGSEGV"):
            run.result(60)


def test_loadgen_is_told_what_the_warm_up_found_and_draws_by_the_seed(
    digits: Bundle, setup: Setup
) -> None:
    library = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    plan = Plan(ways=("model",), min_seconds=3, min_queries=40, target_qps=70)
    tasks = scenarios._tasks(digits, plan, [(digits.manifest.edge[0], 1)], setup=setup)
    by_name = {task.scenario: task for task in tasks if task.variant}
    warm = Warm(burst=8, burst_ns=2e6, samples=100)  # 4000 samples a second
    single, multi, server, offline = (
        settings_for(library, by_name[name], warm) for name in SCENARIOS
    )
    assert single.single_stream_expected_latency_ns == 2e6
    assert (multi.multi_stream_expected_latency_ns, multi.multi_stream_samples_per_query) == (
        2e6,
        8,
    )
    assert (server.server_target_qps, server.server_target_latency_ns) == (70, 100_000_000)
    assert offline.offline_expected_qps == pytest.approx(5200)
    for one in (single, multi, server, offline):
        assert (one.min_duration_ms, one.min_query_count) == (3000, 40)
    seeds = (single.qsl_rng_seed, single.sample_index_rng_seed, single.schedule_rng_seed)
    assert seeds == (multi.qsl_rng_seed, multi.sample_index_rng_seed, multi.schedule_rng_seed)
    assert len(set(seeds)) == 3
    again = settings_for(library, msgspec.structs.replace(by_name["Server"], seed=12), warm)
    assert again.schedule_rng_seed not in seeds


def test_flags_say_what_to_run() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = "--scenario Server,Offline --ways model,escalation --min-seconds 5 --min-queries 9"
    words += " --target-qps 50 --target-latency-ms 20 --broker mqtt://there"
    assert Plan.of(parser.parse_args(words.split())) == Plan(
        scenarios=("Server", "Offline"),
        ways=("model", "escalation"),
        min_seconds=5,
        min_queries=9,
        target_qps=50,
        target_latency_ms=20,
        broker="mqtt://there",
    )
    assert Plan.of(parser.parse_args([])) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--scenario Single", "'Single' is none of SingleStream, MultiStream, Server, Offline"),
        ("--scenario ,", "names none of SingleStream"),
        ("--ways cloud", "'cloud' is none of model, filter, evidence, escalation"),
        ("--min-seconds nan", "'nan' is not a number up to 86400"),
        ("--min-queries 0", "'0' is not a number from 1"),
        ("--target-qps -1", "'-1' is not a number"),
        ("--target-latency-ms 1e9", "'1e9' is not a number up to 600000"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words.replace(" ", "=").split())
    assert says in capsys.readouterr().err


def test_a_log_histogram_holds_each_duration_below_its_bound() -> None:
    spent_ns = np.array([1, 900, 1000, 1001, 123_456, 10**9, 999], np.int64)
    found = log_histogram(spent_ns)
    bounds_ns = np.array([bound * 1e6 for bound, _ in found])
    expected = np.zeros(len(found), int)
    for spent in spent_ns:
        expected[np.flatnonzero(bounds_ns * (1 + 1e-6) >= spent)[0]] += 1
    assert [count for _, count in found] == expected.tolist()
    assert bounds_ns[0] == pytest.approx(1)
    assert bounds_ns[-1] == pytest.approx(1e9)
    assert bounds_ns[20] / bounds_ns[0] == pytest.approx(10, rel=1e-4)


def test_logs_that_are_cut_off_or_contradict_each_other_are_no_verdict(tmp_path: Path) -> None:
    detail = (KEPT / "mlperf_log_detail.txt").read_text()
    summary = (KEPT / "mlperf_log_summary.txt").read_text()
    with pytest.raises(DataError, match="left no log"):
        read_verdict(tmp_path)
    (tmp_path / "mlperf_log_summary.txt").write_text(summary)
    (tmp_path / "mlperf_log_detail.txt").write_text(detail)
    assert read_verdict(tmp_path).valid
    (tmp_path / "mlperf_log_summary.txt").write_text(summary.replace(": VALID", ": INVALID"))
    with pytest.raises(DataError, match="contradict each other"):
        read_verdict(tmp_path)
    with pytest.raises(DataError, match="cut off"):
        parse_detail(detail[: detail.index('"key": "result_validity"') - 10], where="here")
    with pytest.raises(DataError, match="cannot be read"):
        parse_detail(detail[: detail.index('"key": "result_validity"') + 5], where="here")


def test_an_error_in_the_log_makes_a_run_invalid_whatever_its_verdict() -> None:
    detail = (KEPT / "mlperf_log_detail.txt").read_text()
    error = {"key": "error_runtime", "value": "it broke", "metadata": {"is_error": True}}
    line = f":::MLLOG {msgspec.json.encode(error).decode()}\n"
    found = parse_detail(detail + line, where="here")
    assert found.says == "VALID"
    assert not found.valid
    assert found.why_invalid == ("it broke",)


def test_the_kept_run_is_valid_in_full_and_its_record_is_what_loadgen_says() -> None:
    kept = msgspec.json.decode((KEPT / "single_stream.json").read_bytes())
    one, verdict = msgspec.convert(kept["result"], ScenarioResult), read_verdict(KEPT)
    assert verdict.valid
    assert one.valid
    assert one.why_invalid == verdict.why_invalid == ()
    assert one.scenario == verdict.scenario == "SingleStream"
    assert one.parts == EVIDENCE
    assert one.min_duration_s == verdict.min_duration_s >= 600
    assert one.seconds >= 600
    assert one.queries == verdict.queries == one.samples == one.latency.count >= 1024
    assert one.loadgen == verdict.loadgen
    assert one.loadgen_ms == verdict.percentiles_ms
    assert one.scored_ms == verdict.estimate_ms
    assert kept["bundle"] == "digits"
    assert kept["digest"] == load_bundle(bundle_path("digits")).digest


def test_the_kept_summary_says_the_same_to_people() -> None:
    kept = msgspec.json.decode((KEPT / "single_stream.json").read_bytes())["result"]
    told = parse_summary((KEPT / "mlperf_log_summary.txt").read_text())
    assert told["Result is"] == "VALID"
    assert told["Scenario"] == "SingleStream"
    assert int(told["min_duration (ms)"]) == 600_000
    assert int(told["min_query_count"]) == kept["min_queries"] == 1024
    assert int(told["90.0th percentile latency (ns)"]) == round(kept["loadgen_ms"]["90.00"] * 1e6)
    estimate_ns = int(told["Early stopping 90.0th percentile estimate"])
    assert estimate_ns == round(kept["scored_ms"] * 1e6)
    for percentile, found_ms in kept["loadgen_ms"].items():
        assert int(told[f"{percentile} percentile latency (ns)"]) == round(found_ms * 1e6)
    assert float(told["QPS w/ loadgen overhead"]) == pytest.approx(kept["samples_per_s"], rel=1e-4)
    # our own clock, per query, against LoadGen's
    own = kept["latency"]
    for percentile, name in (("50.00", "median_ms"), ("90.00", "p90_ms"), ("99.00", "p99_ms")):
        assert own[name] < kept["loadgen_ms"][percentile] < 1.25 * own[name]


class _Filtering:
    """A lane of which every other sample is reused, every fourth dropped, and the rest accepted."""

    def __init__(self) -> None:
        self.filters = [SimpleNamespace(kind="skip"), SimpleNamespace(kind="reuse")]
        self.filtered: Filtered | None = None
        self.learnt: list[str] = []
        self._seen = 0

    def judge(self, row: NDArray[np.float32]) -> Any:  # noqa: ANN401 -- the lane's own
        del row
        self._seen += 1
        self.filtered = None
        if self._seen % 2 == 0:
            self.filtered = Filtered("reused", label=1) if self._seen % 4 else DROPPED
            return None
        return SimpleNamespace(probs=None), SimpleNamespace(action="accept")

    def accepted(self, sample_id: str, opinion: Any) -> None:  # noqa: ANN401 -- the lane's own
        assert opinion is not None
        self.learnt.append(sample_id)


def test_what_is_reused_is_not_counted_as_dropped_and_a_filter_may_learn() -> None:
    lane = _Filtering()
    way = _judging(cast("Lane", lane))
    done: list[int] = []
    for _ in range(20):
        way.serve(np.zeros(2, np.float32), lambda: done.append(1))
    assert way.counts() == {"dropped": 5, "reused": 5, "escalated": 0}
    assert len(done) == 20
    assert len(set(lane.learnt)) == 10
