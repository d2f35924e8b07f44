"""How the emulated processors describe themselves: libraries choose their kernels by it.

The emulator shows the instruction set in the auxiliary vector; /proc/cpuinfo and /sys would be
those of the machine below. Without a description, LiteRT leaves XNNPACK out and computes with
other kernels than on a board, and onnxruntime guesses.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Processor(NamedTuple):
    """One that the emulator knows; ``part`` and ``features`` as Linux tells of it."""

    cpu: str
    board: str
    part: str
    features: str


_V8 = "fp asimd evtstrm crc32 cpuid"
_V82 = f"{_V8} aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"

PROCESSORS = (
    Processor("cortex-a72", "Raspberry Pi 4; as Jetson Nano, TX2 (ARMv8.0)", "0xd08", _V8),
    Processor(
        "cortex-a76", "Raspberry Pi 5; as Jetson Orin (ARMv8.2, dot products)", "0xd0b", _V82
    ),
)
"""The first is the least that boards have: the whole suite runs on it, the models on each."""


def describe(processor: Processor, folder: Path) -> None:
    """Write `cpuinfo`, which goes over /proc/cpuinfo, and `sys`, which goes over /sys."""
    count = os.cpu_count() or 1
    cores = folder / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (cores / name).write_text(f"0-{count - 1}\n" if count > 1 else "0\n")
    stanzas = [_STANZA.format(number=number, **processor._asdict()) for number in range(count)]
    (folder / "cpuinfo").write_text("\n".join(stanzas))


_STANZA = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3
"""
