"""The models of a device: proved, opened, warmed up, and replaced when an engine is ready."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..models.bundle import Bundle
from ..models.errors import BundleError
from ..models.manifest import Edge, Filter
from ..models.model import Model
from ..models.prepare import Prepare, fed_dtype, preparer
from ..telemetry.boards.detect import Detected
from .backends import open_part
from .backends.options import BackendOptions
from .backends.tensorrt.engine_build import BuildProgress, EngineBuild
from .backends.warm_up import warm_up
from .privacy import Features
from .probe.probe import Fed
from .probe.verdicts import VERDICTS, ensure_opens
from .split_head import SplitHead, head_of

ENGINES = "engines"
"""The folder of TensorRT's engines, below a device's state directory."""

_OPENING = "STATUS=opening {}\nEXTEND_TIMEOUT_USEC=330000000"  # a first start may compile kernels


class DeviceModels:
    """Opens the models of the streams, and looks after the engines that are built for them.

    A `Feed`: while engines are built the loop feeds it, and ``systemd`` (sd_notify(3)) and
    whoever is given to `tell` hear how far they are. ``stack`` closes what was opened;
    relative paths of the options begin at ``base``.
    """

    def __init__(
        self,
        board: Detected,
        *,
        state: Path,
        base: Path,
        stack: contextlib.ExitStack,
        systemd: Callable[[str], None],
    ) -> None:
        self._board = board
        self._state = state
        self._base = base
        self._stack = stack
        self._builds: list[EngineBuild] = []
        self._engine_counts: list[Counter[str]] = []
        self._systemd = systemd
        self._note: Callable[[str | None], None] | None = None
        self._head: SplitHead | None = None

    def open(
        self, bundle: Bundle, part: Edge | Filter, options: BackendOptions
    ) -> tuple[Model, Prepare]:
        """Return a model that has run on zeros, and what makes of samples what it takes.

        A model that is new here is first tried in a process of its own, which may crash. One that
        takes features is fed by the head of the bundle's [split], which is opened once.

        Raises:
            HedgeError: it crashes, is refused, or this machine has not what ``options`` ask for.
        """
        head = self._opened_head(bundle, options) if part.attach == "feature" else None
        options = on_board(options, part, board=self._board, base=self._base)
        takes = bundle.manifest.taken_by(part)
        self._systemd(_OPENING.format(part.file))
        ensure_opens(
            bundle.read(part.file),
            format=part.format,
            where=f"{bundle.path}/{part.file}",
            options=options,
            output=None if isinstance(part, Filter) else part.output_name,
            sample=Fed(takes.shape, fed_dtype(takes).name),
            verdicts=self._state / VERDICTS,
        )
        if options.use == "tensorrt" and isinstance(part, Edge) and head is None:
            model = self._engine(bundle, part, options)
        else:
            model = open_part(bundle, part, options=options)
            self._stack.callback(model.close)
        warm_up(model)
        prepare = preparer(takes, model.spec.inputs[0])
        return model, prepare if head is None else head.feeding(prepare)

    def features(self, bundle: Bundle, options: BackendOptions) -> Features:
        """Return what makes features of samples, by the device's half of the bundle's [split].

        Raises:
            HedgeError: as `open` does.
        """
        return Features(self._opened_head(bundle, options))

    def tell(self, note: Callable[[str | None], None]) -> None:
        """Let ``note`` know how the builds go; None: all are over."""
        self._note = note

    def counts(self) -> dict[str, int]:
        """What became of engines: cached, built, failed, without_gpu, fell_back; none of 0."""
        found = sum(self._engine_counts, Counter[str]())
        return {f"engines_{name}": count for name, count in found.items()}

    def feed(self, now_ns: int) -> int | None:
        """Look after the builds; return when that is due again, None once all are over."""
        due = [at for build in self._builds if (at := build.feed(now_ns)) is not None]
        if not due and self._builds:
            self._builds.clear()
            self._say(None, "STATUS=serving")
        return min(due, default=None)

    def _opened_head(self, bundle: Bundle, options: BackendOptions) -> SplitHead:
        """Return the head of the bundle's [split], opened the first time."""
        if self._head is None:
            split = bundle.manifest.split
            if split is None:
                raise BundleError("has no [split]", where=str(bundle.path))
            self._head = SplitHead(*self.open(bundle, head_of(split), options), dtype=split.dtype)
        return self._head

    def _engine(self, bundle: Bundle, part: Edge, options: BackendOptions) -> Model:
        from .backends.tensorrt.opening import open_tensorrt  # noqa: PLC0415  where it is asked for

        served = open_tensorrt(
            bundle.read(part.file),
            where=f"{bundle.path}/{part.file}",
            cache_dir=self._state / ENGINES,
            options=options,
            output=part.output_name,
            prepare=preparer(bundle.input),
            progress=self._progress,
        )
        self._stack.callback(served.close)
        self._engine_counts.append(served.counts)
        if served.build is not None:
            self._builds.append(served.build)
            self._engine_counts.append(served.build.counts)
        return served.model

    def _progress(self, progress: BuildProgress) -> None:
        self._say(str(progress), progress.to_systemd())

    def _say(self, note: str | None, systemd: str) -> None:
        self._systemd(systemd)
        if self._note is not None:
            self._note(note)


def on_board(
    options: BackendOptions, part: Edge | Filter, *, board: Detected, base: Path
) -> BackendOptions:
    """Return the options for one model of a bundle, with the board's word where they are silent.

    Filters are small and there to save the accelerator: they run on the CPU.
    """
    threads = options.threads or board.threads
    if isinstance(part, Filter):
        return BackendOptions(threads=threads, session_options=options.session_options)
    use = options.use
    if (
        use == "auto"
        and board.backend == "tensorrt"
        and part.format == "onnx"
        and not options.providers
    ):
        use = "tensorrt"
    rows = None if options.calibration is None else str((base / options.calibration).resolve())
    return msgspec.structs.replace(options, use=use, threads=threads, calibration=rows)
