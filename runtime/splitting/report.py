"""What `hedge bundle split` has done, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ..bench.machine import Machine
from .halves import Agreement, Speed
from .places import Place


class PlacesReport(Struct, frozen=True, kw_only=True):
    """Where ``model`` can be cut; ``sample_bytes`` is what a sample takes in place of features."""

    model: str
    sample_bytes: int | None
    macs: int
    places: tuple[Place, ...]


class SplitReport(Struct, frozen=True, kw_only=True):
    """A model cut in two at ``tensor``.

    ``bundle`` (with its ``version`` and ``digest``) is where it was written, ``files`` what the
    halves are called; all are None where nothing was. ``head_macs`` of ``macs`` multiplications
    lie in the head, ``seed`` drew the rows that the halves were tried on (None: they were given).
    """

    model: str
    tensor: str
    shape: tuple[int, ...]
    width: int
    feature_bytes: int
    sample_bytes: int | None
    head_macs: int
    macs: int
    head_bytes: int
    tail_bytes: int
    seed: int | None
    agreement: Agreement
    speed: Speed
    machine: Machine
    place: str | None = None
    version: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        """Return it in lines."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        agreed, speed = self.agreement, self.speed
        rows = "given" if self.seed is None else f"drawn with seed {self.seed}"
        of = "" if self.sample_bytes is None else f"; a sample takes {self.sample_bytes}"
        shape = "x".join(map(str, self.shape))
        work = f"{self.head_macs / self.macs:.1%} of {self.macs} MACs" if self.macs else "unknown"
        yield f"{self.model} cut at {self.tensor}"
        yield f"  features    {shape}: {self.width} {agreed.dtype}, {self.feature_bytes} bytes{of}"
        yield f"  head        {self.head_bytes} bytes, {work}, {speed.head_us:.0f} us"
        yield f"  tail        {self.tail_bytes} bytes, {speed.tail_us:.0f} us"
        yield f"  whole       {speed.whole_us:.0f} us (medians of {speed.rounds}; {self.machine})"
        yield (
            f"  agreement   on {agreed.rows} rows, {rows}: outputs differ by at most "
            f"{agreed.difference:.3g}, and by {agreed.sent_difference:.3g} once sent as "
            f"{agreed.dtype}; {agreed.same_label:.1%} keep their greatest"
        )
        if self.place is None:
            yield "  nothing was written: --out says where"
        elif self.digest is None:
            yield f"{self.place}: head.onnx and tail.onnx"
        else:
            yield f"{self.place}: version {self.version}, digest {self.digest}"
