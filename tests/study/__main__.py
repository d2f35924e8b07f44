"""Make the study: teach edges and clouds, calibrate them, and keep what cooperation is worth.

    cd tests; HEDGE_DATA=… python -m study

Calibration sees the calibration rows only, and the tables are of rows that nothing else saw. What
takes long is kept in --keep, so that tables can be made again in seconds. The figures go into
results.json, and from there into docs/study.md and docs/filter-study.md; those of another --results
do not.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from hedge.runtime.bench.machine import this_machine

from . import tables
from .figures import Figures, figures
from .kept import tasks
from .makers import PARTS, TASKS, maker, part
from .results import Ran, Results, read, write
from .task import Place

_RESULTS = Path(__file__).with_name("results.json")
_ROOT = Path(__file__).parents[2]
_PAGES = (_ROOT / "docs" / "study.md", _ROOT / "docs" / "filter-study.md")
_PICTURES = {
    "shift": _ROOT / "docs" / "study-shift.svg",
    "active_update": _ROOT / "docs" / "filter-study-update.svg",
}
_MARKED = re.compile(r"(<!-- (\w{1,20}) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_SUMMARY = "summary"


def main() -> int:
    """Run; return 1 if --check finds other tables on a page than are kept."""
    options = _options()
    if options.check:
        return _differing(options.results)
    for name in filter(None, options.only.split(",")):
        is_part = name in PARTS
        found = part(name).study(_place(options)) if is_part else _figures(name, options)
        results = read(options.results)  # now: others may have been kept meanwhile
        if is_part:
            results.parts[name] = msgspec.to_builtins(found)
        else:
            results.tasks[name] = found
            _say(f"{name}\n{tables.page(found, _ran(options))}\n")
        results.ran[name] = _ran(options)
        write(options.results, results)
    if options.results == _RESULTS:
        results = read(_RESULTS)  # as they were rounded
        for page in _PAGES:
            page.write_text(_renewed(page.read_text("utf-8"), results), "utf-8")
        for name in _PICTURES.keys() & results.parts.keys():
            drawn = part(name).drawing(_found(name, results))
            _PICTURES[name].write_text(drawn, "utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        default=",".join((*TASKS, *PARTS)),
        help='default: %(default)s; "" only writes the pages',
    )
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=os.environ.get("HEDGE_DATA"))
    parser.add_argument("--acceptance", type=Path, help="a folder of other rows to test on")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--effort", type=float, default=1.0, help="of the training (%(default)s)")
    parser.add_argument("--keep", type=Path, default=_ROOT / ".study", help="default: .study/")
    parser.add_argument("--check", action="store_true", help="run nothing: compare the pages")
    return parser.parse_args()


def _figures(name: str, options: argparse.Namespace) -> tuple[Figures, ...]:
    places = (_place(options, seed) for seed in _seeds(options))
    return tuple(figures(task) for place in places for task in tasks(maker(name), place))


def _seeds(options: argparse.Namespace) -> list[int]:
    return [int(seed) for seed in options.seeds.split(",")]


def _place(options: argparse.Namespace, seed: int | None = None) -> Place:
    if options.data is None:
        raise SystemExit("neither --data nor HEDGE_DATA says where the data sets are")
    return Place(
        data=Path(options.data),
        keep=options.keep,
        seed=_seeds(options)[0] if seed is None else seed,
        say=_say,
        acceptance=options.acceptance,
        effort=options.effort,
    )


def _ran(options: argparse.Namespace) -> Ran:
    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    return Ran(date=today, machine=this_machine(), effort=options.effort)


def _differing(results: Path) -> int:
    """Say so and return 1 if a page shows other tables than are kept."""
    kept = read(results)
    differ = [page for page in _PAGES if (text := page.read_text("utf-8")) != _renewed(text, kept)]
    for page in differ:
        _say(f"{page}: shows other figures than {results}")
    return 1 if differ else 0


def _renewed(text: str, results: Results) -> str:
    """Return a page with a table between each of its marks that has figures."""
    shown = {_SUMMARY: tables.summary(results.tasks)}
    shown |= {name: tables.page(found, results.ran[name]) for name, found in results.tasks.items()}
    shown |= {name: part(name).page(_found(name, results)) for name in results.parts}
    return _MARKED.sub(
        lambda mark: f"{mark[1]}{shown.get(mark[2], mark[3].strip())}\n{mark[4]}", text
    )


def _found(name: str, results: Results) -> Any:  # noqa: ANN401  each its own
    return msgspec.convert(results.parts[name], part(name).FOUND)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
