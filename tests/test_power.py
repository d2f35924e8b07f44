"""Which power reader a device opens, and what `hedge check` says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hedge.models.errors import ConfigError, HedgeError
from hedge.runtime.checks.finding import Finding
from hedge.runtime.checks.power import check_power
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.boards.rails import VCGENCMD
from hedge.telemetry.boards.recording import plant
from hedge.telemetry.power.null import NullReader
from hedge.telemetry.power.opening import Found, find_reader, open_reader
from hedge.telemetry.power.options import PowerOptions
from hedge.telemetry.power.reader import PowerReader

RECORDED = Path(__file__).parent / "recorded"
REPLAYED = RECORDED / "power" / "orin-nano-jetpack-6.2.csv"
PRINTED = RECORDED / "power" / "pmic_read_adc-raspberry-pi-5.txt"
ORIN = "jetson-orin-nano-jetpack-6.2"
LAPTOP = "x86-laptop-debian-12"
PI = "raspberry-pi-5-raspberry-pi-os-13"


@dataclasses.dataclass
class Place:
    """A recorded board, and what is asked of it."""

    root: Path

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def battery(self, status: str) -> None:
        folder = "sys/class/power_supply/BAT0"
        for name, text in (("type", "Battery"), ("status", status), ("power_now", "8250000")):
            self.put(f"{folder}/{name}", f"{text}\n")

    def find(self, **options: object) -> Found:
        asked = msgspec.convert(options, PowerOptions)
        board = detect(root=self.root)
        return find_reader(asked, board=board, base=RECORDED / "power", root=self.root)

    def check(self, **options: object) -> Finding:
        asked = msgspec.convert(options, PowerOptions)
        board = detect(root=self.root)
        (found,) = check_power(asked, board, base=RECORDED / "power", root=self.root)
        return found


@pytest.fixture
def place_of(tmp_path: Path) -> Callable[[str], Place]:
    """Give `place_of(recording)`."""

    def make(name: str) -> Place:
        plant(RECORDED / "boards" / f"{name}.toml", tmp_path / name)
        return Place(tmp_path / name)

    return make


PlaceOf = Callable[[str], Place]


def with_vcgencmd(place: Place) -> Place:
    place.put(VCGENCMD, f"#!/bin/sh\ncat {PRINTED}\n")
    (place.root / VCGENCMD).chmod(0o755)
    return place


# ---- The configuration.


def test_the_defaults_are_auto_at_10_hz() -> None:
    assert PowerOptions() == PowerOptions(reader="auto", path=None, rate_hz=10.0)


@pytest.mark.parametrize(
    "wrong",
    [{"reader": "ina3221"}, {"rate_hz": 0.05}, {"rate_hz": 101}, {"path": ""}, {"hz": 1}],
)
def test_what_is_no_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, PowerOptions)


# ---- Auto.


def test_auto_takes_what_the_profile_names(place_of: PlaceOf) -> None:
    found = place_of(ORIN).find()
    assert found.reader.source.name == "ina3221"
    assert found.passed == ()
    assert found.reader.read()[0] == pytest.approx(5.502336)
    assert with_vcgencmd(place_of(PI)).find().reader.source.name == "pmic"


def test_auto_takes_the_packages_counters_of_any_machine(place_of: PlaceOf) -> None:
    assert place_of(LAPTOP).find().reader.source.name == "rapl"


def test_auto_falls_to_a_battery_that_gives_power_now(place_of: PlaceOf) -> None:
    laptop = place_of(LAPTOP)
    (laptop.root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    laptop.battery("Charging")
    found = laptop.find()
    assert isinstance(found.reader, NullReader)
    assert [one.partition(":")[0] for one in found.passed] == ["rapl", "battery"]
    assert "intel-rapl:0/energy_uj: says no energy" in found.passed[0]
    assert "is not running on its battery now" in found.passed[1]
    laptop.battery("Discharging")
    reader = laptop.find().reader
    assert reader.source.name == "battery"
    assert reader.read() == pytest.approx((8.25,))


def test_auto_falls_to_a_battery_on_a_jetson_whose_chip_is_away(place_of: PlaceOf) -> None:
    orin = place_of(ORIN)
    (orin.root / "sys/bus/i2c").rename(orin.root / "away")
    orin.battery("Discharging")
    found = orin.find()
    assert found.reader.source.name == "battery"
    assert "none of VDD_IN, VDD_CPU_GPU_CV, VDD_SOC can be read" in found.passed[0]


def test_where_nothing_measures_nothing_is_read(place_of: PlaceOf, tmp_path: Path) -> None:
    for name in ("raspberry-pi-4-raspberry-pi-os-12", "rock-5b-debian-12", PI):
        reader = place_of(name).find().reader
        assert (reader.source.name, reader.source.rails, reader.read()) == ("none", (), ())
    nowhere = open_reader(PowerOptions(), board=detect(root=tmp_path), base=tmp_path, root=tmp_path)
    assert isinstance(nowhere, NullReader)
    nowhere.close()


def test_none_reads_nothing_where_there_is_a_sensor(place_of: PlaceOf) -> None:
    assert isinstance(place_of(ORIN).find(reader="none").reader, NullReader)


# ---- One that is named.


@pytest.mark.parametrize(
    ("name", "options", "source"),
    [
        (ORIN, {"reader": "ina"}, "ina3221"),
        (LAPTOP, {"reader": "rapl"}, "rapl"),
        (ORIN, {"reader": "replay", "path": REPLAYED.name}, "ina3221 of jetson-orin-nano-nx"),
        (ORIN, {"reader": "replay", "path": str(REPLAYED)}, "ina3221 of jetson-orin-nano-nx"),
    ],
)
def test_the_reader_that_is_named_is_opened(
    place_of: PlaceOf, name: str, options: dict[str, object], source: str
) -> None:
    reader: PowerReader = place_of(name).find(**options).reader
    assert reader.source.name.startswith(source)
    assert len(reader.read()) == len(reader.source.rails) > 0
    reader.close()


def test_a_battery_that_is_named_may_begin_on_mains(place_of: PlaceOf) -> None:
    laptop = place_of(LAPTOP)
    laptop.battery("Full")
    reader = laptop.find(reader="battery").reader
    assert reader.read() == (None,)
    laptop.battery("Discharging")
    assert reader.read() == pytest.approx((8.25,))


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        (LAPTOP, {"reader": "ina"}, "'ina' yields no reading: the board's profile names no rail"),
        (ORIN, {"reader": "rapl"}, "'rapl' yields no reading: .*powercap: has no package domain"),
        (ORIN, {"reader": "pmic"}, "'pmic' yields no reading: the board's profile names no rail"),
        (PI, {"reader": "pmic"}, "'pmic' yields no reading: .*vcgencmd: is not there or cannot"),
        (LAPTOP, {"reader": "battery"}, "'battery' yields no reading: .*has no battery"),
        (ORIN, {"reader": "replay", "path": "x"}, "'replay' yields no reading: .*x: cannot be"),
        (ORIN, {"reader": "replay"}, "path: names no recording"),
        (ORIN, {"reader": "auto", "path": "x"}, "path: is for the reader 'replay' alone"),
    ],
)
def test_a_reader_that_is_named_and_yields_nothing_is_an_error(
    place_of: PlaceOf, name: str, options: dict[str, object], what: str
) -> None:
    with pytest.raises(ConfigError, match=f"^telemetry.power.*{what}"):
        place_of(name).find(**options)


# ---- What `hedge check` says.


def test_the_check_says_which_reader_is_used_and_what_it_reads(place_of: PlaceOf) -> None:
    found = place_of(ORIN).check(rate_hz=50)
    assert (found.area, found.level, found.subject) == ("sensors", "ok", "ina3221")
    assert found.text == (
        "this reader is used; module: VDD_IN; read 50 times a second; in steps of 0.04 W; 5.5 W now"
    )


def test_the_check_of_a_counter_waits_for_its_second_reading(place_of: PlaceOf) -> None:
    found = place_of(LAPTOP).check()
    assert (found.level, found.subject) == ("ok", "rapl")
    assert "package: package-0; read 10 times a second" in found.text


def test_the_check_says_that_values_are_recorded_ones(place_of: PlaceOf) -> None:
    found = place_of(ORIN).check(reader="replay", path=REPLAYED.name)
    assert found.level == "ok"
    assert "this reader is used, of recorded values" in found.text


def test_the_check_warns_where_auto_finds_nothing_and_says_why(place_of: PlaceOf) -> None:
    found = place_of(PI).check()
    assert found.level == "warning"
    assert "no energy is measured: pmic: " in found.text
    assert "cannot be run; rapl: " in found.text
    assert 'reader = "none"' in str(found.todo)
    assert place_of(PI).check(reader="none").level == "ok"


def test_the_check_warns_of_a_total_that_cannot_be_read(place_of: PlaceOf) -> None:
    orin = place_of(ORIN)
    (orin.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input").unlink()
    found = orin.check()
    assert found.level == "warning"
    assert "no reading now of VDD_IN" in found.text
    laptop = place_of(LAPTOP)
    laptop.battery("Charging")
    assert laptop.check(reader="battery").level == "warning"


def test_the_check_fails_where_what_is_named_yields_nothing(place_of: PlaceOf) -> None:
    with pytest.raises(HedgeError, match="'rapl' yields no reading"):  # `guarded` makes it one
        place_of(ORIN).check(reader="rapl")
