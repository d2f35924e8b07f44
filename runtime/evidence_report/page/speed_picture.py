"""How many samples a second cooperation does, by the share escalated (fig. 7)."""

from __future__ import annotations

from ...bench.page.svg import Scale, dot, label, picture
from ..record import EvidenceReport
from .plot import HIGH, LEFT, RIGHT, TOP, Axes, Line, drawn, legend, marked

_BOTTOM = TOP + HIGH


def speed_picture(found: EvidenceReport) -> str | None:
    """Return the throughput of cooperation beside that of the cloud model; None without one."""
    speed = found.speed
    if speed.cloud_ms is None:
        return None
    cloud_ms, near_ms = speed.cloud_ms, speed.edge_ms + speed.gate_ms
    points = [(share, 1e3 / (near_ms + share / 100 * cloud_ms)) for share in range(101)]
    alone = 1e3 / cloud_ms
    lines = [
        Line("cloud alone", [(0.0, alone), (100.0, alone)], "line1 dashed"),
        Line("cooperation, from the parts' mean times", points, "line0 own"),
    ]
    top = max(points[0][1], alone) * 1.06
    axes = Axes(
        Scale(0.0, 100.0, LEFT + 16, RIGHT),
        Scale(0.0, top, _BOTTOM, TOP),
        "share escalated",
        "%",
        "samples a second",
    )
    keys, high = legend(lines[::-1], _BOTTOM + 62)
    content = [*drawn(axes, lines), *keys]
    if speed.equal_share is not None:
        content.extend(
            marked(axes, 100 * speed.equal_share, "accuracy within a point of the cloud")
        )
    if speed.cooperative_ms is not None and speed.cooperative_share is not None:
        x = axes.x(100 * speed.cooperative_share)
        y = axes.y(1e3 / speed.cooperative_ms)
        told = f"the gate, measured: {1e3 / speed.cooperative_ms:,.0f} a second"
        content.append(dot(x, y, 7, class_="fill2", title=told))
        content.append(label(x + 2, y + 28, told, class_="name halo"))
    return picture(content, height=_BOTTOM + 62 + high, title="Speed against the share escalated")
