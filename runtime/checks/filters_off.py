"""Whether a filter of a stream has switched itself off, and stays so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...models.bundle import Bundle
from ...models.errors import DataError
from ..config import Config, Stream
from ..filters.kept_off import FILE, read_off
from ..filters.opening import filter_names
from .finding import Finding, warning


def check_filters_off(
    stream: Stream, bundle: Bundle, *, config: Config, base: Path
) -> Iterator[Finding]:
    """Yield which filters of the stream's bundle are off since an earlier run, and why."""
    names = filter_names(bundle.manifest.filter) if stream.filter else []
    if not names:
        return
    file, subject = base / config.device.state_dir / FILE, f"stream {stream.name}"
    try:
        off = read_off(file)
    except DataError as error:
        todo = "remove it; filters that were off are on again"
        yield warning("filter", subject, error.what, where=str(file), todo=todo)
        return
    for one in off:
        if (one.stream, one.bundle) == (stream.name, bundle.digest) and one.filter in names:
            yield warning(
                "filter",
                subject,
                f"the filter {one.filter} has been off since {one.since}: {one.why}",
                where=str(file),
                todo="tune or teach it anew; or stop the device and remove the file",
            )
