"""What the configuration says about traces: the table [telemetry.traces]."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

_Text = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]


class TracesOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where spans go, and how many samples are traced.

    ``endpoint`` is a collector's URL for OTLP over HTTP, ``http://127.0.0.1:4318``. Of the
    escalated samples a ``share`` is traced, but not more than ``max_per_s`` (1 at a time after
    a rest of a second, or as many as that where it is more). ``headers_file`` holds lines
    ``Name: value`` that go with every request: a collector's key belongs there. ``ca_file``
    holds the authorities that an https:// endpoint is trusted by (None: the system's).
    """

    endpoint: _Text
    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    max_per_s: Annotated[float, Meta(gt=0, le=10_000)] = 10.0
    headers_file: _Text | None = None
    ca_file: _Text | None = None
