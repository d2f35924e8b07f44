"""The readers of the INA3221 and INA238: watts checked by hand, and sensors that fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedge.models.errors import ConfigError
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.boards.profile import Power, Rail, profile
from hedge.telemetry.boards.recording import plant
from hedge.telemetry.power.ina import InaReader, open_ina
from hedge.telemetry.power.sensor_file import SensorFile

RECORDED = Path(__file__).parent / "recorded" / "boards"
SECOND_NS = 1_000_000_000
NANO = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"  # of the Orin Nano

TOTALS = {
    "jetson-nano-jetpack-4.6": 2880 / 1e3,  # POM_5V_IN, in mW
    "jetson-tx2-jetpack-4.6": 1988 / 1e3,  # VDD_IN, in mW
    "jetson-xavier-nx-jetpack-4.6": 3220 / 1e3,  # VDD_IN, in mW
    "jetson-xavier-nx-jetpack-5.1": 5.032 * 1.240,  # VDD_IN
    "jetson-agx-xavier-jetpack-5.1": (
        19.008 * 0.000  # GPU
        + 19.008 * 0.032  # CPU
        + 18.992 * 0.112  # SOC
        + 19.008 * 0.000  # CV
        + 19.008 * 0.016  # VDDRQ
        + 19.000 * 0.128  # SYS5V: together 5.471 W
    ),
    "jetson-orin-nano-jetpack-6.2": 4.984 * 1.104,  # VDD_IN
    "jetson-orin-nano-jetpack-7.2": 4.984 * 0.800,
    "jetson-orin-nx-jetpack-5.1": 4.952 * 1.304,
    "jetson-orin-nx-jetpack-6.2": 4.912 * 8.104,
    "jetson-agx-orin-jetpack-5.1": 19.888 * 0.160 + 19.888 * 0.040 + 4.976 * 0.800,
    "jetson-agx-orin-jetpack-6.2": 19.888 * 0.160 + 19.888 * 0.040 + 4.976 * 0.800,
    "jetson-agx-thor-jetpack-7.1": 19_012_000 / 1e6,  # VIN, in uW
    "container-on-orin-nano-jetpack-6.2": 4.984 * 1.104,
}
"""Watts of each recorded board, by the numbers in its recording."""


class Clock:
    """Nanoseconds that a test moves on."""

    def __init__(self) -> None:
        self.now_ns = 5 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


class Bench:
    """A recorded board, and its reader once it was opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        board = detect(root=root).profile
        assert board is not None
        self.power: Power = board.power

    def open(self, power: Power | None = None) -> InaReader:
        return open_ina(power or self.power, root=self.root, clock=self.clock)

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_bytes(text.encode())
        file.with_suffix(".new").replace(file)


@pytest.fixture
def bench_of(tmp_path: Path) -> Callable[[str], Bench]:
    """Give `bench_of(recording)`."""

    def make(name: str) -> Bench:
        plant(RECORDED / f"{name}.toml", tmp_path / name)
        return Bench(tmp_path / name)

    return make


@pytest.fixture
def nano(bench_of: Callable[[str], Bench]) -> Bench:
    """Give an Orin Nano: VDD_IN 5.502 W, VDD_CPU_GPU_CV 0.718 W, VDD_SOC 1.513 W."""
    return bench_of("jetson-orin-nano-jetpack-6.2")


def by_rail(reader: InaReader) -> dict[str, float | None]:
    return dict(zip(reader.source.rails, reader.read(), strict=True))


def total_w(reader: InaReader) -> float:
    found = by_rail(reader)
    return sum(found[label] or 0.0 for label in reader.source.total)


def test_every_recorded_jetson_has_a_total_that_was_added_up_by_hand() -> None:
    assert {path.stem for path in RECORDED.glob("*jetpack*.toml")} == set(TOTALS)


@pytest.mark.parametrize("name", TOTALS)
def test_the_total_of_a_recorded_board_is_what_its_files_say(
    name: str, bench_of: Callable[[str], Bench]
) -> None:
    bench = bench_of(name)
    reader = bench.open()
    assert total_w(reader) == pytest.approx(TOTALS[name], rel=1e-12)
    assert None not in reader.read()
    assert reader.source.rails == tuple(rail.label for rail in bench.power.rail)
    assert (reader.source.kind, reader.source.scope) == ("power", "module")
    reader.close()


