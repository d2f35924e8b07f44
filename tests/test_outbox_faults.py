"""The outbox under faults, in short: every kind runs, finds nothing, and goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CYCLES = {
    "kill": 10_000,
    **dict.fromkeys(("torn", "flip", "truncate", "enospc", "eio", "powercut"), 1000),
}


def test_a_few_cycles_of_every_fault_lose_nothing_and_can_be_continued(tmp_path: Path) -> None:
    results = tmp_path / "outbox.json"
    before = dict.fromkeys(CYCLES, 0)
    for struck in (6, 10):
        command = [sys.executable, "-m", "faults.outbox", "--cycles", str(struck), "--seed", "3"]
        ran = subprocess.run(
            [*command, "--results", str(results)], cwd=TESTS, capture_output=True, check=False
        )
        assert results.exists(), ran.stderr.decode()
        found = json.loads(results.read_text())
        assert found.keys() == CYCLES.keys()
        for kind, figures in found.items():
            if "skipped" in figures:
                assert kind in {"enospc", "powercut"}
                continue
            assert figures["faults"] == [], kind
            assert figures["counts"]["struck"] == struck
            assert figures["cycles"] > before[kind]
            assert figures["counts"]["committed"] > 0
            before[kind] = figures["cycles"]
        assert ran.returncode == 0, ran.stderr.decode()


BROKEN = {
    "lost: ": """
from hedge.uplink.outbox.recovery import Recovery
read = Recovery._put
Recovery._put = lambda self, found: None if found.puts % 50 == 7 else read(self, found)
""",
    "final twice: ": """
from hedge.uplink.outbox.durable_outbox import DurableOutbox
final = DurableOutbox.final
DurableOutbox.final = lambda self, ids: final(self, [one for one in ids if one[-1] != "7"])
""",
}
RUN = """
import sys
from pathlib import Path
from faults.outbox.kinds import Bench
bench = Bench("kill", Path(sys.argv[1]), seed=3)
number = 0
while number < 200 and not any(sys.argv[2] in fault for fault in bench.faults):
    bench.cycle(number)
    number += 1
raise SystemExit(number == 200)
"""


@pytest.mark.parametrize("fault", BROKEN)
def test_the_harness_finds_an_outbox_that_was_broken_on_purpose(fault: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN[fault] + RUN, str(tmp_path), fault]
    ran = subprocess.run(command, cwd=TESTS, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("kind", CYCLES)
def test_the_figures_that_are_kept_are_of_full_runs_that_found_nothing(kind: str) -> None:
    figures = json.loads((TESTS / "faults" / "outbox.json").read_text())[kind]
    counts = figures["counts"]
    assert figures["faults"] == []
    assert counts["struck"] >= CYCLES[kind]
    if kind in {"flip", "truncate"}:
        assert counts.get("most_lost", 0) <= 64
        assert counts.get("lost", 0) <= counts.get("counted_lost", 0)
    else:
        assert counts.get("lost", 0) == counts.get("counted_lost", 0) == 0
