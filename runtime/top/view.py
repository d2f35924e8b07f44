"""One device as a screen: what is known of it, as lines of text. Pure, no terminal needed.

From top to bottom: who it is and how it fares, each stream, and what they share. Streams are
shown with as much as there is room for: with the stages of their latency, without, or on one
line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...telemetry.energy.figures import NOT_RESOLVABLE, EnergyReport, Joules
from ...telemetry.filter_state import FilterState, ShadowState
from ...telemetry.gate_state import AuditState, GateState, PromiseIs
from ...telemetry.ledger import ENDS, FINALS, ROUTES, STAGES, Latency, SourceState, StreamReport
from ...telemetry.snapshot import Snapshot
from ..policy import ALEATORIC, EPISTEMIC, NEITHER, NO_EDGE, SCORE, SURE
from . import numbers
from .lines import Line, Part, Span, Style, bar, cut, ends, flow, width
from .numbers import MISSING
from .rates import Rates, StreamRates, escalated, rates
from .seen import Seen

_DECISIONS = frozenset(one.reason for one in (SURE, SCORE, EPISTEMIC, ALEATORIC, NEITHER, NO_EDGE))
_ROUTES: dict[str, tuple[str, Style]] = {
    "accepted": ("█", "good"),
    "escalated": ("▒", "warn"),
    "dropped": ("·", "dim"),
    "reused": ("-", "dim"),
    "failed": ("!", "bad"),
    "overrun": ("^", "bad"),
}
_PROMISES: dict[PromiseIs, Style] = {"kept": "good", "tightened": "warn", "unkept": "bad"}
_USUAL_ENDS = ("answered", "expired")
_TROUBLES = ("evicted", "dead", "lost", "not_stored", "queue_full", "undelivered", "unheard")
_HARMLESS = frozenset(
    {
        *("telemetry_log_lines", "telemetry_log_rotations", "reloads", "traces", "traces_skipped"),
        *("spans_sent", "engines_cached", "engines_built"),
    }
)
_INDENT = 10
_NAME = 12
_FIRST = ("  filter", "")
_BRIEF_BAR = 14
_MOST_REASONS = 8

Item = Line


def screen(seen: Seen, *, columns: int, rows: int | None = None) -> list[Line]:
    """Return at most ``rows`` lines of at most ``columns``; None: as many as there are."""
    head = [*_header(seen, columns), _rule(columns)]
    if seen.now is None:
        return _fitted([*head, *_waiting(seen)], columns, rows)
    now = rates(seen.before, seen.now) if seen.current else Rates()
    foot = [_rule(columns), *_footer(seen, seen.now, now, columns)]
    room = None if rows is None else max(1, rows - len(head) - len(foot))
    return _fitted([*head, *_streams(seen.now, now, columns, room), *foot], columns, rows)


def summary(seen: Seen) -> str:
    """Return how a device fares, on one line, for where there is no terminal."""
    said = [f"{seen.device or MISSING}@{seen.site or MISSING}", seen.state or "state not known"]
    if seen.stale:
        said.append(f"STALE for {numbers.duration(seen.age_s)}")
    if seen.trouble is not None:
        said.append(seen.trouble)
    if seen.now is not None:
        now = rates(seen.before, seen.now) if seen.current else Rates()
        said += [_brief_words(name, one, now) for name, one in seen.now.streams.items()]
        said.append(f"up {numbers.rate(now.up_bytes_per_s, 'B')}")
        said.append("".join(span.text for span in _power(seen.now)))
    return "; ".join(said)


def _brief_words(name: str, one: StreamReport, now: Rates) -> str:
    return (
        f"{name} {numbers.rate(now.of(name).samples_per_s)} read {numbers.count(one.read)} "
        f"escalated {numbers.share(escalated(one.routes))} waiting {numbers.count(one.waiting)} "
        f"final p99 {numbers.ms(_final_p99(one))} ms"
    )


def _fitted(lines: list[Line], columns: int, rows: int | None) -> list[Line]:
    return [cut(line, columns) for line in lines[:rows]]


def _rule(columns: int) -> Line:
    return (Span("─" * columns, "dim"),)


def _words(text: str, style: Style = "") -> Item:
    return (Span(text, style),)


def _pair(name: str, value: str, style: Style = "") -> Item:
    return (Span(f"{name} ", "dim"), Span(value, style))


def _dimmed(item: Item) -> Item:
    return tuple(Span(span.text, "dim") for span in item)


# ---- The header: who it is, and how it fares.


def _header(seen: Seen, columns: int) -> Iterator[Line]:
    now = seen.now
    version = None if now is None else now.version
    name: Line = (
        Span(seen.device or (now and now.device) or MISSING, "head"),
        Span(f"  site {seen.site or (now and now.site) or MISSING}"),
        Span(f"  hedge {version or MISSING}", "dim"),
    )
    yield ends(name, _state(seen), columns)
    if now is not None:
        items = list(_condition(now))
        if seen.current:
            yield from flow(items, columns)
        else:
            yield from flow([_dimmed(item) for item in items], columns, indent=6, first="then")
    note = seen.note or (now and now.note)
    if note:
        yield (Span("note  ", "dim"), Span(note, "warn"))
    if seen.trouble is not None:
        yield (Span(seen.trouble, "bad"),)


def _state(seen: Seen) -> Line:
    state = seen.state or "state not known"
    style: Style = "bad" if seen.offline else "good" if seen.state else "dim"
    line: Line = (Span(state, style),)
    if seen.age_s is None:
        return line
    if seen.stale:
        return (*line, Span("  "), Span(f"STALE for {numbers.duration(seen.age_s)}", "bad"))
    return (*line, Span(f"  {numbers.duration(seen.age_s)} ago", "dim"))


def _condition(now: Snapshot) -> Iterator[Item]:
    yield _pair("up", numbers.duration(now.uptime_s))
    match now.connected:
        case True:
            yield _words("broker connected", "good")
        case False:
            yield _words("broker NOT CONNECTED", "bad")
        case None:
            yield _pair("broker", MISSING)
    board = now.board
    yield _pair("mode", (board and board.power_mode) or MISSING)
    yield from _heat(now)
    yield _power(now)


def _heat(now: Snapshot) -> Iterator[Item]:
    board = now.board
    if board is None or board.temp_c is None:
        yield _pair("temperature", MISSING)
    else:
        zone = f" {board.zone}" if board.zone else ""
        yield (Span(f"{board.temp_c:.1f} °C", "bold"), Span(zone, "dim"))
    if board is None or board.throttled is None:
        yield _pair("throttled", MISSING)
    elif board.throttled:
        by = f" by {', '.join(board.throttled_by)}" if board.throttled_by else ""
        yield _words(f"THROTTLED{by}", "bad")


def _power(now: Snapshot) -> Item:
    energy = now.energy
    if energy is None or energy.power_w is None:
        shown: Item = _pair("power", MISSING)
    else:
        shown = (Span(numbers.si(energy.power_w, "W"), "bold"),)
    return (*shown, Span(" replayed", "warn")) if energy is not None and energy.replayed else shown


def _waiting(seen: Seen) -> Iterator[Line]:
    yield (Span("no snapshot has come yet"),)
    if seen.malformed or seen.oversized:
        yield (Span(_passed_over(seen), "warn"),)


# ---- The streams.


def _streams(now: Snapshot, pace: Rates, columns: int, room: int | None) -> list[Line]:
    """Return the streams with as much as there is room for."""
    for block in (_full, _spaced, _short):
        blocks = [list(block(one, name, pace.of(name), columns)) for name, one in _by_name(now)]
        if room is None or sum(map(len, blocks)) <= room:
            return [line for lines in blocks for line in lines]
    return _brief(now, pace, columns, room or 0)


def _by_name(now: Snapshot) -> list[tuple[str, StreamReport]]:
    return list(now.streams.items())


def _full(one: StreamReport, name: str, pace: StreamRates, columns: int) -> Iterator[Line]:
    yield from _short(one, name, pace, columns)
    if one.model is not None:
        yield from flow([_words(one.model)], columns, indent=_INDENT, first="  model")
    for first, keys, found in (
        ("  stages", STAGES, one.latency_ms),
        ("  first", ROUTES, one.first_ms),
        ("  final", FINALS, one.final_ms),
    ):
        items = [_pair(key, _quantiles(found[key])) for key in keys if key in found]
        if items:
            items.append(_words("p50 / p99 ms", "dim"))
            yield from flow(items, columns, indent=_INDENT, first=first)
    yield ()


def _spaced(one: StreamReport, name: str, pace: StreamRates, columns: int) -> Iterator[Line]:
    yield from _short(one, name, pace, columns)
    yield ()


def _short(one: StreamReport, name: str, pace: StreamRates, columns: int) -> Iterator[Line]:
    yield from _opening(one, name, pace, columns)
    if one.source is not None and one.source.state != "open":
        yield from flow(list(_source(one.source)), columns, indent=_INDENT, first="  source")
    yield from flow(list(_legend(one)), columns, indent=_INDENT, first="  routes")
    yield from flow(list(_asked(one, pace)), columns, indent=_INDENT, first="  asked")
    if one.gate is not None:
        yield from flow(list(_gate(one.gate)), columns, indent=_INDENT, first="  gate")
    for number, state in enumerate(one.filters):
        yield from flow(list(_filter(state)), columns, indent=_INDENT, first=_FIRST[number > 0])
    latency = [_latency(which, one.latency_ms.get(which)) for which in ("first", "final")]
    yield from flow(latency, columns, indent=_INDENT, first="  latency")
    yield from flow(list(_energy(one)), columns, indent=_INDENT, first="  energy")
    if reasons := list(_reasons(one)):
        yield from flow(reasons, columns, indent=_INDENT, first="  reasons")


def _opening(one: StreamReport, name: str, pace: StreamRates, columns: int) -> Iterator[Line]:
    left = (
        Span(f"{name[: 2 * _NAME]:<{_NAME}}", "head"),
        Span(f"{numbers.rate(pace.samples_per_s):>10}", "bold"),
        Span("  "),
    )
    right = (Span("  "), *_pair("read", numbers.count(one.read)))
    room = columns - width(left) - width(right)
    yield (*left, *_bar(one.routes, room), *right)


def _source(source: SourceState) -> Iterator[Item]:
    said = f"{source.state} for {numbers.duration(source.since_s)}"
    yield _words(said, "bad" if source.state == "away" else "dim")
    if source.why is not None:
        yield _words(source.why, "warn")


def _bar(routes: Mapping[str, int], columns: int) -> Line:
    return bar([Part(routes.get(name, 0), *look) for name, look in _ROUTES.items()], columns)


def _legend(one: StreamReport) -> Iterator[Item]:
    for name, (glyph, style) in _ROUTES.items():
        amount = one.routes.get(name, 0)
        if amount or name in {"accepted", "escalated", "dropped"}:
            part = amount / one.read if one.read > 0 else None
            yield (Span(glyph, style), Span(f" {name} ", "dim"), Span(numbers.share(part)))


def _asked(one: StreamReport, pace: StreamRates) -> Iterator[Item]:
    yield (
        Span(numbers.share(escalated(one.routes)), "bold"),
        Span(" of kept, now ", "dim"),
        Span(numbers.share(pace.escalated)),
    )
    yield _pair("answered", numbers.count(one.ends.get("answered")))
    expired = one.ends.get("expired")
    yield _pair("expired", numbers.count(expired), "warn" if expired else "")
    yield _pair("waiting", numbers.count(one.waiting))
    for end in ENDS:
        if end not in _USUAL_ENDS and one.ends.get(end):
            yield _pair(end, numbers.count(one.ends[end]), "bad")


def _gate(gate: GateState) -> Iterator[Item]:
    """Yield where the gate stands, what is known of what it lets pass, and what moves it."""
    yield (Span(_threshold(gate.total), "bold"), Span(f" {gate.score}", "dim"))
    if gate.total != gate.calibrated:
        yield _pair("calibrated", _threshold(gate.calibrated))
    if gate.promise is not None:
        yield _pair("promise", gate.promise.state, _PROMISES[gate.promise.state])
    if gate.audit is not None:
        yield from _audited(gate.audit)
    if gate.drift is not None and gate.drift.statistic is not None:
        style: Style = "bad" if gate.drift.drifting else ""
        yield _pair(
            "DRIFT" if gate.drift.drifting else "drift", f"{gate.drift.statistic:.2f}", style
        )
    if gate.budget is not None:
        spent, budget = gate.budget.last_hour, gate.budget.per_hour
        if gate.budget.unit == "bytes":
            yield _pair("spent", f"{numbers.si(spent, 'B')} of {numbers.si(budget, 'B')} an hour")
        else:
            yield _pair("spent", f"{spent:.0f} of {budget:.6g} an hour")


def _filter(one: FilterState) -> Iterator[Item]:
    """Yield how much a filter rules out, what is known of its errors, and what it remembers."""
    off: Item = _words(" OFF", "bad") if one.state == "off" else ()
    yield (Span(one.name, "bold"), *off)
    yield _pair("filtered", numbers.share(one.filtered / one.seen if one.seen else None))
    if one.shadow is not None:
        yield from _shadow(one.shadow, why=one.why)
    if one.cache is not None:
        yield _pair("keys", f"{numbers.count(one.cache.keys)} of {numbers.count(one.cache.most)}")
    if one.labels is not None:
        yield _pair("labels asked", numbers.count(one.labels.asked))
    if one.failed:
        yield _pair("failed", numbers.count(one.failed), "warn")
    if one.left_out:
        yield _pair("left out", numbers.count(one.left_out), "warn")


def _shadow(shadow: ShadowState, *, why: str | None) -> Iterator[Item]:
    if shadow.error is None:
        yield _pair("shadowed", numbers.count(shadow.judged))
        return
    limit = "" if shadow.limit is None else f" of {numbers.share(min(1.0, shadow.limit))} allowed"
    yield (
        *_pair("wrong", numbers.share(shadow.error), "bad" if why else "bold"),
        Span(f" ({numbers.share(shadow.low)} to {numbers.share(shadow.high)}){limit}"),
        Span(f", {numbers.count(shadow.judged)} shadowed", "dim"),
    )


def _threshold(total: float) -> str:
    return f"{total:.3f}" if total >= 0 else "nothing passes"


def _audited(audit: AuditState) -> Iterator[Item]:
    if audit.error is None:
        yield _pair("audited", numbers.count(audit.judged))
        return
    bounds = f" ({numbers.share(audit.low)} to {numbers.share(audit.high)})"
    yield (
        *_pair("wrong", numbers.share(audit.error), "bold"),
        Span(bounds),
        Span(f" of {numbers.count(audit.rows)} audited", "dim"),
    )


def _latency(name: str, given: Latency | None) -> Item:
    p50, p99 = (None, None) if given is None else (given.p50, given.p99)
    return (
        Span(f"{name} ", "dim"),
        *(*_pair("p50", numbers.ms(p50), "bold"), Span(" ")),
        *(*_pair("p99", numbers.ms(p99), "bold"), Span(" ms", "dim")),
    )


def _quantiles(given: Latency) -> str:
    return f"{numbers.ms(given.p50)} / {numbers.ms(given.p99)}"


def _final_p99(one: StreamReport) -> float | None:
    final = one.latency_ms.get("final")
    return None if final is None else final.p99


def _energy(one: StreamReport) -> Iterator[Item]:
    """Yield the joules of one answer by route."""
    if one.energy is None:
        yield _words(f"{MISSING} none is measured", "dim")
        return
    each = {
        name: numbers.joules(found.each_j)
        for name in ROUTES
        if (found := one.energy.routes.get(name)) is not None
        and (found.count or name in {"accepted", "escalated"})
    }
    told = set(each.values())
    if told in ({MISSING}, {NOT_RESOLVABLE}):
        yield _words(told.pop())
        return
    for name, shown in each.items():
        yield _pair(name, shown)
    yield _words("each", "dim")


def _reasons(one: StreamReport) -> Iterator[Item]:
    """Yield why samples came to nothing or answers were degraded; not what the policy says."""
    found = [(n, name) for name, n in one.reasons.items() if n and name not in _DECISIONS]
    found.sort(key=lambda each: (-each[0], each[1]))
    for n, name in found[:_MOST_REASONS]:
        yield _pair(name, numbers.count(n), "warn")
    if len(found) > _MOST_REASONS:
        yield _words(f"and {len(found) - _MOST_REASONS} more", "dim")


def _brief(now: Snapshot, pace: Rates, columns: int, room: int) -> list[Line]:
    """Return a table of one line for each stream, and what had no room."""
    streams = _by_name(now)
    head = f"{'stream':<{_NAME}}{'now':>10} {'routes':<{_BRIEF_BAR}}"
    head += f"{'escalated':>10}{'answered':>10}{'expired':>9}{'p99 ms':>9}"
    lines: list[Line] = [(Span(head, "dim"),)]
    shown = streams if len(streams) < room else streams[: max(0, room - 2)]
    for name, one in shown:
        line = (
            Span(f"{name[: _NAME - 1]:<{_NAME}}", "head"),
            Span(f"{numbers.rate(pace.of(name).samples_per_s):>10} ", "bold"),
            *_bar(one.routes, _BRIEF_BAR),
            Span(f"{numbers.share(escalated(one.routes)):>10}", "bold"),
            Span(f"{numbers.count(one.ends.get('answered')):>10}"),
            Span(f"{numbers.count(one.ends.get('expired')):>9}"),
            Span(f"{numbers.ms(_final_p99(one)):>9}"),
        )
        lines.append(cut(line, columns))
    if len(shown) < len(streams):
        lines.append((Span(f"and {len(streams) - len(shown)} streams more: no room", "warn"),))
    return lines[:room]


# ---- The footer: what the streams share.


def _style(count: str) -> Style:
    """Return how to show a count of the device: most are of what should not be."""
    return "" if count in _HARMLESS else "warn"


def _footer(seen: Seen, now: Snapshot, pace: Rates, columns: int) -> Iterator[Line]:
    yield from flow(list(_uplink(now, pace)), columns, indent=_INDENT, first="uplink")
    yield from flow(list(_energy_of_all(now.energy)), columns, indent=_INDENT, first="energy")
    process = [
        _pair("memory", numbers.si(now.rss_bytes, "B"), "bold"),
        _pair("CPU", numbers.share(pace.cpu), "bold"),
        *(_pair(name, numbers.count(n), _style(name)) for name, n in now.counts.items() if n),
        _pair("session", str(now.session)),
    ]
    if seen.malformed or seen.oversized:
        process.append(_words(_passed_over(seen), "warn"))
    yield from flow(process, columns, indent=_INDENT, first="process")


def _uplink(now: Snapshot, pace: Rates) -> Iterator[Item]:
    if now.connected is None and not now.uplink:
        yield _words(f"{MISSING} there is none", "dim")
        return
    yield (Span("up ", "dim"), Span(numbers.rate(pace.up_bytes_per_s, "B"), "bold"))
    yield (Span("down ", "dim"), Span(numbers.rate(pace.down_bytes_per_s, "B")))
    for name in ("sent", "resent"):
        yield _pair(name, numbers.count(now.uplink.get(name)))
    yield _pair("outbox", numbers.count(now.uplink.get("outbox_held")))
    yield (Span(numbers.si(now.uplink.get("outbox_log_bytes"), "B"), "dim"),)
    for name in _TROUBLES:
        if now.uplink.get(name):
            yield _pair(name, numbers.count(now.uplink[name]), "bad")


def _energy_of_all(energy: EnergyReport | None) -> Iterator[Item]:
    if energy is None:
        yield _words(f"{MISSING} no sensor is read", "dim")
        return
    yield _pair("total", numbers.joules(energy.total_j))
    yield _pair("net of idle", _net(energy.net_j, energy))
    if energy.replayed:
        yield _words("replayed", "warn")
    yield _pair("coverage", numbers.share(energy.coverage), "" if energy.coverage > 0.9 else "warn")
    if energy.unchanged_s > 0:
        yield _pair("maybe frozen", numbers.duration(energy.unchanged_s), "warn")
    for name, n in energy.faults.items():
        if n:
            yield _pair(name, numbers.count(n), "warn")
    yield _words(f"{energy.source} ({energy.scope})", "dim")


def _net(net: Joules, energy: EnergyReport) -> str:
    if net is None and energy.idle_w is None:
        return f"{MISSING} (no baseline)"
    return numbers.joules(net)


def _passed_over(seen: Seen) -> str:
    """Say what came and was no snapshot."""
    found = ((seen.malformed, "malformed"), (seen.oversized, "oversized"))
    return ", ".join(f"{n} {what} passed over" for n, what in found if n)