def test_agx_orin_counts_vddq_once(bench_of: Callable[[str], Bench]) -> None:
    reader = bench_of("jetson-agx-orin-jetpack-6.2").open()
    found = by_rail(reader)
    assert reader.source.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert found["VDDQ_VDD2_1V8AO"] == pytest.approx(4.968 * 0.080)  # is inside VIN_SYS_5V0
    assert total_w(reader) == pytest.approx(7.9584)
    assert sum(filter(None, found.values())) == pytest.approx(7.9584 + 0.39744)  # 5 % too much


def test_agx_xavier_adds_six_rails_of_two_chips(bench_of: Callable[[str], Bench]) -> None:
    reader = bench_of("jetson-agx-xavier-jetpack-5.1").open()
    assert reader.source.total == ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
    assert total_w(reader) == pytest.approx(5.471488)


def test_thors_rail_below_zero_is_kept_and_its_input_is_in_microwatts(
    bench_of: Callable[[str], Bench],
) -> None:
    reader = bench_of("jetson-agx-thor-jetpack-7.1").open()
    found = by_rail(reader)
    assert found["VDD_GPU"] == pytest.approx(12.040 * -0.032)
    assert found["VIN"] == pytest.approx(19.012)
    assert reader.source.total == ("VIN",)
    assert reader.source.negative
    assert reader.source.name == "ina238+ina3221"


def test_the_older_layout_is_read_in_milliwatts(bench_of: Callable[[str], Bench]) -> None:
    reader = bench_of("jetson-tx2-jetpack-4.6").open()
    assert by_rail(reader) == pytest.approx(
        {
            "VDD_IN": 1.988,
            "VDD_SYS_CPU": 0.229,
            "VDD_SYS_DDR": 0.573,
            "VDD_SYS_GPU": 0.153,
            "VDD_SYS_SOC": 0.459,
            "VDD_4V0_WIFI": 0.019,
        }
    )


def test_channels_that_are_not_connected_and_the_sum_of_shunts_are_no_rails(
    bench_of: Callable[[str], Bench],
) -> None:
    bench = bench_of("jetson-agx-orin-jetpack-5.1")  # has two labels NC, and in7 on both chips
    assert len(bench.open().read()) == 4


def test_what_is_measured_now_is_read_now(nano: Bench) -> None:
    reader = nano.open()
    nano.put(f"{NANO}/curr1_input", "1504\n")
    assert by_rail(reader)["VDD_IN"] == pytest.approx(4.984 * 1.504)
    nano.put(f"{NANO}/in1_input", "5000\n")
    assert by_rail(reader)["VDD_IN"] == pytest.approx(5 * 1.504)


def test_a_frozen_sensor_is_reported_as_it_is(nano: Bench) -> None:
    reader = nano.open()
    assert len({reader.read() for _ in range(100)}) == 1  # who integrates it tells that


def test_the_step_is_told_by_the_shunts_before_the_profile(
    nano: Bench, bench_of: Callable[[str], Bench]
) -> None:
    assert nano.open().source.step == 0.04  # the profile's: no shunt is said
    nano.put(f"{NANO}/shunt1_resistor", "4000\n")
    assert nano.open().source.step == pytest.approx(4.984 * 40e-6 / 4e-3)  # 0.04984 W
    orin = bench_of("jetson-agx-orin-jetpack-6.2")
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon2"
    for channel in (1, 2, 3):
        orin.put(f"{folder}/shunt{channel}_resistor", "2000\n")
    assert orin.open().source.step == pytest.approx(19.888 * 40e-6 / 2e-3)  # the coarsest: 0.4 W


def test_it_need_not_be_read_faster_than_the_chip_converts(nano: Bench) -> None:
    assert nano.open().source.fastest_hz is None
    nano.put(f"{NANO}/update_interval", "7\n")
    assert nano.open().source.fastest_hz == pytest.approx(1000 / (3 * 2 * 7))  # six files wait


