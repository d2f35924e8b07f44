"""The tables of an SQLite file of outcomes and events, and how earlier ones become today's."""

from __future__ import annotations

import msgspec
import numpy as np

from ...models.records import Outcome
from ..events.event import Event

APPLICATION_ID = 0x68656467  # "hedg": at byte 68 of the file, by which ours is known
_DIGITS = 6

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE outcome (
            n INTEGER PRIMARY KEY,
            at_s REAL NOT NULL,
            stream TEXT NOT NULL,
            id TEXT NOT NULL,
            final INTEGER NOT NULL,
            route TEXT NOT NULL,
            label TEXT,
            probability REAL,
            latency_ms REAL NOT NULL,
            score REAL,
            score_name TEXT,
            reason TEXT,
            degraded TEXT,
            reused_from TEXT,
            energy_j REAL,
            probs TEXT
        )""",
        "CREATE INDEX outcome_at ON outcome (at_s)",
        "CREATE INDEX outcome_stream ON outcome (stream, at_s)",
        """CREATE TABLE event (
            n INTEGER PRIMARY KEY,
            at_s REAL NOT NULL,
            stream TEXT NOT NULL,
            event TEXT NOT NULL,
            id TEXT NOT NULL UNIQUE,
            label TEXT NOT NULL,
            opened_at_s REAL NOT NULL,
            closed_at_s REAL,
            why TEXT,
            count INTEGER NOT NULL,
            peak REAL,
            samples TEXT NOT NULL,
            clip TEXT,
            clip_bytes INTEGER,
            clip_why TEXT
        )""",
        "CREATE INDEX event_at ON event (at_s)",
        "CREATE INDEX event_stream ON event (stream, at_s)",
    ),
)
"""What leads from each version (SQLite's user_version; 0: no tables) to the next."""

PUT_OUTCOME = (
    "INSERT INTO outcome (at_s, stream, id, final, route, label, probability, latency_ms, score,"
    " score_name, reason, degraded, reused_from, energy_j, probs)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
PUT_EVENT = (
    "INSERT INTO event (at_s, stream, event, id, label, opened_at_s, closed_at_s, why, count, peak,"
    " samples, clip, clip_bytes, clip_why) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT (id) DO UPDATE SET at_s = excluded.at_s,"
    " closed_at_s = coalesce(excluded.closed_at_s, closed_at_s),"
    " why = coalesce(excluded.why, why), count = max(excluded.count, count),"
    " peak = coalesce(excluded.peak, peak),"
    " clip = coalesce(excluded.clip, clip), clip_bytes = coalesce(excluded.clip_bytes, clip_bytes),"
    " clip_why = coalesce(excluded.clip_why, clip_why)"
)
"""One row for each event, however often it is told; ``samples`` are those that opened it."""

Row = tuple[str | float | int | None, ...]


def outcome_row(outcome: Outcome, labels: tuple[str, ...], *, at_s: float) -> Row:
    """Return what `PUT_OUTCOME` takes; the probabilities last, rounded, as a JSON array."""
    opinion, probs = outcome.opinion, outcome.probs
    return (
        at_s,
        outcome.stream,
        outcome.id,
        int(outcome.final),
        outcome.route,
        None if outcome.label is None else labels[outcome.label],
        None if probs is None else round(float(probs.max()), _DIGITS),
        outcome.latency_ns / 1e6,
        None if opinion is None else float(opinion.score),
        None if opinion is None else opinion.score_name,
        outcome.reason,
        outcome.degraded,
        outcome.reused_from,
        outcome.energy_j,
        None if probs is None else _array(np.round(probs.astype(np.float64), _DIGITS).tolist()),
    )


def event_row(event: Event, *, at_s: float) -> Row:
    """Return what `PUT_EVENT` takes."""
    clip = event.clip
    return (
        at_s,
        event.stream,
        event.event,
        event.id,
        event.label,
        event.opened_at_s,
        event.closed_at_s,
        event.why,
        event.count,
        event.peak,
        _array(event.samples),
        None if clip is None else clip.path,
        None if clip is None else clip.bytes,
        None if clip is None else clip.why,
    )


def _array(values: list[float] | tuple[str, ...]) -> str:
    return msgspec.json.encode(values).decode()
