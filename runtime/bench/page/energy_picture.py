"""What a sample costs in joules, by variant, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator

from ..energy_record import Energy
from ..measure import named
from ..record import BenchReport, Measured
from .style import COLOURS
from .svg import WIDTH, Scale, axis_x, dot, element, label, line, picture
from .units import OF_J, shown, unit_for

_LEFT, _RIGHT, _TOP, _ROW = 190, WIDTH - 60, 30, 64


def energy_picture(found: BenchReport) -> str | None:
    """Return a row for each variant, None where no energy was measured."""
    rows = [one for one in found.measured if one.energy is not None]
    energies = [one.energy for one in rows if one.energy is not None]
    if not energies:
        return None
    most_j = max(map(_reach, energies)) or 1e-6
    unit_j, unit = unit_for(most_j, OF_J)
    low_j = min(0.0, *(each_j for energy in energies for each_j in energy.windows_j))
    scale = Scale(low_j / unit_j, most_j / unit_j * 1.12, _LEFT, _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    content = [*axis_x(scale, bottom, _TOP - 10, unit=unit, named="net energy of one sample")]
    if any(energy.replayed for energy in energies):
        content.append(mark((_LEFT + _RIGHT) / 2, (_TOP + bottom) / 2))
    for place, one in enumerate(rows):
        content.extend(_drawn(one, place, scale, unit_j))
    return picture(content, height=bottom + 48, title="Energy of one sample by variant")


def mark(x: float, y: float) -> str:
    """Return the word that says where the values come from, right across a picture."""
    return label(x, y + 22, "REPLAYED", at="middle", class_="mark")


def _reach(energy: Energy) -> float:
    return max(energy.high_j or 0.0, energy.resolution_j or 0.0, *energy.windows_j, 0.0)


def _drawn(one: Measured, place: int, scale: Scale, unit_j: float) -> Iterator[str]:
    energy, y = one.energy, _TOP + _ROW * place + _ROW / 2
    if energy is None:
        return
    colour = place % COLOURS
    yield label(0, y - 2, one.variant[:24], class_="name")
    yield label(0, y + 17, f"{one.precision}, {named(one.threads)}", class_="small")
    if energy.resolution_j is not None:
        x = scale(energy.resolution_j / unit_j)
        yield element(
            "rect", x=scale(0.0), y=y - 16, width=max(x - scale(0.0), 1.0), height=32, class_="band"
        )
        yield line(x, y - 16, x, y + 16, class_="rule")
    for window_j in energy.windows_j:
        yield dot(
            scale(window_j / unit_j), y + 11, 2.5, class_="floor", title=shown(window_j, OF_J)
        )
    if energy.low_j is not None and energy.high_j is not None:
        ends = scale(energy.low_j / unit_j), scale(energy.high_j / unit_j)
        yield line(ends[0], y, ends[1], y, class_=f"line{colour}")
    if energy.joules is None:
        yield label(scale(0.0) + 8, y - 18, "not resolvable", class_="bad")
        return
    x = scale(energy.joules / unit_j)
    yield dot(x, y, 6, class_=f"fill{colour}", title=shown(energy.joules, OF_J))
    yield label(x, y - 14, shown(energy.joules, OF_J), at="middle", class_="name")
