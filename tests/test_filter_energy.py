"""`hedge filter tune` in joules: what model and filter take of a board's power."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

from hedge.models.bundle import write_bundle
from hedge.models.filtering.operating_point import Point
from hedge.models.filtering.worth import Saving, saving_of, worth
from hedge.models.manifest import Edge, Filter, Input, Manifest
from hedge.runtime.bench.energy_record import Energy, PerSample
from hedge.runtime.cli import main
from hedge.runtime.filter import time_costs
from hedge.runtime.filter.energy import EnergyCosts, costs_of, energy_costs, energy_words
from hedge.runtime.filter.load import Load
from hedge.runtime.filter.pair import Pair
from hedge.runtime.filter.time_costs import TimeCosts
from hedge.runtime.filter.tune_report import TuneReport
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.power.null import NullReader
from hedge.telemetry.power.reader import PowerSource
from hedge.telemetry.power.recording import Recording, write_recording

_MOMENT_S = 0.02
FEED = np.zeros((1, 4), np.float32)
LOAD = Load(kept=[FEED], filtered=[FEED + 1])


def energy(joules: float | None, **more: Any) -> Energy:  # noqa: ANN401 -- fields of all types
    told: PerSample = "not resolvable" if joules is None else joules
    return Energy(per_sample_j=told, source="ina3221", window_s=10.0, samples=400, **more)


def report(
    *, energy: EnergyCosts | None, filter_us: float, spared: int | None = None
) -> TuneReport:
    """Return what tuning says of a filter that filters 40 % before a model of 100 us."""
    found = worth(0.4, filter_cost=filter_us, model_cost=100.0)
    spent = TimeCosts(
        model_us=100.0,
        filter_us=filter_us,
        filtered_us=filter_us,
        kept_us=filter_us,
        keys=None,
        worth=found,
        saving=Saving(found.saved, found.saved - 0.01, found.saved + 0.01),
        pairs=1000,
    )
    return TuneReport(
        bundle="b",
        version="1",
        digest="0",
        rule="labels rest",
        rows=100,
        redundant_share=0.5,
        aim="recall",
        confidence=0.95,
        point=Point(0.3, 0.4, 0.99, 0.98),
        optimum=0.52,
        recall=0.95,
        accuracy=0.9,
        compared=(),
        time=spent,
        written=False,
        energy=energy,
        spared=spared,
    )


class Board:
    """A power reader: 5 W, and what the model adds that was at work within the last moment."""

    source = PowerSource(
        name="ina3221", kind="power", rails=("all",), total=("all",), scope="module", step=0.001
    )

    def __init__(self) -> None:
        self._adds_w, self._since_s = 0.0, -math.inf
        self.closed = 0

    def works(self, watts: float) -> None:
        self._adds_w, self._since_s = watts, time.monotonic()

    def read(self) -> tuple[float | None, ...]:
        works = time.monotonic() - self._since_s < _MOMENT_S
        return (5.0 + (self._adds_w if works else 0.0),)

    def close(self) -> None:
        self.closed += 1


class Working:
    """Work of 2 ms a sample, in which the board draws ``watts`` more than 5."""

    def __init__(self, board: Board, watts: float) -> None:
        self._board, self._watts = board, watts

    def __call__(self, batch: NDArray[Any]) -> bool:
        self._board.works(self._watts)
        time.sleep(0.002)
        return bool(batch.any())


def pair_of(board: Board) -> Pair:
    return Pair(Working(board, 4.0), Working(board, 1.0))


def test_joules_of_filter_and_model_are_those_of_the_power_that_they_add() -> None:
    board = Board()
    pair = pair_of(board)
    shown: list[str] = []
    found = energy_costs(
        pair, LOAD, board, board=detect(), rate=0.4, rate_hz=100.0, show=shown.append
    )
    assert shown[0] == "the model: energy window 1 of 5"
    assert shown[-1] == "the filter: energy window 5 of 5"
    assert found is not None
    assert board.closed == 1
    assert found.model.joules is not None
    assert found.filter.joules is not None
    assert found.model.idle_w == pytest.approx(5.0, abs=0.05)
    assert 2.0 < found.model.joules / found.filter.joules < 8.0, "four times the power, as long"
    assert found.worth == worth(0.4, filter_cost=found.filter.joules, model_cost=found.model.joules)


def test_where_nothing_reads_power_that_is_said_and_time_judges_alone() -> None:
    board = Board()
    pair = pair_of(board)
    found = energy_costs(pair, LOAD, NullReader(), board=detect(), rate=0.4, rate_hz=100.0)
    assert found is None
    told = report(energy=None, filter_us=10.0)
    assert told.verdict == "pays"
    assert "nothing here reads power, so only time is judged" in str(told)
    assert report(energy=None, filter_us=50.0).verdict == "does not pay"


def test_what_the_sensor_cannot_tell_is_no_verdict() -> None:
    costs = costs_of(energy(0.002), energy(None, resolution_j=1e-6), rate=0.4)
    assert costs.worth is None
    said = energy_words(costs, rate=0.4)
    assert "it cannot be told; the filter: not resolvable (ina3221, 400 samples" in said
    assert "the sensor's step is 1 uJ a sample" in said
    assert report(energy=costs, filter_us=50.0).verdict == "does not pay"


def test_one_that_pays_in_either_is_not_refused_and_both_are_said() -> None:
    cheap = costs_of(energy(0.002), energy(0.0002), rate=0.4)
    dear = costs_of(energy(0.002), energy(0.001), rate=0.4)
    assert cheap.worth == worth(0.4, filter_cost=0.1, model_cost=1.0)
    by_energy = report(energy=cheap, filter_us=50.0)
    assert by_energy.verdict == "pays"
    said = str(by_energy)
    assert "in time it does not pay: a filter of 50.0 us before a model of 100.0 us" in said
    assert "in energy it pays: a filter of 200 uJ before a model of 2 mJ (ina3221)" in said
    assert "more than 10.0%, and filters 40.0%; 30.0% of the model's energy are saved" in said
    assert "time and energy say different things" in said
    by_time = report(energy=dear, filter_us=10.0)
    assert by_time.verdict == "pays"
    assert "in energy it does not pay: a filter of 1 mJ" in str(by_time)
    assert report(energy=dear, filter_us=50.0).verdict == "does not pay"
    assert "different things" not in str(report(energy=dear, filter_us=50.0))


def test_where_the_far_end_answers_it_pays_as_soon_as_it_spares_the_link_something() -> None:
    told = report(energy=None, filter_us=500.0, spared=1728)
    assert told.verdict == "pays"
    assert "40.0% of the samples are not sent, of 1728 bytes each" in str(told)
    nothing = Point(0.0, 0.0, 1.0, 1.0)
    assert msgspec.structs.replace(told, point=nothing).verdict == "does not pay"


def test_a_recording_is_replayed_for_tune_and_said_to_be_one(
    tmp_path: Path,
    linear_onnx: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_costs, "_ROUND_NS", 1)
    manifest = Manifest(
        format=1,
        name="steps",
        version="1.0",
        task="classification",
        labels=("rest", "walk"),
        licence="none",
        input=Input(kind="tensor", shape=(4,), dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx"),),
        filter=(Filter(kind="skip", file="skip.onnx", rule="labels rest"),),
        files={},
    )
    files = {"edge.onnx": linear_onnx(2, seed=1), "skip.onnx": linear_onnx(1, seed=2)}
    bundle = write_bundle(tmp_path / "b", manifest, files).path
    x = np.random.default_rng(7).normal(size=(400, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x)
    power = tmp_path / "power.toml"
    power.write_text('reader = "replay"\npath = "power.csv"\nrate_hz = 100\n')
    rows = tuple((place / 100, (4.0 + place % 7 / 8,)) for place in range(50))
    recording = Recording(
        board="a board",
        image="made up",
        source="ina3221",
        scope="module",
        rails=("all",),
        total=("all",),
        rows=rows,
    )
    write_recording(tmp_path / "power.csv", recording)
    line = ["filter", "tune", str(bundle), str(tmp_path / "rows.npz"), "--anyway"]
    line += ["--out", str(tmp_path / "o")]
    assert main([*line, "--power", "sundial"]) == 2
    assert "'sundial' is no reader" in capsys.readouterr().err
    assert main([*line, "--power", str(power)]) == 0
    (said,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("in energy"))
    assert "REPLAYED" in said


def test_windows_that_contradict_each_other_are_no_verdict_in_energy() -> None:
    model = energy(0.002, windows_j=(0.002, 0.0021, 0.0019, 0.002, 0.002))
    near = energy(0.0008, windows_j=(0.0006, 0.0009, 0.0008, 0.001, 0.0007))
    costs = costs_of(model, near, rate=0.4)
    each = [0.4 - b / a for a, b in zip(model.windows_j, near.windows_j, strict=True)]
    assert costs.saving == saving_of(each)
    assert costs.saving.low < 0 < costs.saving.high
    assert "in energy whether it pays cannot be told" in energy_words(costs, rate=0.4)
    assert report(energy=costs, filter_us=50.0).verdict == "does not pay", "time is sure"
    assert report(energy=costs, filter_us=10.0).verdict == "pays"


def test_of_what_is_measured_so_much_is_filtered_as_on_the_rows() -> None:
    found = LOAD.mixed(0.37)
    assert np.mean([batch.any() for batch in found]) == pytest.approx(0.37)
    assert [bool(batch.any()) for batch in LOAD.turns()] == [False, True]
