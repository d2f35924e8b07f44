"""A bare model file or a bundle: whether it runs on this board, how, and what is missing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from ...models.bundle import Bundle, load_bundle
from ...models.choice import chosen
from ...models.errors import HedgeError, ModelError
from ...models.graph import model_spec
from ...models.manifest import DType, Edge, Filter
from ...models.model import ModelSpec
from ...telemetry.boards.detect import Detected, detect
from ..backends.options import BackendOptions
from ..backends.tensorrt.library import is_installed
from ..probe.messages import Probed, Tensor
from ..probe.parts import probe_part
from ..probe.probe import probe_model
from ..split_head import head_of
from .amounts import size_text
from .backends import check_model, said
from .board import check_board
from .bundles import pin_hint
from .device import check_machine
from .finding import Finding, error, guarded, ok, warning

_CUDA = "CUDAExecutionProvider"
_GPUS = ("dev/nvidia0", "dev/nvhost-gpu", "dev/nvmap")
_MAX_BYTES = 2 << 30  # what a bundle may hold, and more than a device should


def check_model_file(path: Path, *, format: str, root: Path) -> Iterator[Finding]:  # noqa: A002  the manifest's own word
    """Yield what is found of the model file at ``path``."""
    board = detect(root=root)
    probed: list[Probed] = []
    yield from guarded(
        "model", path.name, _check_file(path, format, board=board, root=root, probed=probed)
    )
    wanted = {"model": (format, BackendOptions())}
    yield from guarded("board", "board", check_board(board, root=root, wanted=wanted))
    yield from check_machine(board, probed, root=root)


def check_bundle_alone(path: Path, *, root: Path) -> Iterator[Finding]:
    """Yield what is found of the bundle at ``path``, without a device that names it."""
    board = detect(root=root)
    probed: list[Probed] = []
    yield from guarded(
        "bundle", path.name, _check_bundle(path, board=board, root=root, probed=probed)
    )
    yield from check_machine(board, probed, root=root)


def _check_file(
    path: Path, kind: str, *, board: Detected, root: Path, probed: list[Probed]
) -> Iterator[Finding]:
    data = _read(path)
    spec = model_spec(data, format=kind, where=str(path))
    takes, gives = Tensor.of(spec.inputs[0]), Tensor.of(spec.outputs[0])
    text = f"{kind}, {size_text(len(data))}: takes {takes}, gives {gives}"
    yield ok("model", path.name, text)
    options = BackendOptions(threads=board.threads)
    probe = functools.partial(probe_model, data, format=kind, where=str(path), options=options)
    yield from check_model(path.name, probe, options=options, found=probed)
    if kind == "onnx":
        yield from _on_gpu(path, data, root=root)
    unfit = _unfit(path, spec)
    if unfit is not None:
        yield unfit
    elif probed:
        yield _next_step(path, spec)


def _on_gpu(path: Path, data: bytes, *, root: Path) -> Iterator[Finding]:
    """Try the model on the GPU, if there seems to be one."""
    if not any((root / gpu).exists() for gpu in _GPUS):
        yield ok("backend", "GPU", "none is here that hedge could use")
        return
    options = BackendOptions(providers=(_CUDA,))
    try:
        found = probe_model(data, format="onnx", where=str(path), options=options, timeout_s=300)
    except HedgeError as caught:
        yield warning("backend", _CUDA, f"the GPU is not used: {caught.what}", todo=caught.hint)
    else:
        todo = f'[stream.backend] providers = ["{_CUDA}"] takes it'
        yield ok("backend", _CUDA, said(found), todo=todo)
    there = "is installed" if is_installed() else "is not installed"
    yield ok("backend", "tensorrt", f'{there}; use = "tensorrt" builds an engine of this file')


def _unfit(path: Path, spec: ModelSpec) -> Finding | None:
    """Return why no bundle can feed the model; what is quantised takes float32, too.

    A graph of int64 is fed samples of int32.
    """
    takes, known = spec.inputs[0], get_args(DType)
    if takes.quantisation is not None or takes.dtype.name in (*known, "int64"):
        return None
    return error(
        "model",
        path.name,
        f"takes {takes.dtype}, and the samples of a bundle are {', '.join(known)}",
        where=str(path),
        todo="export it with an input of float32",
    )


def _next_step(path: Path, spec: ModelSpec) -> Finding:
    classes = spec.outputs[0].shape[-1]
    return ok(
        "model",
        path.name,
        f"it is not a bundle yet: {classes or 'its'} labels and a calibration are missing",
        todo=f"hedge bundle init {path} --labels a,b,… --out DIR",
    )


def _check_bundle(
    path: Path, *, board: Detected, root: Path, probed: list[Probed]
) -> Iterator[Finding]:
    bundle = load_bundle(path)
    manifest = bundle.manifest
    subject = f"{manifest.name} {manifest.version}"
    yield ok("bundle", subject, "is sound", todo=pin_hint(bundle))
    if manifest.edge and manifest.calibration is None:
        yield warning(
            "bundle",
            subject,
            "has no [calibration], so nothing says when to ask, and no stream can use it",
            where=str(path),
            todo="calibrate it on rows that no model has seen",
        )
    if not manifest.edge:
        text = "has no edge model: streams ask the far end about all that its filters let pass"
        yield ok("bundle", subject, text)
    yield from _check_parts(bundle, board=board, root=root, probed=probed)


def _check_parts(
    bundle: Bundle, *, board: Detected, root: Path, probed: list[Probed]
) -> Iterator[Finding]:
    """Try every variant and filter; only the variant that runs here counts for the memory."""
    manifest = bundle.manifest
    options = BackendOptions(threads=board.threads)
    formats = {f"variant {edge.name}": (edge.format, options) for edge in manifest.edge}
    yield from guarded("board", "board", check_board(board, root=root, wanted=formats))
    mode = None if board.power_mode is None else board.power_mode.name
    running = chosen(manifest, boards=board.names, power_mode=mode) if manifest.edge else None
    heads = [] if manifest.split is None else [head_of(manifest.split)]
    parts: list[Edge | Filter] = [*manifest.edge, *manifest.filter, *heads]
    for part in parts:
        counted = part not in manifest.edge or part is running
        probe = functools.partial(probe_part, bundle, part, options=options)
        yield from check_model(part.file, probe, options=options, found=probed if counted else [])
    if running is not None:
        yield ok("bundle", running.name, "is the variant that runs here")


def _read(path: Path) -> bytes:
    """Return the file.

    Raises:
        ModelError: it is larger than any model that hedge runs.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelError(f"{size_text(size)} are too many for a device", where=str(path))
    return path.read_bytes()
