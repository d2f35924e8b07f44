"""The sampler's thread, the idle baseline, and what each stage and route has taken."""

from __future__ import annotations

import logging
import math
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hedge.models.errors import ConfigError, DataError, HedgeError
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.energy.account import EnergyAccount, Processors
from hedge.telemetry.energy.baseline import (
    FILE,
    Baseline,
    baseline_of,
    fitting_baseline,
    mode_of,
    read_baseline,
    uncertainty_w,
    write_baseline,
)
from hedge.telemetry.energy.figures import NOT_RESOLVABLE
from hedge.telemetry.energy.sampler import DETUNED, PowerSampler
from hedge.telemetry.ledger import Done, Ledger, Work
from hedge.telemetry.power.rapl import open_rapl
from hedge.telemetry.power.reader import PowerSource

Eventually = Callable[[Callable[[], bool]], None]
PERIOD_NS = 100_000_000


class Clock:
    """A clock that goes only when told to."""

    def __init__(self) -> None:
        self.now_ns = 5 * 10**9

    def __call__(self) -> int:
        return self.now_ns


class Scripted:
    """Says what it is told to say."""

    def __init__(self, **changes: Any) -> None:  # noqa: ANN401 -- what the record takes
        given: dict[str, Any] = {
            "name": "scripted",
            "kind": "power",
            "rails": ("VIN",),
            "total": ("VIN",),
            "scope": "board",
        }
        self.source = PowerSource(**{**given, **changes})
        self.says: Callable[[], Sequence[float | None]] = lambda: (5.0,)
        self.closed = 0

    def read(self) -> tuple[float | None, ...]:
        return tuple(self.says())

    def close(self) -> None:
        self.closed += 1


def baseline(power_w: float, **changes: Any) -> Baseline:  # noqa: ANN401 -- what the record takes
    """Return a baseline as `hedge energy idle` leaves it."""
    given: dict[str, Any] = {
        "power_w": power_w,
        "std_w": 0.0,
        "uncertain_w": 0.0,
        "window_s": 60.0,
        "samples": 600,
        "coverage": 1.0,
        "source": "scripted",
        "total": ("VIN",),
        "at_s": 1.8e9,
    }
    return Baseline(**{**given, **changes})


class Bench:
    """A scripted sensor, its sampler and account, driven by hand: ten readings a second."""

    def __init__(self, idle: Baseline | None, **changes: Any) -> None:  # noqa: ANN401 -- see above
        self.clock = Clock()
        self.reader = Scripted(**changes)
        self.sampler = PowerSampler(self.reader, rate_hz=10, clock=self.clock)
        self.sampler.sample()
        self.account = EnergyAccount(self.sampler, baseline=idle)

    def run(self, seconds: float, power_w: float | None) -> None:
        """Let time pass at this power."""
        self.reader.says = lambda: (power_w,)
        for _ in range(round(seconds * 10)):
            self.clock.now_ns += PERIOD_NS
            self.sampler.sample()


def work(stages: dict[str, tuple[int, float]], routes: dict[str, tuple[int, float]]) -> Work:
    """Return what was done so far, from (times, seconds)."""

    def done(told: dict[str, tuple[int, float]]) -> dict[str, Done]:
        return {name: Done(times, round(busy_s * 1e9)) for name, (times, busy_s) in told.items()}

    return Work(done(stages), done(routes))


# --- the sampler ---


def test_the_thread_reads_until_it_is_closed_and_then_closes_the_reader(
    eventually: Eventually,
) -> None:
    reader = Scripted(rails=("A", "B"), total=("A", "B"))
    reader.says = lambda: (2.0, 3.0)
    heard: list[tuple[int, Sequence[float | None]]] = []
    sampler = PowerSampler(reader, rate_hz=100, hear=lambda *told: heard.append(told))
    sampler.start()
    eventually(lambda: sampler.totals().samples > 20)
    assert "hedge-power" in {thread.name for thread in threading.enumerate()}
    sampler.check()
    sampler.close()
    sampler.close()
    totals = sampler.totals()
    assert reader.closed == 2
    assert len(heard) == totals.samples
    assert "hedge-power" not in {thread.name for thread in threading.enumerate()}
    # whatever the machine did meanwhile: what is covered is covered at five watts
    assert totals.total_j == pytest.approx(5 * totals.covered_ns / 1e9)
    assert len(sampler.recent().t_s) == totals.samples


