"""Tests of what a board was in while it was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hedge.runtime.bench.conditions import (
    MOST_MOMENTS,
    Conditions,
    Frequency,
    Watch,
    read_conditions,
    warnings,
)
from hedge.runtime.bench.lines import conditions_line
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.boards.profile import find_profile

FREQ = "sys/devices/system/cpu/cpufreq"
HEAT = "sys/class/thermal"


def plant(root: Path, texts: dict[str, str]) -> Path:
    """Write a tree's files."""
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


ORIN = {
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=1 NAME=25W >\n",
    f"{FREQ}/policy0/scaling_governor": "schedutil\n",
    f"{FREQ}/policy0/scaling_cur_freq": "1510400\n",
    f"{FREQ}/policy0/scaling_max_freq": "1728000\n",
    f"{FREQ}/policy4/scaling_governor": "schedutil\n",
    f"{FREQ}/policy4/scaling_cur_freq": "729600\n",
    f"{FREQ}/policy4/scaling_max_freq": "1728000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/13e40000.dla0/cur_freq": "5\n",
    f"{HEAT}/thermal_zone0/type": "cpu-thermal\n",
    f"{HEAT}/thermal_zone0/temp": "52125\n",
    f"{HEAT}/thermal_zone0/trip_point_0_type": "passive\n",
    f"{HEAT}/thermal_zone0/trip_point_0_temp": "99000\n",
    f"{HEAT}/thermal_zone1/type": "tj-thermal\n",
    f"{HEAT}/thermal_zone1/temp": "54000\n",
    f"{HEAT}/cooling_device0/type": "cpu-throttle-alert\n",
    f"{HEAT}/cooling_device0/cur_state": "0\n",
}


def read(root: Path) -> Conditions:
    board = detect(root=root, board=find_profile("jetson-orin-nano-nx"))
    return read_conditions(board, root=root)


def test_a_board_is_read_as_it_is(tmp_path: Path) -> None:
    found = read(plant(tmp_path, ORIN))
    assert found.cpu == (
        Frequency(name="CPU policy0", now_hz=1_510_400_000, limit_hz=1_728_000_000),
        Frequency(name="CPU policy4", now_hz=729_600_000, limit_hz=1_728_000_000),
    )
    assert found.gpu == (
        Frequency(name="GPU 17000000.gpu", now_hz=306_000_000, limit_hz=1_020_000_000),
    )
    assert (found.governors, found.power_mode) == (("schedutil",), "25W")
    assert found.temps_c == {"cpu-thermal": 52.125, "tj-thermal": 54.0}
    assert (found.hottest_c, found.throttled, found.slowed) == (54.0, False, ())
    text = conditions_line(found)
    assert "power mode 25W, governor schedutil, CPU policy0 1.51 GHz of 1.73 GHz" in text
    assert text.endswith("hottest zone 54 °C, not throttled")


def test_what_is_not_there_is_not_known(tmp_path: Path) -> None:
    found = read_conditions(detect(root=tmp_path), root=tmp_path)
    assert (found.cpu, found.gpu, found.temps_c) == ((), (), {})
    assert (found.hottest_c, found.throttled, found.power_mode) == (None, None, None)
    assert conditions_line(found).endswith("throttling not known")
    assert list(warnings(found, msgspec.structs.replace(found, load=0.0), cpus=10_000)) == []


def test_a_board_that_slows_down_is_flagged(tmp_path: Path) -> None:
    cool = read(plant(tmp_path / "cool", ORIN))
    hot = ORIN | {
        f"{HEAT}/cooling_device0/cur_state": "1\n",
        f"{HEAT}/thermal_zone0/temp": "99500\n",
    }
    after = read(plant(tmp_path / "hot", hot))
    assert after.slowed == ("cpu-throttle-alert", "cpu-thermal is at 99.5 °C")
    quiet = msgspec.structs.replace(cool, load=0.0)
    assert list(warnings(quiet, after, cpus=6)) == [
        "THROTTLED after the run: cpu-throttle-alert, cpu-thermal is at 99.5 °C"
    ]


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (
            f"{FREQ}/policy4/scaling_max_freq",
            "1113600",
            "the limit of CPU policy4 fell from 1.73 GHz to 1.11 GHz",
        ),
        (
            f"{FREQ}/policy0/scaling_cur_freq",
            "1190400",
            "the clock of the CPUs fell from 1.51 GHz to 1.19 GHz",
        ),
        (
            "sys/class/devfreq/17000000.gpu/cur_freq",
            "204000000",
            "the clock of the GPU fell from 306 MHz to 204 MHz",
        ),
        (
            "var/lib/nvpmodel/status",
            "pmode:0007",
            "the power mode changed from 25W to mode 7",
        ),
    ],
)
def test_what_fell_or_changed_is_flagged(tmp_path: Path, path: str, text: str, words: str) -> None:
    before = msgspec.structs.replace(read(plant(tmp_path / "a", ORIN)), load=0.0)
    after = read(plant(tmp_path / "b", ORIN | {path: text}))
    assert list(warnings(before, after, cpus=6)) == [words]


def test_others_at_work_are_flagged(tmp_path: Path) -> None:
    before = msgspec.structs.replace(read(plant(tmp_path, ORIN)), load=6.5)
    (said,) = warnings(before, before, cpus=6)
    assert said == "the load was 6.5 on 6 CPUs before the run: others compete"


def test_throttling_that_comes_and_goes_is_seen(tmp_path: Path) -> None:
    root = plant(tmp_path, ORIN)
    now = 0

    def clock() -> int:
        return now

    watch = Watch(lambda: read(root), clock=clock)
    watch.look()
    now = 2_000_000_000
    plant(root, {f"{HEAT}/cooling_device0/cur_state": "2\n"})
    watch.look()
    plant(root, ORIN)
    watch.look()
    first, slow, last = watch.moments
    assert (first.t_s, first.temp_c, first.clock_hz) == (0.0, 54.0, 1_510_400_000)
    assert (slow.t_s, [one.slowed for one in (first, slow, last)]) == (2.0, [False, True, False])
    cool = msgspec.structs.replace(read(root), load=0.0)
    assert list(warnings(cool, cool, watch.moments, cpus=6)) == [
        "THROTTLED in 1 of 3 looks while it ran"
    ]


def test_a_long_run_is_kept_in_less_detail_not_in_more_memory(tmp_path: Path) -> None:
    seen = read_conditions(detect(root=tmp_path), root=tmp_path)
    now = 0

    def clock() -> int:
        return now

    watch = Watch(lambda: seen, clock=clock)
    for now in range(0, 5 * MOST_MOMENTS * 10**9, 10**9):  # noqa: B007 -- the clock reads it
        watch.look()
    times = [one.t_s for one in watch.moments]
    assert MOST_MOMENTS / 2 <= len(times) <= MOST_MOMENTS
    assert times == sorted(times)
    assert times[-1] > 4.9 * MOST_MOMENTS
