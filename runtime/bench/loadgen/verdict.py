"""LoadGen's own logs, and what they say of a run.

The detail log is of lines ``:::MLLOG {JSON}`` with a key, a value and whether it is an
error; the summary is the same for people. The verdict is taken from the former, and must be
that of the latter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ....models.errors import DataError
from ..scenario_record import Scenario
from .messages import LOGS

_MARK = ":::MLLOG "
_MOST_BYTES = 64 << 20
_PERCENTILE = re.compile(r"result_(\d+\.\d+)_percentile_latency_ns")
_PER_QUERY = re.compile(r"result_(\d+\.\d+)_percentile_per_query_latency_ns")


class Verdict(Struct, frozen=True, kw_only=True):
    """What LoadGen says of a run.

    ``percentiles_ms`` are its latencies by percentile ("90.00"): of queries in MultiStream,
    else of samples. ``estimate_ms`` is the early-stopping estimate of SingleStream and
    MultiStream, None where there were too few queries for one. ``samples_per_s`` is None where
    it does not count them. ``says`` is its one word, VALID or INVALID; a run that it logs an
    error of is not valid here, whatever that says.
    """

    loadgen: str
    scenario: Scenario
    says: str
    valid: bool
    why_invalid: tuple[str, ...]
    queries: int
    min_duration_s: float
    percentiles_ms: dict[str, float]
    estimate_ms: float | None
    samples_per_s: float | None


class _Meta(Struct, frozen=True):
    is_error: bool = False


class _Entry(Struct, frozen=True):
    key: str
    value: Any
    metadata: _Meta = _Meta()


def read_verdict(folder: Path) -> Verdict:
    """Return what the logs in ``folder`` say.

    Raises:
        DataError: one is missing or cut off, or they contradict each other.
    """
    detail, summary = (_text(folder / f"{LOGS}{name}.txt") for name in ("detail", "summary"))
    verdict = parse_detail(detail, where=str(folder))
    told = parse_summary(summary).get("Result is")
    if told != verdict.says:
        raise DataError(f"LoadGen's logs contradict each other: {told}", where=str(folder))
    return verdict


def parse_summary(text: str) -> dict[str, str]:
    """Return what stands after each colon of LoadGen's summary."""
    pairs = (line.rpartition(":") for line in text.splitlines())
    return {key.strip(" *"): value.strip() for key, colon, value in pairs if colon}


def parse_detail(text: str, *, where: str) -> Verdict:
    """Return what the detail log says.

    Raises:
        DataError: it is cut off, or no log of a run's.
    """
    entries = list(_entries(text, where=where))
    values = {entry.key: entry.value for entry in entries}
    errors = [str(entry.value) for entry in entries if entry.metadata.is_error]
    try:
        return _verdict(values, errors)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            "LoadGen's log is cut off",
            where=where,
            hint="is the disk full? it says nothing of what came of the run",
        ) from error


def _verdict(values: Mapping[str, Any], errors: list[str]) -> Verdict:
    scenario: Scenario = values["effective_scenario"]
    per_query = scenario == "MultiStream"
    pattern = _PER_QUERY if per_query else _PERCENTILE
    estimate_ns = {
        "SingleStream": values.get("early_stopping_latency_ss"),
        "MultiStream": values.get("early_stopping_latency_ms"),
    }.get(scenario)
    return Verdict(
        loadgen=str(values["loadgen_version"]),
        scenario=scenario,
        says=str(values["result_validity"]),
        valid=values["result_validity"] == "VALID" and not errors,
        why_invalid=tuple(_why(values, errors)),
        queries=int(values["result_query_count"]),
        min_duration_s=values["effective_min_duration_ms"] / 1e3,
        percentiles_ms={
            found[1]: value / 1e6
            for key, value in values.items()
            if (found := pattern.fullmatch(key)) is not None
        },
        estimate_ms=estimate_ns / 1e6 if estimate_ns and values["early_stopping_met"] else None,
        samples_per_s=values.get(
            {
                "SingleStream": "result_qps_with_loadgen_overhead",
                "Server": "result_completed_samples_per_sec",
                "Offline": "result_samples_per_second",
            }.get(scenario, "")
        ),
    )


def _why(values: Mapping[str, Any], errors: list[str]) -> Iterator[str]:
    """Yield what speaks against the run, in LoadGen's own words."""
    unmet = {
        "result_perf_constraints_met": "Performance constraints satisfied : NO",
        "result_min_duration_met": "Min duration satisfied : NO",
        "result_min_queries_met": "Min queries satisfied : NO",
        "early_stopping_met": "Early stopping satisfied: NO",
    }
    yield from (words for key, words in unmet.items() if values.get(key) is False)
    if reason := str(values.get("result_invalid_reason", "")).strip():
        yield reason
    if values["early_stopping_met"] is False:
        yield " ".join(str(values["early_stopping_result"]).split())
    yield from errors


def _entries(text: str, *, where: str) -> Iterator[_Entry]:
    decoder = msgspec.json.Decoder(_Entry)
    for line in text.splitlines():
        if line.startswith(_MARK):
            try:
                yield decoder.decode(line.removeprefix(_MARK))
            except msgspec.DecodeError as error:
                raise DataError("a line of LoadGen's log cannot be read", where=where) from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise DataError(f"LoadGen left no log: {error.strerror}", where=str(path)) from error
