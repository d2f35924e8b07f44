"""One scenario over the shipped bundle to LoadGen's full validity, kept beside this file.

Run by hand, for it takes ten minutes: ``python tests/bench/loadgen/full.py --keep``. What is
kept: LoadGen's own summary, its detail log without the lists of what it was built from and
of which rows it took, and our record of it (`Kept`) as JSON.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from hedge.models.bundle import load_bundle
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.bench.accuracy import unseen_rows
from hedge.runtime.bench.conditions import Conditions, read_conditions
from hedge.runtime.bench.loadgen.plan import FULL_S, ScenarioPlan
from hedge.runtime.bench.loadgen.scenarios import Setup, run_scenarios
from hedge.runtime.bench.machine import Machine, this_machine
from hedge.runtime.bench.record import Failed
from hedge.runtime.bench.scenario_record import ScenarioResult
from hedge.runtime.progress import Progress
from hedge.runtime.shipped import bundle_path
from hedge.telemetry.boards.detect import detect

HERE = Path(__file__).parent
SEED = 20265
LEFT_OUT = ('"loadgen_file_sha1"', '"loadgen_git_log_message"', '"loaded_qsl_set"')


class Kept(Struct, frozen=True, kw_only=True):
    """What was measured on what, and under which conditions; ``floor`` is the null backend's."""

    bundle: str
    digest: str
    rows: int
    machine: Machine
    before: Conditions
    after: Conditions
    floor: ScenarioResult
    result: ScenarioResult


def main() -> None:
    """Run SingleStream over filter, model, evidence and policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the figures in version control")
    parser.add_argument("--seconds", type=float, default=FULL_S, help="less is no valid run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = measured(Path(folder), seconds=options.seconds)
        text = msgspec.json.format(msgspec.json.encode(kept)).decode()
        print(text)  # noqa: T201 -- what the command is for
        if options.keep:
            keep(Path(folder), text)


def measured(folder: Path, *, seconds: float) -> Kept:
    """Measure; LoadGen's logs go to ``folder``/logs."""
    bundle = load_bundle(bundle_path("digits"))
    data, _ = unseen_rows(bundle.path.with_name("digits-unseen.npz"), bundle)
    board = detect()
    failed: list[Failed] = []
    machine, before = this_machine(), read_conditions(board)
    with Progress() as progress:
        found = run_scenarios(
            bundle,
            ScenarioPlan(scenarios=("SingleStream",), ways=("evidence",), min_seconds=seconds),
            contenders=[(bundle.manifest.edge[0], 1)],
            data=data,
            setup=Setup(board=board, options=BackendOptions(), state=folder / "state", seed=SEED),
            failed=failed,
            logs=folder / "logs",
            show=progress.show,
        )
    if failed:
        raise SystemExit("; ".join(one.reason for one in failed))
    floor, result = found
    return Kept(
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        rows=len(data.x),
        machine=machine,
        before=before,
        after=read_conditions(detect()),
        floor=floor,
        result=result,
    )


def keep(folder: Path, text: str) -> None:
    """Keep the logs of the variant's run, and the record."""
    (logs,) = (folder / "logs").glob("SingleStream-small-*")
    for log in logs.iterdir():
        lines = log.read_text("utf-8").splitlines(keepends=True)
        lines = [line for line in lines if not any(key in line for key in LEFT_OUT)]
        (HERE / log.name).write_text("".join(lines), "utf-8")
    (HERE / "single_stream.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    main()
