"""What may move a stream's gate, and how much of what it lets pass is audited."""

from __future__ import annotations

from collections.abc import Iterator

from ...models.bundle import Bundle
from ...models.manifest import Calibration, Promise
from ..config import Config, Stream
from ..gate.gate import budget_of
from ..gate.options import is_audited
from .amounts import size_text
from .finding import Finding, ok, warning


def check_gate(stream: Stream, bundle: Bundle, *, config: Config) -> Iterator[Finding]:
    """Yield what audit, promise, budget and drift will come to."""
    calibration, subject = bundle.manifest.calibration, f"stream {stream.name}"
    if calibration is None:
        return  # said of the bundle
    if config.uplink is None:
        yield ok("gate", subject, "stands where calibration has put it; no [uplink], so no audit")
        return
    yield _audit(stream, subject)
    if calibration.promise is not None:
        yield _promise(stream, calibration.promise, subject)
    yield from _budget(stream, calibration, config, subject)
    if stream.gate.drift:
        text = "whether its scores drift from those of calibration is watched"
        unknown = "whether its scores drift is not known: the bundle has no calibration.reference"
        yield ok("gate", subject, text if calibration.reference else unknown)


def _audit(stream: Stream, subject: str) -> Finding:
    audit = stream.audit
    if not is_audited(audit, shared=True):
        return ok("gate", subject, "nothing is audited, so what the edge gets wrong is not known")
    text = f"{100 * audit.share:.3g} % of its samples are audited"
    if audit.truth == "label":
        return ok("gate", subject, f"{text} by the labels that are sent for them")
    if stream.privacy.share == "nothing":
        return warning(
            "gate",
            subject,
            f"{text}, but none may leave the device",
            where=f"{subject}: privacy.share",
            todo='let more be shared, have audit.truth = "label", or audit.share = 0',
        )
    rate_hz = getattr(stream.source, "rate_hz", None)
    most = f"{audit.most_per_hour} asks an hour at most"
    if rate_hz is None:
        return ok("gate", subject, f"{text}: {most}")
    asks = min(audit.most_per_hour, audit.share * rate_hz * 3600)
    return ok("gate", subject, f"{text}: some {asks:.3g} asks an hour, {most}")


def _promise(stream: Stream, promise: Promise, subject: str) -> Finding:
    how = "guaranteed for such rows" if promise.by == "row" else "empirical, for new groups"
    text = (
        f"{promise.accuracy:.3g} of what the edge decides alone is right, with a confidence of "
        f"{promise.confidence:.3g} ({how})"
    )
    if not stream.gate.promise:
        return ok("gate", subject, f"{text}; gate.promise = false, so nothing holds it to that")
    if not is_audited(stream.audit, shared=True):
        return warning(
            "gate",
            subject,
            f"{text}; without an audit nothing can hold it to that",
            where=f"{subject}: audit",
            todo="audit.share above 0, or gate.promise = false",
        )
    if not is_audited(stream.audit, shared=stream.privacy.share != "nothing"):
        return ok("gate", subject, f"{text}; without an audit nothing holds it to that")
    return ok("gate", subject, f"{text}; the gate is tightened where the audit refutes it")


def _budget(
    stream: Stream, calibration: Calibration, config: Config, subject: str
) -> Iterator[Finding]:
    found = budget_of(stream.gate, calibration.budget)
    if found is None:
        return
    per_hour, unit = found
    amount = f"{per_hour:.6g} messages" if unit == "messages" else size_text(per_hour)
    text = f"{amount} an hour are escalated: the gate is moved to hold that"
    limits = None if config.uplink is None else config.uplink.budget
    cap = None if limits is None else getattr(limits, f"{unit}_per_hour")
    if cap is not None and cap < per_hour:
        yield warning(
            "gate",
            subject,
            f"{text}, but [uplink.budget] lets only {cap} go",
            where=f"{subject}: gate",
            todo=f"gate.{unit}_per_hour = {cap} or less",
        )
    else:
        yield ok("gate", subject, text)
