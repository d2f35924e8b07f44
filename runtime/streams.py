"""The streams of a device: each opened with the parts that serve it, and closed as one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from ..models.bundle import Bundle, load_bundle
from ..models.choice import chosen
from ..models.errors import BundleError, ConfigError, DataError
from ..models.inputs.preprocess import preprocessor
from ..models.manifest import Calibration, Edge
from ..models.model import Model
from ..models.opinion import Assessor
from ..models.prepare import Prepare, preparer
from ..telemetry.boards.detect import Detected
from ..telemetry.clock import boottime_ns
from ..telemetry.gate_state import DriftState
from ..telemetry.ledger import Ledger
from ..uplink.asks import Contract
from .both_ends import contract_of
from .config import Config, Stream
from .device_models import DeviceModels
from .events.checks import check_rules
from .events.clips import clip_needs
from .events.events import Watched
from .filters import kept_off
from .filters.kept_caches import FOLDER, KeptCaches
from .filters.key_cache import KeyCache
from .filters.label_options import LabelOptions
from .filters.opening import open_screens
from .gate.gate import Gate
from .gate.kept_gates import FILE, KeptGates
from .gate.options import AuditOptions, is_audited
from .lane import Lane
from .offload import check_offload
from .policy import Policy
from .privacy import sharing
from .shipped import bundle_path
from .sources.opening import Surroundings, open_source
from .sources.options import LiveOptions

_DIGITS = 16
_NO_BUDGET = {"messages_per_hour": 0.0, "bytes_per_hour": 0.0}


class Drift(Protocol):
    """Hears of the drift of a stream's scores; `Events.drift` is one."""

    def __call__(self, stream: str, state: DriftState, *, score: str) -> None:
        """Take in that it has begun or ended."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One stream: what was asked for, its bundle, and what serves it until ``stack`` is closed."""

    stream: Stream
    bundle: Bundle
    lane: Lane
    models: DeviceModels
    stack: contextlib.ExitStack

    @property
    def contract(self) -> Contract:
        """What an ask of this stream and its answer must fit."""
        return contract_of(self.bundle, features=self.lane.share.entry == "features")

    def kept_caches(self) -> dict[str, KeyCache]:
        """Return what is to be kept of its filters over restarts, each under its full name."""
        if self.stream.filter_cache != "kept":
            return {}
        return {
            f"{self.bundle.digest}/{one.name}": one.reuse.cache
            for one in self.lane.filters
            if one.reuse is not None
        }

    def is_for(self, stream: Stream, bundle: Bundle) -> bool:
        """Return whether it is just what ``stream`` would be with ``bundle``."""
        return self.stream == stream and self.bundle.digest == bundle.digest

    def has_gate_of(self, stream: Stream, bundle: Bundle) -> bool:
        """Return whether its gate has seen just what that of ``stream`` would see."""
        keys = ("gate", "audit", "variant", "source", "filter", "backend", "privacy")
        same = all(getattr(self.stream, key) == getattr(stream, key) for key in keys)
        return same and self.bundle.digest == bundle.digest


