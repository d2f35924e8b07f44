"""`hedge demo` as its user runs it: real broker, worker and device processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.runtime.shipped import bundle_path

_DIGITS = bundle_path("digits")
_UNSEEN = _DIGITS.with_name("digits-unseen.npz")
_KEYS = {
    *("samples", "passed", "edge_accuracy", "cloud_accuracy", "accuracy", "escalated_share"),
    *("dropped_share", "degraded", "reused", "failed", "bytes_up", "latency_ms", "energy"),
}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `hedge demo` with arguments; what still runs afterwards is killed."""
    started = []

    def demo(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "hedge", "demo", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield demo
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _done(process: subprocess.Popen[str], *, code: int = 0) -> str:
    out, _ = process.communicate(timeout=100)
    assert process.returncode == code, out
    return out


def _child(process: subprocess.Popen[str], command: str) -> psutil.Process:
    """Wait for a child that runs this command of ours."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for one in psutil.Process(process.pid).children(recursive=True):
            if command in one.cmdline():
                return one
        time.sleep(0.02)
    raise AssertionError(f"no {command} was started")


def _wait_for_outcomes(device: psutil.Process, route: str = "") -> None:
    """Return when the device has written outcomes, one of them of this route."""
    file = Path(device.cmdline()[-1]).with_name("outcomes.jsonl")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if file.exists() and file.stat().st_size > 10_000 and f'"{route}' in file.read_text():
            return
        time.sleep(0.02)
    raise AssertionError("the device wrote nothing")


def _figures(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_demo_ends_more_right_than_the_edge_at_a_fraction_of_the_traffic(
    start: Start, tmp_path: Path
) -> None:
    out = _done(start("--json", "r.json"))
    found = _figures(tmp_path / "r.json")
    assert found.keys() >= _KEYS
    assert found["samples"] == len(load_dataset(_UNSEEN).x)
    assert found["passed"] == round(found["samples"] * (1 - found["dropped_share"]))
    edge, cloud, both = (found[f"{who}accuracy"] for who in ("edge_", "cloud_", ""))
    assert edge >= 0.93
    assert cloud >= edge + 0.03
    assert both > edge
    assert both - edge >= 0.5 * (cloud - edge)
    assert 0 < found["escalated_share"] <= 0.30
    assert 0 < found["dropped_share"] < 0.5
    assert found["filter_agreement"] > 0.98
    assert (found["degraded"], found["failed"], found["unanswered"]) == (0, 0, 0)
    assert 0 < found["bytes_up"] < found["bytes_up_if_all"] / 2
    first, final = found["latency_ms"]["first"], found["latency_ms"]["final"]
    assert 0 < first["p50"] <= first["p99"] <= final["p99"]
    assert found["energy"] is None or found["energy"]["source"], "a figure names its sensor"
    assert "no sensor" in out
    assert "neither training nor calibration saw" in out


def test_a_worker_killed_midway_leaves_every_sample_answered(start: Start, tmp_path: Path) -> None:
    demo = start("--rate", 60, "--json", "r.json")
    worker = _child(demo, "worker")
    _wait_for_outcomes(_child(demo, "run"))
    worker.kill()
    out = _done(demo)
    found = _figures(tmp_path / "r.json")
    assert "the worker is gone (killed by SIGKILL)" in out
    assert found["unanswered"] == 0
    assert found["degraded"] > 0
    assert found["accuracy"] >= found["edge_accuracy"] - 0.02


def test_a_broker_killed_midway_leaves_every_sample_answered(start: Start, tmp_path: Path) -> None:
    demo = start("--rate", 100, "--json", "r.json")
    broker = _child(demo, "broker")
    _wait_for_outcomes(_child(demo, "run"))
    broker.kill()
    _done(demo)
    found = _figures(tmp_path / "r.json")
    assert (found["unanswered"], found["failed"]) == (0, 0)
    assert found["degraded"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_the_demo_shuts_everything_down(start: Start, number: signal.Signals) -> None:
    demo = start("--rate", 20)
    _wait_for_outcomes(_child(demo, "run"))
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) == 3
    demo.send_signal(number)
    assert "interrupted" in _done(demo, code=130)
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_demo_that_is_killed_leaves_no_process_behind(start: Start) -> None:
    demo = start("--rate", 20)
    _child(demo, "run")
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.kill()
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_device_that_is_stopped_early_is_no_success(start: Start, tmp_path: Path) -> None:
    demo = start("--rate", 60, "--json", "r.json")
    device = _child(demo, "run")
    _wait_for_outcomes(device, "dropped")
    device.terminate()
    out = _done(demo, code=2)
    assert re.search(r"\d+ of 540 samples have no final outcome", out)
    found = _figures(tmp_path / "r.json")
    assert 0 < found["unanswered"] < found["samples"]
    share = found["dropped_share"]
    dropped = share * found["passed"] / (1 - share)
    assert dropped == pytest.approx(round(dropped)), "of the samples that had their turn"
    assert dropped > 0.5


def test_a_worker_that_is_kept_never_answers_one_demo_with_anothers_answers(
    start: Start, tmp_path: Path, broker_url: str
) -> None:
    data = load_dataset(_UNSEEN)
    assert data.y is not None
    order = np.random.default_rng(5).permutation(len(data.x))
    np.savez(tmp_path / "mixed.npz", X=data.x[order], y=data.y[order])
    command = [sys.executable, "-m", "hedge", "worker", "digits", "--broker", broker_url]
    kept = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert kept.stderr is not None
        assert "serving" in kept.stderr.readline()
        found = []
        for name in (_UNSEEN, "mixed.npz"):
            _done(start("--data", name, "--broker", broker_url, "--rate", 400, "--json", "r.json"))
            found.append(_figures(tmp_path / "r.json"))
    finally:
        kept.kill()
        kept.communicate()
    assert found[0]["accuracy"] == pytest.approx(found[1]["accuracy"], abs=0.005)


def test_classes_are_matched_by_name_where_the_data_has_names(start: Start, tmp_path: Path) -> None:
    data = load_dataset(_UNSEEN)
    assert data.y is not None
    names = np.array([str(9 - number) for number in range(10)])
    np.savez(tmp_path / "turned.npz", X=data.x, y=9 - data.y, label_names=names)
    _done(start("--data", "turned.npz", "--rate", 1000, "--json", "r.json"))
    assert _figures(tmp_path / "r.json")["edge_accuracy"] > 0.9
    np.savez(tmp_path / "other.npz", X=data.x, y=data.y, label_names=np.array([*names[:9], "x"]))
    assert "is none of the bundle's labels" in _done(start("--data", "other.npz"), code=2)


def test_rows_that_training_or_calibration_saw_are_left_out(start: Start, tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    x, y = datasets.load_digits(return_X_y=True)
    np.savez(tmp_path / "all.npz", X=x.astype(np.uint8), y=y)
    out = _done(start("--data", "all.npz", "--rate", 2000, "--json", "r.json"))
    found = _figures(tmp_path / "r.json")
    assert found["samples"] == len(load_dataset(_UNSEEN).x)
    assert found["samples"] + found["seen_rows_left_out"] == len(x)
    assert f"{found['seen_rows_left_out']} rows that they saw are left out" in out


def test_a_folder_of_samples_without_classes_has_no_accuracies(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    for number, row in enumerate(load_dataset(_UNSEEN).x[:40]):
        np.save(tmp_path / "rows" / f"{number:03}.npy", row)
    _done(start("digits", "--data", "rows", "--rate", 1000, "--json", "r.json"))
    found = _figures(tmp_path / "r.json")
    assert (found["samples"], found["accuracy"], found["edge_accuracy"]) == (40, None, None)
    assert found["unanswered"] == 0


def test_the_demo_runs_over_a_broker_of_either_protocol(
    start: Start, tmp_path: Path, broker_url: str
) -> None:
    _done(start("--broker", broker_url, "--json", "r.json"))
    found = _figures(tmp_path / "r.json")
    assert found["unanswered"] == 0
    assert found["accuracy"] > found["edge_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--data", "none.npz"], r"none\.npz: no such file"),
        (["--data", "wide.npz"], r"samples of shape \(3,\); the bundle takes \(64,\)"),
        (["--data", "empty"], r"neither an \.npz nor \.npy"),
        (["--broker", "http://x"], "mqtt://"),
        (["--rate", "0"], "not a number between"),
        (["--json", "no/r.json"], r"no/r\.json: is a folder, or lies in none that exists"),
    ],
)
def test_bad_input_is_one_line_that_says_what_and_where(
    start: Start, tmp_path: Path, arguments: list[str], message: str
) -> None:
    np.savez(tmp_path / "wide.npz", X=np.ones((4, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    out = _done(start(*arguments), code=2)
    last = out.strip().splitlines()[-1]
    assert last.startswith("hedge")
    assert re.search(message, last)
    assert "Traceback" not in out


def test_the_shipped_bundle_says_where_it_comes_from() -> None:
    manifest = load_bundle(_DIGITS).manifest
    assert manifest.licence
    assert manifest.citations
    assert sum(file.stat().st_size for file in _DIGITS.iterdir()) < 500_000
