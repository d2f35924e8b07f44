"""The Raspberry Pi 5's power chip: what its command prints, and commands that misbehave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hedge.models.errors import ConfigError
from hedge.telemetry.boards.profile import profile
from hedge.telemetry.boards.rails import VCGENCMD
from hedge.telemetry.power.pmic import PmicReader, open_pmic, parse_adc

PRINTED = Path(__file__).parent / "recorded" / "power" / "pmic_read_adc-raspberry-pi-5.txt"
POWER = profile("raspberry-pi-5").power
PATIENT_S = 60.0
TOTAL_W = (
    0.050 * 3.70  # 3V7_WL_SW
    + 0.060 * 3.30  # 3V3_SYS
    + 0.150 * 1.80  # 1V8_SYS
    + 0.200 * 1.10  # DDR_VDD2
    + 0.000 * 0.60  # DDR_VDDQ
    + 0.180 * 1.10  # 1V1_SYS
    + 0.350 * 0.80  # 0V8_SW
    + 2.500 * 0.84  # VDD_CORE
    + 0.00006 * 3.31  # 3V3_DAC
    + 0.0005 * 3.30  # 3V3_ADC
    + 0.004 * 0.80  # 0V8_AON
    + 0.020 * 5.05  # HDMI: together 3.557 W; EXT5V and BATT have no current
)

Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Give `install(script)`, which makes it the vcgencmd of a tree, and returns its root."""

    def make(script: str) -> Path:
        command = tmp_path / VCGENCMD
        command.parent.mkdir(parents=True, exist_ok=True)
        command.with_suffix(".new").write_text(f"#!/bin/sh\n{script}\n")
        command.with_suffix(".new").chmod(0o755)
        command.with_suffix(".new").replace(command)
        return tmp_path

    return make


def good(*, more: str = "") -> str:
    return f'[ "$*" = pmic_read_adc ] || exit 3\n{more}\ncat {PRINTED}'


def opened(root: Path, *, timeout_s: float = PATIENT_S) -> PmicReader:
    return open_pmic(POWER, root=root, timeout_s=timeout_s)


def test_twelve_pairs_of_volts_and_amperes_are_added_up(install: Install) -> None:
    reader = opened(install(good()))
    values = reader.read()
    assert sum(value or 0.0 for value in values) == pytest.approx(TOTAL_W, rel=1e-12)
    assert sum(value or 0.0 for value in values) == pytest.approx(3.5570486)
    assert len(values) == len(reader.source.total) == 12
    assert dict(zip(reader.source.rails, values, strict=True))["VDD_CORE"] == pytest.approx(2.1)
    assert (reader.source.name, reader.source.scope) == ("pmic", "pmic")
    assert reader.source.fastest_hz == 2.0


def test_a_rail_whose_pair_is_torn_is_missing_alone(install: Install) -> None:
    reader = opened(install(good()))
    install("cat " + str(PRINTED) + " | grep -v VDD_CORE_V")
    found = dict(zip(reader.source.rails, reader.read(), strict=True))
    assert [label for label, value in found.items() if value is None] == ["VDD_CORE"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        'error=1 error_msg="Command not registered"',
        "VDD_CORE_A current(7)=nanA\nVDD_CORE_V volt(15)=0.84V",
        "VDD_CORE_A current(7)=2.5V\nVDD_CORE_V volt(15)=0.84V",  # amperes in volts
        "VDD_CORE_A current(7)=1e9A\nVDD_CORE_V volt(15)=0.84V",
        "VDD_CORE_A current(7)=123456789.0A\nVDD_CORE_V volt(15)=0.84V",
        "VDD_CORE_A current(7)=2.5\nVDD_CORE_V volt(15)=0.84",
        "VDD_CORE_A=2.5A VDD_CORE_V=0.84V",
        "EXT5V_V volt(24)=5.09V\nBATT_V volt(25)=0.0V",
        "\N{FULLWIDTH DIGIT TWO}" * 100,
    ],
)
def test_what_is_no_pair_is_no_power(text: str) -> None:
    assert parse_adc(text) == {}


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo 'error=1 error_msg=\"Command not registered\"'", "tells of no rail"),
        ("echo VCHI initialization failed >&2; exit 255", "tells of no rail"),
        (f"cat {PRINTED}; exit 1", "tells of no rail"),
        ("exec cat /dev/zero", "tells of no rail"),
        ("exec yes 'VDD_CORE_A current(7)=2.5A'", "tells of no rail"),
        ("head -c 3000 /dev/urandom", "tells of no rail"),
    ],
)
def test_a_command_that_prints_no_rails_is_refused(
    install: Install, script: str, what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        opened(install(script))
    assert "/dev/vcio" in str(caught.value.hint)


def test_a_command_that_cannot_be_run_is_refused(install: Install, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there or cannot be run"):
        opened(tmp_path)
    root = install(good())
    (root / VCGENCMD).chmod(0o644)
    with pytest.raises(ConfigError, match="vcgencmd: is not there or cannot be run"):
        opened(root)
    install(good())
    reader = opened(root)
    (root / VCGENCMD).write_text("\0 is no program")
    assert reader.read() == (None,) * 12
    install(good())
    assert None not in reader.read()


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_command_that_hangs_is_killed_with_all_that_it_started(
    install: Install, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    reader = opened(install(good()))
    marks = tmp_path / "pids"
    install(f"sleep 600 &\necho $! $$ >{marks}.new\nmv {marks}.new {marks}\nwait")
    reader._command._timeout_s = 0.1
    while not marks.exists():  # on a busy machine it may be killed before it has begun
        assert reader.read() == (None,) * 12
        reader._command._timeout_s *= 2
    eventually(lambda: not any(_runs(int(pid)) for pid in marks.read_text().split()))
    reader.close()
    reader.close()


def test_the_command_gets_none_of_the_devices_secrets(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDGE_BROKER_PASSWORD", "open sesame")
    opened(install(good(more=f"env >{tmp_path}/env")))
    assert "sesame" not in (tmp_path / "env").read_text()


def test_reading_a_hundred_times_leaves_no_file_open(install: Install) -> None:
    reader = opened(install(good()))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- a count, not paths
    for _ in range(100):
        reader.read()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 -- a count, not paths


def test_a_board_without_such_rails_is_refused(install: Install) -> None:
    root = install(good())
    with pytest.raises(ConfigError, match="names no rail of vcgencmd"):
        open_pmic(profile("raspberry-pi-4").power, root=root)
