"""Run inside the unit: models on ONNX Runtime and LiteRT, and a try to write what is executed."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Print a line for every model that has run."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        mmap.mmap(-1, 4096, prot=protection).close()
    except OSError:
        _say("write and execute: refused")
    else:
        _say("write and execute: possible")
    zoo = Path("/opt/hedge/lib/python3.11/site-packages/hedge/models/zoo/digits")
    for file in sorted(zoo.glob("*.onnx")):
        _run_onnx(file)
    for file in sorted(Path(__file__).parent.glob("*.tflite")):
        _run_tflite(file)


def _run_onnx(file: Path) -> None:
    import onnxruntime as ort  # noqa: PLC0415 -- each library by itself

    for threads in (1, 2):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (one,) = session.get_inputs()
        kind = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8}.get(one.type, np.float32)
        shape = [size if isinstance(size, int) else 2 for size in one.shape]
        _ensure(session.run(None, {one.name: np.ones(shape, kind)})[0])
        _say(f"ran {file.name} on onnxruntime {ort.__version__}, {threads} threads")


def _run_tflite(file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 -- each library by itself

    for threads in (1, 2):
        model: Any = Interpreter(model_path=str(file), num_threads=threads)
        model.allocate_tensors()
        one = model.get_input_details()[0]
        model.set_tensor(one["index"], np.ones(one["shape"], one["dtype"]))
        model.invoke()
        _ensure(model.get_tensor(model.get_output_details()[0]["index"]))
        _say(f"ran {file.name} on LiteRT, {threads} threads")


def _ensure(outputs: Any) -> None:  # noqa: ANN401 -- whatever a library returns
    if not np.all(np.isfinite(np.asarray(outputs, np.float64))):
        raise SystemExit("outputs that are no numbers")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
