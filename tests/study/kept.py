"""What a task takes long to make, made once: its models, and their outputs.

A folder per task, seed and version holds the bundle, the digests of what taught it, and a file of
outputs for each set of rows, so that all tables can be made again in seconds.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset, digest, row_digests
from hedge.models.evidence import Array, softmax
from hedge.models.manifest import Cloud, Edge
from hedge.models.prepare import preparer
from hedge.runtime.backends import open_model, open_part
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.both_models import model_outputs

from .fitted import with_fitted
from .task import Maker, Material, Place, Rows, Task

PASSES = 10
"""How often an edge runs with its dropout on (the paper does it as often)."""

_ONE_THREAD = BackendOptions(threads=1)
_TIMED = 300  # samples
_WARM = 20


class _Made(Struct, frozen=True, kw_only=True):
    """How long training took, and a sample through each model (by its file)."""

    seconds: float
    ms: dict[str, float]


def tasks(maker: Maker, place: Place) -> tuple[Task, ...]:
    """Return the task with each of its edges; teach them only if nothing is kept.

    Raises:
        SystemExit: a row to test on was trained or calibrated on.
    """
    material = maker.material(place)
    folder = _folder(maker, place, material)
    if not (folder / "made.json").exists():
        _make(maker, place, material, folder)
    _refuse_leaks(material, np.load(folder / "seen.npy", allow_pickle=False), name=maker.NAME)
    made = msgspec.json.decode((folder / "made.json").read_bytes(), type=_Made)
    bundle = load_bundle(folder / "pair")
    cloud = bundle.manifest.cloud
    assert cloud is not None, maker.NAME
    held, test = material.calibration, material.test
    return tuple(
        Task(
            name=maker.NAME,
            edge_name=maker.EDGE,
            cloud_name=maker.CLOUD,
            seed=place.seed,
            bundle=folder / "pair",
            edge=edge,
            cloud=cloud,
            calibration=_rows(folder, bundle, edge, held),
            test=_rows(folder, bundle, edge, test),
            test_from=material.test_from,
            edge_ms=made.ms[edge.file],
            cloud_ms=made.ms[cloud.file],
            seconds=made.seconds,
        )
        for plain in bundle.manifest.edge
        for edge in _variants(folder, bundle, plain, held, seed=place.seed)
    )


def _variants(
    folder: Path, bundle: Bundle, edge: Edge, held: Dataset, *, seed: int
) -> tuple[Edge, ...]:
    return with_fitted(edge, _outputs(folder, bundle, edge, held), held, seed=seed)


def _folder(maker: Maker, place: Place, material: Material) -> Path:
    held = digest(material.calibration)
    text = f"{maker.NAME} {maker.VERSION} {place.seed} {place.effort} {held}"
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return place.keep / f"{maker.NAME}-{place.seed}-{key}"


def _make(maker: Maker, place: Place, material: Material, folder: Path) -> None:
    """Teach, and put the folder in its place when it is whole."""
    began = time.monotonic()
    taught = maker.teach(place, material)
    seconds = taught.earlier_s + time.monotonic() - began
    place.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.keep, prefix=".making-") as name:
        new = Path(name) / "new"
        new.mkdir()
        bundle = write_bundle(new / "pair", taught.manifest, taught.files)
        np.save(new / "seen.npy", np.unique(taught.seen), allow_pickle=False)
        for file, graph in taught.dropout.items():
            (new / f"{file}-dropout.onnx").write_bytes(graph)
        made = _Made(seconds=round(seconds, 1), ms=_times_ms(bundle, material.calibration))
        (new / "made.json").write_bytes(msgspec.json.encode(made))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _times_ms(bundle: Bundle, data: Dataset) -> dict[str, float]:
    parts: list[Edge | Cloud] = [*bundle.manifest.edge]
    if bundle.manifest.cloud is not None:
        parts.append(bundle.manifest.cloud)
    return {part.file: _time_ms(bundle, part, data) for part in parts}


def _time_ms(bundle: Bundle, part: Edge | Cloud, data: Dataset) -> float:
    """Return the median time of one sample in one thread, after a few that do not count."""
    with closing(open_part(bundle, part, options=_ONE_THREAD)) as model:
        prepare = preparer(bundle.manifest.input, model.spec.inputs[0])
        took = []
        for row in range(_WARM + _TIMED):
            at = row % len(data.x)
            began = time.perf_counter_ns()
            model.infer(prepare(data.x[at : at + 1]))
            took.append(time.perf_counter_ns() - began)
    return float(np.median(took[_WARM:])) / 1e6


def _rows(folder: Path, bundle: Bundle, edge: Edge, data: Dataset) -> Rows:
    cloud = bundle.manifest.cloud
    assert cloud is not None, folder
    assert data.y is not None, folder
    dropout = folder / f"{edge.file}-dropout.onnx"
    return Rows(
        edge=_outputs(folder, bundle, edge, data),
        cloud=_outputs(folder, bundle, cloud, data),
        y=data.y,
        group=data.group,
        digests=row_digests(data.x),
        dropout=_passes(folder, bundle, dropout, data) if dropout.exists() else None,
    )


def _outputs(folder: Path, bundle: Bundle, part: Edge | Cloud, data: Dataset) -> Array:
    file = folder / f"{part.file}-{digest(data)[:12]}.npy"
    if not file.exists():
        with closing(open_part(bundle, part, options=_ONE_THREAD)) as model:
            _save(file, model_outputs(model, bundle.manifest.input, data))
    outputs: Array = np.load(file, allow_pickle=False)
    return outputs


def _passes(folder: Path, bundle: Bundle, graph: Path, data: Dataset) -> Array:
    """Return the mean probabilities (N, K) of `PASSES` runs with dropout."""
    file = folder / f"{graph.name}-{digest(data)[:12]}.npy"
    if not file.exists():
        model = open_model(graph.read_bytes(), format="onnx", where=str(graph), options=_ONE_THREAD)
        with closing(model):
            runs = [model_outputs(model, bundle.manifest.input, data) for _ in range(PASSES)]
        _save(file, np.mean([softmax(run) for run in runs], axis=0))
    outputs: Array = np.load(file, allow_pickle=False)
    return outputs


def _save(file: Path, outputs: Array) -> None:
    """Write a file whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, outputs, allow_pickle=False)
    partial = file.with_suffix(".partial")
    partial.write_bytes(stream.getvalue())
    partial.rename(file)


def _refuse_leaks(material: Material, seen: NDArray[np.uint64], *, name: str) -> None:
    """Refuse to test on what was trained or calibrated on."""
    tested = row_digests(material.test.x)
    for what, others in (("taught", seen), ("calibrated", row_digests(material.calibration.x))):
        if leaked := int(np.isin(tested, others).sum()):
            raise SystemExit(f"{name}: {leaked} of {len(tested)} test rows have {what} the models")
