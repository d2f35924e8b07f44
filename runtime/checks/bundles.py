"""The streams' bundles: sound, pinned, calibrated, and with the variant that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...models.bundle import Bundle, load_bundle
from ...models.errors import HedgeError
from ...models.manifest import Edge, Filter
from ...telemetry.boards.detect import Detected
from ...uplink import codecs
from ..config import Stream
from ..shipped import bundle_path
from ..streams import variant
from .finding import Finding, error, guarded, ok, refusal


def load(stream: Stream, *, base: Path) -> Bundle | Finding:
    """Return a stream's bundle, or what is wrong with it."""
    path = bundle_path(stream.bundle, base=base)
    try:
        return load_bundle(path, pin=stream.pin)
    except HedgeError as caught:
        return refusal("bundle", f"stream {stream.name}", caught)


def check_bundle(stream: Stream, bundle: Bundle, *, board: Detected) -> Iterator[Finding]:
    """Yield whether a sound bundle can serve its stream.

    Raises:
        BundleError, ConfigError: it has no edge model, or not the variant asked for.
    """
    subject, manifest = f"stream {stream.name}", bundle.manifest
    if manifest.calibration is None:
        yield error(
            "bundle",
            subject,
            "has no [calibration], so nothing says when to ask",
            where=str(bundle.path),
            todo="calibrate it on rows that no model has seen",
        )
    yield from guarded("bundle", subject, _codec(stream, bundle))
    edge = variant(stream, bundle, board=board)
    pinned = "pinned" if stream.pin else "not pinned"
    yield ok(
        "bundle",
        subject,
        f"{manifest.name} {manifest.version} is sound and {pinned}; runs {edge.name!r}",
        todo=None if stream.pin else pin_hint(bundle),
    )


def _codec(stream: Stream, bundle: Bundle) -> Iterator[Finding]:
    spec, where = bundle.input, f"stream {stream.name}: codec"
    codecs.check(stream.codec, dtype=spec.dtype, shape=spec.shape, where=where)
    yield from ()


def pin_hint(bundle: Bundle) -> str:
    """Return how a device is made to take this bundle and no other."""
    return f'to pin it: [[stream]] pin = "{bundle.digest}"'


def parts_of(stream: Stream, bundle: Bundle, *, board: Detected) -> list[Edge | Filter]:
    """Return the models that the stream will run: its filters, then the variant, if it has one."""
    filters = bundle.manifest.filter if stream.filter else ()
    try:
        return [*filters, variant(stream, bundle, board=board)]
    except HedgeError:
        return [*filters]  # said by `check_bundle`
