"""Every metric of a device, as docs/metrics.md lists them.

Counters count since the start of the session, so they begin at 0 after a restart, as
Prometheus expects. Energies that an idle baseline was taken from, or that are shares of such,
can fall: they are gauges.
"""

from __future__ import annotations

from collections.abc import Mapping

from .exposition import Family

_STREAM = ("stream", "model")

BUILD = Family("hedge_build_info", "gauge", "Who tells this.", ("version", "device", "site"))
SESSION = Family("hedge_session", "gauge", "Number of this run; a restart adds one.")
UPTIME = Family("hedge_uptime_seconds", "gauge", "Since the start of this run.")
AT = Family("hedge_snapshot_timestamp_seconds", "gauge", "When this was, by the device's clock.")
RESIDENT = Family("process_resident_memory_bytes", "gauge", "Memory that is resident.")
CPU = Family("process_cpu_seconds_total", "counter", "CPU time, user and system.")

SAMPLES = Family(
    "hedge_samples_total", "counter", "Samples read, by the way they went.", (*_STREAM, "route")
)
ENDS = Family(
    "hedge_ends_total", "counter", "Escalated samples that ended, by how.", (*_STREAM, "end")
)
RESUMED = Family(
    "hedge_resumed_total", "counter", "Samples that an earlier run had escalated.", _STREAM
)
WAITING = Family("hedge_waiting", "gauge", "Escalated samples without a final outcome.", _STREAM)
REASONS = Family(
    "hedge_reasons_total", "counter", "Decisions and failures, by reason.", (*_STREAM, "reason")
)
STAGE = Family("hedge_stage_seconds", "histogram", "What a stage took.", (*_STREAM, "stage"))
FIRST = Family(
    "hedge_first_outcome_seconds",
    "histogram",
    "From a sample's capture to its first outcome.",
    (*_STREAM, "route"),
)
FINAL = Family(
    "hedge_final_outcome_seconds",
    "histogram",
    "From a sample's capture to its final outcome, by whose it is.",
    (*_STREAM, "whose"),
)
SOURCE_OPEN = Family("hedge_source_open", "gauge", "Whether a live source is there.", _STREAM)
SOURCE_OPENED = Family(
    "hedge_source_opened_total", "counter", "How often a live source was opened.", _STREAM
)
SOURCE_LOST = Family(
    "hedge_source_lost_total",
    "counter",
    "How often a live source went away, or could not be opened.",
    _STREAM,
)
GATE = Family(
    "hedge_gate_threshold",
    "gauge",
    "The score from which samples are escalated.",
    (*_STREAM, "score"),
)
GATE_CALIBRATED = Family(
    "hedge_gate_calibrated_threshold",
    "gauge",
    "The same, as calibration has it.",
    (*_STREAM, "score"),
)
BUDGET = Family(
    "hedge_gate_budget_per_hour", "gauge", "What may be escalated in an hour.", (*_STREAM, "unit")
)
SPENT = Family(
    "hedge_gate_spent_per_hour", "gauge", "What was escalated in the last hour.", (*_STREAM, "unit")
)
STRAYED = Family(
    "hedge_gate_strayed_ratio",
    "gauge",
    "How far the worst hour was off its budget, as a share of it.",
    (*_STREAM, "unit"),
)
PROMISE = Family(
    "hedge_promise_state", "gauge", "Whether the bundle's promise holds.", (*_STREAM, "state")
)
PROMISED = Family(
    "hedge_promise_error_ratio", "gauge", "How much of what is accepted may be wrong.", _STREAM
)
MOVES = Family(
    "hedge_promise_moves_total",
    "counter",
    "How often the gate was moved for it.",
    (*_STREAM, "way"),
)
DRAWN = Family("hedge_audit_drawn_total", "counter", "Samples drawn for the audit.", _STREAM)
AUDITED = Family(
    "hedge_audit_asked_total", "counter", "Accepted ones of them that were asked about.", _STREAM
)
JUDGED = Family(
    "hedge_audit_judged_total", "counter", "Drawn samples that have an answer.", _STREAM
)
ERROR = Family(
    "hedge_audit_error_ratio", "gauge", "Share of the accepted answers that are wrong.", _STREAM
)
ERROR_LOW = Family("hedge_audit_error_low_ratio", "gauge", "It is not less than this.", _STREAM)
ERROR_HIGH = Family("hedge_audit_error_high_ratio", "gauge", "It is not more than this.", _STREAM)
DRIFT = Family(
    "hedge_drift_index", "gauge", "How far the scores are from those of calibration.", _STREAM
)
DRIFT_LIMIT = Family("hedge_drift_limit", "gauge", "From here on that is too far.", _STREAM)
DRIFTING = Family("hedge_drifting", "gauge", "Whether they are too far.", _STREAM)
DRIFTS = Family("hedge_drifts_total", "counter", "How often it became too far.", _STREAM)
_FILTER = (*_STREAM, "filter")
FILTER_ON = Family("hedge_filter_on", "gauge", "Whether the filter filters.", _FILTER)
FILTER_SEEN = Family("hedge_filter_seen_total", "counter", "Samples it has judged.", _FILTER)
FILTERED = Family("hedge_filter_filtered_total", "counter", "Those that it ruled out.", _FILTER)
FILTER_FAILED = Family(
    "hedge_filter_failed_total", "counter", "Samples that it failed on, and let pass.", _FILTER
)
FILTER_LEFT_OUT = Family(
    "hedge_filter_left_out_total", "counter", "Samples it was not tried on.", _FILTER
)
SHADOWED = Family(
    "hedge_filter_shadow_drawn_total", "counter", "Ruled out, and drawn for the model.", _FILTER
)
SHADOW_JUDGED = Family(
    "hedge_filter_shadow_judged_total", "counter", "Drawn ones that are known about.", _FILTER
)
SHADOW_ERROR = Family(
    "hedge_filter_error_ratio", "gauge", "Share that it ruled out wrongly.", _FILTER
)
SHADOW_LOW = Family("hedge_filter_error_low_ratio", "gauge", "It is not less than this.", _FILTER)
SHADOW_HIGH = Family("hedge_filter_error_high_ratio", "gauge", "It is not more than this.", _FILTER)
SHADOW_LIMIT = Family("hedge_filter_error_limit_ratio", "gauge", "What it may be.", _FILTER)
FILTER_KEYS = Family("hedge_filter_keys", "gauge", "Keys that a reuse filter knows.", _FILTER)
FILTER_EVICTED = Family(
    "hedge_filter_keys_evicted_total", "counter", "Keys that gave way to others.", _FILTER
)
FILTER_EXPIRED = Family(
    "hedge_filter_keys_expired_total", "counter", "Keys that grew too old.", _FILTER
)
LABELS_ASKED = Family(
    "hedge_filter_labels_asked_total",
    "counter",
    "Samples that the far end was asked about, to teach the filter anew.",
    (*_FILTER, "why"),
)
LABELS_CUT = Family(
    "hedge_filter_labels_cut", "gauge", "How far from the threshold is asked about.", _FILTER
)
LABELS_LEFT = Family(
    "hedge_filter_labels_left", "gauge", "How many may be asked about at once.", _FILTER
)
EVENTS = Family("hedge_events_total", "counter", "What the loop has counted.", ("event",))

