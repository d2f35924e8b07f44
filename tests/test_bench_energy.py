"""Tests of what a sample costs in joules, as `hedge bench run` measures it."""

from __future__ import annotations

import argparse
import math
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.bundle import write_bundle
from hedge.models.errors import ConfigError
from hedge.models.manifest import Manifest
from hedge.runtime import bench_command
from hedge.runtime.bench.course import Recorder
from hedge.runtime.bench.energy import WINDOWS, Reading, Window, energy_of, measure_energy
from hedge.runtime.bench.energy_record import Energy
from hedge.runtime.bench.lines import energy_line, joules
from hedge.runtime.bench.record import BenchReport
from hedge.runtime.bench.rounds import Contender
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.power.null import NullReader
from hedge.telemetry.power.reader import PowerSource

INA = PowerSource(
    name="ina3221", kind="power", rails=("VDD_IN",), total=("VDD_IN",), scope="module", step=0.04
)
BATCHES = [np.zeros((1, 4), np.float32)]


class Board:
    """A board whose time and power move with what runs on it: 5 W idle, and what a model adds."""

    def __init__(self, *, noise_w: float = 0.0, seed: int = 0) -> None:
        self.now_ns = 0
        self.joules = 0.0
        self._noise_w = noise_w
        self._rng = np.random.default_rng(seed)

    def clock(self) -> int:
        return self.now_ns

    def spend(self, seconds: float, watts: float = 5.0) -> None:
        self.now_ns += round(seconds * 1e9)
        noise_w = self._noise_w * self._rng.standard_normal()
        self.joules += seconds * (watts + noise_w)

    def meter(self) -> Reading:
        return Reading(self.joules, self.now_ns / 1e9)

    def contender(self, takes_s: float, adds_w: float) -> Contender:
        def infer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            self.spend(takes_s, 5.0 + adds_w)
            return batch

        return Contender(lambda batch: batch, infer)

    def measured(self, *contenders: Contender, source: PowerSource = INA) -> list[Energy]:
        return measure_energy(
            contenders,
            BATCHES,
            meter=self.meter,
            source=source,
            period_s=0.1,
            clock=self.clock,
            sleep=self.spend,
        )


def test_a_sample_costs_what_its_window_draws_more_than_the_idle_one_before() -> None:
    board = Board()
    quick, slow = board.measured(board.contender(0.01, 3.0), board.contender(0.05, 1.25))
    assert quick.joules == pytest.approx(0.01 * 3.0)
    assert slow.joules == pytest.approx(0.05 * 1.25)
    assert quick.idle_w == pytest.approx(5.0)
    assert quick.busy_w == pytest.approx(8.0)
    assert quick.resolution_j == pytest.approx(0.04 * 0.01)
    assert len(quick.windows_j) == len(quick.idle_windows_w) == WINDOWS
    assert quick.coverage == pytest.approx(1.0)
    assert quick.samples == pytest.approx(quick.window_s / 0.01)
    assert not quick.replayed


def test_idle_power_that_drifts_is_no_energy_of_a_sample() -> None:
    board = Board()

    def warmer(seconds: float) -> None:
        board.spend(seconds, 5.0 + board.now_ns / 1e9 * 0.001)

    (found,) = measure_energy(
        [board.contender(0.01, 3.0)],
        BATCHES,
        meter=board.meter,
        source=INA,
        period_s=0.1,
        clock=board.clock,
        sleep=warmer,
    )
    assert found.joules == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize("adds_w", [-0.5, 0.0, 0.03])
def test_less_than_a_step_of_the_sensor_is_not_resolvable(adds_w: float) -> None:
    board = Board(noise_w=1e-4)
    (found,) = board.measured(board.contender(0.01, adds_w))
    assert (found.per_sample_j, found.joules) == ("not resolvable", None)
    assert "not resolvable (ina3221, " in energy_line(found)
    assert "the sensor's step is 400 uJ a sample" in energy_line(found)


def test_what_noise_hides_is_not_resolvable() -> None:
    windows = [Window(5.1 + off, 5.0, 100.0, 200, 2.0, 2.0) for off in (0.9, -0.8, 0.7, -0.9, 0.6)]
    found = energy_of(windows, source=INA)
    assert found.joules is None
    assert found.low_j is not None
    assert found.high_j is not None
    assert found.low_j < 0 < found.high_j


def test_the_interval_is_that_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    adds = np.array([3.0, 3.2, 2.9, 3.3, 3.05])
    windows = [Window(5.0 + add, 5.0, 100.0, 200, 2.0, 2.0) for add in adds]
    found = energy_of(windows, source=INA)
    each_j = adds / 100
    low, high = stats.t.interval(
        0.95, WINDOWS - 1, loc=each_j.mean(), scale=stats.sem(each_j, ddof=1)
    )
    assert (found.low_j, found.high_j) == pytest.approx((low, high), rel=1e-3)


