"""All findings, as a record and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from .finding import Finding, Level

Kind = Literal["config", "bundle", "model"]
_ORDER: tuple[Level, ...] = ("ok", "warning", "error")
_COLOURS = {"ok": "32", "warning": "33", "error": "1;31"}


class CheckReport(Struct, frozen=True, kw_only=True):
    """What `hedge check` has found: of which ``target``, by which ``version`` of hedge."""

    version: str
    target: str
    kind: Kind
    errors: int
    warnings: int
    findings: tuple[Finding, ...]

    @classmethod
    def of(
        cls, findings: Sequence[Finding], *, version: str, target: str, kind: Kind
    ) -> CheckReport:
        """Count and keep ``findings``."""
        levels = [one.level for one in findings]
        return cls(
            version=version,
            target=target,
            kind=kind,
            errors=levels.count("error"),
            warnings=levels.count("warning"),
            findings=tuple(findings),
        )


def lines(report: CheckReport, *, colours: bool = False) -> Iterator[str]:
    """Yield the findings as aligned lines, the worst last, and a line that counts them."""
    area = max((len(one.area) for one in report.findings), default=0)
    subject = min(40, max((len(one.subject) for one in report.findings), default=0))
    for level in _ORDER:
        for one in report.findings:
            if one.level == level:
                mark = f"{level:<7}"
                if colours:
                    mark = f"\033[{_COLOURS[level]}m{mark}\033[0m"
                place = f"{one.where}: " if one.where not in (None, one.subject) else ""
                text = f"{one.area:<{area}}  {one.subject:<{subject}}  {place}{one.text}"
                yield f"{mark}  {_printable(text)}"
                if one.todo is not None:
                    yield f"{'':9}{'':{area}}  {_printable(one.todo)}"
    yield summary(report)


def summary(report: CheckReport) -> str:
    """Return in one line how it stands."""
    fine = len(report.findings) - report.errors - report.warnings
    counts = ((report.errors, "error"), (report.warnings, "warning"))
    said = [f"{count} {what}{'s' * (count > 1)}" for count, what in counts if count]
    return f"{report.target}: {', '.join([*said, f'{fine} ok'])}"


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
