"""An hour of video at full speed with its memory watched, and cameras that come back.

    cd tests; python -m video

The film is $HEDGE_DATA/video/one_by_one_person.mp4 in a loop, ten pictures to a second of it;
without that data, one that is drawn. The camera is a real RTSP server (tests/rtsp_server.py),
which is killed and started again, stopped and continued, and replaced by silence.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import av

from .film import film
from .hour import watch
from .recovery import measure

_RESULTS = Path(__file__).parent / "video.json"


def main() -> int:
    """Run; return 1 where the memory grows or a camera is seen too late."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=36_000, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute of video, one trial")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    frames, trials = (600, 1) if options.quick else (options.frames, options.trials)
    with tempfile.TemporaryDirectory(prefix="hedge-video-") as folder:
        source, name = film(Path(folder), seed=options.seed)
        found = {
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "python": platform.python_version(),
            "av": av.__version__,
            "seed": options.seed,
            "film": name,
            "hour": watch(source, frames=frames),
            "recovery": measure(source, trials=trials, seed=options.seed),
        }
    options.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.stderr.write(json.dumps(found, indent=1) + "\n")
    return int(any(part["faults"] for part in (found["hour"], found["recovery"] or found["hour"])))


if __name__ == "__main__":
    raise SystemExit(main())
