"""What runs in the probe: `python -m hedge.runtime.probe.child`, for `probe_model` alone.

Whatever the model's library prints goes to standard error; standard output is the report's.
The process ends without tearing the library down, since some crash at that and serve well.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ...models.errors import HedgeError, ModelError
from ...models.model import Model
from ...models.prepare import widened
from ..backends import open_model
from ..backends.first_line import first_line
from ..children import die_with_parent
from .messages import TASK, Probed, Refused, Task, Tensor

_FIRST_VICTIM = "1000"  # of the system, where memory runs out


class _Run(NamedTuple):
    """The shape of what zeros gave, whether it is free of NaN and infinities, and the time."""

    given: tuple[int, ...]
    finite: bool
    took_s: float


def main() -> None:
    """Try the model on standard input, report on standard output, and end."""
    die_with_parent(os.environ)
    with os.fdopen(os.dup(1), "wb") as report:
        os.dup2(2, 1)
        task = msgspec.json.decode(os.environ[TASK], type=Task)
        _confine(task.max_bytes)
        report.write(msgspec.json.encode(_verdict(task)))
    os._exit(0)


def _confine(max_bytes: int) -> None:
    """Bound the memory; be the first to go when there is none; leave no core behind.

    The bound is on private writable memory (RLIMIT_DATA), not on addresses: CUDA reserves
    far more of those than there is memory.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != 0:  # 1 is the size that a pipe to a collector of cores does not get either
        resource.setrlimit(resource.RLIMIT_CORE, (1, hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM, "ascii")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = _status_bytes("VmData") + max_bytes
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _verdict(task: Task) -> Probed | Refused:
    try:
        return _tried(sys.stdin.buffer.read(), task)
    except HedgeError as error:
        return Refused.by(error)
    except MemoryError:
        what = f"needs more memory than the {task.max_bytes >> 20} MiB it may have"
        return Refused.by(ModelError(what, where=task.where))
    except Exception as error:  # noqa: BLE001 -- a library that is broken raises what it likes
        what = f"its runtime fails with {type(error).__name__}: {first_line(error)}"
        return Refused.by(ModelError(what, where=task.where))


def _tried(data: bytes, task: Task) -> Probed:
    """Open the model, and run one sample of zeros twice and two at once."""
    before_bytes, begun_s = _status_bytes("VmRSS"), time.monotonic()
    model = open_model(
        data, format=task.format, where=task.where, options=task.options, output=task.output
    )
    opened_s = time.monotonic()
    first, again = _run(model, task, rows=1), _run(model, task, rows=1)
    both = _run(model, task, rows=2)
    model.close()
    tensorrt, why_not = _tensorrt(task)
    peak_bytes = _status_bytes("VmHWM")
    return Probed(
        inputs=tuple(map(Tensor.of, model.spec.inputs)),
        outputs=tuple(map(Tensor.of, model.spec.outputs)),
        given=first.given,
        finite=first.finite and again.finite and both.finite,
        runs_on=model.runs_on,
        open_s=opened_s - begun_s,
        first_s=first.took_s,
        again_s=again.took_s,
        peak_bytes=peak_bytes,
        model_bytes=max(0, peak_bytes - before_bytes),
        tensorrt=tensorrt,
        without_tensorrt=why_not,
    )


def _tensorrt(task: Task) -> tuple[str | None, str | None]:
    """Return which TensorRT and GPU are to take over; else why they cannot, if that may be.

    Raises:
        ModelError, MissingExtraError: they cannot, and nothing may run in their stead.
    """
    if task.options.use != "tensorrt":
        return None, None
    from ..backends.tensorrt.library import load  # noqa: PLC0415  where it is asked for

    try:
        found = load(where=task.where)
    except HedgeError as error:
        if not task.options.fallback:
            raise
        return None, error.what
    return f"TensorRT {found.version} on {found.gpu.name}", None


def _run(model: Model, task: Task, *, rows: int) -> _Run:
    """Return what came of ``rows`` samples of zeros.

    Raises:
        ModelError: it fails, or gives another number of rows.
    """
    wanted = model.spec.inputs[0]
    own = tuple(1 if extent is None else extent for extent in wanted.shape[1:])
    shape = own if task.shape is None else task.shape
    dtype = widened(np.dtype(task.dtype or wanted.dtype), wanted.dtype)
    zeros = np.zeros((rows, *shape), dtype)
    begun_s = time.monotonic()
    outputs = model.infer(zeros)
    took_s = time.monotonic() - begun_s
    if len(outputs) != rows:
        raise ModelError(f"gives {outputs.shape} for {rows} samples", where=task.where)
    return _Run(outputs.shape, finite=bool(np.isfinite(outputs).all()), took_s=took_s)


def _status_bytes(field: str) -> int:
    """Return one of the figures of memory that the system keeps of this process."""
    found = re.search(
        rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    return 0 if found is None else int(found[1]) << 10


if __name__ == "__main__":
    main()