CONNECTED = Family("hedge_connected", "gauge", "Whether the broker has accepted us.")
DROPPED = Family(
    "hedge_dropped_total", "counter", "Messages that came to nothing.", ("what", "reason")
)
LEFT_BYTES = Family(
    "hedge_uplink_budget_left_bytes", "gauge", "Left of a budget; a debt is negative.", ("per",)
)
LEFT_MESSAGES = Family(
    "hedge_uplink_budget_left_messages", "gauge", "Left of a budget; a debt is negative.", ("per",)
)

ENERGY_INFO = Family(
    "hedge_energy_info", "gauge", "Which sensor is read.", ("source", "scope", "replayed")
)
POWER = Family("hedge_power_watts", "gauge", "The last reading of the total.")
IDLE_POWER = Family("hedge_idle_power_watts", "gauge", "The idle baseline measured before.")
ENERGY = Family("hedge_energy_joules_total", "counter", "All that the total rails took.")
RAIL_ENERGY = Family("hedge_rail_energy_joules_total", "counter", "What a rail took.", ("rail",))
NET_ENERGY = Family("hedge_net_energy_joules", "gauge", "The total without the idle baseline.")
OTHER_ENERGY = Family(
    "hedge_other_energy_joules", "gauge", "Net energy while no stage was at work."
)
STAGE_ENERGY = Family(
    "hedge_stage_energy_joules", "gauge", "Net energy of a stage.", (*_STREAM, "stage")
)
ROUTE_ENERGY = Family(
    "hedge_route_energy_joules", "gauge", "Net energy of a route's samples.", (*_STREAM, "route")
)
ROUTE_BUSY = Family(
    "hedge_route_busy_seconds_total",
    "counter",
    "How long the loop was at work on a route's samples.",
    (*_STREAM, "route"),
)
RESOLVABLE = Family(
    "hedge_energy_resolvable",
    "gauge",
    "Whether the sensor can tell that energy from nothing; 0: there is no figure.",
    ("figure",),
)
RAIL_RESOLVABLE = Family("hedge_rail_energy_resolvable", "gauge", "The same of a rail.", ("rail",))
STAGE_RESOLVABLE = Family(
    "hedge_stage_energy_resolvable", "gauge", "The same of a stage.", (*_STREAM, "stage")
)
ROUTE_RESOLVABLE = Family(
    "hedge_route_energy_resolvable", "gauge", "The same of a route.", (*_STREAM, "route")
)
RESOLUTION = Family(
    "hedge_energy_resolution_joules", "gauge", "The least energy that can be told from nothing."
)
NET_RESOLUTION = Family(
    "hedge_net_energy_resolution_joules", "gauge", "The same of net energies and of shares."
)
COVERAGE = Family(
    "hedge_energy_coverage_ratio", "gauge", "Share of the time between readings that count."
)
READINGS = Family("hedge_energy_readings_total", "counter", "Readings of the sensor.")
ENERGY_WINDOW = Family("hedge_energy_window_seconds", "gauge", "Since the first reading.")
UNCHANGED = Family(
    "hedge_energy_unchanged_seconds", "gauge", "So long every rail stood still: frozen, perhaps."
)
FAULTS = Family("hedge_energy_faults_total", "counter", "Readings that do not count.", ("reason",))

