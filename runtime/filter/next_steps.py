"""What comes after a filter was trained, as command lines that work as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...models.bundle import SUFFIX, Bundle
from ...models.dataset import Dataset
from ...models.filtering.operating_point import rows_needed
from ...models.manifest import Promise
from .cautions import RECALL, REUSE_ACCURACY

_ACCURACY = 0.9
_RATE = 0.2  # of the samples that may be asked about, as for hedge bundle init
_MODELS = frozenset({".onnx", ".tflite"})
ROWS = "ROWS.npz"


class After(NamedTuple):
    """What was trained: the filter at ``place`` of a bundle, and by what.

    ``own_rules`` are a user's own functions, which the bundle does not name. ``matter`` are the
    rows that matter to the task to which the fewest do, of the ``judged``, which were written to
    ``rest`` (None: they were not) and stood in ``data``. ``variant`` is the edge's that taught it
    (None: the first), ``promise`` what the gate promised before.
    """

    bundle: Bundle
    place: int
    own_rules: tuple[str, ...]
    tasks: int
    matter: int
    judged: Dataset
    rest: Path | None
    data: Path
    variant: str | None
    promise: Promise | None


def beside(path: Path, word: str) -> Path:
    """Return the place beside a bundle, or a bare model, whose name has a ``word`` more.

    >>> beside(Path("a/steps.hedge"), "tuned").as_posix()
    'a/steps-tuned.hedge'
    """
    suffix = SUFFIX if path.suffix == SUFFIX else ""
    stem = path.stem if path.suffix in {SUFFIX, *_MODELS} else path.name
    return path.with_name(f"{stem}-{word}{suffix}")


def next_steps(after: After) -> Iterator[str]:
    """Yield what is to be done, each as a line that says what and a line to be pasted.

    Where a name in capitals stands in one, the rows have to come from elsewhere. A bundle that
    cannot be run for want of a calibration gets that first, if the rows at hand can do it.
    """
    out = after.bundle.path
    rest, gate = after.rest, _gate(after.promise)
    manifest = after.bundle.manifest
    uncalibrated = bool(manifest.edge) and manifest.calibration is None
    if rest is not None and uncalibrated and _has_all_classes(after):
        ready = beside(out, "calibrated")
        yield "next: find when it is to ask, without which hedge run refuses it:"
        yield f"  {_calibrate(out, rest, gate, ready)}"
        yield f"then: place the filter, by rows that nothing has seen ({ROWS}):"
        yield f"  {_tune(after, ready, Path(ROWS))}"
        return
    tuned = beside(out, "tuned")
    reuse = manifest.filter[after.place].reuse
    if reuse is not None and reuse.distance == 0:  # there is nothing to place
        return
    yield "next: place the filter, by the rows of these that it has not seen:"
    yield f"  {_tune(after, out, rest or after.data)}"
    if manifest.edge:
        why = (
            "find when it is to ask, without which hedge run refuses it"
            if uncalibrated
            else "calibrate its gate anew, which has other samples before it than it was made for"
        )
        yield f"then: {why}, by rows with classes that nothing has seen ({ROWS}):"
        yield f"  {_calibrate(tuned, Path(ROWS), gate, beside(out, 'calibrated'))}"


def _has_all_classes(after: After) -> bool:
    """Return whether the rows that judged can calibrate: every class occurs among them."""
    y = after.judged.y
    return y is not None and len(np.unique(y)) == len(after.bundle.labels)


def _gate(promise: Promise | None) -> tuple[str, ...]:
    """Return how the gate is to be placed: by what it promised before, or by a rate."""
    if promise is None:
        return "--rate", f"{_RATE:g}"
    by = ("--by-group",) if promise.by == "group" else ()
    return "--accuracy", f"{promise.accuracy:g}", *by


def _calibrate(bundle: Path, rows: Path, gate: tuple[str, ...], out: Path) -> str:
    return _line("calibrate", bundle, rows, *gate, "--out", out)


def _tune(after: After, bundle: Path, rows: Path) -> str:
    words: list[str | Path] = ["filter", "tune", bundle, rows]
    if after.place:
        words += ["--filter", str(after.place)]
    if after.variant is not None:
        words += ["--variant", after.variant]
    for rule in after.own_rules:
        words += ["--redundant", rule]
    if after.bundle.manifest.filter[after.place].kind == "reuse":
        words += ["--accuracy", f"{REUSE_ACCURACY:g}"]
    elif after.matter < rows_needed(recall=RECALL, confidence=1 - (1 - RECALL) / after.tasks):
        words += ["--accuracy", f"{_ACCURACY:g}"]  # too few for a recall with a bound
    return _line(*words, "--out", beside(bundle, "tuned"))


def _line(*words: str | Path) -> str:
    return shlex.join(["hedge", *map(str, words)])