def test_readings_keep_to_their_schedule_and_late_ones_are_left_out(
    eventually: Eventually,
) -> None:
    begun = threading.Event()
    reader = Scripted()
    held = threading.Event()
    times: list[int] = []

    def says() -> tuple[float]:
        if len(times) == 3:
            begun.set()
            held.wait(10)
        return (5.0,)

    reader.says = says
    sampler = PowerSampler(reader, rate_hz=50, hear=lambda at_ns, _: times.append(at_ns))
    sampler.start()
    eventually(begun.is_set)
    threading.Event().wait(0.5)
    held.set()
    eventually(lambda: len(times) > 6)
    sampler.close()
    pauses_s = np.diff(times) / 1e9
    assert pauses_s.max() > 0.45  # the readings that were missed are not made up for
    assert sampler.totals().faults["gap"] >= 1
    assert sampler.totals().coverage < 1


def test_a_reader_that_raises_counts_as_vanished_and_the_thread_goes_on(
    eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Scripted()
    reader.says = lambda: (1 / 0,)
    sampler = PowerSampler(reader, rate_hz=100)
    with caplog.at_level(logging.WARNING):
        sampler.start()
        eventually(lambda: sampler.totals().faults.get("vanished", 0) > 8)
        reader.says = lambda: (4.0,)
        eventually(lambda: sampler.totals().total_j > 0)
        sampler.close()
    sampler.check()
    told = [one.getMessage() for one in caplog.records]
    assert told[0] == "scripted: cannot be read: ZeroDivisionError('division by zero') (error 1)"
    assert len(told) <= 2 + math.log2(sampler.totals().faults["vanished"])


def test_a_reader_that_gives_too_few_rails_counts_as_vanished() -> None:
    reader = Scripted(rails=("A", "B"), total=("A",))
    sampler = PowerSampler(reader, rate_hz=10, clock=Clock())
    sampler.sample()
    assert sampler.totals().faults == {"vanished": 1}


def test_a_reader_that_blocks_holds_up_nobody_and_covers_nothing(eventually: Eventually) -> None:
    reader, block, blocks = Scripted(), threading.Event(), threading.Event()

    def says() -> tuple[float]:
        blocks.set()
        block.wait(30)
        return (5.0,)

    sampler = PowerSampler(reader, rate_hz=100)
    sampler.start()
    eventually(lambda: sampler.totals().samples > 3)
    reader.says = says
    eventually(blocks.is_set)
    eventually(lambda: sampler.totals().coverage < 0.5)
    assert sampler.totals().power_w is None
    sampler.close(timeout_s=0.01)
    assert reader.closed == 0, "it is in use"
    block.set()


def test_a_thread_that_dies_is_reported(eventually: Eventually) -> None:
    def break_down(_: int, __: Sequence[float | None]) -> None:
        raise MemoryError("no more")

    sampler = PowerSampler(Scripted(), rate_hz=100, hear=break_down)
    sampler.start()

    def died() -> bool:
        try:
            sampler.check()
        except HedgeError as error:
            return "the power sampler's thread died: no more" in str(error)
        return False

    eventually(died)
    sampler.close()


def test_what_else_is_looked_at_is_looked_at_once_a_second() -> None:
    clock, asked = Clock(), iter(range(100))

    def fail() -> object:
        raise OSError("gone")

    sampler = PowerSampler(Scripted(), rate_hz=10, clock=clock, also=[lambda: next(asked), fail])
    assert sampler.latest() == (None, None)
    for _ in range(35):
        sampler.sample()
        clock.now_ns += PERIOD_NS
    assert sampler.latest() == (3, None)


def test_without_a_sensor_only_the_rest_is_looked_at() -> None:
    sampler = PowerSampler(
        Scripted(name="none", scope="none", rails=(), total=()),
        rate_hz=50,
        clock=Clock(),
        also=[lambda: "state"],
    )
    sampler.sample()
    assert sampler.rate_hz == 1
    assert (sampler.totals().samples, sampler.latest()) == (0, ("state",))
    report = EnergyAccount(sampler, baseline=None).report()
    assert (report.source, report.total_j, report.coverage) == ("none", None, 0.0)


def test_a_slow_sensor_is_read_no_faster_than_it_changes() -> None:
    assert PowerSampler(Scripted(fastest_hz=0.5), rate_hz=50).rate_hz == 0.5 * DETUNED
    assert PowerSampler(Scripted(fastest_hz=500), rate_hz=50).rate_hz == 50 * DETUNED


@pytest.mark.parametrize("load_hz", [1, 2, 5, 10, 20, 24, 25, 30, 50, 60, 100])
def test_a_load_that_beats_at_a_round_rate_is_not_always_met_at_the_same_moment(
    load_hz: float,
) -> None:
    """Two watts for a fifth of every period: read at 10 Hz sharp it would be all or nothing."""
    clock, reader = Clock(), Scripted()
    reader.says = lambda: (2.0 * (clock.now_ns * load_hz % 10**9 < 2 * 10**8),)
    sampler = PowerSampler(reader, rate_hz=10, clock=clock)
    begun_ns, tick = clock.now_ns, 0
    while clock.now_ns - begun_ns < 60 * 10**9:
        tick += 1
        sampler.sample()
        clock.now_ns = begun_ns + round(tick * 1e9 / sampler.rate_hz)
    totals = sampler.totals()
    assert totals.total_j / totals.covered_ns * 1e9 == pytest.approx(0.4, abs=0.08)


def test_a_stepped_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(None)
    bench.run(2, 5.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.time_ns", lambda: 0)
    bench.run(2, 5.0)
    totals = bench.sampler.totals()
    assert (totals.faults, totals.coverage) == ({}, 1.0)
    assert totals.total_j == pytest.approx(20.0)


def test_a_real_counter_may_come_round_once_but_not_for_so_long_that_it_may_have_twice(
    tmp_path: Path,
) -> None:
    """RAPL's files, planted: a counter that comes round at 262 J, which 1000 W take 0.26 s for."""
    clock, folder = Clock(), tmp_path / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "max_energy_range_uj").write_text("262143000\n")
    counter = folder / "energy_uj"
    counter.write_text("262000000\n")
    sampler = PowerSampler(open_rapl(root=tmp_path, clock=clock), rate_hz=10, clock=clock)
    sampler.sample()
    for passed_s, count_uj in ((0.1, 857_000), (0.1, 1_857_000), (60, 900_000), (0.1, 1_900_000)):
        clock.now_ns += round(passed_s * 1e9)
        counter.write_text(f"{count_uj}\n")
        sampler.sample()
    sampler.close()
    totals = sampler.totals()
    assert totals.total_j == pytest.approx(1.0 + 1.0 + 1.0)
    assert totals.covered_ns == 3 * PERIOD_NS
    assert totals.faults == {"wrapped": 1}
    assert totals.coverage == pytest.approx(0.3 / 60.3)


# --- the account ---


def test_a_known_load_is_recovered_by_stage_and_by_route() -> None:
    """Five watts when idle, two more while at work, by a sensor that averages as an INA3221."""
    step = 0.05  # so coarse that standing still is honest
    bench = Bench(baseline(5.0), step=step)
    rng = np.random.default_rng(3)
    busy_s = infer_s = filter_s = 0.0
    for second in range(1, 101):
        at_work = rng.uniform(0.3, 0.9)
        for tick in range(10):
            power_w = 5.0 + 2.0 * min(1.0, max(0.0, at_work * 10 - tick))
            bench.run(0.1, round(power_w / step) * step)
        busy_s += at_work
        infer_s, filter_s = 0.75 * busy_s, 0.25 * busy_s
        bench.account.settle(
            {
                "cam": work(
                    {"infer": (second * 3, infer_s), "filter": (second * 4, filter_s)},
                    {"accepted": (second * 3, 0.9 * busy_s), "dropped": (second, 0.1 * busy_s)},
                )
            }
        )
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert cam is not None
    assert report.resolution_j is not None
    assert report.resolution_j == pytest.approx(step * 100)
    truth_j = 2 * busy_s
    assert report.net_j == pytest.approx(truth_j, abs=report.resolution_j)
    assert report.other_j == NOT_RESOLVABLE
    for share, part, count in (
        (cam.stages["infer"], 0.75, 300),
        (cam.stages["filter"], 0.25, 400),
        (cam.routes["accepted"], 0.9, 300),
        (cam.routes["dropped"], 0.1, 100),
    ):
        assert share.joules == pytest.approx(part * truth_j, abs=report.resolution_j)
        assert share.count == count
        assert share.busy_s == pytest.approx(part * busy_s)
        assert isinstance(share.joules, float)
        assert share.each_j == pytest.approx(share.joules / count)


def test_energy_while_nothing_is_at_work_is_other() -> None:
    bench = Bench(baseline(5.0))
    bench.run(1, 5.0)
    done = work({"infer": (1, 0.5)}, {"accepted": (1, 0.5)})
    bench.account.settle({"cam": done})
    bench.run(2, 9.0)
    bench.account.settle({"cam": done})
    report = bench.account.report()
    assert report.other_j == pytest.approx(4 * 1.9 + 0.2)  # the first of them begins at 5 W
    assert report.net_j == report.other_j
    cam = bench.account.stream("cam")
    assert cam is not None
    assert cam.stages["infer"].joules == pytest.approx(0, abs=1e-9)


def test_a_share_that_the_sensor_cannot_tell_is_no_number() -> None:
    bench = Bench(baseline(5.0, uncertain_w=0.05), step=0.1)
    bench.run(10, 6.0)
    bench.account.settle(
        {
            "cam": work(
                {"infer": (100, 0.9), "filter": (100, 0.1), "uplink": (7, 0.0)},
                {"accepted": (93, 0.99), "escalated": (7, 0.01), "reused": (0, 0.0)},
            )
        }
    )
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert cam is not None
    assert report.resolution_j == pytest.approx(1.0)
    assert report.net_resolution_j == pytest.approx(1.5)
    assert report.net_j == pytest.approx(9.95)
    assert cam.stages["infer"].joules == pytest.approx(8.955)
    assert cam.stages["infer"].each_j == pytest.approx(0.08955)
    assert (cam.stages["filter"].joules, cam.stages["filter"].each_j) == (
        NOT_RESOLVABLE,
        NOT_RESOLVABLE,
    )
    assert cam.routes["escalated"].joules == NOT_RESOLVABLE
    uplink = cam.stages["uplink"]
    assert (uplink.joules, uplink.each_j, uplink.count) == (None, None, 7)
    assert cam.routes["reused"].joules is None


def test_less_than_idle_is_told_as_a_negative_number() -> None:
    bench = Bench(baseline(5.0), step=0.1)
    bench.run(10, 4.0)
    bench.account.settle({"cam": work({"infer": (1, 1)}, {"accepted": (1, 1)})})
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert report.net_j == pytest.approx(-9.95)
    assert cam is not None
    assert cam.stages["infer"].joules == pytest.approx(-9.95)


def test_without_a_baseline_there_is_a_total_and_no_net() -> None:
    bench = Bench(None, step=0.1)
    bench.run(10, 6.0)
    bench.account.settle({"cam": work({"infer": (5, 1)}, {"accepted": (5, 1)})})
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert report.total_j == pytest.approx(59.95)
    assert report.rails_j == {"VIN": pytest.approx(59.95)}
    assert (report.net_j, report.other_j, report.idle_w, report.net_resolution_j) == (None,) * 4
    assert cam is not None
    assert cam.stages["infer"].joules is None
    assert cam.stages["infer"].count == 5
    assert bench.account.stream("other") is None


def test_a_total_below_the_resolution_is_no_number() -> None:
    bench = Bench(None, step=0.4)
    bench.run(60, 0.1)
    bench.account.settle({})
    report = bench.account.report()
    assert report.total_j == NOT_RESOLVABLE
    assert report.rails_j == {"VIN": NOT_RESOLVABLE}


def test_nothing_is_made_up_for_time_that_is_not_covered() -> None:
    bench = Bench(baseline(5.0))
    bench.run(4, 7.0)
    bench.run(4, None)
    bench.account.settle({"cam": work({"infer": (80, 4)}, {"accepted": (80, 4)})})
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert report.coverage == pytest.approx(0.5)
    assert report.net_j == pytest.approx(7.9)
    assert report.faults == {"vanished": 40}
    assert cam is not None
    infer = cam.stages["infer"]
    assert infer.count == 80
    assert infer.joules == pytest.approx(7.9)
    assert infer.each_j == pytest.approx(7.9 / 40), "the other forty were not measured"


def test_a_run_that_was_not_covered_at_all_has_no_figures() -> None:
    bench = Bench(baseline(5.0))
    bench.run(4, None)
    bench.account.settle({"cam": work({"infer": (80, 4)}, {"accepted": (80, 4)})})
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert (report.total_j, report.net_j, report.power_w, report.coverage) == (None, None, None, 0)
    assert cam is not None
    assert cam.stages["infer"].joules is None


def test_an_account_begins_when_it_is_opened() -> None:
    bench = Bench(baseline(5.0))
    bench.run(4, 7.0)
    second = EnergyAccount(bench.sampler, baseline=baseline(5.0))
    bench.run(1, 8.0)
    second.settle({})
    report = second.report()
    assert report.samples == 10
    assert report.window_s == pytest.approx(1.0)
    assert report.net_j == pytest.approx(3 - 0.05)


def test_a_ledger_that_began_anew_counts_from_nothing() -> None:
    bench = Bench(baseline(5.0))
    for times in (100, 7):
        bench.run(1, 7.0)
        done = work({"infer": (times, times / 100)}, {"accepted": (times, times / 100)})
        bench.account.settle({"cam": done})
    cam = bench.account.stream("cam")
    assert cam is not None
    assert cam.stages["infer"].count == 107
    assert cam.stages["infer"].busy_s == pytest.approx(1.07)


def test_a_ledgers_own_work_is_understood() -> None:
    ledger = Ledger("cam")
    ledger.stages.infer.record(3_000_000)
    ledger.stages.filter.record(1_000_000)
    ledger.busy_ns["accepted"] += 4_000_000
    ledger.routes["accepted"] += 1
    bench = Bench(baseline(5.0))
    bench.run(1, 7.0)
    bench.account.settle({"cam": ledger.work()})
    cam = bench.account.stream("cam")
    assert cam is not None
    assert cam.stages["infer"].joules == pytest.approx(1.9 * 3 / 4)
    assert cam.routes["accepted"].joules == pytest.approx(1.9)


_DONE = st.tuples(st.integers(0, 50), st.integers(0, 10**10))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),
            st.lists(st.tuples(_DONE, _DONE, _DONE, _DONE), min_size=2, max_size=2),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_shares_add_up_to_the_net_energy_by_stage_and_by_route(
    settles: list[tuple[float, list[tuple[tuple[int, int], ...]]]],
) -> None:
    bench = Bench(baseline(5.0))
    names = ("filter", "infer", "accepted", "escalated")
    counts = {stream: dict.fromkeys(names, (0, 0)) for stream in ("one", "two")}
    for power_w, streams in settles:
        bench.run(0.3, power_w)
        for stream, found in zip(counts.values(), streams, strict=True):
            for name, (times, busy_ns) in zip(names, found, strict=True):
                stream[name] = (stream[name][0] + times, stream[name][1] + busy_ns)
        bench.account.settle(
            {
                name: Work(
                    {one: Done(*stream[one]) for one in names[:2]},
                    {one: Done(*stream[one]) for one in names[2:]},
                )
                for name, stream in counts.items()
            }
        )
    report = bench.account.report()
    assert isinstance(report.net_j, float)
    assert isinstance(report.other_j, float)
    by_stage = by_route = report.other_j
    for name in counts:
        stages, routes = bench.account._streams[name].stages, bench.account._streams[name].routes
        ways = [sum(one.joules for one in tallies.values()) for tallies in (stages, routes)]
        assert ways[0] == pytest.approx(ways[1], abs=1e-9)
        by_stage, by_route = by_stage + ways[0], by_route + ways[1]
    assert by_stage == pytest.approx(report.net_j, abs=1e-9)
    assert by_route == pytest.approx(report.net_j, abs=1e-9)