class Streams:
    """All streams of one device: what is served now, by name, and what is known of them.

    ``ledgers`` holds the ledger of every stream that ever was: one that comes again goes on
    in its own. ``labels`` is what the sinks call the classes. ``systemd`` hears of what is
    opened (sd_notify(3)); live sources ring the ``bell``; relative paths begin at ``base``. A
    `Feed`, for engines are built.
    """

    def __init__(
        self,
        board: Detected,
        *,
        state: Path,
        base: Path,
        systemd: Callable[[str], None],
        bell: threading.Event,
    ) -> None:
        self._board = board
        self._state = state
        self._base = base
        self._systemd = systemd
        self._bell = bell
        self._note: Callable[[str | None], None] | None = None
        self._drift: Drift | None = None
        self._kept = KeptGates(state / FILE)
        self._caches = KeptCaches(state / FOLDER)
        self._off = kept_off.KeptOff(state / kept_off.FILE)
        self.served: dict[str, Served] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.labels: dict[str, tuple[str, ...]] = {}

    def tell(self, note: Callable[[str | None], None]) -> None:
        """Let ``note`` know how engines are built."""
        self._note = note
        for one in self.served.values():
            one.models.tell(note)

    def hear(self, drift: Drift) -> None:
        """Let ``drift`` hear when the scores of a stream begin to drift, and when they cease to."""
        self._drift = drift

    def lanes(self) -> list[Lane]:
        """Return the lanes of what is served."""
        return [one.lane for one in self.served.values()]

    def counts(self) -> dict[str, int]:
        """Return what was counted; see `DeviceModels`, `KeptGates`, `KeptCaches` and `KeptOff`."""
        kept = self._kept, self._caches, self._off
        found = sum((Counter(one.counters()) for one in kept), Counter[str]())
        return dict(sum((Counter(one.models.counts()) for one in self.served.values()), found))

    def feed(self, now_ns: int) -> int | None:
        """Look after the engines that are built (see `DeviceModels.feed`), and after the gates."""
        due = [one.models.feed(now_ns) for one in self.served.values()]
        due += [one.lane.gate.feed(now_ns) for one in self.served.values() if one.lane.gate]
        return min((at_ns for at_ns in due if at_ns is not None), default=None)

    def serve(self, served: Mapping[str, Served]) -> None:
        """Have these from now on; what is no more among them is to be closed by the caller."""
        for name, one in self.served.items():
            gate, new = one.lane.gate, served.get(name)
            if gate is not None and gate.drifting and (new is None or new.lane.gate is not gate):
                self._drifts(name, gate.score, DriftState(rows=0))  # nobody watches it any more
        for name, one in served.items():
            if one.lane.gate is not None:
                self._hand_over(one.lane.gate, name)
            self._hand_over_filters(one, name)
        self._keep_caches({name: one for name, one in self.served.items() if name not in served})
        self.served = dict(served)
        self.ledgers.update({name: one.lane.ledger for name, one in served.items()})
        self.labels.clear()  # the sinks hold it
        self.labels.update({name: one.bundle.labels for name, one in served.items()})

    def watched(self) -> dict[str, Watched]:
        """Return what events are looked for in, and where their clips come from."""
        return {
            name: Watched(one.stream.event, one.bundle.labels, one.lane.source)
            for name, one in self.served.items()
        }

    def contracts(self) -> dict[str, Contract]:
        """Return what each stream asks by: for its samples, or for their features."""
        return {name: one.contract for name, one in self.served.items()}

    def begin(self) -> None:
        """Let the live sources begin to read, those that have not yet."""
        for one in self.served.values():
            one.lane.source.begin()

    def keep(self) -> None:
        """Write what gates and filters have learnt, now that the loop has ended."""
        self._kept.write()
        self._keep_caches(self.served)

    def close(self) -> None:
        """Close what is served; closing twice is harmless."""
        close_all(self.served.values())

    def open_all(self, config: Config) -> dict[str, Served]:
        """Open what the configuration asks for; what is served just so stays as it is.

        Nothing new stays open if that fails.

        Raises:
            HedgeError: a source, a bundle or a model cannot be opened here.
        """
        bundles = self._bundles(config)
        around = Surroundings(base=self._base, device=config.device.name, uplink=config.uplink)
        found: dict[str, Served] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: close_all(self.new_among(found)))
            for stream in config.stream:
                old, bundle = self.served.get(stream.name), bundles[stream.name]
                same = old is not None and old.is_for(stream, bundle)
                found[stream.name] = old if same and old else self._open(stream, bundle, around)
            undo.pop_all()
        return found

    def new_among(self, served: Mapping[str, Served]) -> list[Served]:
        """Return those that are not served now."""
        return [one for name, one in served.items() if self.served.get(name) is not one]

    def _bundles(self, config: Config) -> dict[str, Bundle]:
        """Load each stream's bundle, once where several streams share it."""
        loaded: dict[tuple[Path, str | None], Bundle] = {}
        for stream in config.stream:
            key = (bundle_path(stream.bundle, base=self._base), stream.pin)
            if key not in loaded:
                loaded[key] = load_bundle(key[0], pin=stream.pin)
        return {
            stream.name: loaded[bundle_path(stream.bundle, base=self._base), stream.pin]
            for stream in config.stream
        }

    def _open(self, stream: Stream, bundle: Bundle, around: Surroundings) -> Served:
        """Open one stream; nothing stays open if that fails."""
        with contextlib.ExitStack() as stack:
            models = DeviceModels(
                self._board,
                state=self._state,
                base=self._base,
                stack=stack,
                systemd=self._systemd,
            )
            if self._note is not None:
                models.tell(self._note)
            lane = self._lane(stream, bundle, around=around, models=models, stack=stack)
            return Served(
                stream=stream, bundle=bundle, lane=lane, models=models, stack=stack.pop_all()
            )

    def _lane(
        self,
        stream: Stream,
        bundle: Bundle,
        *,
        around: Surroundings,
        models: DeviceModels,
        stack: contextlib.ExitStack,
    ) -> Lane:
        manifest = bundle.manifest
        edge = self._edge(stream, bundle, around=around)
        here = f"stream {stream.name}"
        check_rules(stream.event, manifest.labels, here, source=stream.source)
        preprocess = None
        if isinstance(stream.source, LiveOptions):
            preprocess = preprocessor(manifest.input, read=bundle.read, where=stream.bundle)
        filters = (
            open_screens(
                bundle,
                lambda one: models.open(bundle, one, stream.backend),
                clock=boottime_ns,
                stream=stream.name,
                share=stream.filter_shadow,
                labels=_labels(stream, around),
                broken=functools.partial(self._off.keep, stream.name, bundle.digest),
            )
            if stream.filter
            else ()
        )
        near = _near(stream, bundle, edge, models=models)
        share = sharing(
            stream.privacy,
            bundle,
            where=f"{here}: privacy",
            features=lambda: models.features(bundle, stream.backend),
        )
        source = open_source(
            stream.name,
            stream.source,
            manifest.input,
            around=around,
            bell=self._bell,
            keep=clip_needs(stream.event),
        )
        stack.callback(source.close)
        return Lane(
            name=stream.name,
            title=f"{manifest.name}/{'far end' if edge is None else edge.name}",
            source=source,
            input=manifest.input,
            filters=filters,
            model=near.model,
            prepare=near.prepare,
            assessor=near.assessor,
            policy=near.policy,
            ledger=self.ledgers.get(stream.name) or Ledger(stream.name),
            clock=boottime_ns,
            answer_within_ns=stream.answer_within_ms * 1_000_000,
            mode=stream.mode,
            on_unavailable=stream.on_unavailable,
            window=stream.window,
            preprocess=preprocess,
            share=share,
            gate=self._gate(stream, bundle, edge, around=around),
        )

    def _edge(self, stream: Stream, bundle: Bundle, *, around: Surroundings) -> Edge | None:
        """Return the variant that serves the stream; None: the far end alone answers.

        Raises:
            BundleError: nothing says when to ask.
            ConfigError: there is no such variant, or nobody would ever answer.
        """
        if not bundle.manifest.edge:
            check_offload(stream, bundle, has_uplink=around.uplink is not None)
            return None
        edge = variant(stream, bundle, board=self._board)
        if bundle.manifest.calibration is None:
            raise BundleError(
                "has no [calibration], so nothing says when to ask", where=stream.bundle
            )
        return edge

    def _gate(
        self,
        stream: Stream,
        bundle: Bundle,
        edge: Edge | None,
        *,
        around: Surroundings,
    ) -> Gate | None:
        """Return the stream's gate: that which it has, where nothing of it has changed.

        Without an uplink nobody can be asked: nothing is audited, and no budget is held. Nor is
        anything audited of which the cloud sees nothing. There is none without an edge model.
        """
        calibration = bundle.manifest.calibration
        if edge is None or calibration is None:
            return None
        old = self.served.get(stream.name)
        if old is not None and old.lane.gate is not None and old.has_gate_of(stream, bundle):
            return old.lane.gate
        of = _learner(stream, bundle, edge, calibration)
        shared = stream.privacy.share != "nothing"
        audited = around.uplink is not None and is_audited(stream.audit, shared=shared)
        return Gate(
            calibration,
            stream=stream.name,
            options=stream.gate if around.uplink else replace(stream.gate, **_NO_BUDGET),
            audit=stream.audit if audited else AuditOptions(share=0),
            of=of,
            told=functools.partial(self._drifts, stream.name, calibration.score),
            keep=functools.partial(self._kept.keep, stream.name, of),
        )

    def _hand_over(self, gate: Gate, stream: str) -> None:
        """Let a gate that is new go on from what is known of its stream, to the last sample."""
        served = self.served.get(stream)
        old = None if served is None else served.lane.gate
        if old is gate:
            return
        if old is not None:
            gate.succeed(old)
        found = self._kept.find(stream, of=gate.of) if gate.audit.share else None
        if found is not None:
            try:
                gate.resume(found)
            except DataError as error:
                self._kept.refuse(f"what is kept of stream {stream} {error}")

    def _hand_over_filters(self, new: Served, stream: str) -> None:
        """Let filters that are new go on from what is known of their stream."""
        old = self.served.get(stream)
        if old is new:
            return
        for screen in new.lane.filters:
            off = self._off.find(stream, bundle=new.bundle.digest, name=screen.name)
            if off is not None:
                screen.stay_off(f"since {off.since}: {off.why}")
        if old is not None and old.bundle.digest == new.bundle.digest and old.lane.filters:
            for one, before in zip(new.lane.filters, old.lane.filters, strict=False):
                one.succeed(before)
            return
        for name, cache in new.kept_caches().items():
            self._caches.read(stream, cache, of=name)

    def _keep_caches(self, served: Mapping[str, Served]) -> None:
        for stream, one in served.items():
            for name, cache in one.kept_caches().items():
                self._caches.write(stream, cache, of=name)

    def _drifts(self, stream: str, score: str, state: DriftState) -> None:
        if self._drift is not None:
            self._drift(stream, state, score=score)


