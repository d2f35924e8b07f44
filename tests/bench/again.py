"""How often `hedge bench compare` calls the same models worse: it never should.

    python tests/bench/again.py BUNDLE [DATA.npz] [--runs 6] [--seconds 5]

Measures a bundle several times, compares every run with every other, and counts the verdicts.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

from hedge.runtime import bench_command
from hedge.runtime.bench.compare import compare
from hedge.runtime.bench.record import BenchReport
from hedge.runtime.bench.report_file import read_report


def main() -> int:
    """Print machine, seed, counts and verdicts; 1 if anything was called worse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seconds", default="5")
    options = parser.parse_args()
    words = [options.bundle, *([options.data] if options.data else [])]
    with tempfile.TemporaryDirectory() as folder:
        reports = [
            _measured([*words, "--seconds", options.seconds], Path(folder) / f"{run}.json")
            for run in range(options.runs)
        ]
    verdicts = Counter(
        (change.what, change.verdict)
        for pair in itertools.permutations(reports, 2)
        for variant in compare(*pair).pairs
        for change in variant.changes
    )
    out = sys.stdout
    out.write(f"\n{reports[0].machine}\nseed {reports[0].seed}, {len(reports)} runs\n")
    for one in reports:
        loads = f"load {one.machine.load:g}, processor taken {one.preempted_hz or 0:.0f} times a s"
        medians = ", ".join(f"{model.latency.median_ms * 1e3:.1f}" for model in one.measured)
        out.write(f"  medians {medians} us, floor {one.floor.median_ms * 1e3:.2f} us, {loads}\n")
    for (what, verdict), count in sorted(verdicts.items()):
        out.write(f"{what}: {verdict} {count}\n")
    return 1 if any(verdict == "worse" for _, verdict in verdicts) else 0


def _measured(words: list[str], path: Path) -> BenchReport:
    parser = argparse.ArgumentParser()
    bench_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["bench", "run", *words, "--power", "none", "--json", str(path)])
    options.run(options)
    return read_report(path)


if __name__ == "__main__":
    sys.exit(main())