# ---- Failures, caused.


@pytest.mark.parametrize(
    "text",
    [
        *("", "\0", "abc", "12abc", "0x10", "1e3", "--5", "5 6", "1_0", "nan", "9" * 20),
        *("7" * 100_000, "\N{ARABIC-INDIC DIGIT ONE}", "1104\n garbage"),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_file_that_says_no_number_is_that_rail_alone(nano: Bench, text: str) -> None:
    reader = nano.open()
    nano.put(f"{NANO}/curr1_input", text)
    found = by_rail(reader)
    assert found["VDD_IN"] is None
    assert found["VDD_SOC"] == pytest.approx(4.976 * 0.304)
    nano.put(f"{NANO}/curr1_input", "1104\n\0")
    assert by_rail(reader)["VDD_IN"] == pytest.approx(4.984 * 1.104)


@pytest.mark.parametrize("way", ["removed", "a folder", "a link into nothing", "a pipe"])
def test_a_channel_that_fails_is_that_channel_until_it_works_again(nano: Bench, way: str) -> None:
    reader = nano.open()
    file = nano.root / NANO / "curr1_input"
    file.unlink()
    if way == "a folder":
        file.mkdir()  # to read it fails, as a sensor's EIO does
    elif way == "a link into nothing":
        file.symlink_to("nowhere")
    elif way == "a pipe":
        os.mkfifo(file)
    for _ in range(3):
        nano.clock.now_ns += SECOND_NS
        assert [power_w is None for power_w in reader.read()] == [True, False, False]
    file.rmdir() if way == "a folder" else file.unlink(missing_ok=True)
    file.write_text("1104\n")
    assert reader.read()[0] == pytest.approx(5.502336)
    reader.close()


def test_a_link_that_leads_out_of_a_copied_tree_is_not_followed(
    nano: Bench, tmp_path: Path
) -> None:
    reader = nano.open()
    (tmp_path / "outside").write_text("77")
    file = nano.root / NANO / "curr1_input"
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    assert reader.read()[0] is None


def test_a_chip_that_comes_back_under_another_number_is_found_again(nano: Bench) -> None:
    reader = nano.open()
    chip = nano.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
    (chip / "hwmon1").rename(nano.root / "unbound")
    assert reader.read() == (None, None, None)
    (nano.root / "unbound").rename(chip / "hwmon17")  # the driver was bound again
    nano.put(f"{NANO.replace('hwmon1', 'hwmon17')}/curr1_input", "1200\n")
    nano.clock.now_ns += SECOND_NS
    reader.read()
    assert reader.read()[0] == pytest.approx(4.984 * 1.2)
    assert reader.read()[2] == pytest.approx(4.976 * 0.304)


def test_a_chip_that_is_gone_is_looked_for_less_and_less_often(nano: Bench) -> None:
    reader = nano.open()
    (nano.root / "sys/bus/i2c/drivers/ina3221/1-0040").rename(nano.root / "unbound")
    looks = 0
    for _ in range(2 * 600):  # ten minutes at 2 Hz
        before = reader._look_at_ns
        reader.read()
        looks += reader._look_at_ns != before
        nano.clock.now_ns += SECOND_NS // 2
    assert 10 <= looks <= 16  # after 1, 2, 4, … 32 s, then once a minute
    (nano.root / "unbound").rename(nano.root / "sys/bus/i2c/drivers/ina3221/1-0040")
    nano.clock.now_ns += 60 * SECOND_NS
    reader.read()
    assert None not in reader.read()


def test_a_rail_that_was_never_there_is_read_once_it_comes(nano: Bench) -> None:
    label = nano.root / NANO / "in3_label"
    label.rename(nano.root / "label")
    reader = nano.open()
    assert reader.source.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    assert reader.read()[2] is None
    (nano.root / "label").rename(label)
    nano.clock.now_ns += 2 * SECOND_NS
    reader.read()
    assert reader.read()[2] == pytest.approx(4.976 * 0.304)


def test_two_chips_of_the_same_label_are_two_rails(bench_of: Callable[[str], Bench]) -> None:
    thor = bench_of("jetson-agx-thor-jetpack-7.1")
    thor.put("sys/bus/i2c/drivers/ina238/2-0045/hwmon/hwmon7/power1_input", "500000\n")
    reader = thor.open()
    assert reader.source.total == ("VIN@2-0044", "VIN@2-0045")
    assert total_w(reader) == pytest.approx(19.512)


def test_a_profile_whose_total_is_of_other_drivers_has_none_here(nano: Bench) -> None:
    rails = (Rail(label="VDD_IN", driver="ina3221"), Rail(label="X", driver="vcgencmd"))
    reader = nano.open(Power(rail=rails, total=("VDD_IN", "X"), scope="board"))
    assert (reader.source.rails, reader.source.total) == (("VDD_IN",), ())
    assert reader.source.scope == "none"


def test_a_closed_reader_reads_nothing_and_closes_twice(nano: Bench) -> None:
    reader = nano.open()
    reader.close()
    reader.close()
    assert reader.read() == (None, None, None)


def test_a_board_without_such_rails_is_refused_and_so_is_one_that_cannot_be_read(
    nano: Bench, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="names no rail of an INA3221 or INA238"):
        nano.open(profile("raspberry-pi-5").power)
    with pytest.raises(ConfigError, match=r"none of VDD_IN, .*, VDD_SOC can be read") as caught:
        open_ina(nano.power, root=tmp_path / "nothing", clock=nano.clock)
    assert "driver" in str(caught.value.hint)


# ---- The kernel's own files, which stay open.


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process, of which the kernel has files in /proc."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.communicate()


def test_a_file_of_the_kernel_stays_open_and_says_what_is_so_now(
    child: subprocess.Popen[bytes],
) -> None:
    path = Path(f"/proc/{child.pid}/oom_score_adj")
    path.write_text("300")
    file = SensorFile(Path("/"), str(path)[1:])
    assert file.number() == 300
    held = file._file
    assert held is not None
    path.write_text("301")
    assert file.number() == 301
    assert file._file == held
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert file.number() is None  # ESRCH, as ENODEV when a driver goes
    assert not file.is_gone
    assert file.number() is None
    assert file.is_gone


def test_a_file_that_fails_while_it_is_open_is_opened_again() -> None:
    file = SensorFile(Path("/"), "proc/self/oom_score_adj")
    now = file.number()
    assert now is not None
    assert file._file is not None
    with Path("/proc/self/mem").open("rb") as broken:
        os.dup2(broken.fileno(), file._file)  # to read it at 0 is an EIO
    assert file.number() is None
    assert file.number() == now
    file.close()


def test_a_sensors_file_that_vanishes_and_returns_in_sysfs_is_read_again() -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folder = next((Path(one[1]) for one in mounts if one[2] == "cgroup2"), None)
    if folder is None:
        pytest.skip("no cgroup2, whose files are of the same kind as those of /sys")
    group = folder / f"hedge-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made there: {error.strerror}")
    file = SensorFile(Path("/"), str(group / "cgroup.max.depth")[1:])
    try:
        assert file.number() is None  # "max"
        (group / "cgroup.max.depth").write_text("7")
        assert file.number() == 7
        assert file._file is not None
        group.rmdir()
        assert file.number() is None
        assert file.is_gone  # ENODEV
        assert file.number() is None
        assert file.is_gone
        group.mkdir()
        (group / "cgroup.max.depth").write_text("9")
        assert file.number() == 9
    finally:
        file.close()
        with contextlib.suppress(OSError):
            group.rmdir()


def test_an_attribute_of_sysfs_itself_stays_open() -> None:
    if not Path("/sys/class/net/lo/mtu").exists():
        pytest.skip("no /sys/class/net/lo/mtu")
    file = SensorFile(Path("/"), "sys/class/net/lo/mtu")
    assert (file.number() or 0) > 0
    assert file._file is not None
    assert file.number() == int(Path("/sys/class/net/lo/mtu").read_text())
    file.close()
