"""The figures of the faults as a table, and the page of the documentation that shows it.

Run as a program it writes the table anew into the page, from the files beside it:

    cd tests; python -m faults.page
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .running import STRUCK, load

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- figures, made by tests/faults/page.py -->\n", "<!-- end of the figures -->\n"

_INSIDE = ("put", "commit", "send", "acknowledge")
_ROWS = {
    "outbox": {
        "kill": "killed at a random point",
        "torn": "last write torn",
        "flip": "a byte of its files flipped",
        "truncate": "a file cut short, or gone",
        "enospc": "disk full",
        "eio": "fsync fails",
        "powercut": "power cut, what was not flushed lost",
    },
    "device": {
        "kill": "killed at a random point",
        "broker": "broker killed, and started again",
        "worker": "worker killed with asks in its hands",
        "cut": "link cut, and nobody told",
        "clock": "wall clock stepped by hours",
    },
}
_HEAD = (
    *("", "fault", "times", "asks stored", "lost", "at most at once"),
    *("final told again", "anything wrong", "minutes"),
)


def figures(folder: Path) -> str:
    """Return the table and what stands below it, from the results in a folder."""
    results = {name: load(folder / f"{name}.json") for name in _ROWS}
    rows = [_HEAD, ("---", "---", *["---:"] * (len(_HEAD) - 2))]
    for name, titles in _ROWS.items():
        for kind, title in titles.items():
            rows.append((name, title, *_row(results[name].get(kind))))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *_below(results), ""])


def _row(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield what was found of one kind, column by column."""
    if found is None or "skipped" in found:
        yield "not run" if found is None else f"skipped: {found['skipped']}"
        yield from [""] * (len(_HEAD) - 3)
        return
    counts = found["counts"]
    again = counts.get("told_again", 0) + counts.get("final_came_back", 0)
    for name in (STRUCK, "committed", "lost", "most_lost"):
        yield f"{counts.get(name, 0):,}"
    yield f"{again:,}"
    yield f"{len(found['faults'])}"
    yield f"{found['seconds'] / 60:.1f}"


def _below(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, kinds in results.items():
        kill = kinds.get("kill", {})
        share = _share_inside(kill.get("counts", {}))
        if share is not None:
            yield (
                f"Of the kills of the {name}, {share:.1%} fell inside a put, a commit, a sending"
                " or an acknowledgement."
            )
    yield from sorted(
        {
            f"Measured on {found['machine']}; seed {found['seed']}."
            for kinds in results.values()
            for found in kinds.values()
        }
    )


def _share_inside(counts: Mapping[str, int]) -> float | None:
    ends = {name: count for name, count in counts.items() if name.startswith("in ")}
    if not ends:
        return None
    return sum(ends.get(f"in {phase}", 0) for phase in _INSIDE) / sum(ends.values())


def main() -> int:
    """Write the figures into the page; with ``--check``, only see whether they are there."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}{figures(Path(__file__).parent)}{END}{after}"
    if "--check" in sys.argv:
        return int(text != wanted)
    PAGE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
