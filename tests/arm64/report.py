"""What pytest found, from the file that it leaves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

_MOST_FAILED = 50
_MOST_SLOW = 10


def read(junit: Path) -> dict[str, Any]:
    """Return the counts, the tests that failed, and what was skipped why and took how long."""
    cases = list(ET.parse(junit).iter("testcase"))  # noqa: S314 -- pytest's own file
    failed = [case for case in cases if {"failure", "error"} & {part.tag for part in case}]
    skipped = [part for case in cases for part in case.iter("skipped")]
    reasons = Counter(part.get("message", "") for part in skipped)
    spent: Counter[str] = Counter()
    for case in cases:
        spent[_file(case)] += round(float(case.get("time", "0")))
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": len(failed),
        "failed_tests": [_name(case) for case in failed][:_MOST_FAILED],
        "skipped_because": dict(reasons.most_common()),
        "slowest_files_s": dict(spent.most_common(_MOST_SLOW)),
    }


def _name(case: ET.Element) -> str:
    return f"{_file(case)}::{case.get('name')}"


def _file(case: ET.Element) -> str:
    """Return the file of a test, which may be a method of a class."""
    return case.get("classname", "").removeprefix("tests.").partition(".")[0]
