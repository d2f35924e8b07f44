"""How sure the edge is of its own rows and of others (fig. 8)."""

from __future__ import annotations

from collections.abc import Iterator

from ...bench.page.svg import WIDTH, Scale, axis_x, element, label, line, picture
from ..candidates import TITLES
from ..record import EvidenceReport, Histogram

_TOP, _BOTTOM, _WIDE, _LEFT = 62.0, 290.0, 370.0, 20.0


def apart_picture(found: EvidenceReport) -> str:
    """Return one histogram of the bundle's own score, and one of its evidence or max p."""
    content: list[str] = []
    for place, one in enumerate(found.apart.histograms):
        left = _LEFT + place * (WIDTH / 2 + 10)
        own = found.gate is not None and found.gate.score == one.score
        total = found.gate.total if found.gate is not None and own else None
        content.extend(_panel(one, left, total))
    for place, name in enumerate(("own rows", "rows of another kind")):
        x, y = _LEFT + place * 130, _BOTTOM + 62
        content.append(element("rect", x=x, y=y - 11, width=14, height=14, class_=f"see{place}"))
        content.append(label(x + 21, y + 1, name))
    return picture(content, height=_BOTTOM + 76, title="Uncertainty in and out of distribution")


def _panel(one: Histogram, left: float, total: float | None) -> Iterator[str]:
    x = Scale(one.edges[0], one.edges[-1], left, left + _WIDE)
    yield label(left, 18, TITLES[one.score], class_="name")
    yield label(left, 38, f"AUROC {one.auroc:.3f}", class_="small")
    yield from axis_x(x, _BOTTOM, _TOP, unit=one.score)
    shares = [[count / sum(counts) for count in counts] for counts in (one.inside, one.outside)]
    most = max(max(each) for each in shares)
    for place, each in enumerate(shares):
        for at, share in enumerate(each):
            begin, end = x(one.edges[at]), x(one.edges[at + 1])
            high = (_BOTTOM - _TOP) * share / most
            if share:
                yield element(
                    "rect",
                    x=begin,
                    y=_BOTTOM - high,
                    width=end - begin,
                    height=high,
                    class_=f"see{place}",
                )
    if total is not None and one.edges[0] <= total <= one.edges[-1]:
        yield line(x(total), _TOP - 6, x(total), _BOTTOM, class_="rule")
        late = x(total) > left + _WIDE / 2
        yield label(
            x(total) + (-6 if late else 6),
            _TOP - 8,
            "gate: escalates to the right",
            at="end" if late else "start",
            class_="small",
        )
