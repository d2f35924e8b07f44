"""Tests of `hedge boards|boards show|boards detect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from hedge.models.errors import ConfigError
from hedge.runtime import boards_command
from hedge.telemetry.boards.profile import load_profiles
from hedge.telemetry.boards.recording import plant

RECORDED = Path(__file__).parent / "recorded" / "boards"
ORIN = RECORDED / "jetson-orin-nano-jetpack-6.2.toml"


def command(*words: str | Path) -> int:
    """Run `hedge boards …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    boards_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["boards", *map(str, words)])
    code: int = options.run(options)
    return code


def told(path: Path) -> dict[str, Any]:
    """Return what a command wrote as JSON."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_board_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--json", tmp_path / "all.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [one.name for one in load_profiles()]
    assert "jetson-orin-nano-nx  onnx,tflite,tensorrt tensorrt x4 module" in "\n".join(lines)
    boards = told(tmp_path / "all.json")["boards"]
    assert [one["name"] for one in boards] == [one.name for one in load_profiles()]


@pytest.mark.parametrize("name", [one.name for one in load_profiles()])
def test_every_board_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("show", name) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


def test_show_tells_rails_total_and_modes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("show", "jetson-agx-orin", "--json", tmp_path / "one.json") == 0
    text = capsys.readouterr().out
    assert "rail        VDDQ_VDD2_1V8AO: ina3221 at 1-0041, inside VIN_SYS_5V0" in text
    assert "power       VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (module)" in text
    assert "JetPack 5 (Ubuntu 20.04), Python 3.8: onnx, tflite in a container" in text
    assert "0 MAXN, 1 MODE_15W" in text
    assert told(tmp_path / "one.json")["power"]["scope"] == "module"


def test_show_reads_a_file_and_refuses_what_is_no_board() -> None:
    shipped = Path(boards_command.__file__).parents[1] / "board_configs" / "jetson-nano.toml"
    assert command("show", shipped) == 0
    with pytest.raises(ConfigError, match=r"'jetson-nanno' is no board \(did you mean 'jetson-n"):
        command("show", "jetson-nanno")


def test_detect_says_what_it_found_and_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    plant(ORIN, root)
    assert command("detect", "--root", root, "--json", tmp_path / "found.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "jetson-orin-nano-nx: NVIDIA Jetson Orin Nano and Orin NX"
    facts = {line[2:13].strip(): line[14:] for line in lines[1:]}
    assert facts == {
        "known by": "proc/device-tree/compatible: nvidia,p3768-0000+p3767-0005-super",
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "module": "Jetson Orin Nano 8 GB (P3767-0003; -0005 on the developer kit)",
        "machine": "aarch64",
        "release": "Jetson Linux 36.4.3",
        "system": "JetPack 6 (Ubuntu 22.04), Python 3.10: onnx, tflite, tensorrt",
        "cpus online": "6",
        "default": "tensorrt, threads: 4",
        "memory": "7.4 GiB, 5.4 free",
        "power mode": "MAXN_SUPER",
        "temperature": "47.0 C at tj-thermal, the hottest, slowed down from 99 C",
        "throttled": "no",
        "rails": "VDD_IN 5.502 W, VDD_CPU_GPU_CV 0.718 W, VDD_SOC 1.513 W",
        "power": "5.502 W: VDD_IN (module)",
    }
    found = told(tmp_path / "found.json")
    assert found["profile"]["name"] == "jetson-orin-nano-nx"
    assert found["evidence"]["pattern"] == "nvidia,*p3767-*"
    assert found["jetpack"] == 6


def test_detect_says_what_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert command("detect", "--root", tmp_path / "empty") == 1
    assert capsys.readouterr().out.splitlines() == [
        "no known board",
        "  cpus online not known",
        "  default     not known, threads: 1",
        "  memory      not known",
        "  power mode  not known",
        "  temperature not known",
        "  throttled   not known",
        "  note        no profile fits a machine of the kind unknown",
    ]


def test_a_total_of_which_a_rail_is_missing_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    plant(RECORDED / "jetson-agx-xavier-jetpack-5.1.toml", root)
    (root / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4/in2_label").unlink()
    assert command("detect", "--root", root) == 0
    text = capsys.readouterr().out
    assert "missing     VDDRQ\n" in text
    assert "power       not read: GPU + CPU + SOC + CV + VDDRQ + SYS5V (module)" in text


def test_detect_takes_the_board_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("detect", "--root", ORIN, "--board", "generic-arm64") == 0
    text = capsys.readouterr().out
    assert text.startswith("generic-arm64: ")
    assert "the configuration says generic-arm64, it looks like jetson-orin-nano-nx" in text


def test_what_detect_records_tells_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = tmp_path / "mine.toml"
    assert command("detect", "--root", ORIN, "--record", recording) == 0
    first = capsys.readouterr().out
    assert command("detect", "--root", recording) == 0
    assert capsys.readouterr().out == first


def test_detect_reads_the_machine_that_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("detect") == 0
    assert "  machine     " in capsys.readouterr().out


def test_a_place_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be read: No such file"):
        command("detect", "--root", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="lies in none that exists"):
        command("detect", "--record", tmp_path / "no" / "r.toml")


def test_a_name_that_would_move_the_cursor_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Evil\x1b[2J\0")
    command("detect", "--root", tmp_path)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert r"Evil\x1b[2J" in text
