"""Bundles without an edge model: all that passes the filters is for the far end to answer."""

from __future__ import annotations

from ..models.bundle import Bundle
from ..models.errors import ConfigError
from .config import Stream


def check_offload(stream: Stream, bundle: Bundle, *, has_uplink: bool) -> None:
    """Refuse a stream whose bundle has no edge model, and to which nobody would ever answer.

    Raises:
        ConfigError: there is no uplink, nothing may leave the device, what may leave is not what
            the far end's model takes, or the stream has settings for an edge model.
    """
    manifest, where = bundle.manifest, f"stream {stream.name}"
    if stream.variant is not None:
        raise ConfigError(
            f"the bundle has no variant {stream.variant!r}, and no edge model at all",
            where=f"{where}: variant",
        )
    if not has_uplink:
        raise ConfigError(
            "the bundle has no edge model, and there is no [uplink]: nothing would answer",
            where=where,
            hint="[uplink] broker says where to ask",
        )
    if stream.privacy.share == "nothing":
        raise ConfigError(
            "the bundle has no edge model, so what does not leave the device is never answered",
            where=f"{where}: privacy.share",
            hint='"features" is the least that can be shared where the bundle has a [split]',
        )
    if manifest.cloud is None and stream.privacy.share != "features":
        raise ConfigError(
            f"the bundle's only model takes features, and {stream.privacy.share!r} is shared",
            where=f"{where}: privacy.share",
            hint='share "features"',
        )
    if stream.gate.messages_per_hour or stream.gate.bytes_per_hour:
        raise ConfigError(
            "the bundle has no edge model, so there is no gate that could hold a budget",
            where=f"{where}: gate",
            hint="[uplink.budget] limits what is sent",
        )
