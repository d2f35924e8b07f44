"""One look at one sample: what came, what the model makes of it, and what would be done."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ...models.errors import HedgeError
from ...models.records import Decision, Opinion
from ..lane import Lane
from ..sources.source import Captured

Would = Literal["answer", "ask", "ask and fuse", "drop", "fail"]
_WOULD: dict[str, Would] = {"accept": "answer", "escalate": "ask", "fuse": "ask and fuse"}
_CLIPPED = 0.999  # of full scale


class Look(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one sample has come to.

    ``at_s`` is when it was captured, from the begin. ``would`` is what the policy would do and
    ``why``; ``threshold`` is what ``score`` is held against. ``files`` show it.
    """

    number: int
    at_s: float
    would: Would
    why: str
    label: str | None = None
    probability: float | None = None
    score: float | None = None
    score_name: str | None = None
    threshold: float | None = None
    preprocess_ms: float | None = None
    infer_ms: float | None = None
    text: str | None = None
    files: tuple[str, ...] = ()


class Facts(Struct, frozen=True, kw_only=True):
    """What is odd or not about a sample's numbers.

    ``digest`` tells one from another. ``peak`` and ``clipped`` (a share) are of captured sound,
    ``largest`` is the largest magnitude of each channel, ``limits`` the share of whole numbers
    at the ends of their range.
    """

    digest: bytes
    finite: bool
    low: float
    high: float
    mean: float
    limits: float = 0.0
    peak: float | None = None
    clipped: float = 0.0
    largest: tuple[float, ...] = ()


class Taken(Struct, frozen=True, kw_only=True):
    """A look, the facts of its sample (None: there is none), and the arrays themselves."""

    look: Look
    facts: Facts | None = None
    captured: Captured | None = None
    sample: NDArray[Any] | None = None


def take(
    lane: Lane, labels: tuple[str, ...], *, number: int, begun_ns: int, now_ns: int
) -> Taken | None:
    """Poll the lane's source and judge what comes; None: nothing is there yet."""
    captured: Captured | None = None
    at_s = round((now_ns - begun_ns) / 1e9, 3)
    try:
        captured = lane.source.poll(now_ns)
        if captured is None:
            return None
        at_s = round(max(0, captured.taken_at_ns - begun_ns) / 1e9, 3)
        before_ns = lane.clock()
        sample = lane.sample_of(captured)
        preprocessed_ns = lane.clock() - before_ns
        judged = lane.judge(sample)
    except HedgeError as error:
        look = Look(number=number, at_s=at_s, would="fail", why=str(error))
        return Taken(look=look, captured=captured)
    shown = Look(
        number=number,
        at_s=at_s,
        would="drop",
        why="filter",
        preprocess_ms=None if lane.preprocess is None else preprocessed_ns / 1e6,
        text=_text(lane, captured),
    )
    if judged is not None:
        shown = _judged(shown, lane, labels, *judged)
    return Taken(look=shown, facts=_facts(sample, captured, lane), captured=captured, sample=sample)


def _judged(
    shown: Look,
    lane: Lane,
    labels: tuple[str, ...],
    opinion: Opinion | None,
    decision: Decision,
) -> Look:
    if opinion is None:
        return replace(shown, would=_WOULD[decision.action], why=decision.reason)
    top = int(opinion.probs.argmax())
    _, filtered_ns, inferred_ns, _ = lane.timed_ns
    return Look(
        number=shown.number,
        at_s=shown.at_s,
        would=_WOULD[decision.action],
        why=decision.reason,
        label=labels[top],
        probability=float(opinion.probs[top]),
        score=float(opinion.score),
        score_name=opinion.score_name,
        threshold=None if lane.policy is None else lane.policy.total,
        preprocess_ms=shown.preprocess_ms,
        infer_ms=(inferred_ns - filtered_ns) / 1e6,
        text=shown.text,
    )


def _text(lane: Lane, captured: Captured) -> str | None:
    if lane.input.kind != "text" or lane.preprocess is None:
        return None
    return captured.data.tobytes().decode("utf-8", "replace")


def _facts(sample: NDArray[Any], captured: Captured, lane: Lane) -> Facts:
    is_finite = bool(np.isfinite(sample).all())
    numbers = np.nan_to_num(sample.astype(np.float64))
    peak, clipped = None, 0.0
    if lane.input.kind == "audio" and captured.data.ndim == 1 and captured.data.size:
        loud = np.abs(captured.data.astype(np.float64))
        peak, clipped = float(loud.max()), float((loud >= _CLIPPED).mean())
    limits = 0.0
    if sample.dtype.kind in "iu":
        ends = np.iinfo(sample.dtype)
        low = ends.min if ends.min < 0 else ends.max  # 0 is a number like others
        limits = float(((sample == low) | (sample == ends.max)).mean())
    return Facts(
        digest=blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=16).digest(),
        finite=is_finite,
        low=float(numbers.min()),
        high=float(numbers.max()),
        mean=float(numbers.mean()),
        limits=limits,
        peak=peak,
        clipped=clipped,
        largest=_largest(numbers, lane),
    )


def _largest(numbers: NDArray[np.float64], lane: Lane) -> tuple[float, ...]:
    """Return the largest magnitude of each channel of scaled rows; empty where none are."""
    spec = lane.input.tensor
    if spec is None or spec.scale is None or numbers.ndim > 2:
        return ()
    rows = numbers.T if lane.input.layout == "CT" and numbers.ndim == 2 else numbers
    by_channel = np.abs(rows.reshape(-1, len(spec.channels))).max(axis=0)
    return tuple(float(one) for one in by_channel)
