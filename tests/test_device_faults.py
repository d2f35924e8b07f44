"""The whole device under faults, in short; the figures that are kept, and the page of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
CYCLES = {"kill": 10_000, **dict.fromkeys(("broker", "worker", "cut", "clock"), 200)}
INSIDE = ("put", "commit", "send", "acknowledge")


@pytest.mark.parametrize("kind", CYCLES)
def test_a_few_cycles_of_a_fault_lose_nothing_and_tell_no_final_twice(
    kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the device's model")
    results = tmp_path / "device.json"
    struck = 12 if kind == "kill" else 3
    command = [sys.executable, "-m", "faults.device", "--kinds", kind, "--cycles", str(struck)]
    ran = subprocess.run(
        [*command, "--seed", "3", "--results", str(results)],
        cwd=TESTS,
        capture_output=True,
        check=False,
    )
    assert results.exists(), ran.stderr.decode()
    figures = json.loads(results.read_text())[kind]
    if "skipped" in figures:
        pytest.skip(figures["skipped"])
    counts = figures["counts"]
    assert figures["faults"] == []
    assert counts["struck"] == struck
    assert counts["committed"] > 0
    assert counts["drained"] > 0
    assert counts["final cloud"] > 0
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("kind", CYCLES)
def test_the_figures_that_are_kept_are_of_full_runs_that_lost_nothing(kind: str) -> None:
    figures = _kept()[kind]
    assert figures["faults"] == []
    assert figures["counts"]["struck"] >= CYCLES[kind]
    assert figures["counts"].get("lost", 0) == figures["counts"].get("counted_lost", 0) == 0


def test_a_third_of_the_kills_fell_inside_put_commit_send_or_acknowledge() -> None:
    counts = _kept()["kill"]["counts"]
    ends = {name: count for name, count in counts.items() if name.startswith("in ")}
    assert sum(ends.values()) == counts["struck"]
    assert sum(ends[f"in {phase}"] for phase in INSIDE) >= 0.3 * counts["struck"]


def test_the_page_shows_the_figures_that_are_kept() -> None:
    ran = subprocess.run([sys.executable, "-m", "faults.page", "--check"], cwd=TESTS, check=False)
    assert ran.returncode == 0, "write it anew: cd tests; python -m faults.page"


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TESTS / "faults" / "device.json").read_text())
    return found
