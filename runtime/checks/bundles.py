"""The streams' bundles: sound, pinned, calibrated, and with the variant that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ...models.bundle import Bundle, load_bundle
from ...models.errors import HedgeError
from ...models.manifest import Edge, Filter
from ...telemetry.boards.detect import Detected
from ...uplink import codecs
from ..config import Stream
from ..offload import check_offload
from ..shipped import bundle_path
from ..split_head import head_of
from ..streams import variant
from .finding import Finding, error, guarded, ok, refusal


def load(stream: Stream, *, base: Path) -> Bundle | Finding:
    """Return a stream's bundle, or what is wrong with it."""
    path = bundle_path(stream.bundle, base=base)
    try:
        return load_bundle(path, pin=stream.pin)
    except HedgeError as caught:
        return refusal("bundle", f"stream {stream.name}", caught)


def check_bundle(
    stream: Stream, bundle: Bundle, *, board: Detected, has_uplink: bool = True
) -> Iterator[Finding]:
    """Yield whether a sound bundle can serve its stream.

    Raises:
        ConfigError: it has not the variant asked for, or no edge model where it needs one.
    """
    subject, manifest = f"stream {stream.name}", bundle.manifest
    if manifest.edge and manifest.calibration is None:
        yield error(
            "bundle",
            subject,
            "has no [calibration], so nothing says when to ask",
            where=str(bundle.path),
            todo="calibrate it on rows that no model has seen",
        )
    yield from guarded("bundle", subject, _codec(stream, bundle))
    pinned = "pinned" if stream.pin else "not pinned"
    yield ok(
        "bundle",
        subject,
        f"{manifest.name} {manifest.version} is sound and {pinned}; "
        f"{_runs(stream, bundle, board=board, has_uplink=has_uplink)}",
        todo=None if stream.pin else pin_hint(bundle),
    )


def _runs(stream: Stream, bundle: Bundle, *, board: Detected, has_uplink: bool) -> str:
    if not bundle.manifest.edge:
        check_offload(stream, bundle, has_uplink=has_uplink)
        passing = " that its filters let pass" if bundle.manifest.filter and stream.filter else ""
        return f"it has no edge model: the far end is asked about every sample{passing}"
    return f"runs {variant(stream, bundle, board=board).name!r}"


def _codec(stream: Stream, bundle: Bundle) -> Iterator[Finding]:
    spec, where = bundle.input, f"stream {stream.name}: codec"
    codecs.check(stream.codec, dtype=spec.dtype, shape=spec.shape, where=where)
    yield from ()


def pin_hint(bundle: Bundle) -> str:
    """Return how a device is made to take this bundle and no other."""
    return f'to pin it: [[stream]] pin = "{bundle.digest}"'


def parts_of(stream: Stream, bundle: Bundle, *, board: Detected) -> list[Edge | Filter]:
    """Return the models that the stream will run: a [split]'s head, its filters, the variant."""
    found: list[Edge | Filter] = [*(bundle.manifest.filter if stream.filter else ())]
    with contextlib.suppress(HedgeError):  # there is none, or `check_bundle` says what is wrong
        found.append(variant(stream, bundle, board=board))
    split = bundle.manifest.split
    wanted = stream.privacy.share == "features" or any(one.attach == "feature" for one in found)
    return [head_of(split), *found] if wanted and split is not None else found
