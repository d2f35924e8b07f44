"""Run ready-made models on given rows, and keep what they say: on this machine or in the root.

    cd tests; python -m arm64.outputs MODELS ROWS.npz OUTPUTS.npz

ROWS.npz holds the rows (n, …) float32 of each model, under the name of its file in MODELS.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hedge.runtime.backends import open_model


def main(models: Path, rows: Path, outputs: Path) -> None:
    """Write, for each model: its outputs (n, K), one step of them in real units, what ran it.

    A step is 0 where the outputs are not quantised.
    """
    found: dict[str, Any] = {}
    with np.load(rows, allow_pickle=False) as given:
        for name in given.files:
            data = (models / name).read_bytes()
            with contextlib.closing(open_model(data, format="tflite", where=name)) as model:
                found[name] = np.concatenate([model.infer(row[None]) for row in given[name]])
                quantisation = model.spec.outputs[0].quantisation
                found[f"{name} step"] = np.array(quantisation.scale if quantisation else 0.0)
                found[f"{name} runs on"] = np.array(model.runs_on)
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