# --- the baseline ---


def measured(powers: Iterator[float] | Sequence[float | None]) -> PowerSampler:
    """Return a sampler that has read these watts."""
    clock, reader, rest = Clock(), Scripted(step=0.01), iter(powers)
    reader.says = lambda: (next(rest),)
    sampler = PowerSampler(reader, rate_hz=10, clock=clock)
    for _ in range(600):
        sampler.sample()
        clock.now_ns += PERIOD_NS
    return sampler


def told(sampler: PowerSampler) -> Baseline:
    """Return the baseline from what a sampler has read."""
    return baseline_of(
        sampler.totals(),
        sampler.recent(),
        source=sampler.source,
        board="box",
        power_mode="15W",
        cpu_share=0.02,
        at_s=1.8e9,
    )


def test_a_baseline_is_the_mean_with_scatter_and_uncertainty() -> None:
    watts = np.random.default_rng(9).normal(4.2, 0.3, 600)
    found = told(measured(watts.tolist()))
    assert found.power_w == pytest.approx(watts.mean(), abs=0.002)
    assert found.std_w == pytest.approx(watts.std(ddof=1))
    assert 0.3 / math.sqrt(600) < found.uncertain_w < 6 * 0.3 / math.sqrt(600)
    assert (found.samples, found.coverage, found.source) == (600, 1.0, "scripted")
    assert found.window_s == pytest.approx(59.9)
    assert (found.board, found.power_mode, found.cpu_share) == ("box", "15W", 0.02)


