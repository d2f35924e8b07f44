"""Whether labels for a filter will be asked for, where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator

from ...models.bundle import Bundle
from ..config import Config, Stream
from .finding import Finding, ok, warning


def check_filter_labels(stream: Stream, bundle: Bundle, *, config: Config) -> Iterator[Finding]:
    """Yield what ``filter_labels`` will come to."""
    options, subject = stream.filter_labels, f"stream {stream.name}"
    if not (options.share and options.most_per_hour):
        return
    text = f"{options.share:.3g} of its samples are to be labelled for a filter"
    why = None
    if not (stream.filter and bundle.manifest.filter):
        why = "there is no filter"
    elif config.uplink is None:
        why = "there is no [uplink]"
    elif stream.privacy.share in {"nothing", "features"}:
        why = f"of samples {stream.privacy.share} may leave the device"
    if why is not None:
        where = f"{subject}: filter_labels"
        yield warning("filter", subject, f"{text}, but {why}", where=where, todo="leave it out")
        return
    if stream.privacy.share != "sample":
        yield warning(
            "filter",
            subject,
            f"{text} {stream.privacy.share}: a filter that learns from these sees others",
            where=f"{subject}: privacy.share",
            todo='share "sample", or leave filter_labels out',
        )
        return
    yield ok("filter", subject, f"{text}: {options.most_per_hour} an hour at most of each")