def test_a_counter_is_off_by_a_step_in_both_windows() -> None:
    rapl = PowerSource(
        name="rapl", kind="energy", rails=("p",), total=("p",), scope="package", step=0.5
    )
    windows = [Window(8.0, 5.0, 10.0, 20, 2.0, 2.0)] * WINDOWS
    found = energy_of(windows, source=rapl)
    assert found.resolution_j == pytest.approx(2 * 0.5 / 20)
    assert found.joules == pytest.approx(0.3)


def test_a_sensor_that_vanishes_leaves_no_figure_and_says_how_much_counted() -> None:
    gone = Window(math.nan, 5.0, 100.0, 200, 2.0, 0.0)
    windows = [Window(8.0, 5.0, 100.0, 200, 2.0, 2.0)] * (WINDOWS - 1)
    found = energy_of([*windows, gone], source=INA)
    assert (found.joules, found.low_j) == (None, None)
    assert found.coverage == pytest.approx(0.8)
    assert "coverage 80%" in energy_line(found)
    found = energy_of([gone] * WINDOWS, source=INA)
    assert (found.joules, found.idle_w, found.coverage) == (None, None, 0.0)


def test_joules_are_told_in_a_unit_that_fits() -> None:
    assert [joules(value) for value in (2.5, 0.0125, 3.21e-5, 4.5e-8, -0.002)] == [
        *("2.5 J", "12.5 mJ", "32.1 uJ", "0.045 uJ", "-2 mJ")
    ]


# ---- Against the real sampler.


class Following:
    """A sensor that reads 5 W, and 8 W while something is at work."""

    source = INA

    def __init__(self, at_work: threading.Event) -> None:
        self._at_work = at_work
        self.closed = 0

    def read(self) -> tuple[float | None, ...]:
        return (8.0 if self._at_work.is_set() else 5.0,)

    def close(self) -> None:
        self.closed += 1


def test_the_sampler_finds_the_power_of_what_runs() -> None:
    at_work = threading.Event()
    reader = Following(at_work)

    def infer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        at_work.set()
        threading.Event().wait(0.001)
        return batch

    def idle(seconds: float) -> None:
        at_work.clear()
        threading.Event().wait(seconds)

    with Recorder(detect(), reader, rate_hz=100.0) as recorder, recorder.phase("energy"):
        begun_ns = boottime_ns()
        (found,) = measure_energy(
            [Contender(lambda batch: batch, infer)],
            BATCHES,
            meter=recorder.meter,
            source=reader.source,
            period_s=recorder.period_s,
            sleep=idle,
        )
        between = recorder.scenario_energy([found])
        assert between is not None
        whole = between(begun_ns, boottime_ns(), 1000)
    assert reader.closed == 1
    assert found.idle_w is not None
    assert found.busy_w is not None
    assert 4.99 < found.idle_w < 6.5 < found.busy_w < 8.01
    assert whole.samples == 1000
    course = recorder.course()
    assert [phase.what for phase in course.phases] == ["energy"]
    assert {point.power_w for point in course.power} >= {5.0, 8.0}
    assert (course.power_source, course.replayed) == ("ina3221", False)


def test_without_a_sensor_there_is_no_energy_but_the_board_is_watched() -> None:
    with Recorder(detect(), NullReader(), rate_hz=10.0) as recorder:
        assert recorder.scenario_energy([None]) is None
    course = recorder.course()
    assert (course.power, course.power_source) == ((), None)
    assert len(course.moments) >= 1


# ---- The command.


RECORDING = """# hedge power recording 1
# board: jetson-orin-nano-nx
# image: JetPack 6.2
# source: ina3221
# scope: module
# total: VDD_IN
# step: 0.04
# negative: false
# note: made up
t_s,VDD_IN
"""


def command(*words: str | Path) -> int:
    """Run `hedge bench run …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bench_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["bench", "run", *map(str, words)])
    code: int = options.run(options)
    return code


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes]) -> Path:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return write_bundle(tmp_path / "b", manifest, bundle_files).path


def test_a_replayed_recording_gives_figures_that_say_so(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (f"{place / 100:.2f},{5 + 0.04 * (place % 7):.2f}\n" for place in range(200))
    (tmp_path / "power.csv").write_text(RECORDING + "".join(rows))
    (tmp_path / "power.toml").write_text('reader = "replay"\npath = "power.csv"\nrate_hz = 100\n')
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    words = ("--runs", "3", "--json", out, "--html", page)
    assert command(bundle, *words, "--power", tmp_path / "power.toml") == 0
    found = msgspec.json.decode(out.read_bytes(), type=BenchReport)
    energy = found.measured[0].energy
    assert energy is not None
    assert energy.replayed
    assert "ina3221" in energy.source
    assert found.course is not None
    assert found.course.replayed
    assert [phase.what for phase in found.course.phases][-1] == "energy"
    assert "REPLAYED" in capsys.readouterr().out
    assert page.read_text("utf-8").count("REPLAYED") >= 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--power", "sundial"), r"--power: 'sundial' is no reader \(one of auto, none, ina"),
        (("--power", "no.toml"), r"no\.toml: cannot be read"),
        (("--power-recording", "no.csv"), r"no\.csv"),
    ],
)
def test_what_reads_no_power_is_named(bundle: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command(bundle, "--runs", "3", *words)
