"""`hedge filter tune`: where a filter is put, what is said of it, and what is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.manifest import Edge, Filter, Input, Manifest, Reuse
from hedge.models.training.infi.replaying import replay
from hedge.runtime.cli import main
from hedge.runtime.filter import costs
from hedge.runtime.filter.load import Load
from hedge.runtime.filter.pair import Pair
from hedge.runtime.filter.time_costs import TimeCosts, time_costs

SEED = 20283
_WIDTH = 6
_LABELS = ("rest", "walk", "fall")


def _linear(weights: NDArray[Any], *, slow: int = 0) -> bytes:
    """Return the ONNX graph of x W; with ``slow`` products more that change nothing."""
    nodes, weight = [], [numpy_helper.from_array(weights.astype(np.float32), "W")]
    name = "x"
    if slow:
        weight.append(numpy_helper.from_array(np.eye(_WIDTH, 512, dtype=np.float32), "up"))
        weight.append(numpy_helper.from_array(np.eye(512, dtype=np.float32), "same"))
        weight.append(numpy_helper.from_array(np.eye(512, _WIDTH, dtype=np.float32), "down"))
        nodes.append(helper.make_node("MatMul", ["x", "up"], ["h0"]))
        for at in range(slow):
            nodes.append(helper.make_node("MatMul", [f"h{at}", "same"], [f"g{at}"]))
            nodes.append(helper.make_node("Relu", [f"g{at}"], [f"h{at + 1}"]))
        nodes.append(helper.make_node("MatMul", [f"h{slow}", "down"], ["back"]))
        name = "back"
    nodes.append(helper.make_node("MatMul", [name, "W"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", _WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weights.shape[1]])],
        weight,
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


_EDGE = np.eye(_WIDTH, 3) * 3.0
_SKIP = np.array([[-1.0], [1.0], [1.0], [0.5], [0.0], [0.0]])  # walk and fall, less than rest


def _rows(rows: int = 900, *, seed: int = SEED) -> dict[str, NDArray[Any]]:
    """Return samples (N, 6) above 0, in runs of the same kind, of three people."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(rng.choice(3, rows // 5, p=[0.7, 0.2, 0.1]), 5)
    x = rng.random((rows, _WIDTH)) * 0.6
    x[np.arange(rows), kind] += 1.0
    return {"X": x.astype(np.float32), "group": np.repeat(np.arange(6), rows // 6)}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def made(part: Filter | None = None, *, slow: int = 6, weights: Any = _SKIP) -> Path:  # noqa: ANN401
        manifest = Manifest(
            format=1,
            name="falls",
            version="1.0",
            task="classification",
            labels=_LABELS,
            licence="none",
            input=Input(kind="tensor", shape=(_WIDTH,), dtype="float32"),
            edge=(Edge(name="tiny", file="edge.onnx"),),
            filter=() if part is None else (part,),
            files={},
        )
        files = {"edge.onnx": _linear(_EDGE, slow=slow)}
        if part is not None:
            files["filter.onnx"] = _linear(weights)
        return write_bundle(tmp_path / "bundle", manifest, files).path

    return made


SKIP = Filter(kind="skip", file="filter.onnx", threshold=0.5, rule="labels rest")
REUSE = Filter(
    kind="reuse",
    file="filter.onnx",
    reuse=Reuse(width=_WIDTH, distance=1.0, neighbours=3, share=1.0),
)


class Timed:
    """Model and filter of which each call takes as long as is said, by turns of ``drift``."""

    def __init__(self, *, model_us: float, filter_us: float, drift: tuple[float, ...]) -> None:
        self._now_ns = 0
        self._takes_us = model_us, filter_us
        self._drift = drift
        self._opened = -1

    def clock(self) -> int:
        return self._now_ns

    def open(self, _: contextlib.ExitStack) -> Pair:
        self._opened += 1
        model_us, filter_us = self._takes_us
        slower = self._drift[self._opened % len(self._drift)]
        return Pair(
            lambda _: self._spend(model_us), lambda _: self._spend(filter_us * slower, ruled=True)
        )

    def _spend(self, us: float, *, ruled: bool = False) -> bool:
        self._now_ns += round(us * 1000)
        return ruled


@pytest.fixture(autouse=True)
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let no verdict depend on the clock: a model takes 100 us, and a filter 10 if nothing else."""

    def set_to(filter_us: float, drift: tuple[float, ...] = (1.0,)) -> None:
        def told(_: Any, load: Load, *, rate: float) -> TimeCosts:  # noqa: ANN401 -- not called
            made = Timed(model_us=100.0, filter_us=filter_us, drift=drift)
            return time_costs(made.open, load, rate=rate, clock=made.clock)

        monkeypatch.setattr(costs, "time_costs", told)

    set_to(10.0)
    return set_to


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "rows.npz", **_rows())  # type: ignore[arg-type]
    return tmp_path / "rows.npz"


def test_a_filter_is_put_where_the_recall_is_held_and_what_it_is_worth_is_said(
    make: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "out", tmp_path / "told.json"
    line = ["filter", "tune", str(make(SKIP)), str(data), "--recall", "0.9", "--out", str(out)]
    assert main([*line, "--json", str(told)]) == 0
    said = capsys.readouterr().out
    found = json.loads(told.read_text())
    assert "pays: a filter of" in said
    for name in ("this filter", "constant answer", "random", "last answer", "frame difference"):
        assert name in said
    point = found["point"]
    assert point["recall"] >= 0.9
    assert 0.4 < point["rate"] <= found["optimum"]
    new = load_bundle(out).manifest
    assert new.version == "1.1"
    (part,) = new.filter
    assert part.threshold == pytest.approx(point["threshold"])
    assert part.tuned is not None
    assert (part.tuned.aim, part.tuned.target, part.tuned.confidence) == ("recall", 0.9, 0.95)
    assert part.tuned.recall == pytest.approx(point["recall"])
    assert main([*line[:-1], str(tmp_path / "again")]) == 0, "the first bundle has not changed"
    line[2] = str(out)
    assert main([*line[:-1], str(tmp_path / "third")]) == 2
    assert "saw all 900 rows" in capsys.readouterr().err


def test_its_figures_are_those_of_counting_row_by_row(
    make: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    line = ["filter", "tune", str(make(SKIP)), str(data), "--accuracy", "0.92", "--anyway"]
    assert main([*line, "--out", str(tmp_path / "out"), "--json", str(told)]) == 0
    point = json.loads(told.read_text())["point"]
    x = _rows()["X"].astype(np.float64)
    matters = (x @ _EDGE).argmax(1) != 0
    score = 1 / (1 + np.exp(-(x @ _SKIP)[:, 0]))
    dropped = score <= point["threshold"] + 1e-7
    assert point["rate"] == pytest.approx(dropped.mean(), abs=2e-3)
    assert point["accuracy"] == pytest.approx(1 - (dropped & matters).mean(), abs=2e-3)
    assert point["accuracy"] >= 0.92


def test_a_filter_that_costs_more_than_it_saves_is_refused_with_the_figures(
    make: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    takes: Callable[..., None],
) -> None:
    takes(90.0)
    line = ["filter", "tune", str(make(SKIP)), str(data), "--out", str(tmp_path / "out")]
    assert main(line) == 1
    said = capsys.readouterr()
    assert "does not pay: a filter of" in said.out
    assert "--anyway does" in said.err
    assert not (tmp_path / "out").exists()
    assert main([*line, "--anyway"]) == 0


def test_a_reuse_filter_is_placed_by_replaying_the_rows(
    make: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    bundle, told = make(REUSE, weights=np.eye(_WIDTH)), tmp_path / "told.json"
    line = ["filter", "tune", str(bundle), str(data), "--recall", "0.8", "--anyway"]
    assert main([*line, "--out", str(tmp_path / "out"), "--json", str(told)]) == 0
    point = json.loads(told.read_text())["point"]
    assert point["rate"] > 0.5
    assert point["recall"] > 0.8
    (new,) = load_bundle(tmp_path / "out").manifest.filter
    assert new.reuse is not None
    assert new.reuse.distance == pytest.approx(point["threshold"])


def test_a_reuse_filter_may_answer_a_redundant_row_with_any_redundant_label(
    make: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    bundle, told = make(REUSE, weights=np.eye(_WIDTH)), tmp_path / "told.json"
    line = ["filter", "tune", str(bundle), str(data), "--accuracy", "0.9", "--anyway"]
    points = []
    for number, rule in enumerate(("labels walk", "labels walk,rest")):
        out = str(tmp_path / f"out{number}")
        assert main([*line, "--redundant", rule, "--json", str(told), "--out", out]) == 0
        points.append(json.loads(told.read_text())["point"])
    one, two = points
    assert min(one["accuracy"], two["accuracy"]) >= 0.9
    assert two["rate"] > one["rate"], "with two redundant labels there is less to get wrong"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redundant", "labels rest,walk,fall"], "names every label"),
        (["--redundant", "labels asleep"], "'asleep' is none of the labels"),
        (["--redundant", "confidence below 0"], "makes no row redundant"),
        (["--redundant", "nonsense"], "is no rule"),
        (["--redundant", "no.such:thing"], "cannot be imported"),
        (["--recall", "1.5"], "--recall: 1.5 is no share"),
        (["--recall", "0.9", "--accuracy", "0.9"], "contradict each other"),
        (["--recall", "0.999"], "are too few to hold a recall of 0.999"),
        (["--filter", "1"], "1 is none of its 1 filters"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    arguments: list[str],
    said: str,
    make: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["filter", "tune", str(make(SKIP)), str(data), "--out", str(tmp_path / "out")]
    assert main([*line, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_a_filter_says_how_to_make_one(
    make: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["filter", "tune", str(make()), str(data), "--out", str(tmp_path / "o")]) == 2
    assert "hedge filter train makes one" in capsys.readouterr().err


def test_a_rule_of_one_s_own_code_is_believed_on_the_command_line_only(
    make: Callable[..., Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_rule_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text("def calm(p):\n    return p[:, 0] > 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = ["filter", "tune", str(make(SKIP)), str(data), "--anyway", "--out", str(tmp_path / "o")]
    assert main([*line, "--redundant", f"{name}:calm"]) == 0
    shutil.rmtree(tmp_path / "bundle")
    bundle = make(msgspec.structs.replace(SKIP, rule=f"{name}:calm"))
    assert main(["filter", "tune", str(bundle), *line[3:-1], str(tmp_path / "p")]) == 2


def test_whether_it_pays_is_not_said_where_the_rounds_contradict_each_other(
    make: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    takes: Callable[..., None],
) -> None:
    bundle, told = make(SKIP), tmp_path / "told.json"
    line = ["filter", "tune", str(bundle), str(data), "--json", str(told), "--out"]
    assert main([*line, str(tmp_path / "first")]) == 0
    rate = json.loads(told.read_text())["point"]["rate"]
    capsys.readouterr()
    takes(100.0 * rate, drift=(0.9, 1.05, 0.95, 1.1, 1.0))
    assert main([*line, str(tmp_path / "near")]) == 0, "it is written, for it may pay"
    assert "in time whether it pays cannot be told: a filter of" in capsys.readouterr().out
    saving = json.loads(told.read_text())["time"]["saving"]
    assert saving["low"] < 0 < saving["high"]
    takes(100.0 * rate, drift=(1.1, 1.11, 1.12, 1.11, 1.1))
    assert main([*line, str(tmp_path / "dear")]) == 1
    assert "in time it does not pay" in capsys.readouterr().out


def test_a_look_up_belongs_to_what_a_reuse_filter_costs(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = _rows()["X"]
    np.savez(tmp_path / "rows.npz", X=x)
    bundle, told = make(REUSE, weights=np.eye(_WIDTH)), tmp_path / "told.json"
    asked: list[tuple[int, bool]] = []

    def timed(opened: Any, load: Load, *, rate: float) -> TimeCosts:  # noqa: ANN401
        with contextlib.ExitStack() as stack:
            pair = opened(stack)
            assert load.known is not None
            for kind, batches in enumerate((load.kept, load.filtered)):
                asked.extend((kind, pair.filter(batch)) for batch in batches * 2)
        made = Timed(model_us=100.0, filter_us=10.0, drift=(1.0,))
        return time_costs(made.open, load, rate=rate, clock=made.clock)

    monkeypatch.setattr(costs, "time_costs", timed)
    line = ["filter", "tune", str(bundle), str(tmp_path / "rows.npz"), "--accuracy", "0.995"]
    assert main([*line, "--out", str(tmp_path / "out"), "--json", str(told)]) == 0
    assert {kind for kind, _ in asked} == {0, 1}
    assert all(ruled_out == bool(kind) for kind, ruled_out in asked), "and so at the second time"
    found = json.loads(told.read_text())
    (part,) = load_bundle(tmp_path / "out").manifest.filter
    assert part.reuse is not None
    labels = (x.astype(np.float64) @ _EDGE).argmax(axis=1)
    replayed = replay(x[:720], labels[:720].astype(np.int64), part.reuse)
    assert found["time"]["keys"] == np.sum(~replayed.reused), "as full as in the replay"


def test_what_an_answer_costs_beyond_the_look_up_is_reckoned_with() -> None:
    now_ns = [0]

    def spend(us: float) -> None:
        now_ns[0] += round(us * 1000)

    def asked(batch: NDArray[Any]) -> bool:
        reused = bool(batch[0, 0])
        spend(20.0 if reused else 60.0)
        return reused

    load = Load([np.zeros((1, 1))], [np.ones((1, 1))])
    found = time_costs(
        lambda _: Pair(lambda _: spend(100.0), asked), load, rate=0.5, clock=lambda: now_ns[0]
    )
    assert (found.filtered_us, found.kept_us, found.filter_us) == (20.0, 60.0, 40.0)
    assert found.worth.saved == pytest.approx(0.5 - (20 + 60) / 2 / 100)
    # with a rate of r: 20 r + 60 (1 - r) = 100 r
    assert found.worth.needed == pytest.approx(60 / 140)
    # rounds that agree say nothing of another run: 5 % of the ratio, which is 0.4
    assert (found.saving.low, found.saving.high) == pytest.approx((0.08, 0.12))


def test_only_what_the_filters_before_let_pass_counts_for_one_behind_them(
    tmp_path: Path, make: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_bundle(make(SKIP))
    both = msgspec.structs.replace(
        first.manifest, filter=(SKIP, msgspec.structs.replace(REUSE, file="key.onnx"))
    )
    files = {name: first.read(name) for name in ("edge.onnx", "filter.onnx")}
    bundle = write_bundle(tmp_path / "both", both, {**files, "key.onnx": _linear(np.eye(_WIDTH))})
    told = tmp_path / "told.json"
    line = ["filter", "tune", str(bundle.path), str(data), "--filter", "1", "--recall", "0.8"]
    aim = ["--redundant", "labels walk", "--anyway"]
    assert main([*line, *aim, "--out", str(tmp_path / "out"), "--json", str(told)]) == 0
    x = _rows()["X"].astype(np.float64)
    reach = (x @ _SKIP)[:, 0] > 0  # the threshold is 1/2
    labels = (x @ _EDGE).argmax(axis=1)[reach]
    assert 0 < reach.sum() < len(x)
    found = json.loads(told.read_text())
    assert (found["given"], found["reached"], found["rows"]) == (900, reach.sum(), reach.sum())
    assert f"{reach.sum()} of 900 rows get past the filters before" in capsys.readouterr().out
    assert found["redundant_share"] == pytest.approx(np.mean(labels == 1))
    part = load_bundle(tmp_path / "out").manifest.filter[1]
    assert part.tuned is not None
    assert part.reuse is not None
    replayed = replay(x[reach].astype(np.float32), labels.astype(np.int64), part.reuse)
    assert part.tuned.rate == pytest.approx(replayed.rate())
    assert part.tuned.rows == reach.sum()


def test_a_filter_behind_a_reuse_filter_is_tuned_by_what_that_does_not_answer(
    tmp_path: Path, make: Callable[..., Path], data: Path
) -> None:
    first = load_bundle(make(SKIP))
    reuse = Reuse(width=_WIDTH, distance=0.4, neighbours=1)
    both = msgspec.structs.replace(
        first.manifest, filter=(Filter(kind="reuse", file="key.onnx", reuse=reuse), SKIP)
    )
    files = {name: first.read(name) for name in ("edge.onnx", "filter.onnx")}
    key = {"key.onnx": _linear(np.eye(_WIDTH))}
    bundle, told = write_bundle(tmp_path / "both", both, {**files, **key}), tmp_path / "told.json"
    line = ["filter", "tune", str(bundle.path), str(data), "--filter", "1", "--accuracy", "0.9"]
    assert main([*line, "--anyway", "--out", str(tmp_path / "o"), "--json", str(told)]) == 0
    x = _rows()["X"]
    labels = (x.astype(np.float64) @ _EDGE).argmax(axis=1).astype(np.int64)
    asked = ~replay(x, labels, reuse).reused
    assert 0 < asked.sum() < 900
    assert json.loads(told.read_text())["rows"] == asked.sum()


@pytest.mark.parametrize("kind", ["skip", "reuse"])
def test_the_rule_that_the_figures_are_of_is_what_a_device_judges_by(
    kind: str,
    make: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make(SKIP) if kind == "skip" else make(REUSE, weights=np.eye(_WIDTH))
    rules = ["--redundant", "labels rest,walk", "--recall", "0.8", "--anyway"]
    line = ["filter", "tune", str(bundle), str(data), *rules]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    (part,) = load_bundle(tmp_path / "out").manifest.filter
    assert (part.rule, part.redundant) == ("labels rest,walk", ("rest", "walk"))
    said = capsys.readouterr().out
    assert ("by which a device judges it from now on, in place of: labels rest" in said) == (
        kind == "skip"
    )


def test_a_reuse_filter_without_a_rule_states_of_what_it_promises_a_recall(
    make: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    bundle = make(REUSE, weights=np.eye(_WIDTH))
    line = ["filter", "tune", str(bundle), str(data), "--anyway"]
    assert main([*line, "--recall", "0.8", "--out", str(tmp_path / "out")]) == 0
    (part,) = load_bundle(tmp_path / "out").manifest.filter
    assert (part.rule, part.redundant) == ("labels rest", ("rest",)), "what is said most often"
    assert main([*line, "--accuracy", "0.9", "--out", str(tmp_path / "all")]) == 0
    assert load_bundle(tmp_path / "all").manifest.filter[0].rule is None, "that is of all rows"


def test_a_rule_that_a_bundle_cannot_say_is_not_said_to_be_watched(
    make: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"own_rule_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text("def calm(p):\n    return p[:, 0] > 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = ["filter", "tune", str(make(SKIP)), str(data), "--anyway", "--out", str(tmp_path / "o")]
    assert main([*line, "--redundant", f"{name}:calm"]) == 0
    (part,) = load_bundle(tmp_path / "o").manifest.filter
    assert (part.rule, part.redundant) == (None, ())
    assert "a bundle cannot say: a device will not watch" in capsys.readouterr().out


def test_a_reuse_filter_is_refused_by_as_few_rows_as_a_skip_filter_is(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = _rows()["X"].astype(np.float64)
    matters = (x @ _EDGE).argmax(axis=1) != 0
    few = np.sort(np.r_[np.flatnonzero(matters)[:58], np.flatnonzero(~matters)[:100]])
    np.savez(tmp_path / "few.npz", X=x[few].astype(np.float32))
    line = ["filter", "tune", str(make(REUSE, weights=np.eye(_WIDTH))), str(tmp_path / "few.npz")]
    out = ["--out", str(tmp_path / "out"), "--anyway"]
    assert main([*line, "--redundant", "labels rest", *out]) == 2
    said = capsys.readouterr().err
    assert "58 rows that matter are too few to hold a recall of 0.95 (59 are needed" in said


def test_rows_that_were_seen_are_left_out_and_counted(
    make: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, tuned = tmp_path / "told.json", tmp_path / "tuned"
    line = ["filter", "tune", str(make(SKIP)), str(data), "--out", str(tuned)]
    assert main([*line, "--recall", "0.9"]) == 0
    new = _rows(seed=SEED + 1)["X"]
    mixed = np.concatenate((_rows()["X"][:8], new))
    np.savez(tmp_path / "mixed.npz", X=mixed)
    line = ["filter", "tune", str(tuned), str(tmp_path / "mixed.npz"), "--json", str(told)]
    assert main([*line, "--recall", "0.9", "--out", str(tmp_path / "again")]) == 0
    found = json.loads(told.read_text())
    assert (found["given"], found["seen"], found["rows"]) == (908, 8, 900)
    matters = (new.astype(np.float64) @ _EDGE).argmax(axis=1) != 0
    assert found["redundant_share"] == pytest.approx(np.mean(~matters))
    assert "8 of 908 rows are left out" in capsys.readouterr().out
    few = np.concatenate((_rows()["X"], new[matters][:20], new[~matters][:20]))
    np.savez(tmp_path / "few.npz", X=few)
    line[3] = str(tmp_path / "few.npz")
    assert main([*line, "--recall", "0.9", "--out", str(tmp_path / "third")]) == 2
    assert "20 rows that matter are too few" in capsys.readouterr().err


def test_by_group_is_said_to_be_empirical_and_is_no_matter_of_accuracy(
    make: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["filter", "tune", str(make(SKIP)), str(data), "--by-group", "--anyway"]
    assert main([*line, "--recall", "0.8", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "a recall of 0.8 is to be expected of a new group" in said
    assert "empirical, not guaranteed, from 6 groups" in said
    assert main([*line, "--accuracy", "0.9", "--out", str(tmp_path / "no")]) == 2
    assert "--by-group" in capsys.readouterr().err


def test_how_far_it_is_is_shown_meanwhile(
    make: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["filter", "tune", str(make(SKIP)), str(data), "--out", str(tmp_path / "out")]
    assert main(line) == 0
    assert "timing model and filter by turns" in capsys.readouterr().err
