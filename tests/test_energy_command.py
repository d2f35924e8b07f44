"""Tests of `hedge energy show|idle|record`."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hedge.models.errors import ConfigError, DataError
from hedge.runtime import energy_command
from hedge.runtime.config import OUTBOX
from hedge.telemetry.boards.detect import detect
from hedge.telemetry.boards.recording import plant
from hedge.telemetry.energy.account import EnergyAccount
from hedge.telemetry.energy.baseline import FILE, Baseline, fitting_baseline, read_baseline
from hedge.telemetry.energy.sampler import PowerSampler
from hedge.telemetry.ledger import Done, Work
from hedge.telemetry.power.reader import PowerSource
from hedge.telemetry.power.recording import Recording, Row, read_recording, write_recording
from hedge.telemetry.power.replay import open_replay
from hedge.uplink.outbox.owner import lock

ORIN = Path(__file__).parent / "recorded" / "boards" / "jetson-orin-nano-jetpack-6.2.toml"
Configure = Callable[..., Path]


def command(*words: str | Path) -> int:
    """Run `hedge energy …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    energy_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["energy", *map(str, words)])
    code: int = options.run(options)
    return code


def measure_idle(config: Path, *words: str | Path) -> None:
    """Run `hedge energy idle` for as long as it takes on a machine that is short of time."""
    for seconds in ("1", "2", "4", "8"):
        with contextlib.suppress(DataError):
            assert command("idle", config, "--seconds", seconds, *words) == 0
            return
    pytest.fail("this machine gives the sampler no time")


def told(path: Path) -> dict[str, Any]:
    """Return what a command wrote as JSON."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def device(tmp_path: Path) -> Configure:
    """Give `device(power)`: a configuration with these lines in [telemetry.power]."""

    def make(power: str, board: str = "jetson-orin-nano-nx") -> Path:
        path = tmp_path / "device.toml"
        path.write_text(
            f'[device]\nname = "d"\nstate_dir = "state"\nboard = "{board}"\n'
            '[[stream]]\nname = "s"\nbundle = "digits"\n'
            'source = { kind = "replay", path = "rows.npz" }\n'
            f"[telemetry.power]\n{power}\n"
        )
        return path

    return make


def recording(rows: list[Row], **changes: Any) -> Recording:  # noqa: ANN401 -- what the record takes
    """Return a recording of one rail."""
    given: dict[str, Any] = {
        "board": "jetson-orin-nano-nx",
        "image": "JetPack 6.2",
        "source": "ina3221",
        "scope": "module",
        "rails": ("VDD_IN",),
        "total": ("VDD_IN",),
        "step": 0.04,
    }
    return Recording(**{**given, **changes}, rows=tuple(rows))


@pytest.fixture
def replayed(tmp_path: Path, device: Configure) -> Path:
    """A configuration that replays a board which idles at five watts."""
    rng = np.random.default_rng(1)
    rows: list[Row] = [
        (tick / 100, (round(5 + 0.04 * rng.integers(-2, 3), 2),)) for tick in range(500)
    ]
    write_recording(tmp_path / "idle.csv", recording(rows))
    return device('reader = "replay"\npath = "idle.csv"\nrate_hz = 100')


def test_idle_measures_the_baseline_and_keeps_it(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_idle(replayed, "--json", tmp_path / "found.json")
    kept = read_baseline(tmp_path / "state")
    assert kept is not None
    assert kept.power_w == pytest.approx(5.0, abs=0.06)
    assert 0 < kept.uncertain_w < 0.1
    assert (kept.board, kept.replayed) == ("jetson-orin-nano-nx", True)
    assert kept.cpu_share is not None
    assert kept.samples >= 20
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600
    assert told(tmp_path / "found.json")["power_w"] == kept.power_w
    out = capsys.readouterr().out
    assert f"{tmp_path / 'state' / FILE}: {kept.power_w:.3f} W ± " in out
    assert "busy, replayed)" in out


def test_a_busy_machine_is_said(
    replayed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 34.0)
    measure_idle(replayed)
    assert "warning: the CPUs were 34% busy: this is not the board at rest" in (
        capsys.readouterr().out
    )


def test_too_little_coverage_is_an_error_and_nothing_is_written(
    tmp_path: Path, device: Configure
) -> None:
    rows: list[Row] = [(tick / 100, (None if tick % 3 else 5.0,)) for tick in range(500)]
    write_recording(tmp_path / "idle.csv", recording(rows))
    config = device('reader = "replay"\npath = "idle.csv"\nrate_hz = 100')
    with pytest.raises(DataError, match=r"readings cover \d+% of .* s \(.*vanished"):
        command("idle", config, "--seconds", "1", "--json", tmp_path / "found.json")
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "found.json").exists()


def test_without_a_sensor_there_is_no_baseline(tmp_path: Path, device: Configure) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.power\.reader: no power sensor is read"):
        command("idle", device('reader = "none"'), "--seconds", "1")
    assert not (tmp_path / "state").exists()


def test_idle_is_refused_while_a_process_owns_the_outbox(replayed: Path, tmp_path: Path) -> None:
    fd = lock(tmp_path / "state" / OUTBOX)
    try:
        with pytest.raises(ConfigError, match=r"state: a daemon runs .* \(end it first"):
            command("idle", replayed, "--seconds", "1")
    finally:
        os.close(fd)


def test_idle_is_refused_while_a_daemon_listens(
    replayed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path / "state")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("hedge.sock")
        listening.listen()
        with pytest.raises(ConfigError, match="a daemon runs"):
            command("idle", replayed, "--seconds", "1")
    measure_idle(replayed)  # a socket that nobody has open keeps nobody away


@pytest.mark.parametrize(
    ("flag", "value"), [("--seconds", "0"), ("--seconds", "nan"), ("--rate-hz", "1000")]
)
def test_a_flag_that_is_out_of_range_is_named(flag: str, value: str, replayed: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{flag}: is not between"):
        command("idle", replayed, flag, value)


def test_show_tells_the_sensor_its_rails_and_the_baseline(
    tmp_path: Path, device: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    plant(ORIN, root)
    config = device("", board="jetson-orin-nano-nx")
    assert command("show", config, "--root", root, "--json", tmp_path / "found.json") == 0
    found = told(tmp_path / "found.json")
    assert found["source"]["total"] == ["VDD_IN"]
    assert found["power_w"] == pytest.approx(found["rails_w"]["VDD_IN"])
    assert math.isfinite(found["power_w"])
    assert found["idle"] is None
    out = capsys.readouterr().out
    assert "(not in the total)" in out
    assert "idle        not measured: hedge energy idle" in out


def test_show_says_why_a_baseline_does_not_count(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_idle(replayed)
    file = tmp_path / "state" / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"power_mode": "another"}))
    capsys.readouterr()
    assert command("show", replayed, "--json", tmp_path / "found.json") == 0
    assert told(tmp_path / "found.json")["misfit"].startswith("was measured with power mode an")
    assert "does not count: was measured with power mode another" in capsys.readouterr().out


def test_show_without_a_sensor_says_what_is_not_read(
    device: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root").mkdir()
    assert command("show", device(""), "--root", tmp_path / "root") == 0
    out = capsys.readouterr().out
    assert out.startswith("no power sensor is read\n")
    assert "  not read    ina: " in out


def test_a_recording_of_rails_is_replayed_as_it_was(tmp_path: Path, device: Configure) -> None:
    root = tmp_path / "root"
    plant(ORIN, root)
    words = ("--seconds", "1.2", "--rate-hz", "20", "--note", "planted files")
    config = device("")
    out, found = tmp_path / "out.csv", tmp_path / "found.json"
    assert command("record", config, "--root", root, "--out", out, "--json", found, *words) == 0
    kept = read_recording(out)
    assert (kept.note, kept.rails[0], len(kept.rows)) == (
        "planted files",
        "VDD_IN",
        told(found)["rows"],
    )
    played = open_replay(out, clock=lambda: 0).read()
    assert played == kept.rows[0][1]
    assert told(found)["power_w"] == pytest.approx(played[0], rel=1e-4)


def test_a_counter_is_recorded_as_the_mean_power_since_the_row_before() -> None:
    heard: list[Any] = [(10**9, (None,)), (2 * 10**9, (3.0,)), (4 * 10**9, (5.0,))]
    sensor = PowerSource(name="rapl", kind="energy", rails=("a",), total=("a",), scope="package")
    assert energy_command._rows([*heard, (5 * 10**9, (math.nan,))], sensor) == (
        (0.0, (3.0,)),
        (2.0, (2.5,)),
        (3.0, (None,)),
    )


def test_a_recording_is_not_recorded_again(replayed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plays a recording"):
        command("record", replayed, "--seconds", "1", "--out", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_recording_that_would_be_too_long_is_refused_at_once(
    device: Configure, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    plant(ORIN, root)
    words = ("--seconds", "80000", "--rate-hz", "100", "--root", root)
    with pytest.raises(ConfigError, match=r"--seconds: more than \d+ rows"):
        command("record", device(""), "--out", tmp_path / "out.csv", *words)


def test_a_replayed_run_is_accounted_for_with_its_own_baseline(tmp_path: Path) -> None:
    """A recording with 5 W at rest and 7 W at work, as it would be replayed on any machine."""
    rows: list[Row] = [
        (tick / 20, (5.0 + 0.04 * (tick % 2) + 2.0 * (tick % 20 < 8),)) for tick in range(1200)
    ]
    path = tmp_path / "load.csv"
    write_recording(path, recording(rows, step=0.02))
    now_ns = 0
    reader = open_replay(path, clock=lambda: now_ns)
    sampler = PowerSampler(reader, rate_hz=100, clock=lambda: now_ns)
    board = detect()
    idle = Baseline(
        power_w=5.02,
        std_w=0.02,
        uncertain_w=0.001,
        window_s=60,
        samples=600,
        coverage=1,
        source=reader.source.name,
        total=("VDD_IN",),
        board=board.hardware,
        at_s=0,
    )
    sampler.sample()
    account = EnergyAccount(sampler, baseline=idle)
    busy_ns = 0
    while now_ns < 50 * 10**9:
        now_ns += 50_000_000
        busy_ns += 50_000_000 if (now_ns // 50_000_000) % 20 < 8 else 0
        sampler.sample()
        if now_ns % 10**9 == 0:
            done = Done(now_ns // 10**9, busy_ns)
            account.settle({"s": Work({"infer": done}, {"accepted": done})})
    report, stream = account.report(), account.stream("s")
    assert report.replayed
    assert (report.coverage, report.faults) == (1.0, {})
    assert report.resolution_j == pytest.approx(1.0)
    assert report.net_j == pytest.approx(2 * 0.4 * 50, abs=report.resolution_j)
    assert stream is not None
    infer = stream.stages["infer"]
    assert infer.joules == pytest.approx(40, abs=report.resolution_j)
    assert infer.each_j == pytest.approx(0.8, abs=0.02)
    assert fitting_baseline(tmp_path, reader.source, board=board) is None
