"""The name of a trace and of one span in it, as it travels (W3C Trace Context, §3.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

_parts = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_SAMPLED = 1


class Traceparent(NamedTuple):
    """A span, which is the parent of what it causes. Of one that is not ``sampled`` nobody tells.

    >>> str(Traceparent.parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    """

    trace_id: int
    span_id: int
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"

    @classmethod
    def parse(cls, text: str) -> Traceparent | None:
        """Read what somebody sent, a later version included; None where it is none."""
        found = _parts(text)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more):
            return None
        if not (int(trace_id, 16) and int(span_id, 16)):
            return None
        return cls(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
