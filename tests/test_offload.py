"""Filters on the device, the model at the far end: of samples, or of a split model's features."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.bundle import Bundle, write_bundle
from hedge.models.errors import BundleError, ConfigError, ModelError
from hedge.models.manifest import Cloud, Edge, Filter, Input, Manifest, Split
from hedge.models.model import ModelSpec, TensorSpec
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome
from hedge.runtime.checks.device import check_device
from hedge.runtime.checks.model import check_bundle_alone
from hedge.runtime.cli import main
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.dry.dry_run import dry_run
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.privacy import Features
from hedge.runtime.sources.replay import Replay
from hedge.runtime.split_head import SplitHead
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger
from hedge.uplink import wire
from hedge.uplink.absent import Absent
from hedge.uplink.asks import Ask

changed = msgspec.structs.replace
Linear = Callable[..., bytes]
Eventually = Callable[[Callable[[], bool]], None]
_X = np.random.default_rng(7).normal(size=(24, 4)).astype(np.float32)
_STREAM = """[device]
name = "d"
state_dir = "state"
{uplink}
[[sink]]
kind = "jsonl"
path = "out.jsonl"
[[stream]]
name = "s"
bundle = "{bundle}"
answer_within_ms = {within_ms}
source = {{ kind = "replay", path = "rows.npz" }}
filter_shadow = 0
{more}
"""


def _weights(seed: int, *size: int) -> NDArray[np.float64]:
    """Return what `linear_onnx` draws."""
    return np.random.default_rng(seed).normal(size=size)


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    exp = np.exp(logits.astype(np.float64))
    found: NDArray[np.float64] = exp / exp.sum(axis=1, keepdims=True)
    return found


@pytest.fixture
def offload(tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes]) -> Bundle:
    """Give a bundle of a filter (weights of seed 2) and a cloud model (seed 3)."""
    half = changed(manifest.filter[0], threshold=0.5)
    alone = changed(manifest, edge=(), calibration=None, filter=(half,))
    files = {name: data for name, data in bundle_files.items() if name != "edge.onnx"}
    return write_bundle(tmp_path / "offload", alone, files)


@pytest.fixture
def features(tmp_path: Path, manifest: Manifest, linear_onnx: Linear) -> Bundle:
    """Give a bundle of a head (seed 11), a filter of its features (12) and the tail (13)."""
    skip = Filter(kind="skip", file="skip.onnx", redundant=("rest",), attach="feature")
    cut = changed(
        manifest,
        edge=(),
        calibration=None,
        cloud=None,
        training=None,
        filter=(skip,),
        split=Split(file="here.onnx", width=2, cloud=Cloud(file="there.onnx")),
    )
    files = {
        "here.onnx": linear_onnx(2, seed=11),
        "skip.onnx": linear_onnx(1, seed=12, shape=(2,)),
        "there.onnx": linear_onnx(3, seed=13, shape=(2,)),
    }
    return write_bundle(tmp_path / "features", cut, files)


def _configure(
    folder: Path, bundle: Bundle, *, port: int | None, more: str = "", within_ms: int = 20_000
) -> Path:
    np.savez(folder / "rows.npz", X=_X)
    uplink = "" if port is None else f'[uplink]\nbroker = "mqtt://127.0.0.1:{port}"\n'
    path = folder / "device.toml"
    path.write_text(
        _STREAM.format(uplink=uplink, bundle=bundle.path, within_ms=within_ms, more=more)
    )
    return path


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


def _number(one: Mapping[str, Any]) -> int:
    return int(str(one["id"]).split("-")[1])


def _is_ready(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer,
    ):
        return bool(answer.status == 200)
    return False


@contextlib.contextmanager
def _worker(
    folder: Path, bundle: Bundle, port: int, *, eventually: Eventually
) -> Iterator[list[wire.Request]]:
    """Run a worker, and give the requests that the broker has heard of once it is ready."""
    heard: list[wire.Request] = []
    listener = Client(CallbackAPIVersion.VERSION2)
    listener.on_message = lambda *given: heard.append(wire.decode_request(given[-1].payload))
    listener.connect("127.0.0.1", port)
    listener.subscribe("hedge/1/+/+/ask/#")
    listener.loop_start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        health = int(free.getsockname()[1])
    command = [sys.executable, "-m", "hedge", "worker", str(bundle.path)]
    worker = subprocess.Popen(
        [*command, "--broker", f"mqtt://127.0.0.1:{port}", "--health", str(health)],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _is_ready(health))
        yield heard
    finally:
        worker.kill()
        worker.wait()
        listener.loop_stop()
        listener.disconnect()


def test_what_passes_the_filter_is_answered_by_the_far_end_alone(
    tmp_path: Path,
    offload: Bundle,
    free_port: int,
    start_broker: Callable[..., object],
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    config = load_config(_configure(tmp_path, offload, port=free_port), environ={})
    with _worker(tmp_path, offload, free_port, eventually=eventually) as heard:
        report = serve(config, base=tmp_path)
    passes = (_X @ _weights(2, 4, 1).astype(np.float32))[:, 0] > 0
    (stream,) = report.streams
    assert 0 < passes.sum() < len(_X)
    assert stream.routes["dropped"] == (~passes).sum()
    assert stream.routes["escalated"] == stream.ends["answered"] == passes.sum()
    assert stream.reasons["no_edge"] == passes.sum()
    assert stream.gate is None
    outcomes = _outcomes(tmp_path)
    first = [one for one in outcomes if not one["final"]]
    finals = sorted((one for one in outcomes if one["final"]), key=_number)
    assert len(finals) == len(_X)
    assert {(one["route"], one.get("label"), one.get("probs")) for one in first} == {
        ("edge", None, None)
    }
    expected = _softmax(_X @ _weights(3, 4, 3).astype(np.float32))
    for place, one in enumerate(finals):
        assert one["route"] == ("cloud" if passes[place] else "dropped")
        if passes[place]:
            assert one["probs"] == pytest.approx(expected[place], rel=1e-4)
            assert one.get("score") is None
    assert {request.opinion for request in heard} == {None}


def test_without_a_link_the_device_says_nothing_and_that_it_is_degraded(
    tmp_path: Path, offload: Bundle, free_port: int
) -> None:
    path = _configure(tmp_path, offload, port=free_port, within_ms=100)
    report = serve(load_config(path, environ={}), base=tmp_path)
    (stream,) = report.streams
    asked = stream.routes["escalated"]
    assert stream.ends["expired"] == stream.reasons["unavailable"] == asked > 0
    finals = [one for one in _outcomes(tmp_path) if one["final"] and one["route"] != "dropped"]
    assert {(one["route"], one.get("label"), one["degraded"]) for one in finals} == {
        ("edge", None, "unavailable")
    }


def test_what_a_killed_device_has_asked_about_ends_once_after_its_next_start(
    tmp_path: Path, offload: Bundle, free_port: int
) -> None:
    path = _configure(tmp_path, offload, port=free_port, within_ms=60_000)
    command = [sys.executable, "-m", "hedge", "run", "device.toml"]
    device = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + 60
    while not (tmp_path / "out.jsonl").exists() or len(_outcomes(tmp_path)) < len(_X):
        assert time.monotonic() < until_s
        assert device.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)  # what is on its way into the outbox
    device.kill()
    device.wait()
    asked = {one["id"] for one in _outcomes(tmp_path) if not one["final"]}
    path.write_text(path.read_text().replace("60000", "200"))
    report = serve(load_config(path, environ={}), base=tmp_path)
    finals = Counter(one["id"] for one in _outcomes(tmp_path) if one["final"])
    assert {finals[one] for one in asked} == {1}
    assert report.streams[0].resumed == len(asked)


def test_features_that_pass_the_filter_of_features_are_all_that_leaves(
    tmp_path: Path,
    features: Bundle,
    free_port: int,
    start_broker: Callable[..., object],
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    more = 'privacy = { share = "features" }'
    config = load_config(_configure(tmp_path, features, port=free_port, more=more), environ={})
    with _worker(tmp_path, features, free_port, eventually=eventually) as heard:
        report = serve(config, base=tmp_path)
    made = _X @ _weights(11, 4, 2).astype(np.float32)
    passes = (made @ _weights(12, 2, 1).astype(np.float32))[:, 0] > 0
    (stream,) = report.streams
    assert 0 < passes.sum() < len(_X)
    assert stream.routes["dropped"] == (~passes).sum()
    assert stream.ends["answered"] == passes.sum()
    asks = sorted(
        {one.id: one for one in heard}.values(), key=lambda one: int(one.id.split("-")[1])
    )
    assert {(one.entry, one.dtype, one.shape) for one in asks} == {("features", "float16", (2,))}
    sent = np.array([np.frombuffer(one.body, np.float16) for one in asks])
    assert sent == pytest.approx(made[passes].astype(np.float16), rel=2e-3)
    finals = [one for one in _outcomes(tmp_path) if one["final"] and one["route"] == "cloud"]
    found = np.array([one["probs"] for one in sorted(finals, key=_number)])
    expected = _softmax(sent.astype(np.float32) @ _weights(13, 2, 3).astype(np.float32))
    assert found == pytest.approx(expected, rel=5e-3)


class _Counted:
    """A head that counts how often it runs; one that `fails` does, but is counted."""

    runs_on = "test"

    def __init__(self, *, fails: bool = False) -> None:
        self.runs = 0
        self._fails = fails
        float32 = np.dtype(np.float32)
        self.spec = ModelSpec(
            (TensorSpec("x", float32, (None, 4)),), (TensorSpec("f", float32, (None, 2)),)
        )

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        self.runs += 1
        if self._fails:
            raise ModelError("has failed", where="head")
        found: NDArray[np.floating[Any]] = batch[:, :2] * 2
        return found

    def reset(self) -> None: ...

    def close(self) -> None: ...


class _Asked(Absent):
    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Ask] = []

    def offer(self, ask: Ask) -> bool:
        self.asks.append(ask)
        return True


class _Kept:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None: ...


class _Sum:
    """A filter, or a tail, of features: gives their sum ``times``."""

    runs_on = "test"

    def __init__(self, *times: float) -> None:
        self._times = np.array([times], np.float32)
        float32 = np.dtype(np.float32)
        self.spec = ModelSpec(
            (TensorSpec("f", float32, (None, 2)),), (TensorSpec("y", float32, (None, len(times))),)
        )

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        found: NDArray[np.floating[Any]] = batch.sum(axis=1, keepdims=True) @ self._times
        return found

    def reset(self) -> None: ...

    def close(self) -> None: ...


def _served(head: SplitHead, x: NDArray[np.float32], *, tail: bool) -> tuple[list[Ask], Ledger]:
    """Return what is asked, and counted, of ``x`` where a filter looks at features."""
    spec = Input(kind="tensor", shape=(4,), dtype="float32")
    ledger, uplink = Ledger("s"), _Asked()
    feeding = head.feeding(lambda batch: batch)
    asked = SkipFilter(_Sum(1.0), threshold=0.5, prepare=feeding)
    other = SkipFilter(_Sum(1.0), threshold=0.25, prepare=feeding)
    lane = Lane(
        name="s",
        source=Replay(x),
        input=spec,
        filters=[Screen(one, name=name, kind="skip") for one, name in ((asked, "a"), (other, "b"))],
        model=_Sum(-1.0, -2.0) if tail else None,
        prepare=feeding if tail else preparer(spec),
        assessor=Assessor(output="logits", head="evidential", classes=2) if tail else None,
        policy=Policy(total=0.0) if tail else None,
        ledger=ledger,
        clock=boottime_ns,
        answer_within_ns=1,
        share=Features(head),
    )
    loop = Loop(
        [lane],
        ids=(f"1-{number}" for number in range(100)),
        sinks=[_Kept()],
        uplink=uplink,
        bell=threading.Event(),
        clock=boottime_ns,
        feeds=[],
    )
    loop.run()
    assert ledger.imbalance() is None
    return uplink.asks, ledger


@pytest.mark.parametrize("tail", [False, True])
def test_the_head_runs_once_a_sample_for_filters_tail_and_far_end(*, tail: bool) -> None:
    model = _Counted()
    head = SplitHead(model, lambda batch: batch, dtype="float16")
    asks, ledger = _served(head, _X, tail=tail)
    passes = _X[:, :2].sum(axis=1) > 0
    assert model.runs == len(_X)
    assert ledger.routes["dropped"] == (~passes).sum()
    assert np.array([one.body for one in asks]) == pytest.approx(_X[passes, :2] * 2, rel=1e-3)
    assert {one.entry for one in asks} == {"features"}
    assert {one.opinion is None for one in asks} == {not tail}


def test_a_head_that_fails_stops_no_stream_and_lets_nothing_out() -> None:
    head = SplitHead(_Counted(fails=True), lambda batch: batch, dtype="float16")
    asks, ledger = _served(head, _X, tail=False)
    assert asks == []
    assert ledger.reasons["not_shared"] == ledger.routes["escalated"] == len(_X)


def test_features_are_those_of_the_sample_that_is_asked_about() -> None:
    model = _Counted()
    head = SplitHead(model, lambda batch: batch, dtype="float16")
    x = _X.copy()
    first = x[0][None]
    assert np.array_equal(head(first)[0], head.of(x[0]))
    assert model.runs == 1
    assert np.array_equal(head.of(x[1]), x[1, :2] * 2)
    assert np.array_equal(head(first), head(first))
    assert model.runs == 2
    x[0] = 5.0  # what comes anew in the same place is another sample
    assert np.array_equal(head(x[0][None]), [[10.0, 10.0]])


def test_a_feature_that_the_wire_cannot_hold_stays_here() -> None:
    head = SplitHead(_Counted(), lambda batch: batch, dtype="float16")
    share = Features(head)
    with (
        np.errstate(over="ignore"),
        pytest.raises(ModelError, match="a feature is no number that float16 holds"),
    ):
        share(np.array([1e5, 0, 0, 0], np.float32))


@pytest.mark.parametrize(
    ("of", "port", "more", "says"),
    [
        ("offload", None, "", "no edge model, and there is no [uplink]: nothing would answer"),
        ("offload", 1, 'privacy = { share = "nothing" }', "is never answered"),
        ("offload", 1, 'variant = "tiny"', "no variant 'tiny', and no edge model at all"),
        ("offload", 1, "gate = { messages_per_hour = 9 }", "no gate that could hold a budget"),
        ("features", 1, "", "only model takes features, and 'sample' is shared"),
    ],
)
def test_a_stream_that_nobody_would_ever_answer_is_refused_by_run_and_check(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    of: str,
    port: int | None,
    more: str,
    says: str,
) -> None:
    bundle: Bundle = request.getfixturevalue(of)
    path = _configure(tmp_path, bundle, port=port, more=more)
    with pytest.raises(ConfigError) as caught:
        serve(load_config(path, environ={}), base=tmp_path)
    assert says in str(caught.value)
    assert "stream s" in str(caught.value)
    found = check_device(path, environ={}, offline=True)
    assert any(says in one.text for one in found if one.level == "error")


def test_check_says_what_such_a_bundle_does(
    tmp_path: Path, offload: Bundle, features: Bundle
) -> None:
    path = _configure(tmp_path, offload, port=1)
    found = list(check_device(path, environ={}, offline=True))
    assert not [one for one in found if one.level == "error"], found
    text = "the far end is asked about every sample that its filters let pass"
    assert any(text in one.text for one in found)
    more = 'privacy = { share = "features" }'
    found = list(
        check_device(_configure(tmp_path, features, port=1, more=more), environ={}, offline=True)
    )
    assert not [one for one in found if one.level == "error"], found
    tried = {one.subject for one in found if one.area == "backend"}
    assert {"stream s: here.onnx", "stream s: skip.onnx"} <= tried
    alone = list(check_bundle_alone(features.path, root=Path("/")))
    assert not [one for one in alone if one.level in {"error", "warning"} and one.area == "bundle"]


def test_a_dry_run_shows_what_would_be_asked(tmp_path: Path, offload: Bundle) -> None:
    lines: list[str] = []
    found = dry_run(
        load_config(_configure(tmp_path, offload, port=1), environ={}),
        base=tmp_path,
        samples=len(_X),
        seconds=60,
        folder=tmp_path / "dry",
        say=lines.append,
    )
    passes = (_X @ _weights(2, 4, 1).astype(np.float32))[:, 0] > 0
    (stream,) = found.streams
    assert Counter(one.would for one in stream.samples) == {
        "ask": passes.sum(),
        "drop": (~passes).sum(),
    }
    assert {one.why for one in stream.samples} == {"no_edge", "filter"}


def test_bench_refuses_what_it_cannot_measure(
    offload: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "run", str(offload.path)]) == 2
    assert "has no edge model (bench measures those" in capsys.readouterr().err


def test_a_bundle_of_a_head_and_nothing_that_takes_its_features_is_refused(
    tmp_path: Path, manifest: Manifest, linear_onnx: Linear
) -> None:
    alone = changed(manifest, edge=(), calibration=None, cloud=None, filter=(), training=None)
    with pytest.raises(BundleError, match="neither an edge nor a cloud model"):
        write_bundle(tmp_path / "b", alone, {})
    tail = changed(alone, edge=(Edge(name="t", file="t.onnx", attach="feature"),))
    with pytest.raises(BundleError, match=r"\$\.edge\[0\]\.attach: there is no \[split\]"):
        write_bundle(tmp_path / "b", tail, {"t.onnx": linear_onnx(3, shape=(2,))})