def test_the_uncertainty_is_that_of_batch_means_and_sees_a_drift() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 0.3, 600)
    means = (4 + noise).reshape(10, 60).mean(axis=1)
    exact = 2.262157 * means.std(ddof=1) / math.sqrt(10)
    assert uncertainty_w((4 + noise).tolist()) == pytest.approx(exact, rel=1e-4)
    drift = np.linspace(0, 1, 600)
    assert uncertainty_w((4 + noise + drift).tolist()) > 3 * exact


@pytest.mark.parametrize("bad", [None, -3.0])
def test_a_baseline_of_which_too_little_is_covered_is_refused(bad: float | None) -> None:
    powers = [bad if tick % 5 == 0 else 4.0 for tick in range(600)]
    with pytest.raises(DataError, match=r"scripted: 600 readings cover 60% of 59\.9 s \(120 "):
        told(measured(powers))


def test_a_baseline_from_a_handful_of_readings_is_refused() -> None:
    clock = Clock()
    sampler = PowerSampler(Scripted(), rate_hz=10, clock=clock)
    for _ in range(9):
        sampler.sample()
        clock.now_ns += PERIOD_NS
    with pytest.raises(DataError, match=r"9 readings cover 100% of 0\.8 s \(no faults\)"):
        told(sampler)


