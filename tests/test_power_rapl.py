"""RAPL's counters and the machine's batteries, and what they say that is not to be believed."""

from __future__ import annotations

import contextlib
import doctest
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.telemetry.boards.recording import plant
from hedge.telemetry.power import rapl
from hedge.telemetry.power.battery import BatteryReader, open_battery
from hedge.telemetry.power.rapl import PLAUSIBLE_W, RaplReader, open_rapl, used_j

LAPTOP = Path(__file__).parent / "recorded" / "boards" / "x86-laptop-debian-12.toml"
RANGE_UJ = 262_143_328_850  # the laptop's
AMD_UJ = 65_532_610_987
ZONES = "sys/class/powercap"
SUPPLIES = "sys/class/power_supply"


class Machine:
    """A tree with RAPL, and a clock that a test moves on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 7_000_000_000

    def clock(self) -> int:
        return self.now_ns

    def put(self, path: str, text: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def count(self, energy_uj: object, *, after_s: float = 0.1, zone: int = 0) -> None:
        """Let time pass, and the counter of a zone stand there."""
        self.now_ns += round(after_s * 1e9)
        self.put(f"{ZONES}/intel-rapl:{zone}/energy_uj", energy_uj)

    def open(self) -> RaplReader:
        return open_rapl(root=self.root, clock=self.clock)


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    """Give a laptop: package-0 at 123.456789 J, its cores, and psys."""
    plant(LAPTOP, tmp_path / "laptop")
    return Machine(tmp_path / "laptop")


def package(machine: Machine, number: int, energy_uj: int, range_uj: int = RANGE_UJ) -> None:
    zone = f"{ZONES}/intel-rapl:{number}"
    machine.put(f"{zone}/name", f"package-{number}")
    machine.put(f"{zone}/max_energy_range_uj", range_uj)
    machine.put(f"{zone}/energy_uj", energy_uj)


# ---- RAPL.


def test_the_example_of_a_counter_that_comes_round_is_right() -> None:
    assert doctest.testmod(rapl).failed == 0


def test_a_packages_joules_are_those_since_the_read_before(laptop: Machine) -> None:
    reader = laptop.open()
    assert reader.read() == (None,)
    laptop.count(123_456_789 + 1_500_000)  # 15 W for 0.1 s
    assert reader.read() == pytest.approx((1.5,))
    laptop.count(123_456_789 + 1_500_000 + 2_250_000)
    assert reader.read() == pytest.approx((2.25,))
    laptop.count(123_456_789 + 3_750_000)
    assert reader.read() == (0.0,)


def test_cores_are_inside_the_package_and_psys_holds_it(laptop: Machine) -> None:
    source = laptop.open().source
    assert (source.rails, source.total) == (("package-0",), ("package-0",))
    assert (source.name, source.kind, source.scope) == ("rapl", "energy", "package")


@pytest.mark.parametrize(
    ("range_uj", "step_j"),
    [(RANGE_UJ, 1 / 2**14), (AMD_UJ, 1 / 2**16)],  # 61 uJ of Intel's, 15.3 uJ of AMD's
)
def test_the_step_follows_from_the_range(laptop: Machine, range_uj: int, step_j: float) -> None:
    package(laptop, 0, 5, range_uj)
    assert laptop.open().source.step == pytest.approx(step_j, rel=1e-4)


def test_the_packages_of_a_server_are_one_rail_each(tmp_path: Path) -> None:
    server = Machine(tmp_path)
    package(server, 0, 10_000_000)
    package(server, 1, 900_000_000, AMD_UJ)
    package(server, 2, 5)  # a subdomain of the same form is no package
    server.put(f"{ZONES}/intel-rapl:2/name", "dram")
    server.put(f"{ZONES}/intel-rapl-mmio:0/name", "package-0")  # the same counter once more
    reader = server.open()
    assert reader.source.total == ("package-0", "package-1")
    reader.read()
    server.count(10_000_000 + 3_000_000, after_s=0.1)
    server.count(900_000_000 + 7_000_000, after_s=0.0, zone=1)
    assert reader.read() == pytest.approx((3.0, 7.0))


def test_a_counter_that_comes_round_goes_on(laptop: Machine) -> None:
    reader = laptop.open()
    laptop.count(RANGE_UJ - 400_000)
    reader.read()
    laptop.count(1_100_000)  # 0.4 J to the end, 1.1 J from the beginning
    assert reader.read() == pytest.approx((1.5,))


def test_a_counter_that_may_have_come_round_twice_says_nothing(laptop: Machine) -> None:
    reader = laptop.open()
    reader.read()
    certain_s = RANGE_UJ / 1e6 / PLAUSIBLE_W  # 262 s
    laptop.count(123_456_789 + 50_000_000, after_s=certain_s - 0.1)
    assert reader.read() == pytest.approx((50.0,))
    laptop.count(123_456_789 + 60_000_000, after_s=certain_s)
    assert reader.read() == (None,)
    laptop.count(123_456_789 + 61_000_000)
    assert reader.read() == pytest.approx((1.0,))


def test_a_counter_that_was_set_back_has_not_come_round(laptop: Machine) -> None:
    reader = laptop.open()
    reader.read()
    laptop.count(1_000, after_s=1.0)  # 262 kJ in a second, if it had
    assert reader.read() == (None,)
    laptop.count(8_001_000, after_s=1.0)
    assert reader.read() == pytest.approx((8.0,))


@pytest.mark.parametrize("text", ["", "-5", "what?", RANGE_UJ + 1, "9" * 40])
def test_a_counter_that_says_what_it_cannot_is_not_read(laptop: Machine, text: object) -> None:
    reader = laptop.open()
    reader.read()
    laptop.count(text)
    assert reader.read() == (None,)
    laptop.count(123_456_789)
    assert reader.read()[0] in (None, 0.0)


def test_a_counter_that_vanishes_and_returns_begins_anew(laptop: Machine) -> None:
    reader = laptop.open()
    reader.read()
    (laptop.root / ZONES / "intel-rapl:0").rename(laptop.root / "gone")
    assert reader.read() == (None,)
    (laptop.root / "gone").rename(laptop.root / ZONES / "intel-rapl:0")
    laptop.count(200_000_000)
    assert reader.read() == (None,)  # how long it was away it cannot say
    laptop.count(201_000_000)
    assert reader.read() == pytest.approx((1.0,))
    reader.close()
    reader.close()
    assert reader.read() == (None,)


@given(
    before=st.integers(0, AMD_UJ),
    power_w=st.floats(0, PLAUSIBLE_W),
    elapsed_s=st.floats(0.001, 65.0),
)
def test_whatever_power_is_plausible_is_counted_through_the_end_of_the_range(
    before: int, power_w: float, elapsed_s: float
) -> None:
    true_uj = int(power_w * elapsed_s * 1e6)
    after = (before + true_uj) % AMD_UJ
    found = used_j(before, after, range_uj=AMD_UJ, elapsed_s=elapsed_s)
    assert found == pytest.approx(true_uj / 1e6, abs=1e-9)


@given(before=st.integers(0, AMD_UJ), after=st.integers(0, AMD_UJ), elapsed_s=st.floats(0, 1e6))
def test_no_two_states_make_more_than_is_plausible_or_less_than_nothing(
    before: int, after: int, elapsed_s: float
) -> None:
    found = used_j(before, after, range_uj=AMD_UJ, elapsed_s=elapsed_s)
    assert found is None or 0 <= found <= (elapsed_s + 0.0101) * PLAUSIBLE_W


def test_a_machine_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no package domain"):
        Machine(tmp_path).open()


def test_a_counter_without_a_range_is_refused(laptop: Machine) -> None:
    laptop.put(f"{ZONES}/intel-rapl:0/max_energy_range_uj", 0)
    with pytest.raises(ConfigError, match="max_energy_range_uj: says no energy"):
        laptop.open()


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Be another user than root for the length of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def for_root() -> Iterator[Machine]:
    """Give a laptop whose counter only its owner may read, in a folder that all may enter."""
    folder = Path(tempfile.mkdtemp())
    plant(LAPTOP, folder / "laptop")
    folder.chmod(0o755)
    (folder / "laptop" / ZONES / "intel-rapl:0" / "energy_uj").chmod(0o400 * (os.geteuid() == 0))
    yield Machine(folder / "laptop")
    with contextlib.suppress(PermissionError):
        shutil.rmtree(folder)


def test_a_counter_for_root_alone_is_refused_with_what_to_do(
    for_root: Machine, as_nobody: None
) -> None:
    assert as_nobody is None
    with pytest.raises(
        ConfigError, match=r"energy_uj: cannot be read: Permission denied"
    ) as caught:
        for_root.open()
    assert "udev rule" in str(caught.value.hint)


# ---- Batteries.


def battery(root: Path, name: str, **files: object) -> None:
    machine = Machine(root)
    for key, text in {"type": "Battery", "status": "Discharging", **files}.items():
        machine.put(f"{SUPPLIES}/{name}/{key}", text)


def opened(root: Path) -> BatteryReader:
    return open_battery(root=root)


def test_a_battery_gives_what_it_says_in_microwatts(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now=12_345_000, current_now=1, voltage_now=1)
    reader = opened(tmp_path)
    assert reader.read() == pytest.approx((12.345,))
    assert (reader.source.scope, reader.source.total) == ("battery", ("BAT0",))


@pytest.mark.parametrize("sign", [1, -1])
def test_without_its_power_it_is_amperes_times_volts_whatever_their_sign(
    tmp_path: Path, sign: int
) -> None:
    battery(tmp_path, "BAT1", current_now=sign * 1_250_000, voltage_now=11_400_000)
    assert opened(tmp_path).read() == pytest.approx((1.25 * 11.4,))


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", "", "junk"])
def test_on_mains_a_battery_says_nothing(tmp_path: Path, status: str) -> None:
    battery(tmp_path, "BAT0", power_now=9_000_000, status=status)
    reader = opened(tmp_path)
    assert reader.read() == (None,)
    battery(tmp_path, "BAT0", power_now=9_000_000)
    assert reader.read() == pytest.approx((9.0,))


def test_a_battery_that_rests_beside_one_that_gives_adds_nothing(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now=7_000_000)
    battery(tmp_path, "BAT1", power_now=3_000_000, status="Not charging")
    reader = opened(tmp_path)
    assert reader.read() == pytest.approx((7.0, 0.0))
    battery(tmp_path, "BAT1", power_now=3_000_000, status="Charging")
    assert reader.read() == (None, None)  # so there is mains
    (tmp_path / SUPPLIES / "BAT1" / "status").unlink()
    assert reader.read() == (7.0, None)


def test_mains_and_the_battery_of_a_mouse_are_no_batteries_of_the_machine(tmp_path: Path) -> None:
    battery(tmp_path, "AC", type="Mains", power_now=1)
    battery(tmp_path, "hid-0", scope="Device", power_now=1)
    battery(tmp_path, "BAT9")  # says no power
    with pytest.raises(ConfigError, match="has no battery that says its power"):
        opened(tmp_path)
    battery(tmp_path, "BAT0", scope="System", power_now=4_000_000)
    assert opened(tmp_path).source.rails == ("BAT0",)


def test_a_battery_that_is_taken_out_is_a_rail_that_is_missing(tmp_path: Path) -> None:
    battery(tmp_path, "BAT0", power_now=7_000_000)
    reader = opened(tmp_path)
    shutil.rmtree(tmp_path / SUPPLIES / "BAT0")
    assert reader.read() == (None,)
    battery(tmp_path, "BAT0", power_now=7_500_000)
    assert reader.read() == pytest.approx((7.5,))
    reader.close()
    reader.close()
    assert reader.read() == (None,)
