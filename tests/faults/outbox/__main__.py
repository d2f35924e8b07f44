"""Run the outbox through thousands of faults, and keep the figures.

Each cycle forks a device that puts, sends and settles over the real outbox, ends it by a
fault, and compares what is on disk with what the device had said.

    cd tests; python -m faults.outbox --seed 1 --kinds kill,flip --cycles 1000
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ..running import main
from .kinds import KINDS, Bench, Kind

_CODE = ("uplink/outbox/*.py", "uplink/wire.py")


if __name__ == "__main__":
    raise SystemExit(
        main(
            KINDS,
            lambda kind, folder, seed: Bench(cast(Kind, kind), folder, seed=seed),
            about="Run the outbox through thousands of faults, and keep the figures.",
            results=Path(__file__).parent.with_suffix(".json"),
            code=_CODE,
            cycles=lambda kind: 10_000 if kind == "kill" else 1000,
        )
    )