def test_a_baseline_is_kept_whole_and_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert read_baseline(state) is None
    for power_w in (4.0, 5.5):
        kept = baseline(power_w, faults={"gap": 1})
        file = write_baseline(kept, state)
        assert read_baseline(state) == kept
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in state.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"power_w": "much"}', '{"version": 2}', "\xff", "x" * 70_000]
)
def test_a_damaged_baseline_is_named_and_a_device_starts_without_it(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=FILE):
        read_baseline(tmp_path)
    assert fitting_baseline(tmp_path, Scripted().source, board=detect()) is None
    assert FILE in caplog.text


def test_a_baseline_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"idle\.json: cannot be written"):
        write_baseline(baseline(4.0), tmp_path / "state")


def test_a_baseline_counts_only_for_its_sensor_board_and_power_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = replace(detect(), power_mode=None)
    mine = baseline(4.0, board=here.hardware, power_mode=mode_of(here))
    source = Scripted().source
    write_baseline(mine, tmp_path)
    assert fitting_baseline(tmp_path, source, board=here) == mine
    assert not caplog.records
    for changed in ({"power_mode": "MAXN"}, {"board": "other"}, {"source": "ina"}):
        write_baseline(replace(mine, **changed), tmp_path)
        caplog.clear()
        assert fitting_baseline(tmp_path, source, board=here) is None
        assert "was measured with" in caplog.text
    other = replace(mine, source="ina", total=("A", "B"))
    assert other.misfit(source, board=mine.board, power_mode=None) == (
        "was measured with sensor ina, and it is scripted now; rails A+B, and it is VIN now"
    )