TEMPERATURE = Family("hedge_temperature_celsius", "gauge", "Of the hottest zone.", ("zone",))
THROTTLED = Family("hedge_throttled", "gauge", "Whether the board is slowed down.")
THROTTLED_BY = Family("hedge_throttled_by", "gauge", "What says that it is.", ("cause",))
POWER_MODE = Family("hedge_power_mode_info", "gauge", "The board's power mode.", ("mode",))


def _counter(name: str, text: str) -> Family:
    return Family(f"hedge_uplink_{name}_total", "counter", text)


def _gauge(name: str, text: str) -> Family:
    return Family(f"hedge_uplink_{name}", "gauge", text)


UPLINK: Mapping[str, Family] = {
    "bytes_up": _counter("sent_bytes", "Of topics and payloads."),
    "bytes_down": _counter("received_bytes", "Of topics and payloads."),
    "connects": _counter("connects", "Connections that the broker took."),
    "disconnects": _counter("disconnects", "Connections that were lost."),
    "births": _counter("births", "Words to the broker that we are there."),
    "sent": _counter("sent", "Asks sent for the first time."),
    "resent": _counter("resent", "Asks sent again."),
    "delivered": _counter("delivered", "Asks that the broker acknowledged."),
    "undelivered": _counter("undelivered", "Messages that the broker refused."),
    "unheard": _counter("unheard", "Asks that no worker was there to hear."),
    "unsendable": _counter("unsendable", "Asks that could never be sent; among the refused."),
    "answered": _counter("answered", "Asks that were answered."),
    "claims": _counter("claims", "Claims of a worker on the parts of an ask."),
    "claims_deferred": _counter("claims_deferred", "Claims that had to wait."),
    "telemetry_offered": _counter("telemetry_offered", "Telemetry records made."),
    "telemetry_sent": _counter("telemetry_sent", "Telemetry records sent."),
    "discoveries": _counter("discoveries", "Words to Home Assistant about this device."),
    "outbox_recovered": _counter("outbox_recovered", "Asks found on disk at the start."),
    "outbox_lost": _counter("outbox_lost", "Asks that the disk did not give back."),
    "outbox_damaged_files": _counter("outbox_damaged_files", "Damaged files found."),
    "outbox_dead": _counter("outbox_dead", "Asks laid aside: sent too often, unanswered."),
    "outbox_copied": _counter("outbox_copied", "Asks moved so that an old file can go."),
    "outbox_unfinal": _counter("outbox_unfinal", "Final outcomes that could not be noted."),
    "outbox_disk_errors": _counter("outbox_disk_errors", "Times that the disk failed."),
    "outbox_no_space": _counter("outbox_no_space", "Times that the disk was full."),
    "outbox_commits": _counter("outbox_commits", "Times that the log was made durable."),
    "outbox_held": _gauge("outbox_held", "Asks in the outbox, waiting or sent."),
    "outbox_log_files": _gauge("outbox_log_files", "Files of the outbox."),
    "outbox_log_bytes": _gauge("outbox_log_bytes", "What the outbox takes on disk."),
    "outcomes_offered": _counter("outcomes_offered", "Outcomes to be published."),
    "outcomes_firsts": _counter("outcomes_firsts", "First outcomes sent."),
    "outcomes_sent": _counter("outcomes_sent", "Final outcomes sent for the first time."),
    "outcomes_resent": _counter("outcomes_resent", "Final outcomes sent again."),
    "outcomes_delivered": _counter("outcomes_delivered", "Outcomes that the broker took."),
    "outcomes_undelivered": _counter("outcomes_undelivered", "Outcomes that it refused."),
    "outcomes_recovered": _counter("outcomes_recovered", "Outcomes found on disk."),
    "outcomes_damaged_files": _counter("outcomes_damaged_files", "Damaged files found."),
    "outcomes_disk_errors": _counter("outcomes_disk_errors", "Times that the disk failed."),
    "outcomes_no_space": _counter("outcomes_no_space", "Times that the disk was full."),
    "outcomes_commits": _counter("outcomes_commits", "Times that the log was made durable."),
    "outcomes_waiting": _gauge("outcomes_waiting", "Outcomes that are not delivered yet."),
    "outcomes_log_files": _gauge("outcomes_log_files", "Files of the outcomes."),
    "outcomes_log_bytes": _gauge("outcomes_log_bytes", "What the outcomes take on disk."),
}
"""By the uplink's own name of a counter; those of `DROPS` are told as `DROPPED`."""

