"""The soak in short: a device runs through outages, and every sum holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = 9000


@pytest.mark.skipif(
    shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/sbin") is None,
    reason="mosquitto is not installed",
)
def test_a_device_that_is_cut_off_again_and_again_ends_every_ask(tmp_path: Path) -> None:
    results = tmp_path / "soak.json"
    command = [sys.executable, "-m", "soak", "--samples", str(SAMPLES), "--rate", "1500"]
    command += ["--period", "2", "--quiet", "3", "--folder", str(tmp_path)]
    ran = subprocess.run(
        [*command, "--results", str(results)],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
    )
    assert results.exists(), ran.stderr.decode()
    found = json.loads(results.read_text())
    assert found["faults"] == []
    assert ran.returncode == 0
    assert found["samples"] == SAMPLES
    assert found["outages"]["broker_killed"] >= 1
    assert found["asks"]["answered"] > 0
