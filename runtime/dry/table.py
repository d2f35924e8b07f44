"""Looks at samples as the rows of a table."""

from __future__ import annotations

from .look import Look

_LABEL, _WOULD, _TEXT = 20, 12, 50


def head(*, widest: int) -> str:
    """Return the table's head; ``widest`` is the longest name of a stream."""
    return (
        f"{'stream':<{max(widest, 6)}}  {'n':>4} {'at s':>7}  {'label':<{_LABEL}} {'prob':>5}  "
        f"{'score':>6} {'limit':>6}  {'would':<{_WOULD}} {'why':<9} {'prep ms':>8} {'infer ms':>8}"
    )


def row(stream: str, look: Look, *, widest: int) -> str:
    """Return one look as a row."""
    begin = f"{stream:<{max(widest, 6)}}  {look.number:>4} {look.at_s:>7.2f}  "
    if look.would == "fail":
        return f"{begin}{_plain(f'failed: {look.why}')}"
    text = "" if look.text is None else f"  {_plain(look.text[:_TEXT])}"
    return (
        f"{begin}{_cut(look.label or '-'):<{_LABEL}} {_number(look.probability, 3):>5}  "
        f"{_number(look.score, 3):>6} {_limit(look.threshold):>6}  "
        f"{look.would:<{_WOULD}} {look.why:<9} "
        f"{_number(look.preprocess_ms, 2):>8} {_number(look.infer_ms, 2):>8}{text}"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _limit(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _cut(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def _plain(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
