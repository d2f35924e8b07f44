"""What it costs to know how sure a model is: each score beside one inference, and MC dropout.

    cd tests && python -m bench.uncertainty [--json PATH]

All is in the processor's time of one thread, and takes turns with an empty call and with one
inference of a small net as an ONNX graph; the functions are those of the study. MC dropout is the
same graph with its dropout on and its passes in one batch, the least that it can cost. With no
torch, which makes the net, the scores are timed alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from study.timing import SEED, Cost, costs_of

from hedge.runtime.bench.machine import this_machine

if TYPE_CHECKING:
    from study.costs import Passes
    from torch import nn

CLASSES = (2, 3, 10, 100)
CALLS, TURNS = 100, 60
BOUND_US, BOUND_ALL_US = 10.0, 20.0
_NET = "a small convolutional net"
_X = np.random.default_rng(SEED).normal(size=(1, 3, 32, 32)).astype(np.float32)


def net() -> nn.Module:
    """Return a net of about a millisecond, which was taught nothing, with dropout."""
    import torch  # noqa: PLC0415  the scores are timed without it

    torch.manual_seed(SEED)
    part = torch.nn
    return part.Sequential(
        *(part.Conv2d(3, 48, 3, padding=1), part.ReLU(), part.MaxPool2d(2), part.Dropout(0.3)),
        *(part.Conv2d(48, 96, 3, padding=1), part.ReLU(), part.Dropout(0.3)),
        *(part.Conv2d(96, 96, 3, padding=1), part.ReLU()),
        *(part.AdaptiveAvgPool2d(1), part.Flatten(), part.Dropout(0.3), part.Linear(96, 10)),
    ).eval()


def timed(*, turns: int) -> tuple[list[Cost], Passes | None]:
    """Time the scores, and the net with and without its dropout where there is torch."""
    with ExitStack() as stack:
        infer, passes = None, None
        try:
            from study import costs  # noqa: PLC0415  which needs torch
        except ImportError:
            _say("no torch: no inference beside the scores, no MC dropout")
        else:
            plain, _ = stack.enter_context(costs.opened(net(), _X, name=_NET))
            infer = partial(plain.infer, _X)
            passes = costs.passes(_NET, net(), sample=_X, count=turns)
        found = [
            one
            for classes in CLASSES
            for one in costs_of(classes, infer=infer, calls=CALLS, count=turns)
        ]
    return found, passes


def row(one: Cost) -> str:
    """Return what one score costs as a line of the table."""
    share = "" if one.share is None else f"{one.share:9.2%}"
    most = BOUND_ALL_US if one.name.endswith(("all three", "past the gate")) else BOUND_US
    over = f"  above {most:g} us" if ":" in one.name and one.least_us > most else ""
    return f"{one.classes:>4}  {one.name:<36}{one.least_us:9.2f}{one.median_us:9.2f}{share}{over}"


def main() -> None:
    """Time everything, print it, and write it where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--turns", type=int, default=TURNS)
    options = parser.parse_args()
    machine = this_machine()
    _say(f"{machine}; seed {SEED}, {options.turns} turns of {CALLS} calls, time of the thread")
    found, passes = timed(turns=options.turns)
    _say(f"{'K':>4}  {'':<36}{'least us':>9}{'median':>9}{'of a net':>9}")
    for one in found:
        _say(row(one))
    if passes is not None:
        _say(
            f"{passes.net}: {passes.alone_ms:.3f} ms alone, {passes.entropy_ms:.3f} with softmax "
            f"entropy, {passes.evidence_ms:.3f} with all three of evidence, "
            f"{passes.dropout_ms:.3f} for MC dropout (T = {passes.passes}, one batch); "
            f"to entropy: evidence {passes.evidence_ratio:.3f}, dropout {passes.dropout_ratio:.2f}"
        )
    if options.json is not None:
        record = {
            "seed": SEED,
            "machine": str(machine),
            "turns": options.turns,
            "calls": CALLS,
            "scores": msgspec.to_builtins(found),
            "passes": msgspec.to_builtins(passes),
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
