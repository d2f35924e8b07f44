"""What may leave the device of each stream's samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from ...models.bundle import Bundle
from ..config import Config, Stream
from ..privacy import Features, describe, sharing
from .finding import Finding, ok


def check_privacy(stream: Stream, bundle: Bundle, *, config: Config) -> Iterator[Finding]:
    """Yield what may leave the device.

    Raises:
        ConfigError: what is asked for cannot be done with this bundle's samples.
    """
    where = f"stream {stream.name}: privacy"
    sharing(stream.privacy, bundle, where=where, features=lambda: cast("Features", None))
    if config.uplink is None:
        text = "no sample leaves the device: it has no [uplink]"
    else:
        text = describe(stream.privacy)
    yield ok("privacy", f"stream {stream.name}", text)
