"""The README and the command line say what is true: their examples are run here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hedge.runtime.commands import parser
from hedge.runtime.shipped import bundle_path

_ROOT = Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _README, re.MULTILINE | re.DOTALL)


def _hedge(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *shlex.split(line, comments=True)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=110
    )


def test_every_command_of_the_readme_runs_in_the_order_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed, and one line trains")
    lines = [
        line for block in _blocks("sh") for line in block.splitlines() if line.startswith("hedge ")
    ]
    assert len(lines) >= 5
    for line in lines:
        done = _hedge(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_configuration_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(_blocks("toml")[0])
    shutil.copy(bundle_path("digits").with_name("digits-unseen.npz"), tmp_path / "rows.npz")
    text = (tmp_path / "device.toml").read_text().replace("rate_hz = 50", "rate_hz = 2000")
    (tmp_path / "device.toml").write_text(text.replace("2000\nsource", "100\nsource"))
    done = _hedge("hedge run device.toml --json report.json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outcomes.jsonl").read_text().count('"final":true') == 540
    assert (tmp_path / "state" / "session").exists()


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (_ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", _README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("", "demo", "run", "worker", "broker", "train", "bundle", "bundle verify"):
        with pytest.raises(SystemExit) as caught:
            parser().parse_args([*words.split(), "--help"])
        assert caught.value.code == 0
        assert "usage: hedge" in capsys.readouterr().out


def test_the_rooms_of_the_readme_are_there() -> None:
    for room in re.findall(r"^\| `(\w+)/` \|", _README, re.MULTILINE):
        assert (_ROOT / room).is_dir()
