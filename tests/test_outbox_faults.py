"""The fault harness itself, in short: every kind runs, finds nothing, and goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).parent / "faults"
KINDS = {"kill", "torn", "flip", "truncate", "enospc", "eio", "powercut"}


def test_a_few_cycles_of_every_fault_lose_nothing_and_can_be_continued(tmp_path: Path) -> None:
    results = tmp_path / "outbox.json"
    for cycles in (8, 12):
        command = [sys.executable, "-m", "outbox", "--cycles", str(cycles), "--seed", "3"]
        ran = subprocess.run(
            [*command, "--results", str(results)], cwd=FAULTS, capture_output=True, check=False
        )
        found = json.loads(results.read_text())["kinds"]
        assert found.keys() == KINDS
        for kind, figures in found.items():
            if "skipped" in figures:
                assert kind in {"enospc", "powercut"}
                continue
            assert figures["faults"] == [], kind
            assert figures["cycles"] == cycles
            assert figures["counts"]["committed"] > 0
        assert ran.returncode == 0, ran.stderr.decode()