def _labels(stream: Stream, around: Surroundings) -> LabelOptions | None:
    """Return how many labels to ask for; None: nobody can be asked, or of samples nothing leaves.

    Features would not teach a filter of samples.
    """
    asks = around.uplink is not None and stream.privacy.share not in {"nothing", "features"}
    return stream.filter_labels if asks else None


class _Near(NamedTuple):
    """The device's own model with all that goes with it; None: it has none."""

    model: Model | None
    prepare: Prepare
    assessor: Assessor | None
    policy: Policy | None


def _near(stream: Stream, bundle: Bundle, edge: Edge | None, *, models: DeviceModels) -> _Near:
    manifest = bundle.manifest
    if edge is None or manifest.calibration is None:
        return _Near(None, preparer(manifest.input), None, None)
    model, prepare = models.open(bundle, edge, stream.backend)
    score = manifest.calibration.scoring
    assessor = Assessor.of(edge, classes=len(manifest.labels), score=score)
    return _Near(model, prepare, assessor, Policy.of(manifest.calibration))


def _learner(stream: Stream, bundle: Bundle, edge: Edge, calibration: Calibration) -> str:
    """Return a digest of all that decides what a gate can learn, and of what."""
    promise = calibration.promise if stream.gate.promise else None
    what = msgspec.json.encode((bundle.digest, edge.name, stream.audit.truth, promise))
    return hashlib.sha256(what).hexdigest()[:_DIGITS]


def close_all(served: Iterable[Served]) -> None:
    """Close the sources and models of these streams, whatever one of them says to that."""
    with contextlib.ExitStack() as stack:
        for one in served:
            stack.callback(one.stack.close)


def variant(stream: Stream, bundle: Bundle, *, board: Detected) -> Edge:
    """Return the variant that the configuration names, else the bundle's choice for the board.

    Raises:
        BundleError: it has no edge model.
        ConfigError: it has no such variant.
    """
    edges = bundle.manifest.edge
    if stream.variant is None:
        return chosen(
            bundle.manifest,
            boards=board.names,
            power_mode=None if board.power_mode is None else board.power_mode.name,
        )
    for edge in edges:
        if edge.name == stream.variant:
            return edge
    names = ", ".join(edge.name for edge in edges)
    raise ConfigError(
        f"the bundle has no variant {stream.variant!r}",
        where=f"stream {stream.name}: variant",
        hint=f"it has {names}",
    )
