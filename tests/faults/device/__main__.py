"""Run the whole device through its faults, and keep the figures.

Each cycle forks a device, `serve` with everything real, over a real broker and a worker,
and compares its outbox, its outcomes and its report with what was seen of it.

    cd tests; python -m faults.device --seed 1 --kinds broker,cut --cycles 50
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import onnxruntime  # noqa: F401 -- here once, and not in each of ten thousand lives

from ..running import main
from . import wall
from .kinds import KINDS, Bench, Kind

if __name__ == "__main__":
    wall.begin_anew()
    wall.clear_away()
    raise SystemExit(
        main(
            KINDS,
            lambda kind, folder, seed: Bench(cast(Kind, kind), folder, seed=seed),
            about="Run the whole device through its faults, and keep the figures.",
            results=Path(__file__).parent.with_suffix(".json"),
            code=("uplink/**/*.py", "runtime/*.py", "runtime/sinks/*.py"),
            cycles=lambda kind: 10_000 if kind == "kill" else 200,
        )
    )