def test_what_other_programs_and_upkeep_took_is_nobodys() -> None:
    bench = Bench(baseline(5.0))
    for second in range(1, 21):
        bench.run(1, 7.0)
        took = work({"infer": (second, 0.1 * second)}, {"accepted": (second, 0.1 * second)})
        processors = Processors(round(2e8 * second), round(6e8 * second))  # two threads; and others
        bench.account.settle({"cam": took}, processors=processors)
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert cam is not None
    assert isinstance(report.net_j, float)
    assert report.net_j == pytest.approx(40.0, rel=0.01)
    assert cam.routes["accepted"].joules == pytest.approx(report.net_j * 0.2 / 0.8)
    assert report.other_j == pytest.approx(report.net_j * 0.6 / 0.8)


def test_a_stage_that_waits_for_an_accelerator_counts_as_at_work() -> None:
    bench = Bench(baseline(5.0))
    for second in range(1, 21):
        bench.run(1, 9.0)
        took = work({"infer": (second, 0.5 * second)}, {"accepted": (second, 0.5 * second)})
        processors = Processors(round(1e7 * second), round(1e8 * second))
        bench.account.settle({"cam": took}, processors=processors)
    report, cam = bench.account.report(), bench.account.stream("cam")
    assert cam is not None
    assert isinstance(report.net_j, float)
    assert cam.routes["accepted"].joules == pytest.approx(report.net_j * 0.5 / 0.6)
