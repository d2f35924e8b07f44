"""Run the worked examples of docs/examples on real recordings, and keep their figures.

    cd tests; HEDGE_DATA=… python -m examples

Each trains its bundle, starts a broker, a worker and a device by the configuration of its page,
and plays a live source of what nobody trained on. The figures go into results.json, and from
there into the pages; those of another --results do not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import tempfile
from pathlib import Path

import msgspec

from .figures import Figures, figures, table
from .running import broker, live_through
from .scene import Place

NAMES = ("bearing", "motion", "sentiment", "person", "spoken_digits")
_RESULTS = Path(__file__).with_name("results.json")
_PAGES = Path(__file__).parents[2] / "docs" / "examples"
_MARKED = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> int:
    """Run; return 1 if a sample that was played has no outcome, or one came to nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(NAMES), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--effort", type=float, default=1.0, help="of the training (%(default)s)")
    parser.add_argument("--samples", type=int, help="at most as many are played (default: all)")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--keep", type=Path, help="a folder for the bundles and what was made")
    parser.add_argument("--check", action="store_true", help="run nothing: compare the pages")
    options = parser.parse_args()
    if options.check:
        return _differing(options.results)
    data = os.environ.get("HEDGE_DATA")
    if data is None:
        raise SystemExit("HEDGE_DATA does not say where the data sets are")
    found = _load(options.results)
    amiss = False
    for name in options.only.split(","):
        one = _run(name, Path(data), options)
        found[name] = one
        amiss |= bool(one.failed or one.overrun or one.unanswered) or one.read < one.samples
        options.results.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        sys.stderr.write(f"{name}\n{table(one)}\n")
        if options.results == _RESULTS:
            page = _page(name)
            page.write_text(_renewed(page.read_text("utf-8"), one), "utf-8")
    return int(amiss)


def _run(name: str, data: Path, options: argparse.Namespace) -> Figures:
    config = _page(name).with_name("hedge.toml").read_text("utf-8")
    with contextlib.ExitStack() as stack:
        if options.keep is None:
            made = tempfile.TemporaryDirectory(prefix="hedge-example-")
            folder = Path(stack.enter_context(made))
        else:
            folder = options.keep.resolve() / name
            folder.mkdir(parents=True)
        port = stack.enter_context(broker(folder))
        place = Place(
            folder=folder,
            data=data,
            broker=f"mqtt://127.0.0.1:{port}?version=5",
            port=port,
            seed=options.seed,
            effort=options.effort,
            samples=options.samples,
            stack=stack,
            say=_say,
        )
        scene = importlib.import_module(f".{name}", __package__).scene(place)
        ran = live_through(scene, config, folder=folder, url=place.broker)
        return figures(scene, ran, example=name, seed=options.seed, effort=options.effort)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _load(results: Path) -> dict[str, Figures]:
    if not results.exists():
        return {}
    return msgspec.json.decode(results.read_bytes(), type=dict[str, Figures])


def _differing(results: Path) -> int:
    """Say which pages show other figures than are kept; return 1 if there are any."""
    wrong = 0
    for name, found in _load(results).items():
        text = _page(name).read_text("utf-8")
        if _renewed(text, found) != text or not _MARKED.search(text):
            _say(f"{_page(name)}: shows other figures than {results}")
            wrong = 1
    return wrong


def _page(name: str) -> Path:
    return _PAGES / name.replace("_", "-") / "README.md"


def _renewed(text: str, found: Figures) -> str:
    return _MARKED.sub(lambda _: f"{table(found)}\n", text)


if __name__ == "__main__":
    raise SystemExit(main())