DROPS: Mapping[str, tuple[str, str]] = {
    **{
        reason: ("ask", reason)
        for reason in ("queue_full", "not_stored", "evicted", "expired", "refused", "dead", "lost")
    },
    **{
        reason: ("answer", reason)
        for reason in ("late", "duplicate", "malformed", "forged", "oversized", "stray")
    },
    **{
        f"outcomes_{reason}": ("outcome", reason)
        for reason in (
            *("queue_full", "oversized", "thinned", "unsent", "evicted", "dead", "lost"),
        )
    },
}
"""By the uplink's own name of a counter: what came to nothing, and why."""

FAMILIES: tuple[Family, ...] = (
    *(BUILD, SESSION, UPTIME, AT, RESIDENT, CPU),
    *(SAMPLES, ENDS, RESUMED, WAITING, REASONS, STAGE, FIRST, FINAL),
    *(SOURCE_OPEN, SOURCE_OPENED, SOURCE_LOST),
    *(GATE, GATE_CALIBRATED, BUDGET, SPENT, STRAYED, PROMISE, PROMISED, MOVES),
    *(DRAWN, AUDITED, JUDGED, ERROR, ERROR_LOW, ERROR_HIGH),
    *(DRIFT, DRIFT_LIMIT, DRIFTING, DRIFTS),
    *(FILTER_ON, FILTER_SEEN, FILTERED, FILTER_FAILED, FILTER_LEFT_OUT, SHADOWED, SHADOW_JUDGED),
    *(SHADOW_ERROR, SHADOW_LOW, SHADOW_HIGH, SHADOW_LIMIT),
    *(FILTER_KEYS, FILTER_EVICTED, FILTER_EXPIRED, LABELS_ASKED, LABELS_CUT, LABELS_LEFT, EVENTS),
    *(CONNECTED, DROPPED, *UPLINK.values(), LEFT_BYTES, LEFT_MESSAGES),
    *(ENERGY_INFO, POWER, IDLE_POWER, ENERGY, RAIL_ENERGY, NET_ENERGY, OTHER_ENERGY),
    *(STAGE_ENERGY, ROUTE_ENERGY, ROUTE_BUSY),
    *(RESOLVABLE, RAIL_RESOLVABLE, STAGE_RESOLVABLE, ROUTE_RESOLVABLE),
    *(RESOLUTION, NET_RESOLUTION, COVERAGE, READINGS, ENERGY_WINDOW, UNCHANGED, FAULTS),
    *(TEMPERATURE, THROTTLED, THROTTLED_BY, POWER_MODE),
)
"""All of them; a counter of the uplink that is not known here yet is told by its own name."""
